"""The members as a tree sees them: sorted, grouped by area, the same list on every node with the same members.

An *area* is a group of near sites; a rumour enters each far one once and spreads within it. A site's area is the cell
of a coarse grid that its coordinates lie in, so that nobody has to name or agree on anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lattice.types import NodeId

AREA_DEGREES = 15
"""Some 1,700 km at the equator: a few milliseconds within, tens between."""


def area_of(latitude_e6: int, longitude_e6: int) -> str:
    """The area of a place in millionths of a degree."""
    return f"{latitude_e6 // (AREA_DEGREES * 1_000_000)},{longitude_e6 // (AREA_DEGREES * 1_000_000)}"


@dataclass(frozen=True)
class Roster:
    """Everybody present, ourselves included."""

    us: NodeId
    places: tuple[tuple[str, NodeId], ...]
    """(area, node), sorted."""

    @classmethod
    def of(cls, us: NodeId, places: Iterable[tuple[str, NodeId]]) -> Roster:
        return cls(us, tuple(sorted(places)))

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        """In the order of `places`."""
        return tuple(node for _, node in self.places)

    @cached_property
    def areas(self) -> dict[str, tuple[NodeId, ...]]:
        """The nodes of each area, sorted."""
        grouped: dict[str, list[NodeId]] = {}
        for area, node in self.places:
            grouped.setdefault(area, []).append(node)
        return {area: tuple(nodes) for area, nodes in grouped.items()}

    @cached_property
    def index(self) -> dict[NodeId, int]:
        """Where each node stands in `nodes`."""
        return {node: position for position, node in enumerate(self.nodes)}

    @cached_property
    def our_position(self) -> int:
        """Where we stand in `nodes`."""
        return self.index[self.us]

    @cached_property
    def our_area(self) -> tuple[NodeId, ...]:
        return self.areas[self.places[self.our_position][0]]

    @cached_property
    def our_area_position(self) -> int:
        """Where we stand in `our_area`."""
        return self.our_area.index(self.us)
