"""What a node acts on: the worse of verdict and own evidence, with two exceptions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.outlook import Outlook, is_isolated
from lattice.types import Level, Micros
from tests.lattice.strategies import levels

OVERRULE_US = 2_000


@given(levels, levels)
def test_the_worse_of_both_counts_at_first(own: Level, verdict: Level) -> None:
    outlook = Outlook()
    outlook.observe(own, Micros(10))
    outlook.hear(verdict, Micros(10))
    before = outlook.conclude(isolated=False, overrule_us=OVERRULE_US, now=Micros(10))
    assert outlook.effective == max(own, verdict)
    assert before == (Level.UNKNOWN if outlook.effective else None)
    assert outlook.conclude(isolated=False, overrule_us=OVERRULE_US, now=Micros(10)) is None, "once is enough"


@given(levels, levels, st.integers(min_value=0, max_value=3 * OVERRULE_US))
def test_only_a_healthy_eye_overrules_and_only_after_a_while(own: Level, verdict: Level, passed: int) -> None:
    outlook = Outlook()
    outlook.observe(own, Micros(0))
    outlook.hear(verdict, Micros(500))
    outlook.conclude(isolated=False, overrule_us=OVERRULE_US, now=Micros(500 + passed))
    overruled = own == Level.HEALTHY and verdict > Level.HEALTHY and passed >= OVERRULE_US
    assert (outlook.reason == "overruled") == overruled
    assert outlook.effective == (Level.HEALTHY if overruled else max(own, verdict))


@given(levels, levels)
def test_who_suspects_itself_follows_the_others(own: Level, verdict: Level) -> None:
    outlook = Outlook()
    outlook.observe(own, Micros(0))
    outlook.hear(verdict, Micros(0))
    outlook.conclude(isolated=True, overrule_us=OVERRULE_US, now=Micros(9 * OVERRULE_US))
    assert (outlook.effective, outlook.reason) == (verdict, "isolated")


def test_who_suspects_itself_goes_by_the_last_that_was_agreed_on_while_nobody_knows() -> None:
    outlook = Outlook()
    outlook.hear(Level.DOWN, Micros(1))
    outlook.hear(Level.DEGRADED, Micros(2), agreed=False)
    outlook.conclude(isolated=True, overrule_us=OVERRULE_US, now=Micros(2))
    assert outlook.effective == Level.DEGRADED, "as long as it stands, it is the verdict"
    outlook.hear(Level.UNKNOWN, Micros(3), agreed=False)
    outlook.conclude(isolated=True, overrule_us=OVERRULE_US, now=Micros(3))
    assert (outlook.effective, outlook.reason) == (Level.DOWN, "isolated")


def test_a_worse_verdict_while_overruled_starts_the_wait_anew() -> None:
    outlook = Outlook()
    outlook.observe(Level.HEALTHY, Micros(0))
    outlook.hear(Level.FAILING, Micros(0))
    outlook.conclude(isolated=False, overrule_us=OVERRULE_US, now=Micros(OVERRULE_US))
    assert outlook.effective == Level.HEALTHY
    outlook.hear(Level.DOWN, Micros(OVERRULE_US + 1))
    assert outlook.conclude(isolated=False, overrule_us=OVERRULE_US, now=Micros(OVERRULE_US + 1)) == Level.HEALTHY
    assert outlook.overrules_at(OVERRULE_US) == 2 * OVERRULE_US + 1


def test_isolation_takes_two_regions_and_all_of_them() -> None:
    assert not is_isolated([])
    assert not is_isolated([Level.DOWN])
    assert not is_isolated([Level.DOWN, Level.UNKNOWN])
    assert is_isolated([Level.DOWN, Level.DOWN, Level.UNKNOWN])
    assert not is_isolated([Level.DOWN, Level.FAILING]), "what answers, however badly, can be reached"
    assert not is_isolated([Level.DOWN, Level.DOWN, Level.DEGRADED])
