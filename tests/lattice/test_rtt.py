"""Round trips measured, and the timeouts that follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.rtt import AREAS_MAX, LATE_KEPT_US, LATE_US, UNMEASURED_US, RttTable, after, timeout_of
from lattice.types import MILLISECOND, SECOND, Micros, NodeId

LEAST_US, MOST_US = 50 * MILLISECOND, 500 * MILLISECOND
NOW = Micros(10**15)
ONE, TWO = NodeId(bytes(16)), NodeId(bytes([1]) * 16)


def test_the_first_samples_are_as_rfc_6298_says() -> None:
    first = after(None, 80_000)
    assert timeout_of(first) == 80_000 + 4 * 40_000
    assert timeout_of(after(first, 120_000)) == 85_000 + 4 * (30_000 + 10_000)


@given(st.integers(1_000, 400_000), st.integers(0, 400_000))
def test_a_steady_path_is_learnt_within_a_few_samples(steady_us: int, first_us: int) -> None:
    estimate = after(None, first_us)
    for _ in range(120):
        estimate = after(estimate, steady_us)
    assert steady_us - 8 <= timeout_of(estimate) <= steady_us + 1_000


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_a_timeout_keeps_its_bounds(samples: list[int]) -> None:
    table = RttTable(LEAST_US, MOST_US)
    for sample in samples:
        table.observe(ONE, "", sample, NOW)
        assert LEAST_US <= table.timeout_us(ONE, "", NOW) <= max(MOST_US, min(LATE_US, max(samples)))


def test_whose_answer_was_late_is_waited_for_as_long_and_soon_no_longer() -> None:
    table = RttTable(LEAST_US, MOST_US)
    for _ in range(30):
        table.observe(ONE, "", 2 * MILLISECOND, NOW)
        table.observe(TWO, "", 2 * MILLISECOND, NOW)
    assert table.timeout_us(ONE, "", NOW) == LEAST_US
    table.observe_late(ONE, 1_300 * MILLISECOND, NOW)
    assert table.timeout_us(ONE, "", NOW) == 1_300 * MILLISECOND
    assert table.timeout_us(TWO, "", NOW) == LEAST_US, "its own link is full, and nobody else's"
    for _ in range(12):
        table.observe(ONE, "", 2 * MILLISECOND, NOW)
    assert table.timeout_us(ONE, "", NOW) < MOST_US
    for _ in range(9):
        table.observe_late(ONE, 60 * SECOND, NOW)
    assert table.timeout_us(ONE, "", NOW) == LATE_US, "nobody is waited for for ever"


def test_what_was_late_expires_by_time_for_a_pair_may_meet_seldom() -> None:
    table = RttTable(LEAST_US, MOST_US)
    for _ in range(4):
        table.observe(ONE, "", 2 * MILLISECOND, NOW)
    table.observe_late(ONE, 4 * SECOND, NOW)
    over = Micros(NOW + LATE_KEPT_US)
    assert table.timeout_us(ONE, "", Micros(over - 1)) == LATE_US
    assert table.timeout_us(ONE, "", over) == MOST_US
    table.observe(ONE, "", 2 * MILLISECOND, over)
    assert table.timeout_us(ONE, "", over) == MOST_US, "nor does it come back"
    table.observe_late(ONE, 700 * MILLISECOND, over)
    assert table.timeout_us(ONE, "", over) == 700 * MILLISECOND, "what is over is no part of what comes then"
    table.observe_late(TWO, 4 * SECOND, NOW)
    table.observe_late(TWO, 2 * MILLISECOND, Micros(over - 1))
    assert table.timeout_us(TWO, "", over) == MOST_US, "an answer in good time renews nothing"
    table.observe_late(ONE, SECOND, over)
    table.forget(ONE)
    table.forget(TWO)
    assert table._late == {}


def test_an_answer_later_than_the_clamp_is_late_though_its_probe_was_longer() -> None:
    """A member that is waited for long has long probes. One such answer made its neighbours be waited for as well."""
    table, three = RttTable(LEAST_US, MOST_US), NodeId(bytes([3]) * 16)
    for _ in range(30):
        table.observe(ONE, "3,0", 2 * MILLISECOND, NOW)
    assert table.timeout_us(three, "3,0", NOW) == LEAST_US
    table.observe(ONE, "3,0", 60 * SECOND, NOW)
    assert table.timeout_us(three, "3,0", NOW) == LEAST_US, "whoever was not measured has nothing to do with its link"
    assert table.timeout_us(ONE, "3,0", NOW) == LATE_US
    for _ in range(17):
        table.observe(ONE, "3,0", 2 * MILLISECOND, NOW)
    assert table.timeout_us(ONE, "3,0", NOW) < MOST_US, "as after one of four seconds"


def test_who_was_never_measured_is_judged_by_its_area_and_else_patiently() -> None:
    table = RttTable(LEAST_US, MOST_US)
    assert table.timeout_us(ONE, "3,0", NOW) == UNMEASURED_US
    three = NodeId(bytes([3]) * 16)
    table.observe(three, "3,0", 40_000, NOW)
    assert table.timeout_us(ONE, "3,0", NOW) == 120_000, "three times the first, as RFC 6298 has it"
    for _ in range(3):
        table.observe(three, "3,0", 40_000, NOW)
    assert table.timeout_us(TWO, "3,0", NOW) == table.timeout_us(ONE, "3,0", NOW) < 120_000
    table.observe(ONE, "3,0", 40_000, NOW)
    assert table.timeout_us(ONE, "3,0", NOW) == 120_000, "one sample is no estimate yet"
    assert table.timeout_us(TWO, "9,9", NOW) == UNMEASURED_US
    table.observe(three, "9,9", 150_000, NOW)
    assert table.timeout_us(TWO, "9,9", NOW) == UNMEASURED_US, "one sample asks for no more patience than none"
    for _ in range(3):
        table.observe(three, "9,9", 450_000, NOW)
    assert table.timeout_us(TWO, "9,9", NOW) == MOST_US, "four do, as far as there is any"
    table.observe(TWO, "3,0", 90_000, NOW)
    assert table.timeout_us(TWO, "3,0", NOW) == 90_000 * 3, "more patient than its area"
    for _ in range(3):
        table.observe(ONE, "3,0", 40_000, NOW)
    assert table.timeout_us(ONE, "3,0", NOW) < 100_000, "measured often enough to be judged by itself"
    table.forget(ONE)
    assert table.timeout_us(ONE, "3,0", NOW) == table.timeout_us(NodeId(bytes([2]) * 16), "3,0", NOW)


def test_no_flood_of_area_names_fills_memory() -> None:
    table = RttTable(LEAST_US, MOST_US)
    for number in range(AREAS_MAX + 10):
        table.observe(ONE, str(number), 1_000, NOW)
    assert len(table._areas) <= AREAS_MAX


@pytest.mark.parametrize("most_us", [10 * MILLISECOND, 50 * MILLISECOND])
def test_a_ceiling_below_the_floor_wins(most_us: int) -> None:
    table = RttTable(LEAST_US, most_us)
    table.observe(ONE, "", 1, NOW)
    assert table.timeout_us(ONE, "", NOW) == most_us
