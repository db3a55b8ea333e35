"""How two nodes with unequal roots become equal: digest, then delta.

::

    A ──Compare(salt a, fingerprints of A's shards)──▶ B     where do we differ? (`cells`)
    A ◀──Digest(B's filter under a, salt b)────────── B     this is what I have there
    A ──Delta(cells B's filter lacks)────────────────▶ B     you lack these
    A ──Digest(A's filter under b)───────────────────▶ B     and this is what I have
    A ◀──Delta(cells A's filter lacks)─────────────── B

Each salt is chosen by the node that will read the filter, serves once, and dies after a while. So whoever shows a
filter under it has received it: the Delta goes to where the salt went, whatever address the filter seems to come from.
A Delta says the sender's root, so that what did not fit, or hid behind a false positive, is asked for in the next one.

A filter covers all that the shards hold which differ, so few differences cost what stands beside them there: as A
divides its cells into shards of some forty, that is a hundred bytes each way for each. Where A holds nothing at all B's
filter would tell it nothing; so B asks for A's filter over all such shards at once, and a newcomer's first delta is the
most urgent of everything, however much there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lattice.cells import SHARDS_MIN, Cell, CellIndex, Shards, fingerprint, shard_of, shards_for
from lattice.digest import Bloom
from lattice.errors import WireError
from lattice.prng import Prng
from lattice.reunion import stem_of
from lattice.types import SECOND, CellId, Endpoint, Micros, NodeId
from lattice.wire import Compare, Digest

CELLS_PER_DIGEST = 680
"""What a filter of 1,020 bytes covers at 12 bits a cell: one datagram. Of a large store a sixteenth, whatever it is, or
those who differ much would take ever more exchanges."""
SALTS_MAX = 1_024
REFUSED_MAX = 4_096
SALT_LIFE_US = 10 * SECOND
NOWHERE: Endpoint = ("", 0)
_NONE = Shards(SHARDS_MIN, ())


class _Given(NamedTuple):
    """A salt that we chose."""

    peer: NodeId
    at: Endpoint
    """Where it went."""
    until: Micros
    empty: Shards
    """Where we held nothing when we asked: what has come since is not in the filter, and not to be sent for that."""


class Reconciler:
    """The exchanges one node takes part in."""

    def __init__(self, cells: CellIndex, prng: Prng, waiting: Callable[[], Iterable[CellId]] = lambda: ()) -> None:
        """`waiting` are cells that came and are not held yet: what they wait for is asked for, they are not."""
        self._waiting = waiting
        self._cells = cells
        self._prng = prng
        self._salts: dict[int, _Given] = {}
        self._refused: dict[CellId, None] = {}

    def open(self, peer: NodeId, now: Micros, at: Endpoint = NOWHERE) -> Compare:
        """A question to a peer that is reached there."""
        of = shards_for(len(self._cells))
        empty = Shards(of, tuple([shard for shard in range(of) if not self._cells.count_in(shard, of)]))
        salt = self._new_salt(peer, at, now, empty)
        return Compare(salt, self._cells.fingerprints(of, salt))

    def compared(self, peer: NodeId, compare: Compare, now: Micros, at: Endpoint = NOWHERE) -> Digest | None:
        """Our filter over the shards that differ (as many as one datagram covers), for a peer that is reached there;
        None when none does."""
        of = len(compare.fingerprints)
        ours = self._cells.fingerprints(of, compare.salt)
        differing = [shard for shard in range(of) if ours[shard] != compare.fingerprints[shard]]
        if not differing:
            return None
        nothing = fingerprint(0, compare.salt.to_bytes(8, "big"))
        empty = [shard for shard in differing if compare.fingerprints[shard] == nothing]
        covered = self._affordable([shard for shard in differing if compare.fingerprints[shard] != nothing], of)
        shards = Shards(of, tuple(sorted(empty + covered)))
        return self._digest(shards, covered, compare.salt, self._new_salt(peer, at, now))

    def asked_at(self, salt: int) -> Endpoint:
        """Where that salt of ours went; nowhere if there is none."""
        given = self._salts.get(salt)
        return NOWHERE if given is None else given.at

    def digested(self, peer: NodeId, digest: Digest, now: Micros) -> tuple[list[Cell], Digest | None]:
        """The cells that the peer's filter lacks, most urgent first, and our own filter if it wants one.

        Raises `WireError` if the filter is not under a salt that we gave this peer; state is unchanged then.
        """
        given = self._salts.get(digest.salt)
        if given is None or given.peer != peer or given.until < now:
            raise WireError("unknown salt", "the filter answers no question of ours")
        del self._salts[digest.salt]
        shards, empty = digest.shards, given.empty
        told, held_none = self._cells.ids_in(shards), frozenset(empty.chosen)
        if held_none:
            told = [cell for cell in told if shard_of(cell, empty.of) not in held_none]
        missing = digest.bloom.missing(told, digest.salt)
        answer = self._digest(shards, shards.chosen, digest.answer_salt, 0) if digest.answer_salt else None
        return most_urgent_first(map(self._cells.get, missing)), answer

    def _affordable(self, differing: list[int], of: int) -> list[int]:
        chosen: list[int] = []
        room = max(CELLS_PER_DIGEST, len(self._cells) // SHARDS_MIN)
        for shard in self._prng.shuffled(differing):
            room -= self._cells.count_in(shard, of)
            if chosen and room < 0:
                break
            chosen.append(shard)
        return chosen

    def _digest(self, shards: Shards, covered: Sequence[int], salt: int, answer_salt: int) -> Digest:
        """A question about these shards; what we have in those `covered` is told with it."""
        inside = frozenset(covered)
        held: list[CellId] = self._cells.ids_in(Shards(shards.of, tuple(covered)))
        shown = [*held, *(cell for cell in (*self._refused, *self._waiting()) if shard_of(cell, shards.of) in inside)]
        return Digest(shards, salt, Bloom.of(shown, len(shown), salt), answer_salt)

    def refuse(self, cell: CellId) -> None:
        """Show this cell in our filters from now on, though we do not hold it: we will not take it."""
        if len(self._refused) >= REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[cell] = None

    def forgive(self) -> None:
        """Show nothing any more that we do not hold."""
        self._refused.clear()

    def _new_salt(self, peer: NodeId, at: Endpoint, now: Micros, empty: Shards = _NONE) -> int:
        if len(self._salts) >= SALTS_MAX:
            self._salts = {salt: given for salt, given in self._salts.items() if given.until >= now}
        if len(self._salts) >= SALTS_MAX:
            del self._salts[next(iter(self._salts))]
        salt = self._prng.token() | 1
        self._salts[salt] = _Given(peer, at, Micros(now + SALT_LIFE_US), empty)
        return salt


def most_urgent_first(cells: Iterable[Cell]) -> list[Cell]:
    """And in company: cells that go the same way together, ops of one author in the order of their chain."""
    ordered = list(cells)
    if len(ordered) > 1:  # a rumour is one cell, mostly
        ordered.sort(key=lambda cell: (cell.urgency, stem_of(cell), cell.place, cell.id))
    return ordered
