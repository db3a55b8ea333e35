"""What is remembered of a time window is what the window says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.spells import Spell, spell_at
from router.policy import parse
from router.policy.windows import Window
from tests.router.policy.rule_strategies import WINDOWS, moments

HOUR = 3_600 * SECOND
POLICY = """edition 1
region fra { at 50 8 endpoint 192.0.2.1:80 avoid during "01:00-02:00 UTC" }
route all for "*" {
  rule night { during "22:00-06:00 UTC" deny 503 }
  rule noon { during "12:00-13:00 UTC" deny 503 }
  primary fra
}
"""


@given(st.sampled_from(WINDOWS), moments, st.lists(st.integers(-9 * 24 * 60, 9 * 24 * 60), min_size=1))
def test_whatever_was_asked_before(window: Window, start_us: int, minutes: list[int]) -> None:
    known: dict[Window, Spell] = {}
    for minute in minutes:
        now_us = max(0, start_us + minute * 60 * SECOND)
        spell = spell_at(known, window, now_us)
        assert (spell.is_open, spell.until_us) == (window.open_at(now_us), window.next_edge(now_us))


def test_a_window_is_asked_once_between_two_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    open_at = Window.open_at

    def counted(window: Window, now_us: int) -> bool:
        asked.append(now_us)
        return open_at(window, now_us)

    monkeypatch.setattr(Window, "open_at", counted)
    program = compile_policy(parse(POLICY))
    minutes = range(0, 24 * 60, 10)
    tables = [plan(program, {}, SitePlace("", 0, 0), minute * 60 * SECOND) for minute in minutes]
    edges = [HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 13 * HOUR, 22 * HOUR, 25 * HOUR]
    assert sorted({table.valid_until for table in tables if table.valid_until is not None}) == edges
    assert len(asked) == 3 + 6, "each at first, and each at its two edges"


def test_rules_that_held_before_are_found_again_by_their_numbers() -> None:
    program = compile_policy(parse(POLICY))
    night, morning, noon, evening = (
        plan(program, {}, SitePlace("", 0, 0), hour * HOUR).choosers for hour in (0, 7, 12, 23)
    )
    assert (night, morning) == (evening, (None,))
    assert night != noon
    assert set(program.choosers) == {(0, (0,)), (0, (1,))}
