"""The window of a region: it opens with use, closes with failure, and never leaves its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.types import Micros
from router.traffic.concurrency import LIMIT_MAX, LIMIT_MIN, LIMIT_START, NARROW_INTERVAL_US, Concurrency


def test_good_answers_widen_a_window_that_is_used() -> None:
    window = Concurrency()
    for _ in range(LIMIT_START):
        window.enter()
    assert window.full
    for _ in range(LIMIT_START):
        window.went_well()
    assert window.limit == LIMIT_START + LIMIT_START // 16
    assert not window.full


def test_good_answers_prove_nothing_while_the_window_is_hardly_used() -> None:
    window = Concurrency()
    window.enter()
    for _ in range(10 * LIMIT_START):
        window.went_well()
    assert window.limit == LIMIT_START


def test_what_fails_together_narrows_once() -> None:
    window = Concurrency()
    for _ in range(LIMIT_START):
        window.enter()
    for _ in range(50):
        window.went_badly(Micros(0))
    assert window.limit == LIMIT_START * 9 // 10
    window.went_badly(Micros(NARROW_INTERVAL_US))
    assert window.limit < LIMIT_START * 9 // 10


@given(st.lists(st.tuples(st.sampled_from("elgb"), st.integers(0, 300_000))))
def test_the_window_stays_within_its_bounds(steps: list[tuple[str, int]]) -> None:
    window = Concurrency()
    now = Micros(0)
    for kind, us in steps:
        now = Micros(now + us)
        if kind == "e":
            window.enter()
        elif kind == "l" and window.in_flight:
            window.leave()
        elif kind == "g":
            window.went_well()
        elif kind == "b":
            window.went_badly(now)
        assert LIMIT_MIN <= window.limit <= LIMIT_MAX
