"""Cells in company: cut into messages that fit a datagram, and what that costs on the wire.

A row is some 150 bytes and its datagram's envelope 90 more, so whoever counts cells alone sends half as much again as
it believes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from lattice.cells import Cell
from lattice.seal import OVERHEAD_BYTES
from lattice.wire import WireCell

CELL_OVERHEAD_BYTES: Final = 12
ENVELOPE_BYTES: Final = OVERHEAD_BYTES + 32
"""Of each datagram: the seal, and what a message of cells has besides them."""


class Load:
    """What goes to one peer, in order; a single cell that is too large makes a message alone."""

    __slots__ = ("_room", "_room_max", "bytes", "parts")

    def __init__(self, datagram_bytes_max: int, cells: Iterable[Cell] = ()) -> None:
        self._room_max = datagram_bytes_max - ENVELOPE_BYTES
        self._room = 0
        self.bytes = 0
        """On the wire."""
        self.parts: list[list[Cell]] = []
        """The messages."""
        for cell in cells:
            self.add(cell)

    def add(self, cell: Cell) -> int:
        """How many bytes more that is, the envelope with it if the cell begins a message."""
        size = cost = len(cell.data) + CELL_OVERHEAD_BYTES
        if not self.parts or size > self._room:
            self.parts.append([])
            self._room = self._room_max
            cost += ENVELOPE_BYTES
        self.parts[-1].append(cell)
        self._room -= size
        self.bytes += cost
        return cost

    def batches(self, age_ms: Callable[[Cell], int]) -> list[tuple[WireCell, ...]]:
        """As they travel; `age_ms` is how old our copy of a cell is."""
        return [tuple([WireCell(cell.kind, cell.data, age_ms(cell)) for cell in part]) for part in self.parts]


def fits(cell: Cell, datagram_bytes_max: int) -> bool:
    """Whether it needs no stream."""
    return len(cell.data) + CELL_OVERHEAD_BYTES + ENVELOPE_BYTES <= datagram_bytes_max
