"""Which cells a node holds, summed up so that two nodes can tell in 16 bytes whether they hold the same.

The root is the sum of all cell ids modulo 2^128: ids are hashes, and a cell comes or goes with one addition. (Whoever
may sign cells could, with much work, craft a set whose sum equals another's: Wagner, 2002. It would hide those cells
from the comparison until anything else changes.)

Where two unequal nodes differ the fingerprints of *shards* tell: parts of all ids by their first bits, each with a sum.
A node that asks divides what it has into as many as leave some forty cells in each, for a difference costs what its
shard holds: 16 shards at least, and 256 at most, whose fingerprints are one datagram. A fingerprint is four bytes of
the sum's keyed hash, under a salt of the one exchange: what hides behind equal fingerprints, once in four billion
times, does not hide under the next salt, and nobody can prepare it.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from typing import Final

from lattice.record import Record
from lattice.types import CellId

SHARDS_MIN: Final = 16
SHARDS_MAX: Final = 256
"""One for each first byte of an id."""
CELLS_PER_SHARD: Final = 40
"""As a filter's block of 512 bits shows at 12 bits a cell."""
FINGERPRINT_BYTES: Final = 4
_MODULUS: Final = 2**128


class CellKind(IntEnum):
    ROW = 1
    OP = 2
    EVIDENCE = 3
    REVOCATION = 4
    PURGE = 5


class Urgency(IntEnum):
    """What goes first wherever not all can: lower is sooner, and what nobody finds out for himself leads.

    It is nowhere on the wire: each node reads it off the cell.
    """

    REVOKE = 0
    """A key is not to be believed any more: revocations, and evidence of equivocation."""
    DRAIN = 1
    """A row by which a region that answers is full: it asks for its users to be sent elsewhere, and no probe tells."""
    DOWN = 2
    """A row by which a region is failing or down, or a version of the policy bad: everybody's own requests and probes
    find that out, later."""
    POLICY = 3
    """Ops and purges: what was in force until now goes on serving."""
    UP = 4
    """All other rows: regions that are back, or as well as ever. Until it comes users are served elsewhere."""


class Cell(Record):
    """One replicated statement, as it travels."""

    id: CellId
    kind: CellKind
    data: bytes
    urgency: Urgency
    place: tuple[bytes, int]
    """(writer, version): ops of one author go in chain order."""
    moment: tuple[int, int] = (0, 0)
    """Of an op its timestamp: (milliseconds, how many stamps the millisecond had before). Those of a publish share the
    first, and are counted by the second."""


class Shards(Record):
    """Some of the parts that all ids are divided into."""

    of: int
    """How many there are: a power of two within `SHARDS_MIN` and `SHARDS_MAX`."""
    chosen: tuple[int, ...]
    """Sorted."""

    def __contains__(self, cell: CellId) -> bool:
        return shard_of(cell, self.of) in self.chosen


def shard_of(cell: CellId, of: int) -> int:
    return cell[0] * of // SHARDS_MAX


def fingerprint(total: int, key: bytes) -> bytes:
    """Of a shard whose ids sum up to `total`; of one without a cell that is 0."""
    data = (total % _MODULUS).to_bytes(16, "big")
    return blake2b(data, digest_size=FINGERPRINT_BYTES, key=key, person=b"edgelattice shrd").digest()


def shards_for(cells: int) -> int:
    """Into how many shards so many cells are best divided."""
    return min(max(SHARDS_MIN, 1 << (cells // CELLS_PER_SHARD).bit_length()), SHARDS_MAX)


class CellIndex:
    """All cells of one node, with their sums kept as cells come and go."""

    __slots__ = ("_cells", "_counts", "_sums", "_total", "root")

    def __init__(self) -> None:
        self._cells: dict[CellId, Cell] = {}
        self._total = 0
        self._sums = [0] * SHARDS_MAX
        self._counts = [0] * SHARDS_MAX
        self.root = bytes(16)
        """Equal if and only if the sets are, up to a collision of the hash. Every ping and ack asks for it, and cells
        come and go far less often: so it is worked out when they do."""

    def __len__(self) -> int:
        return len(self._cells)

    def __contains__(self, cell: CellId) -> bool:
        return cell in self._cells

    def holds(self, cell: CellId) -> bool:
        """As ``in``, for whoever asks for every frame: a method's call stays in the interpreter."""
        return cell in self._cells

    def get(self, cell: CellId) -> Cell:
        return self._cells[cell]

    def add(self, cell: Cell) -> None:
        identity = cell.id
        if identity not in self._cells:
            self._cells[identity] = cell
            self._count(identity[0], int.from_bytes(identity, "big"), 1)

    def discard(self, cell: CellId) -> None:
        if self._cells.pop(cell, None) is not None:
            self._count(cell[0], -int.from_bytes(cell, "big"), -1)

    def _count(self, shard: int, term: int, by: int) -> None:
        self._total += term
        self._sums[shard] += term
        self._counts[shard] += by
        self.root = (self._total % _MODULUS).to_bytes(16, "big")

    def fingerprints(self, of: int, salt: int) -> tuple[bytes, ...]:
        """Of each shard, `FINGERPRINT_BYTES` of its sum's hash under `salt`."""
        width, key = SHARDS_MAX // of, salt.to_bytes(8, "big")
        sums = [sum(self._sums[at : at + width]) for at in range(0, SHARDS_MAX, width)]
        empty = fingerprint(0, key)  # as most are of a few cells
        return tuple([fingerprint(one, key) if one else empty for one in sums])

    def count_in(self, shard: int, of: int) -> int:
        width = SHARDS_MAX // of
        return sum(self._counts[shard * width : (shard + 1) * width])

    def ids_in(self, shards: Shards) -> list[CellId]:
        """Sorted."""
        width = SHARDS_MAX // shards.of
        begins = {first for shard in shards.chosen for first in range(shard * width, (shard + 1) * width)}
        return sorted(cell for cell in self._cells if cell[0] in begins)
