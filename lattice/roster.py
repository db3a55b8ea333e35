"""The members as a tree sees them: sorted, grouped by area, the same list on every node with the same members.

An *area* is a group of near sites; a rumour enters each far one once and spreads within it. A site's area is the cell
of a coarse grid that its coordinates lie in, so that nobody has to name or agree on anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, takewhile
from weakref import WeakValueDictionary

from lattice.types import NodeId

AREA_DEGREES = 15
"""Some 1,700 km at the equator: a few milliseconds within, tens between."""


def area_of(latitude_e6: int, longitude_e6: int) -> str:
    """The area of a place in millionths of a degree."""
    return f"{latitude_e6 // (AREA_DEGREES * 1_000_000)},{longitude_e6 // (AREA_DEGREES * 1_000_000)}"


STEPS_KEPT = 16
"""How many of the last changes of anybody's list are remembered."""


@dataclass(frozen=True, eq=False)
class Everybody:
    """All who are present, whoever looks. It never changes: who sees somebody come or go goes on to another one.

    So any number of simulated nodes that see the same hold the same object, and what is worked out of it (`nodes`) is
    worked out once; one that comes to see something else pays for one area of its own. A change that one of them has
    just made leads the next to the same result, and so do the same changes in another order: of two hundred that go at
    once each hears in an order of its own.
    """

    areas: dict[str, tuple[NodeId, ...]]
    """The nodes of each area; areas and nodes sorted."""
    mixed: int
    """All their ids in one number, whatever their order: what is looked up to find who sees the same already."""

    @classmethod
    def of(cls, places: Iterable[tuple[str, NodeId]]) -> Everybody:
        grouped: dict[str, list[NodeId]] = {}
        mixed = 0
        for area, node in sorted(places):
            grouped.setdefault(area, []).append(node)
            mixed ^= int.from_bytes(node)
        return _one({area: tuple(nodes) for area, nodes in grouped.items()}, mixed)

    def having(self, area: str, node: NodeId) -> Everybody:
        """With this one, who is not among them."""
        return _step(self, area, node, True)

    def lacking(self, area: str, node: NodeId) -> Everybody:
        """Without this one, who is among them."""
        return _step(self, area, node, False)

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        """Area by area."""
        return tuple(chain.from_iterable(self.areas.values()))

    @cached_property
    def count(self) -> int:
        """How many they are; `nodes` would have to be made for that."""
        return sum(map(len, self.areas.values()))

    @property
    def places(self) -> list[tuple[str, NodeId]]:
        """(area, node), sorted."""
        return [(area, node) for area, nodes in self.areas.items() for node in nodes]


_held: WeakValueDictionary[int, Everybody] = WeakValueDictionary()
"""By `Everybody.mixed`, those that somebody holds."""


def _one(areas: dict[str, tuple[NodeId, ...]], mixed: int) -> Everybody:
    """The one that all hold who see this. Ids can be chosen so that two sets mix to the same: then it is another."""
    found = _held.get(mixed)
    if found is None or found.areas != areas:  # the same tuples are not looked into
        found = _held[mixed] = Everybody(areas, mixed)
    return found


@lru_cache(maxsize=STEPS_KEPT)
def _step(before: Everybody, area: str, node: NodeId, comes: bool) -> Everybody:
    """In a cold start each of n nodes goes on n times, so a step must not look at all of them."""
    areas = before.areas
    nodes = areas.get(area, ())
    at = bisect_left(nodes, node)
    assert comes != (nodes[at : at + 1] == (node,)), "who comes was not there, who goes was"
    after = (*nodes[:at], node, *nodes[at:]) if comes else (*nodes[:at], *nodes[at + 1 :])
    mixed = before.mixed ^ int.from_bytes(node)
    if nodes and after:
        return _one({**areas, area: after}, mixed)
    if after:
        return _one(dict(sorted([*areas.items(), (area, after)])), mixed)
    return _one({name: others for name, others in areas.items() if name != area}, mixed)


@dataclass(frozen=True)
class Roster:
    """Everybody, as one of them sees it."""

    us: NodeId
    our_area_name: str
    everybody: Everybody

    @classmethod
    def of(cls, us: NodeId, places: Iterable[tuple[str, NodeId]]) -> Roster:
        everybody = Everybody.of(places)
        return cls(us, next(area for area, nodes in everybody.areas.items() if us in nodes), everybody)

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        return self.everybody.nodes

    @property
    def areas(self) -> dict[str, tuple[NodeId, ...]]:
        return self.everybody.areas

    @cached_property
    def our_position(self) -> int:
        """Where we stand in `nodes`."""
        before = takewhile(lambda area: area != self.our_area_name, self.areas)
        return sum(len(self.areas[area]) for area in before) + self.our_area_position

    @cached_property
    def our_area(self) -> tuple[NodeId, ...]:
        return self.areas[self.our_area_name]

    @cached_property
    def our_area_position(self) -> int:
        """Where we stand in `our_area`."""
        return bisect_left(self.our_area, self.us)
