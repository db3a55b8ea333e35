"""To whom a rumour is passed on: one small interface, so that strategies can be compared on the same engine.

A rumour is a fresh cell being pushed. Whoever finds it new passes it on once ("infect and die"); anti-entropy brings it
to whoever the rumour missed. Nobody sends a cell back to where it came from (BP of Enes et al., arXiv:1803.02750).

**The tree.** With full membership everybody can compute, for each rumour, the same spanning tree over the same sorted
list, without a message about it:

* Who starts a rumour sends it to two *relays* in each area. Each relay is the root of half of its area's nodes, in a
  tree of `degree` children a node. So the payload crosses each long path twice and reaches everybody once: about one
  copy a node, in the time of one long path and a few short ones.
* A few *announcement* trees over the whole membership carry only the rumour's id, from whoever has the payload to its
  children there (IHAVE). Who hears of an id that it lacks, and still lacks a moment later, asks for it (GRAFT). A dead
  relay or a lost datagram so costs one round trip. (Plumtree, Leitão et al. 2007, with the trees computed, not built.)
* Each rumour has trees of its own: its id seeds a permutation of the list, so the load of relaying moves about.

A node whose list differs computes a slightly different tree; what that misses, an announcement or the next ping mends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import gcd
from struct import Struct
from typing import Final, Protocol

from lattice.prng import Prng
from lattice.roster import Roster
from lattice.types import CellId, NodeId

RELAYS = 2
"""Roots of each area's tree: with one, a dead relay would cut off a whole area until the announcements arrive."""


class Strategy(Protocol):
    """Chooses the next hops of a rumour. `came_from` sent it to us; None if it starts here."""

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng
    ) -> list[NodeId]:
        """Whom to send the payload. `origin` is who wrote the cell: a node's id, or an author's."""
        ...

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        """Whom to tell that we have it."""
        ...


class RandomFanout:
    """A few peers at random. With f hops and n nodes a rumour alone reaches about 1 - e^-f of them."""

    def __init__(self, fanout: int) -> None:
        assert fanout >= 1, "a rumour that is passed to nobody is none"
        self._fanout = fanout

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng
    ) -> list[NodeId]:
        if came_from is not None and len(roster.nodes) - 1 <= self._fanout:
            return []  # so few that whoever started it has told everybody itself
        drawn = prng.sample(roster.nodes, self._fanout + 3)
        return [peer for peer in drawn if peer not in (origin, came_from, roster.us)][: self._fanout]

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        return []


class Flood:
    """Everybody, from everybody: the most robust and the most wasteful, n² messages a rumour."""

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng
    ) -> list[NodeId]:
        return [peer for peer in roster.nodes if peer not in (origin, came_from, roster.us)]

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        return []


class Tree:
    """Payload once along a computed tree, area by area; ids along a few others. See the module's header."""

    def __init__(self, degree: int = 6, announcement_trees: int = 4) -> None:
        self._degree = degree
        self._announcement_trees = announcement_trees

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng
    ) -> list[NodeId]:
        hops: dict[NodeId, None] = {}
        if came_from is None:
            for area in sorted(roster.areas):
                nodes = roster.areas[area]
                step, start = _permutation(rumour, 0, len(nodes))
                hops.update((nodes[index], None) for index in _indexes_at(step, start, len(nodes), 0, RELAYS))
        near, position = roster.our_area, roster.our_area_position
        hops.update((node, None) for node in _children(rumour, 0, self._degree, near, position, RELAYS))
        return [node for node in hops if node not in (origin, came_from, roster.us)]

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        told: dict[NodeId, None] = {}
        for tree in range(1, self._announcement_trees + 1):
            children = _children(rumour, tree, self._degree, roster.nodes, roster.our_position, 1)
            told.update((node, None) for node in children)
        return [node for node in told if node not in (came_from, roster.us)]


def _children(
    rumour: CellId, tree: int, degree: int, nodes: Sequence[NodeId], position: int, roots: int
) -> list[NodeId]:
    """The children of `nodes[position]` in a heap-ordered forest of `roots` trees over a permutation of `nodes`."""
    count = len(nodes)
    step, start = _permutation(rumour, tree, count)
    first = (position * step + start) % count * degree + roots
    return [nodes[index] for index in _indexes_at(step, start, count, first, first + degree)] if first < count else []


def _permutation(rumour: CellId, tree: int, count: int) -> tuple[int, int]:
    """(step, start) of the permutation of 0..count-1 that a rumour's id seeds: ``(index × step + start) % count``."""
    seeds = _seeds(rumour, tree // _TREES_PER_HASH)
    at = tree % _TREES_PER_HASH * 2
    draw = seeds[at]
    while gcd(step := (draw >> 32) % count, count) != 1:  # six in ten are coprime
        draw = draw * _LCG + 1 & _MASK
    return step, seeds[at + 1] % count


def _indexes_at(step: int, start: int, count: int, first: int, end: int) -> list[int]:
    """Which indexes have the places from `first` up to `end`. (Most nodes are leaves, and never need the inverse.)"""
    inverse = pow(step, -1, count)
    return [(place - start) * inverse % count for place in range(first, min(end, count))]


_LCG: Final = 6_364_136_223_846_793_005
"""Knuth's (MMIX): further draws from one seed; with an odd increment all 2^64 come up, so one that is coprime does."""
_MASK: Final = 2**64 - 1
_TREES_PER_HASH: Final = 5
_SEEDS: Final = Struct(">" + "QI" * _TREES_PER_HASH)


@lru_cache(maxsize=8)
def _seeds(rumour: CellId, block: int) -> tuple[int, ...]:
    """Seeds of five trees: those of a rumour's payload and of its announcements are wanted one after the other."""
    return _SEEDS.unpack(blake2b(rumour, digest_size=_SEEDS.size, salt=block.to_bytes(8, "big")).digest())
