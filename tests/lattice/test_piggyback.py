"""News rides a bounded number of times, the least-sent first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lattice.membership import MemberState, MemberUpdate
from lattice.piggyback import Piggyback, retransmits
from lattice.types import NodeId
from tests.lattice.strategies import claims


@given(st.lists(claims, max_size=9), st.integers(min_value=1, max_value=4), st.integers(min_value=1, max_value=6))
def test_each_newest_claim_rides_so_often_and_never_twice_on_a_frame(
    heard: list[MemberUpdate], count: int, limit: int
) -> None:
    queue, newest = Piggyback(), {(claim.node, claim.by): claim for claim in heard}
    for claim in heard:
        queue.add(claim)
    assert len(queue) == len(newest)
    sent: Counter[MemberUpdate] = Counter()
    while taken := queue.take(count, limit):
        assert len(taken) <= count
        assert len({(claim.node, claim.by) for claim in taken}) == len(taken)
        sent.update(taken)
        assert max(sent.values()) - min(sent[claim] for claim in newest.values()) <= 1
    assert sent == dict.fromkeys(newest.values(), limit)
    assert len(queue) == 0


def test_what_is_dropped_rides_no_more() -> None:
    queue = Piggyback()
    kept, dropped = (
        MemberUpdate(NodeId(bytes([number]) * 16), MemberState.SUSPECT, incarnation=1) for number in range(2)
    )
    queue.add(kept)
    queue.add(dropped)
    queue.add(replace(dropped, by=kept.node))
    assert dropped.node in queue
    queue.drop(dropped.node)
    assert dropped.node not in queue
    assert queue.take(8, 4) == (kept,)


def test_how_often_grows_with_the_digits_of_the_cluster() -> None:
    assert [retransmits(4, members) for members in (1, 9, 10, 99, 100, 20_000)] == [4, 4, 8, 8, 12, 20]
