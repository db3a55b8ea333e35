"""How two nodes with unequal roots become equal: digest, then delta.

::

    A ──Compare(salt a, fingerprints of A's shards)──▶ B     where do we differ? (`cells`)
    A ◀──Digest(B's filter under a, salt b)────────── B     this is what I have there
    A ──Delta(cells B's filter lacks)────────────────▶ B     you lack these
    A ──Digest(A's filter under b)───────────────────▶ B     and this is what I have
    A ◀──Delta(cells A's filter lacks)─────────────── B

Each salt is chosen by the node that will read the filter, serves once, and dies after a while. A Delta says the
sender's root, so that what did not fit, or hid behind a false positive, is asked for in the next round.

A filter covers all that the shards hold which differ, so few differences cost what stands beside them there: as A
divides its cells into shards of some forty, that is a hundred bytes each way for each.
"""

from __future__ import annotations

from collections.abc import Iterable

from lattice.cells import SHARDS_MIN, Cell, CellIndex, Shards, shards_for
from lattice.digest import Bloom
from lattice.errors import WireError
from lattice.prng import Prng
from lattice.reunion import stem_of
from lattice.types import SECOND, CellId, Micros, NodeId
from lattice.wire import Compare, Digest

CELLS_PER_DIGEST = 680
"""What a filter of 1,020 bytes covers at 12 bits a cell: one datagram. Of a large store a sixteenth, whatever it is, or
those who differ much would take ever more exchanges."""
SALTS_MAX = 1_024
REFUSED_MAX = 4_096
SALT_LIFE_US = 10 * SECOND


class Reconciler:
    """The exchanges one node takes part in."""

    def __init__(self, cells: CellIndex, prng: Prng) -> None:
        self._cells = cells
        self._prng = prng
        self._salts: dict[int, tuple[NodeId, Micros]] = {}
        self._refused: dict[CellId, None] = {}

    def open(self, peer: NodeId, now: Micros) -> Compare:
        salt = self._new_salt(peer, now)
        return Compare(salt, self._cells.fingerprints(shards_for(len(self._cells)), salt))

    def compared(self, peer: NodeId, compare: Compare, now: Micros) -> Digest | None:
        """Our filter over the shards that differ (as many as one datagram covers); None when none does."""
        of = len(compare.fingerprints)
        ours = self._cells.fingerprints(of, compare.salt)
        differing = [shard for shard in range(of) if ours[shard] != compare.fingerprints[shard]]
        if not differing:
            return None
        return self._digest(self._affordable(differing, of), compare.salt, self._new_salt(peer, now))

    def digested(self, peer: NodeId, digest: Digest, now: Micros) -> tuple[list[Cell], Digest | None]:
        """The cells that the peer's filter lacks, most urgent first, and our own filter if it wants one.

        Raises `WireError` if the filter is not under a salt that we gave this peer; state is unchanged then.
        """
        holder, deadline = self._salts.get(digest.salt, (None, Micros(0)))
        if holder != peer or deadline < now:
            raise WireError("unknown salt", "the filter answers no question of ours")
        del self._salts[digest.salt]
        missing = digest.bloom.missing(self._cells.ids_in(digest.shards), digest.salt)
        answer = self._digest(digest.shards, digest.answer_salt, 0) if digest.answer_salt else None
        return most_urgent_first(map(self._cells.get, missing)), answer

    def _affordable(self, differing: list[int], of: int) -> Shards:
        chosen: list[int] = []
        room = max(CELLS_PER_DIGEST, len(self._cells) // SHARDS_MIN)
        for shard in self._prng.shuffled(differing):
            room -= self._cells.count_in(shard, of)
            if chosen and room < 0:
                break
            chosen.append(shard)
        return Shards(of, tuple(sorted(chosen)))

    def _digest(self, shards: Shards, salt: int, answer_salt: int) -> Digest:
        held: list[CellId] = self._cells.ids_in(shards)
        refused = [cell for cell in self._refused if cell in shards]
        return Digest(shards, salt, Bloom.of([*held, *refused], len(held) + len(refused), salt), answer_salt)

    def refuse(self, cell: CellId) -> None:
        """Show this cell in our filters from now on, though we do not hold it: we will not take it."""
        if len(self._refused) >= REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[cell] = None

    def forgive(self) -> None:
        """Show nothing any more that we do not hold."""
        self._refused.clear()

    def _new_salt(self, peer: NodeId, now: Micros) -> int:
        if len(self._salts) >= SALTS_MAX:
            self._salts = {salt: given for salt, given in self._salts.items() if given[1] >= now}
        if len(self._salts) >= SALTS_MAX:
            del self._salts[next(iter(self._salts))]
        salt = self._prng.token() | 1
        self._salts[salt] = (peer, Micros(now + SALT_LIFE_US))
        return salt


def most_urgent_first(cells: Iterable[Cell]) -> list[Cell]:
    """And in company: cells that go the same way together, ops of one author in the order of their chain."""
    ordered = list(cells)
    if len(ordered) > 1:  # a rumour is one cell, mostly
        ordered.sort(key=lambda cell: (cell.urgency, stem_of(cell), cell.place, cell.id))
    return ordered
