"""The marks of one key in two places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.replay import WINDOW_COUNTERS
from lattice.twins import BACKOFF_MAX_US, CONFLICT_US, CONTESTED_MAX, Moves, OwnTwin
from lattice.types import SECOND, Endpoint, Micros, NodeId

NODE = NodeId(bytes(16))
ONE: Endpoint = ("10.0.0.1", 1)
TWO: Endpoint = ("10.0.0.2", 1)
THREE: Endpoint = ("10.0.0.3", 1)


def test_an_earlier_life_is_outgrown_at_once_and_a_twin_ever_more_slowly() -> None:
    twin = OwnTwin()
    at = []
    for now in range(0, 200 * SECOND, SECOND // 10):
        if twin.outrun(Micros(now)):
            at.append(now // SECOND)
        assert twin.alive == (len(at) > 1)
    assert at == [0, 1, 3, 7, 15, 31, 63, 127, 191]
    assert BACKOFF_MAX_US == 64 * SECOND


def test_a_twin_that_was_stopped_is_forgotten() -> None:
    twin = OwnTwin()
    twin.outrun(Micros(0))
    twin.outrun(Micros(2 * SECOND))
    assert twin.alive
    assert twin.outrun(Micros(3 * CONFLICT_US))
    assert not twin.alive


def test_moving_is_no_conflict_and_moving_back_and_forth_is_one_as_long_as_it_goes_on() -> None:
    moves = Moves()
    assert not moves.moved(NODE, ONE, TWO, Micros(0))
    assert not moves.moved(NODE, TWO, THREE, Micros(1))
    assert not moves.contested(NODE, Micros(1))
    told = [moves.moved(NODE, *pair, Micros(2)) for pair in ((THREE, TWO), (TWO, THREE), (THREE, TWO), (TWO, THREE))]
    assert told == [False, True, True, True]
    assert moves.contested(NODE, Micros(2))
    assert not moves.contested(NODE, Micros(3 + CONFLICT_US))
    moves.forget(NODE)
    assert not moves.contested(NODE, Micros(2))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((ONE, TWO, THREE))), max_size=40))
def test_nobody_who_only_moves_on_is_contested(steps: list[tuple[int, Endpoint]]) -> None:
    moves = Moves()
    for number, (node, _) in enumerate(steps):
        old, new = ("10.0.0.1", number), ("10.0.0.1", number + 1)
        assert not moves.moved(NodeId(bytes([node]) * 16), old, new, Micros(number))


@given(st.permutations(range(8)), st.integers(1, 7))
def test_who_moves_once_is_followed_and_not_contested_in_whatever_order_its_frames_arrive(
    order: list[int], before: int
) -> None:
    moves, at = Moves(), ONE
    for number in order:
        source = ONE if number < before else TWO
        if source != at and not moves.is_late(NODE, 1_000 + number):
            assert not moves.moved(NODE, at, source, Micros(0), 1_000 + number)
            at = source
    assert at == TWO


@given(st.lists(st.tuples(st.integers(1, 20 * SECOND), st.sampled_from((ONE, TWO))), max_size=30), st.integers(1, 60))
def test_who_speaks_on_two_networks_is_one(steps: list[tuple[int, Endpoint]], us_a_frame: int) -> None:
    moves, at, now, counter = Moves(), ONE, Micros(10**15), 10**15
    for us, source in steps:
        now, counter = Micros(now + us), counter + 1 + us // (40 + us_a_frame)
        if source != at and not moves.is_late(NODE, counter):
            assert not moves.moved(NODE, at, source, now, counter)
            at = source
    assert not moves.contested(NODE, now)


@given(st.integers(SECOND, 60 * SECOND), st.integers(SECOND // 10, 30 * SECOND))
def test_two_processes_that_outrun_each_other_are_found(began_later_us: int, turn_us: int) -> None:
    """Who is heard by nobody begins its counter at the present moment."""
    moves, now, told = Moves(), 10**15, []
    for turn, (old, new) in enumerate(((ONE, TWO), (TWO, ONE), (ONE, TWO))):
        now += began_later_us if not turn else turn_us
        told.append(moves.moved(NODE, old, new, Micros(now), now))
    assert told == [False, False, True]


def test_a_frame_far_behind_is_no_late_one_but_a_twins() -> None:
    moves = Moves()
    assert not moves.is_late(NODE, 1)
    moves.moved(NODE, ONE, TWO, Micros(0), 10_000)
    assert moves.is_late(NODE, 9_999)
    assert not moves.is_late(NODE, 10_001)
    assert not moves.is_late(NODE, 10_000 - WINDOW_COUNTERS)


def test_memory_is_bounded() -> None:
    moves = Moves()
    for number in range(CONTESTED_MAX + 5):
        moves.moved(NodeId(number.to_bytes(16, "big")), ONE, TWO, Micros(0))
    assert len(moves._moves) <= CONTESTED_MAX
