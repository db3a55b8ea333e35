"""News rides a bounded number of times, the least-sent first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lattice.membership import MemberState, MemberUpdate
from lattice.piggyback import TURNS_LEAST, Piggyback, retransmits
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


@given(
    st.lists(st.one_of(claims, st.integers(min_value=0, max_value=5)), max_size=150),
    st.integers(min_value=1, max_value=4),
    st.integers(min_value=1, max_value=5),
)
def test_a_frame_takes_what_was_sent_least_whatever_was_said_anew_or_dropped(
    steps: list[MemberUpdate | int], count: int, limit: int
) -> None:
    """Against a queue that looks at everything; 0 drops what is said of whoever was heard of last."""
    queue, waiting, last = Piggyback(), dict[tuple[NodeId, NodeId], tuple[int, MemberUpdate]](), NodeId(bytes(16))
    for step in steps:
        if isinstance(step, MemberUpdate):
            last = step.node
            queue.add(step)
            waiting[step.node, step.by] = (0, step)
        elif not step:
            queue.drop(last)
            waiting = {key: piece for key, piece in waiting.items() if key[0] != last}
        else:
            least = sorted((sent, *key) for key, (sent, _) in waiting.items())[:count]
            assert queue.take(count, limit) == tuple([waiting[node, by][1] for _, node, by in least])
            for sent, node, by in least:
                update = waiting.pop((node, by))[1]
                if sent + 1 < limit:
                    waiting[node, by] = (sent + 1, update)
        assert len(queue) == len(waiting)


def test_what_is_said_anew_all_the_time_leaves_no_heap_behind() -> None:
    queue = Piggyback()
    said = [MemberUpdate(NodeId(bytes([number]) * 16), MemberState.SUSPECT, incarnation=1) for number in range(9)]
    for _ in range(100):
        for claim in said:
            queue.add(claim)
    assert len(queue._turns) <= 2 * len(said) + TURNS_LEAST
    assert queue.take(9, 4) == tuple(said)


def test_how_often_grows_with_the_digits_of_the_cluster() -> None:
    assert [retransmits(4, members) for members in (1, 9, 10, 99, 100, 20_000)] == [4, 4, 8, 8, 12, 20]
