"""Composing a publish: what comes out, every node admits; what none would admit is refused here, with the limit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.authoring import UPDATE_BYTES_TARGET, compose
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.policy_content import BLOCK_BYTES_MAX, BLOCKS_MAX, MESSAGE_LENGTH_MAX, SUPERSEDES_MAX, head_key
from lattice.policy_ops import GENESIS, OP_BYTES_MAX, hlc_ms
from lattice.policy_store import ChainHead, PolicyStore
from tests.lattice.cluster import CLUSTER, OPERATOR

WHO = author_id_of(OPERATOR.public_key)
FIRST = ChainHead(0, GENESIS, 0)
NOW_MS = 1_800_000_000_000
blocks = st.lists(st.text(st.characters(codec="utf-8"), max_size=400), min_size=1, max_size=12)


@given(blocks, st.text(st.characters(categories=("L", "N")), max_size=20))
def test_what_is_composed_is_admitted_and_reads_back(made: list[str], message: str) -> None:
    publication = compose(OPERATOR, FIRST, "p", made, message=message, now_ms=NOW_MS)
    store = PolicyStore([WHO], Ed25519Verifier(CLUSTER))
    for op in publication.ops:
        assert store.admit(op.data) == [op]
    (policy,) = store.policies()
    assert "".join(policy.blocks) == "".join(made)
    assert list(policy.blocks) == made
    assert (policy.version, policy.author, policy.message) == (publication.version, WHO, message)
    assert hlc_ms(store.chain(WHO).hlc) == policy.published_ms == NOW_MS


def test_the_largest_policy_fits() -> None:
    made = [f"{number} " + "x" * 20 for number in range(BLOCKS_MAX - 1)] + ["y" * BLOCK_BYTES_MAX]
    seen = [head_key("a" * 32, WHO, 10**9 + number) for number in range(SUPERSEDES_MAX)]
    publication = compose(
        OPERATOR, FIRST, "a" * 32, made, message="m" * MESSAGE_LENGTH_MAX, now_ms=NOW_MS, supersedes=seen
    )
    store = PolicyStore([WHO], Ed25519Verifier(CLUSTER))
    for op in publication.ops:
        assert len(op.data) <= OP_BYTES_MAX
        assert store.admit(op.data)
    assert list(store.policies()[0].blocks) == made
    assert sum(len(op.op.update) > UPDATE_BYTES_TARGET + 200 for op in publication.ops) == 2, "manifest and large block"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no statement": ({"blocks": []}, "0 statements"),
    "too many statements": ({"blocks": ["x"] * (BLOCKS_MAX + 1)}, f"1 to {BLOCKS_MAX}"),
    "a statement too large": ({"blocks": ["é" * BLOCK_BYTES_MAX]}, "cut it in two"),
    "a long message": ({"message": "m" * (MESSAGE_LENGTH_MAX + 1)}, "message"),
    "a message of two lines": ({"message": "a\nb"}, "printable"),
    "a bad name": ({"policy": "Not This"}, "policy name"),
    "too many heads to end": ({"supersedes": [f"p/{n}" for n in range(SUPERSEDES_MAX + 1)]}, f"{SUPERSEDES_MAX}"),
}


@pytest.mark.parametrize(("changed", "says"), BAD.values(), ids=BAD)
def test_what_no_node_would_admit_is_not_composed(changed: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"policy": "p", "blocks": ["x"], "message": "", "now_ms": NOW_MS} | changed
    with pytest.raises(ValueError, match=says):
        compose(OPERATOR, FIRST, fields.pop("policy"), fields.pop("blocks"), **fields)


def test_a_clock_behind_what_was_seen_still_moves_on() -> None:
    seen = ChainHead(0, GENESIS, (NOW_MS + 5_000) << 16)
    publication = compose(OPERATOR, seen, "p", ["x" * 2_000, "y" * 2_000], message="", now_ms=NOW_MS)
    stamps = [op.op.hlc for op in publication.ops]
    assert stamps == sorted(set(stamps))
    assert stamps[0] > seen.hlc
