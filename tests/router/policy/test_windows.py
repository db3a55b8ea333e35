"""Time windows on the clocks people live by: every week, once, and across both changes of the clocks."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND
from router.policy.windows import WindowError, read_moment, read_window, write_moment
from tests.router.policy.rule_strategies import WINDOWS, moments

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return read_moment(text)


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    window = read_window("Mon-Fri 22:00-06:00 Europe/Berlin")
    assert window.open_at(at("2027-03-19T23:00:00+01:00"))  # a Friday
    assert window.open_at(at("2027-03-20T05:59:59+01:00"))
    assert not window.open_at(at("2027-03-20T06:00:00+01:00"))
    assert not window.open_at(at("2027-03-20T23:00:00+01:00"))
    assert not window.open_at(at("2027-03-22T01:00:00+01:00"))  # Sunday's night
    assert window.next_edge(at("2027-03-20T12:00:00+01:00")) == at("2027-03-22T22:00:00+01:00")


def test_the_night_of_the_gap_is_seven_hours_and_still_night() -> None:
    window = read_window("22:00-06:00 Europe/Berlin")
    start, end = at("2027-03-27T22:00:00+01:00"), at("2027-03-28T06:00:00+02:00")
    assert window.next_edge(start - 1) == start
    assert window.next_edge(start) == end
    assert end - start == 7 * 3_600 * SECOND
    assert window.open_at(at("2027-03-28T03:30:00+02:00"))


def test_an_edge_in_the_gap_falls_on_the_jump() -> None:
    jump = at("2027-03-28T03:00:00+02:00")
    assert read_window("01:00-02:30 Europe/Berlin").next_edge(jump - SECOND) == jump
    assert read_window("02:30-05:00 Europe/Berlin").next_edge(jump - SECOND) == jump
    inside = read_window("02:10-02:50 Europe/Berlin")
    assert inside.next_edge(at("2027-03-28T00:00:00+01:00")) == at("2027-03-29T02:10:00+02:00")
    assert not inside.open_at(jump)


def test_a_weekly_window_that_a_gap_swallows_opens_the_week_after() -> None:
    window = read_window("Sun 02:00-03:00 Europe/Berlin")
    closed = at("2027-03-21T03:00:00+01:00")
    assert window.next_edge(closed) == at("2027-04-04T02:00:00+02:00")


def test_in_the_overlap_a_window_opens_first_and_closes_last() -> None:
    window = read_window("02:15-02:45 Europe/Berlin")
    first, last = at("2027-10-31T02:15:00+02:00"), at("2027-10-31T02:45:00+01:00")
    assert window.next_edge(first - 1) == first
    assert window.next_edge(first) == last
    assert last - first == 90 * 60 * SECOND


def test_a_half_hour_zone_and_one_whose_clocks_jump_by_half_an_hour() -> None:
    assert read_window("10:00-11:00 Asia/Kolkata").open_at(at("2027-01-01T05:00:00+00:00"))
    howe = read_window("02:10-02:20 Australia/Lord_Howe")  # 2027-10-03: 02:00 becomes 02:30
    assert howe.next_edge(at("2027-10-02T20:00:00+10:30") - SECOND) == at("2027-10-04T02:10:00+11:00")


def test_a_window_that_comes_once() -> None:
    window = read_window("2027-03-28 01:30 to 2027-03-28 03:30 Europe/Berlin")
    assert window.next_edge(0) == at("2027-03-28T01:30:00+01:00")
    assert window.next_edge(at("2027-03-28T01:30:00+01:00")) == at("2027-03-28T03:30:00+02:00")
    assert window.next_edge(at("2027-03-28T03:30:00+02:00")) is None


@given(st.sampled_from(WINDOWS), moments, st.integers(0, 30 * 86_400))
def test_nothing_changes_before_the_next_edge(window: object, now: int, later: int) -> None:
    assert isinstance(window, type(WINDOWS[0]))
    edge = window.next_edge(now)
    then = now + later * SECOND
    if edge is None or then < edge:
        assert window.open_at(then) == window.open_at(now)
    if edge is not None:
        assert edge > now  # where two days' windows touch, an edge changes nothing


@given(moments)
def test_open_means_that_a_clock_on_the_wall_reads_so(now: int) -> None:
    wall = datetime.fromtimestamp(now // SECOND, BERLIN)
    reads = (wall.hour, wall.minute) >= (22, 0) or wall.hour < 6
    assert read_window("22:00-06:00 Europe/Berlin").open_at(now) == reads


@pytest.mark.parametrize("text", [str(window) for window in WINDOWS])
def test_what_is_written_reads_back(text: str) -> None:
    assert str(read_window(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22:00-06:00",
        "22:00-06:00 Nowhere/None",
        "22:00-06:00 ../etc/passwd",
        "Mon 24:00-06:00 UTC",
        "2027-02-30 01:00 to 2027-03-01 01:00 UTC",
        "2027-03-01 02:00 to 2027-03-01 01:00 UTC",
        "0001-01-01 00:00 to 9999-12-31 24:00 UTC",
    ],
)
def test_what_is_not_a_window_is_refused(text: str) -> None:
    with pytest.raises(WindowError):
        read_window(text)


def test_moments_are_of_the_years_that_windows_are_for() -> None:
    outside = ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2200-01-01T00:00:00Z")
    written_otherwise = ("1970-01-01T00:00:00+05:00", "2199-12-31T23:00:00-05:00")  # in UTC, of another year
    for moment in (*outside, *written_otherwise):
        with pytest.raises(ValueError, match="years are from 1970 to 2199"):
            read_moment(moment)
    for moment in ("1970-01-01T00:00:00Z", "2199-12-31T23:59:59Z"):
        daily = read_window("22:00-06:00 Europe/Berlin")
        assert daily.next_edge(at(moment)) is not None
        assert write_moment(at(moment)) == moment.replace("Z", "+00:00")
