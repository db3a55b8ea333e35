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
    split_head_key,
    version_write,
)
from lattice.types import AuthorId, VersionId
from lattice.yrs_gate import Write

AUTHOR = AuthorId(b"a" * 16)
AUTHORS = [AUTHOR, AuthorId(b"b" * 16), AuthorId(b"c" * 16)]
VERSIONS = [VersionId(bytes([number]) * 16) for number in range(1, 5)]
KEYS = [head_key("p", author, number) for author in AUTHORS for number in range(1, 4)]

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
    def whole(head: Head) -> bool:
        return head.version in here

    outcome = elect(found, whole)
    assert elect(list(reversed(found)), whole) == outcome
    complete = [head for head in found if whole(head)]
    assert (outcome is None) == (not complete)
    if outcome is not None:
        serving, rivals = outcome
        assert {serving, *rivals} <= set(complete)
        assert all(rival.version != serving.version for rival in rivals)
        assert all((rival.hlc, rival.version) < (serving.hlc, serving.version) for rival in rivals)
        last = {head.author: head for head in sorted(complete, key=lambda head: head.seq)}
        for head in (serving, *rivals):
            assert last[head.author] == head
            named = [key for other in last.values() if other.hlc > head.hlc for key in other.supersedes]
            ended = [split_head_key(key)[2] for key in named if split_head_key(key)[1] == head.author]
            assert max(ended, default=0) < head.seq


def test_a_head_named_ends_the_earlier_ones_of_its_author_too() -> None:
    """So the heads in between may go, with their author's checkpoint, and nothing comes back."""
    first, second = (Head(head_key("p", AUTHOR, seq), "p", VERSIONS[seq], seq, ()) for seq in (1, 2))
    after = Head(head_key("p", AUTHORS[1], 1), "p", VERSIONS[3], 9, (second.key,))
    assert elect([first, after], lambda _: True) == (after, ())
    assert elect([first, second], lambda _: True) == (second, ())


def test_heads_and_manifests_come_back_as_they_were() -> None:
    manifest = Manifest("p", (bytes(16), b"b" * 16), VERSIONS[1], AUTHOR, "why: é", 1_800_000_000_000)
    assert parse_manifest(manifest.packed()) == manifest
    assert version_write(manifest).key == manifest.version.hex()
    head = Head(KEYS[0], "p", manifest.version, 7, (KEYS[1],))
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
