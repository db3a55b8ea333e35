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
* A *narrow* tree carries the later ones of many: who starts them would send each to some seventy relays. The areas
  are the places of a tree themselves: the one relay of an area passes on to the one relay of each area below, the other
  to the other, so a dead one cuts off half of what is below. Two long paths more, an eighth of the sender's bytes.
* Each rumour has trees of its own: its id seeds a permutation of the list, so the load of relaying moves about. (Ops of
  one publish share theirs: `spreading.tree_of`.)

A node whose list differs computes a slightly different tree; what that misses, an announcement or the next ping mends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final, Protocol, TypeVar

from lattice.prng import Prng
from lattice.roster import Roster
from lattice.types import CellId, NodeId

RELAYS = 2
"""Roots of each area's tree: with one, a dead relay would cut off a whole area until the announcements arrive."""
NARROW_DEGREE = 3
"""How many areas, and how many nodes within one, each passes on to in a narrow tree: forty areas are four levels."""

T = TypeVar("T")


class Strategy(Protocol):
    """Chooses the next hops of a rumour. `came_from` sent it to us; None if it starts here."""

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng, narrow: bool = False
    ) -> list[NodeId]:
        """Whom to send the payload. `origin` is who wrote the cell: a node's id, or an author's; `narrow` is what is
        one of many."""
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
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng, narrow: bool = False
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
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng, narrow: bool = False
    ) -> list[NodeId]:
        return [peer for peer in roster.nodes if peer not in (origin, came_from, roster.us)]

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        return []


class Tree:
    """Payload once along a computed tree, area by area; ids along a few others. See the module's header."""

    def __init__(self, degree: int = 6, announcement_trees: int = 4) -> None:
        self._degree = degree
        self._trees = 1 + announcement_trees

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng, narrow: bool = False
    ) -> list[NodeId]:
        hops: list[NodeId] = []
        draws = _draws(rumour, self._trees)
        step, start = _STEPS[draws[0] % _STEPS_COUNT], draws[1]
        if narrow:
            hops += self._further_areas(step, start, came_from is None, roster)
        elif came_from is None:
            for area in sorted(roster.areas):
                hops += _at(step, start, roster.areas[area], 0, RELAYS)
        degree = NARROW_DEGREE if narrow else self._degree
        near = roster.our_area
        first = (roster.our_area_position * step + start) % len(near) * degree + RELAYS
        if first < len(near):  # most nodes are leaves
            hops += _at(step, start, near, first, first + degree)
        return _others(hops, origin, came_from, roster.us)

    def _further_areas(self, step: int, start: int, starts: bool, roster: Roster) -> list[NodeId]:
        """The relays of the areas below ours in a tree of areas, and of its first ones if the rumour starts here. In an
        area of one node that is both relays."""
        place = (roster.our_area_position * step + start) % len(roster.our_area)
        relay_of = [relay for relay in range(RELAYS) if relay % len(roster.our_area) == place]
        areas = list(roster.areas)
        below: list[tuple[str, int]] = []
        if starts:
            below += [(area, relay) for area in _at(step, start, areas, 0, NARROW_DEGREE) for relay in range(RELAYS)]
        if relay_of:
            first = (areas.index(roster.our_area_name) * step + start) % len(areas) * NARROW_DEGREE + NARROW_DEGREE
            children = _at(step, start, areas, first, first + NARROW_DEGREE)
            below += [(area, relay) for area in children for relay in relay_of]
        return [node for area, relay in below for node in _at(step, start, roster.areas[area], relay, relay + 1)]

    def announce_to(self, rumour: CellId, came_from: NodeId | None, roster: Roster) -> list[NodeId]:
        told: list[NodeId] = []
        nodes, position, degree = roster.nodes, roster.our_position, self._degree
        count, draws = len(nodes), _draws(rumour, self._trees)
        for which, start in zip(draws[2::2], draws[3::2], strict=True):
            step = _STEPS[which % _STEPS_COUNT]
            first = (position * step + start) % count * degree + 1
            if first < count:  # most nodes are leaves
                told += _at(step, start, nodes, first, first + degree)
        return _others(told, came_from)  # nobody is a child of its own


def _others(nodes: list[NodeId], *than: bytes | None) -> list[NodeId]:
    """Each once, in their order."""
    if not nodes:
        return nodes
    others: dict[bytes | None, NodeId] = {node: node for node in nodes}
    for node in than:
        others.pop(node, None)
    return list(others.values())


# A forest of r trees of d children a node is a permutation of the nodes in heap order: the roots have the places 0 to
# r - 1, and whoever has place p has the children at p·d + r and the d - 1 places after that.


@lru_cache(maxsize=8)
def _draws(rumour: CellId, trees: int) -> tuple[int, ...]:
    """Two numbers for each of a rumour's trees, drawn by its id: of `_STEPS` which, and a start. Of n nodes, the one at
    `index` has the place ``(index × step + start) % n``. Payload and announcements are wanted together."""
    draws: tuple[int, ...] = ()
    for block in range(-(-trees // _TREES_PER_HASH)):
        drawn = blake2b(rumour, digest_size=_DRAWS.size, salt=block.to_bytes(8, "big")).digest()
        draws += _DRAWS.unpack(drawn)
    return draws[: 2 * trees]


def _at(step: int, start: int, nodes: Sequence[T], first: int, end: int) -> list[T]:
    """Which nodes (or areas) have the places from `first` up to `end`."""
    count = len(nodes)
    if first >= count:
        return []
    inverse, start = _inverse(step, count), start % count
    return [nodes[(place - start) * inverse % count] for place in range(first, min(end, count))]


@lru_cache(maxsize=1_024)
def _inverse(step: int, count: int) -> int:
    """How many nodes there are, and how many areas, mostly stays as it is."""
    return pow(step, -1, count)


_TREES_PER_HASH: Final = 5
_DRAWS: Final = Struct(f">{2 * _TREES_PER_HASH}I")
# fmt: off
_STEPS: Final = (
    1_056_773, 1_073_153, 1_089_551, 1_105_943, 1_122_367, 1_138_703, 1_155_097, 1_171_463,
    1_187_863, 1_204_243, 1_220_623, 1_237_001, 1_253_377, 1_269_797, 1_286_147, 1_302_563,
    1_318_913, 1_335_319, 1_351_697, 1_368_071, 1_384_477, 1_400_863, 1_417_217, 1_433_603,
    1_450_019, 1_466_371, 1_482_763, 1_499_149, 1_515_541, 1_531_909, 1_548_307, 1_564_679,
    1_581_061, 1_597_441, 1_613_831, 1_630_243, 1_646_609, 1_662_977, 1_679_371, 1_695_751,
    1_712_129, 1_728_527, 1_744_927, 1_761_289, 1_777_687, 1_794_049, 1_810_433, 1_826_819,
    1_843_201, 1_859_603, 1_875_971, 1_892_353, 1_908_737, 1_925_129, 1_941_509, 1_957_903,
    1_974_277, 1_990_657, 2_007_043, 2_023_433, 2_039_819, 2_056_193, 2_072_579, 2_088_971,
)
# fmt: on
"""Primes, so that each is coprime to any number of nodes below the least of them: then all places come up."""
_STEPS_COUNT: Final = len(_STEPS)
