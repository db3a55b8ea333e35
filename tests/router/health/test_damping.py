"""Flap damping: few switches at any period, a bounded return, and never the last region."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND, Level, Micros
from router.health.damping import Damper, RegionDamping, decayed
from router.policy.settings import Damp
from router.policy.syntax import Health
from tests.bench.steering import PERIODS_S, flapping

HOUR = 3_600 * SECOND
START = 1_800_000_000 * SECOND


def switches(period_us: int, damper: Damper, tick_us: int = SECOND // 2) -> list[int]:
    """When the shown level changes in an hour of a square wave."""
    shown, found = Level.HEALTHY, []
    damper.observe(Level.HEALTHY, Micros(START))
    for now in range(START, START + HOUR, tick_us):
        raw = Level.DOWN if (now - START) * 2 // period_us % 2 == 0 else Level.HEALTHY
        damper.observe(raw, Micros(now))
        if damper.level(Micros(now)) is not shown:
            shown = damper.level(Micros(now))
            found.append(now)
    return found


def most_in_ten_minutes(moments: list[int]) -> int:
    return max((sum(first <= each < first + 600 * SECOND for each in moments) for first in moments), default=0)


@pytest.mark.parametrize("period_s", [1, 2, 5, 10, 30, 60, 90, 120, 180, 240, 300, 360, 420, 480, 540, 600])
def test_at_most_four_switches_in_any_ten_minutes(period_s: int) -> None:
    assert most_in_ten_minutes(switches(period_s * SECOND, Damper(Damp(), 30 * SECOND))) <= 4
    assert most_in_ten_minutes(switches(period_s * SECOND, Damper(Damp()))) <= 4


@pytest.mark.parametrize("period_s", [1, 5, 30, 60, 61, 75, 90, 120, 300, 600])
def test_nobody_is_sent_back_within_the_cooldown_of_having_been_moved(period_s: int) -> None:
    """Only a region that dies moves users sooner: nothing could keep them on it."""
    times = switches(period_s * SECOND, Damper(Damp(), 30 * SECOND))
    gone, back = times[0::2], times[1::2]
    assert all(returned - left >= 30 * SECOND for left, returned in zip(gone, back, strict=False))


@pytest.mark.parametrize("late_s", [0, 2])
def test_no_user_moves_twice_in_30_s_whatever_the_wave(late_s: int) -> None:
    """By the defaults alone, and with damping and a cooldown: users asked through `decide`, on their way back too."""
    for period_s in PERIODS_S:
        if period_s < 4 * late_s:
            continue  # too short for anybody to see it recover
        seconds = 3_600 if period_s >= 60 else 660  # a short wave has shown everything by then
        for health in ("", "damp penalty 1000 cooldown 30s"):
            seen = flapping(period_s, health, late_s * SECOND, users=5, seconds=seconds)
            assert seen["most_in_ten_minutes"] <= 4, seen
            assert seen["soonest_second_move_s"] >= 30, seen


def test_without_probation_users_move_to_and_fro() -> None:
    assert flapping(30, "probation 0s", seconds=660)["soonest_second_move_s"] < 30
    assert flapping(90, "probation 0s damp penalty 1000 cooldown 30s")["soonest_second_move_s"] < 30


def test_an_outage_is_over_when_it_has_been_over_for_half_as_long_again_and_a_long_one_after_the_probation() -> None:
    for away_s, proof_s in ((4, 6), (100, 150), (3_000, 360)):
        damper = Damper(None, 0, 360 * SECOND)
        damper.observe(Level.HEALTHY, Micros(START))
        damper.observe(Level.DOWN, Micros(START))
        end = START + away_s * SECOND
        damper.observe(Level.HEALTHY, Micros(end))
        assert damper.returns_at(Micros(end)) == end + proof_s * SECOND
        assert damper.level(Micros(end + proof_s * SECOND - 1)) is Level.DOWN
        assert damper.level(Micros(end + proof_s * SECOND)) is Level.HEALTHY


def test_each_level_is_proved_for_as_long_as_the_region_was_worse_than_it() -> None:
    damper = Damper(None, 0, 360 * SECOND)
    damper.observe(Level.DEGRADED, Micros(START))
    damper.observe(Level.DOWN, Micros(START + 100 * SECOND))
    damper.observe(Level.DEGRADED, Micros(START + 102 * SECOND))
    assert damper.level(Micros(START + 105 * SECOND)) is Level.DEGRADED
    damper.observe(Level.HEALTHY, Micros(START + 110 * SECOND))
    assert damper.returns_at(Micros(START + 110 * SECOND)) == START + (110 + 165) * SECOND


def test_the_count_catches_a_damper_that_does_not_damp() -> None:
    assert most_in_ten_minutes(switches(60 * SECOND, Damper(None))) == 20


def test_one_outage_is_not_damped_and_a_quiet_region_is_back_within_the_longest() -> None:
    damper = Damper(Damp())
    damper.observe(Level.HEALTHY, Micros(START))
    damper.observe(Level.DOWN, Micros(START + SECOND))
    assert damper.level(Micros(START + SECOND)) is Level.DOWN
    damper.observe(Level.HEALTHY, Micros(START + 5 * SECOND))
    assert damper.level(Micros(START + 5 * SECOND)) is Level.HEALTHY
    now = START + 5 * SECOND
    for _ in range(20):
        now += SECOND
        damper.observe(Level.DOWN, Micros(now))
        damper.observe(Level.HEALTHY, Micros(now))
    assert damper.suppressed(Micros(now))
    back = damper.returns_at(Micros(now))
    assert back is not None
    assert now < back <= now + Damp().longest_us + SECOND * 2
    assert damper.level(Micros(back - 1)) is Level.DOWN
    assert damper.level(back) is Level.HEALTHY


@pytest.mark.parametrize(
    "steps_down", [(Level.DOWN,), (Level.DEGRADED, Level.DOWN), (Level.DEGRADED, Level.FAILING, Level.DOWN)]
)
@pytest.mark.parametrize("steps_up", [(Level.HEALTHY,), (Level.DEGRADED, Level.HEALTHY)])
def test_one_outage_is_two_turns_by_however_many_steps(
    steps_down: tuple[Level, ...], steps_up: tuple[Level, ...]
) -> None:
    """Sites see it one after the other, so what they agree on takes steps; with all of them counted one outage is
    damped."""
    damper = Damper(Damp())
    for level in (Level.HEALTHY, *steps_down):
        damper.observe(level, Micros(START))
    assert damper.penalty(Micros(START)) == Damp().penalty
    for level in steps_up:
        damper.observe(level, Micros(START))
    assert damper.penalty(Micros(START)) == 2 * Damp().penalty
    assert not damper.suppressed(Micros(START))
    assert damper.level(Micros(START)) is Level.HEALTHY
    damper.observe(Level.DOWN, Micros(START))
    assert damper.suppressed(Micros(START)), "it comes and goes"


def test_an_improvement_must_last_for_the_cooldown_and_a_worsening_need_not() -> None:
    damper = Damper(None, 30 * SECOND)
    damper.observe(Level.DOWN, Micros(START))
    damper.observe(Level.HEALTHY, Micros(START + 10 * SECOND))
    assert damper.returns_at(Micros(START + 10 * SECOND)) == START + 40 * SECOND
    assert damper.level(Micros(START + 39 * SECOND)) is Level.DOWN
    assert damper.level(Micros(START + 40 * SECOND)) is Level.HEALTHY
    damper.observe(Level.FAILING, Micros(START + 41 * SECOND))
    assert damper.level(Micros(START + 41 * SECOND)) is Level.FAILING


def test_damping_never_takes_the_last_region() -> None:
    damping = RegionDamping()
    damping.configure({"a": Health(damp=Damp()), "b": Health(damp=Damp())})
    now = START
    for _ in range(10):
        for level in (Level.DOWN, Level.HEALTHY):
            now += SECOND
            both = damping.levels({"a": level, "b": level}, Micros(now))
    assert both.levels == {"a": Level.HEALTHY, "b": Level.HEALTHY}
    assert both.next_change is not None


@given(st.integers(0, 1 << 40), st.integers(0, 10_000_000_000), st.integers(0, 10_000_000), st.integers(1, HOUR))
def test_a_penalty_only_falls_and_halves_in_a_half_life(penalty: int, elapsed: int, more: int, half_life: int) -> None:
    assert decayed(penalty, elapsed + more, half_life) <= decayed(penalty, elapsed, half_life) <= penalty
    assert decayed(penalty, half_life, half_life) == penalty // 2
