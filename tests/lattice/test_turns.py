"""Whose turn it is: everybody once an interval, everybody by everybody, and what is left of it where views differ."""

from __future__ import annotations

from itertools import pairwise
from math import gcd

from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.prng import Prng
from lattice.turns import Turns, stride
from lattice.types import SECOND, Micros, NodeId

T = 400_000
START = Micros(1_800_000_000 * SECOND)


def crowd(count: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(number.to_bytes(16, "big")) for number in range(count))


def turns_of(us: NodeId) -> Turns:
    return Turns(us, T, Prng.seeded(us))


def probes(
    us: NodeId, everybody: tuple[NodeId, ...], intervals: int, late_us: int = 0, ahead_us: int = 0
) -> list[tuple[Micros, NodeId]]:
    """(when, whom) of one node whose timers are late and whose clock is wrong. It starts within the first interval."""
    turns, found = turns_of(us), list[tuple[Micros, NodeId]]()
    at = Micros(START + Prng.seeded(us + b"start").below(T))
    while at < START + intervals * T:
        target = turns.pick(everybody, Micros(at + ahead_us), (), True)
        assert target is not None
        found.append((at, target))
        at = Micros(turns.following(0) - ahead_us + late_us)
    return found


@given(st.integers(2, 40))
def test_every_member_is_probed_once_an_interval_and_everybody_by_everybody(count: int) -> None:
    everybody, by = crowd(count), dict[NodeId, list[tuple[Micros, NodeId]]]()
    for us in everybody:
        for at, target in probes(us, everybody, 2 * count):
            by.setdefault(target, []).append((at, us))
    for target, found in by.items():
        regular = [(at, us) for at, us in sorted(found) if at >= START + 2 * T]  # in step
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(regular)]
        assert max(gaps, default=0) <= T + 2 * T // count + 1
        probers = [us for _, us in regular[: count - 1]]
        assert sorted(probers) == sorted(set(everybody) - {target}), "each of the others once"


@given(st.integers(2, 9), st.lists(st.integers(0, 3 * T), max_size=40))
def test_whose_turn_it_is_hangs_on_the_clock_and_on_no_earlier_turn(count: int, waits: list[int]) -> None:
    everybody, at = crowd(count), START
    turns = turns_of(everybody[0])
    for wait in waits:
        at, fresh = Micros(at + wait), turns_of(everybody[0])
        assert turns.pick(everybody, at, (), True) == fresh.pick(everybody, at, (), True)
        assert turns.following(0) == fresh.following(0)


@settings(max_examples=50)
@given(st.integers(2, 40), st.integers(0, T // 3), st.integers(-10 * T, 10 * T), st.integers(0, 5))
def test_whoever_sees_others_than_others_do_probes_all_whom_it_sees(
    count: int, late_us: int, ahead_us: int, place: int
) -> None:
    everybody = crowd(count)
    us = everybody[place % count]
    targets = [target for _, target in probes(us, everybody, 2 * count, late_us, ahead_us)]
    for begin in range(len(targets) - (count - 1)):
        assert set(targets[begin : begin + count - 1]) == set(everybody) - {us}


def test_of_nodes_with_clocks_of_their_own_each_leaves_its_own_probes_to_chance() -> None:
    """Three of a hundred have clocks that are wrong: a member waits two intervals once in thirty, no more."""
    everybody, found = crowd(100), list[int]()
    for us in everybody:
        ahead_us = 12_345_678 if everybody.index(us) % 33 == 32 else 0
        found += [at for at, target in probes(us, everybody, 101, 0, ahead_us) if target == everybody[0]]
    gaps = sorted(later - earlier for earlier, later in pairwise(sorted(at for at in found if at >= START + 2 * T)))
    assert gaps[len(gaps) * 9 // 10] <= T + T // 50
    assert gaps[-1] <= 2 * T + T // 25


def test_whoever_is_not_well_skips_turns_and_still_comes_to_all() -> None:
    everybody = crowd(9)
    turns, at, targets = turns_of(everybody[3]), START, set[NodeId]()
    for _ in range(200):
        target = turns.pick(everybody, at, (), False)
        assert target is not None
        targets.add(target)
        following = turns.following(7)
        assert abs(following - at - 8 * T) <= T // 2
        at = following
    assert targets == set(everybody) - {everybody[3]}, "every eighth turn alone is one place of eight"


@given(st.integers(1, 9), st.sets(st.integers(0, 8)), st.booleans())
def test_the_busy_are_passed_over(count: int, busy: set[int], well: bool) -> None:
    everybody = crowd(count)
    taken = {everybody[number] for number in busy if number < count}
    target = turns_of(everybody[0]).pick(everybody, START, taken, well)
    free = set(everybody[1:]) - taken
    assert target in free if free else target is None


@given(st.integers(1, 20_000))
def test_strides_reach_every_place_and_go_far(count: int) -> None:
    step, inverse = stride(count)
    assert gcd(step, count) == 1
    assert step * inverse % count == 1 % count
    assert count < 10 or min(step % count, -step % count) > count // 10
