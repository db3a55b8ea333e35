"""Cells in company: every datagram is as full as it may be, and weighed as it is on the wire."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import wire
from lattice.batching import CELL_OVERHEAD_BYTES, ENVELOPE_BYTES, Load, fits
from lattice.cells import Cell, CellKind, Urgency
from lattice.seal import Plain
from lattice.types import CellId, Micros, NodeId
from lattice.wire import Delta, Heal, Message, Rumour, WireCell

DATAGRAM = 1_200
AGES_MS = 60_000
SIZES = st.lists(st.integers(0, 2_000), max_size=40)
MESSAGES: dict[str, Callable[[tuple[WireCell, ...]], Message]] = {
    "Rumour": Rumour,
    "Heal": Heal,
    "Delta": lambda cells: Delta(bytes(16), cells, 60),
}


def cells_of(sizes: list[int]) -> list[Cell]:
    return [
        Cell(CellId(number.to_bytes(16, "big")), CellKind.ROW, bytes(size), Urgency.UP, (b"w", number))
        for number, size in enumerate(sizes)
    ]


def frame_bytes(message: Message) -> int:
    return len(Plain("c").close(NodeId(b"n" * 16), wire.encode(message), Micros(1)))


@pytest.mark.parametrize("kind", MESSAGES)
@given(sizes=SIZES)
def test_what_it_weighs_is_no_less_than_what_is_sent_and_hardly_more(kind: str, sizes: list[int]) -> None:
    load = Load(DATAGRAM)
    weight = sum(map(load.add, cells_of(sizes)))
    parts = load.batches(lambda _: AGES_MS)
    sent = sum(frame_bytes(MESSAGES[kind](part)) for part in parts)
    assert load.bytes == weight
    assert sent <= weight <= sent + len(sizes) * CELL_OVERHEAD_BYTES + len(parts) * ENVELOPE_BYTES // 2


@given(sizes=SIZES)
def test_all_travel_in_order_and_what_fits_a_datagram_is_in_one(sizes: list[int]) -> None:
    cells = cells_of(sizes)
    parts = Load(DATAGRAM, cells).batches(lambda cell: cell.place[1])
    assert [cell for part in parts for cell in part] == [
        WireCell(cell.kind, cell.data, cell.place[1]) for cell in cells
    ]
    for part in parts:
        assert part
        assert frame_bytes(Rumour(part)) <= DATAGRAM or len(part) == 1


@given(sizes=SIZES)
def test_no_datagram_is_begun_while_the_last_has_room(sizes: list[int]) -> None:
    for before, after in pairwise(Load(DATAGRAM, cells_of(sizes)).parts):
        together = [*before, after[0]]
        assert sum(len(cell.data) + CELL_OVERHEAD_BYTES for cell in together) + ENVELOPE_BYTES > DATAGRAM


@given(size=st.integers(0, 2_000))
def test_a_cell_that_fits_makes_a_datagram_alone(size: int) -> None:
    (cell,) = cells_of([size])
    alone = frame_bytes(Rumour((WireCell(cell.kind, cell.data, AGES_MS),)))
    assert not fits(cell, DATAGRAM) or alone <= DATAGRAM
    assert fits(cell, DATAGRAM) or alone + CELL_OVERHEAD_BYTES + ENVELOPE_BYTES // 2 > DATAGRAM
