"""A line: bounded in bytes, the urgent first, and what nobody finds out for himself at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.cells import Cell, CellKind, Urgency
from lattice.rumour_line import PACE_US, RumourLine
from lattice.types import SECOND, CellId, Micros

RATE, BURST, CELL_BYTES = 1_000, 5_000, 100


def cell(number: int, urgency: Urgency) -> Cell:
    return Cell(CellId(number.to_bytes(16, "big")), CellKind.OP, bytes(CELL_BYTES), urgency, (b"w", number))


def drain(line: RumourLine, now: Micros) -> list[Cell]:
    gone: list[Cell] = []
    while (turn := line.take(now)) is not None:
        gone.append(turn[0])
        line.spend(CELL_BYTES, now)
    return gone


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 80)), max_size=20))
def test_it_sends_what_burst_and_rate_allow_and_no_less_than_that(steps: list[tuple[int, int]]) -> None:
    line, now, put, sent = RumourLine(RATE, BURST, 10_000), Micros(0), 0, 0
    for later_us, count in steps:
        now = Micros(now + later_us)
        for _ in range(count):
            assert line.put(cell(put, Urgency.POLICY), None)
            put += 1
        sent += CELL_BYTES * len(drain(line, now))
        assert sent < BURST + RATE * now / SECOND + CELL_BYTES
    while (due := line.due(now)) is not None:
        assert due >= now + PACE_US
        now = due
        gone = drain(line, now)
        assert gone, "who looks again when it is told to finds something to do"
        sent += CELL_BYTES * len(gone)
    assert sent == put * CELL_BYTES
    assert not len(line)


def test_the_urgent_go_first_and_whom_nobody_can_do_without_at_once() -> None:
    line = RumourLine(RATE, CELL_BYTES, 10)
    for number, urgency in enumerate([Urgency.UP, Urgency.POLICY, Urgency.POLICY, Urgency.DOWN, Urgency.REVOKE]):
        line.put(cell(number, urgency), None)
    line.spend(10 * CELL_BYTES, Micros(0))
    assert [one.place[1] for one in drain(line, Micros(0))] == [4, 3], "though there is nothing left to spend"
    assert [one.place[1] for one in drain(line, Micros(60 * SECOND))] == [1]
    assert [one.place[1] for one in drain(line, Micros(120 * SECOND))] == [2], "in the order in which they came"


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 3 * BURST), st.booleans()), max_size=20))
def test_what_never_stands_in_line_makes_nobody_in_it_wait_longer(steps: list[tuple[int, int, bool]]) -> None:
    line, now = RumourLine(RATE, BURST, 10), Micros(0)
    line.put(cell(0, Urgency.POLICY), None)
    for later_us, size, stands in steps:
        now = Micros(now + later_us)
        due = line.due(now)
        if stands:
            line.spend(size, now)
        else:
            before = line._level(now)
            line.take_along(size, now)
            assert line.due(now) == due
            assert line._level(now) == min(before, max(0, before - size * SECOND)), "it counts all the same"


def test_it_is_as_long_as_it_may_be_and_knows_who_stands_in_it() -> None:
    line = RumourLine(RATE, BURST, 2)
    first, second, third = (cell(number, Urgency.POLICY) for number in range(3))
    assert [line.put(one, None) for one in (first, second, third)] == [True, True, False]
    assert first.id in line
    assert third.id not in line
    assert line.take(Micros(0)) == (first, None)
    assert first.id not in line
    assert line.put(third, None)
