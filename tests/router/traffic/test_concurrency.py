"""The window of a region: it opens with use, closes with failure, and never leaves its bounds."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.types import Micros
from router.traffic.concurrency import (
    LIMIT_MAX,
    LIMIT_MIN,
    LIMIT_START,
    NARROW_INTERVAL_US,
    SHARE_FACTOR,
    SHARES_MAX,
    Concurrency,
)


def test_good_answers_widen_a_window_that_is_used() -> None:
    window = Concurrency()
    share = window.share("all")
    share.enter(LIMIT_START)
    assert share.full
    for _ in range(LIMIT_START):
        window.went_well()
    assert window.limit == LIMIT_START + LIMIT_START // 16
    assert not share.full


def test_good_answers_prove_nothing_while_the_window_is_hardly_used() -> None:
    window = Concurrency()
    window.share("all").enter()
    for _ in range(10 * LIMIT_START):
        window.went_well()
    assert window.limit == LIMIT_START


def test_what_fails_together_narrows_once() -> None:
    window = Concurrency()
    window.share("all").enter(LIMIT_START)
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
            window.share("all").enter()
        elif kind == "l" and window.in_flight:
            window.share("all").leave()
        elif kind == "g":
            window.went_well()
        elif kind == "b":
            window.went_badly(now)
        assert LIMIT_MIN <= window.limit <= LIMIT_MAX


# --- routes


def test_one_route_alone_has_the_whole_window() -> None:
    share = Concurrency().share("all")
    taken = 0
    while not share.full:
        share.enter()
        taken += 1
    assert taken == LIMIT_START


@given(
    st.integers(LIMIT_MIN, 300),
    st.lists(st.tuples(st.sampled_from(("flood", "its end", "enter", "leave")), st.integers(1, 300)), max_size=12),
)
def test_no_flood_keeps_another_route_from_its_beginning(limit: int, steps: list[tuple[str, int]]) -> None:
    """Whatever floods do, a route with less than about a tenth of the window in flight is never refused."""
    window = Concurrency()
    window.limit = limit
    flood, quiet = window.share("flood"), window.share("quiet")
    always = limit * SHARE_FACTOR // (SHARE_FACTOR + 1) ** 2
    for what, count in steps:
        for _ in range(count):
            if what == "flood" and not flood.full:
                flood.enter()
            elif what == "its end" and flood.in_flight:
                flood.leave()
            elif what == "leave" and quiet.in_flight:
                quiet.leave()
            elif what == "enter":
                if quiet.in_flight < always:
                    assert not quiet.full
                if not quiet.full:
                    quiet.enter()
        assert window.in_flight == flood.in_flight + quiet.in_flight <= limit


def test_routes_of_policies_long_gone_are_forgotten_and_those_at_work_are_not() -> None:
    window = Concurrency()
    busy = window.share("busy")
    busy.enter()
    for number in range(3 * SHARES_MAX):
        window.share(f"route-{number}")
        assert len(window._shares) <= SHARES_MAX
    assert window.share("busy") is busy
    assert window.in_flight == 1


@settings(max_examples=10)
@given(st.integers(2, 5), st.integers(64, 200), st.integers(0, 1 << 32))
def test_routes_that_all_want_more_get_the_same(count: int, limit: int, seed: int) -> None:
    window, random = Concurrency(), Random(seed)
    window.limit = limit
    shares = [window.share(f"route {number}") for number in range(count)]
    while not shares[0].full:
        shares[0].enter()  # it was there first
    for _ in range(6 * limit):
        ends = random.randrange(window.in_flight)  # any request is as likely to end
        for share in shares:
            if ends < share.in_flight:
                share.leave()
                break
            ends -= share.in_flight
        for share in shares:  # and the flood asks first each time
            if not share.full:
                share.enter()
    held = [share.in_flight for share in shares]
    assert max(held) - min(held) <= SHARE_FACTOR, "within a step of the threshold"
