"""Which cells a node holds, summed up so that two nodes can tell in 16 bytes whether they hold the same.

The root is the sum of all cell ids modulo 2^128: ids are hashes, and a cell comes or goes with one addition. (Whoever
may sign cells could, with much work, craft a set whose sum equals another's: Wagner, 2002. It would hide those cells
from the comparison until anything else changes.) Sixteen shards, by the first four bits of the id, have a sum each;
their fingerprints tell where two unequal nodes differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from lattice.types import CellId

SHARDS: Final = 16
FINGERPRINT_BYTES: Final = 8
_MODULUS: Final = 2**128


class CellKind(IntEnum):
    ROW = 1
    OP = 2
    EVIDENCE = 3
    REVOCATION = 4
    PURGE = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """One replicated statement, as it travels."""

    id: CellId
    kind: CellKind
    data: bytes
    urgency: int
    """What goes first in a delta: lower is sooner."""
    place: tuple[bytes, int]
    """(writer, version): ops of one author go in chain order."""


def shard_of(cell: CellId) -> int:
    return cell[0] * SHARDS // 256


class CellIndex:
    """All cells of one node, by shard, with their sums kept as cells come and go."""

    def __init__(self) -> None:
        self._shards: list[dict[CellId, Cell]] = [{} for _ in range(SHARDS)]
        self._sums = [0] * SHARDS
        self._count = 0
        self._root: bytes | None = None
        """The last root, until a cell comes or goes."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, cell: CellId) -> bool:
        return cell in self._shards[cell[0] * SHARDS // 256]

    def get(self, cell: CellId) -> Cell:
        return self._shards[shard_of(cell)][cell]

    def add(self, cell: Cell) -> None:
        shard = shard_of(cell.id)
        if cell.id not in self._shards[shard]:
            self._shards[shard][cell.id] = cell
            self._sums[shard] = (self._sums[shard] + int.from_bytes(cell.id, "big")) % _MODULUS
            self._count += 1
            self._root = None

    def discard(self, cell: CellId) -> None:
        shard = shard_of(cell)
        if self._shards[shard].pop(cell, None) is not None:
            self._sums[shard] = (self._sums[shard] - int.from_bytes(cell, "big")) % _MODULUS
            self._count -= 1
            self._root = None

    def root(self) -> bytes:
        """16 bytes; equal if and only if the sets are, up to a collision of the hash."""
        if self._root is None:
            self._root = (sum(self._sums) % _MODULUS).to_bytes(16, "big")
        return self._root

    def fingerprints(self) -> tuple[bytes, ...]:
        """The low 8 bytes of each shard's sum."""
        return tuple((total % 2 ** (8 * FINGERPRINT_BYTES)).to_bytes(FINGERPRINT_BYTES, "big") for total in self._sums)

    def count_in(self, shard: int) -> int:
        return len(self._shards[shard])

    def ids_in(self, shards: Iterable[int]) -> list[CellId]:
        """Sorted."""
        return sorted(cell for shard in shards for cell in self._shards[shard])
