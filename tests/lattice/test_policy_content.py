"""Which head serves: a pure function of the set of heads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import OpError
from lattice.policy_content import (
    BLOCK_BYTES_MAX,
    Head,
    Manifest,
    block_write,
    check_policy_name,
    check_write,
    elect,
    head_key,
    head_write,
    parse_head,
    parse_manifest,
    version_write,
)
from lattice.types import AuthorId, VersionId
from lattice.yrs_gate import Write

AUTHOR = AuthorId(b"a" * 16)
VERSIONS = [VersionId(bytes([number]) * 16) for number in range(4)]
KEYS = [head_key("p", AUTHOR, number) for number in range(6)]

heads = st.lists(
    st.builds(
        Head,
        key=st.sampled_from(KEYS),
        policy=st.just("p"),
        version=st.sampled_from(VERSIONS),
        hlc=st.integers(min_value=1, max_value=5),
        supersedes=st.lists(st.sampled_from(KEYS), max_size=3, unique=True).map(tuple),
    ),
    max_size=6,
    unique_by=lambda head: head.key,
)


@given(heads, st.sets(st.sampled_from(VERSIONS)))
def test_the_election_has_no_order_and_one_complete_head_always_wins(found: list[Head], here: set[VersionId]) -> None:
    outcome = elect(found, here.__contains__)
    assert elect(list(reversed(found)), here.__contains__) == outcome
    complete = [head for head in found if head.version in here]
    assert (outcome is None) == (not complete)
    if outcome is not None:
        serving, rivals = outcome
        assert serving in complete
        assert set(rivals) <= set(complete)
        assert all(rival.version != serving.version for rival in rivals)
        assert all((rival.hlc, rival.version) < (serving.hlc, serving.version) for rival in rivals)
        ended = {key for head in complete for key in head.supersedes if head.hlc > hlc_of(complete, key)}
        assert serving.key not in ended
        assert not {rival.key for rival in rivals} & ended


def hlc_of(found: list[Head], key: str) -> int:
    return next((head.hlc for head in found if head.key == key), 1 << 62)


def test_heads_and_manifests_come_back_as_they_were() -> None:
    manifest = Manifest("p", (bytes(16), b"b" * 16), VERSIONS[1], AUTHOR, "why: é", 1_800_000_000_000)
    assert parse_manifest(manifest.packed()) == manifest
    assert version_write(manifest).key == manifest.version.hex()
    head = Head(KEYS[1], "p", manifest.version, 7, (KEYS[0],))
    assert parse_head(head.key, head.packed()) == head
    check_write(head_write(head), AUTHOR, 1, 7)
    check_write(version_write(manifest), AUTHOR, 1, 7)
    check_write(block_write("route {}\n"), AUTHOR, 1, 7)


def test_a_block_has_a_size() -> None:
    check_write(block_write("x" * BLOCK_BYTES_MAX), AUTHOR, 1, 7)
    with pytest.raises(OpError):
        check_write(block_write("x" * (BLOCK_BYTES_MAX + 1)), AUTHOR, 1, 7)
    with pytest.raises(OpError):
        check_write(Write("versions", "00" * 16, b""), AUTHOR, 1, 7)


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "a" * 33, "é", "a b", "a\n"])
def test_a_bad_policy_name_is_named_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 32"):
        check_policy_name(name)
    assert check_policy_name("a.b-c_9") == "a.b-c_9"
