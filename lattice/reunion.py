"""When two sides of a partition meet again: who is on our side, and along which trees the other side's news goes there.

A few pairs of nodes, one on each side, compare what they hold (`antientropy`). What such a comparison brings is new to
all of our side, so whoever took it in pushes it on, once, and only there: the other side has it. Hence a cell crosses
once or twice, and then reaches each node once; that is less than what everybody would ask for who compared for himself,
and one long path instead of many.

Who is *of the other side* is whom we held as down and hear from again. That is no more than a guess, and lasts a while;
it errs towards sending less, and what was not sent the next comparison finds. A node that was away alone has nobody on
its side, and so passes nothing on.

Such news comes in heaps, so it is not announced, and does not go along a tree of its own for each cell: cells of one
*stem* share a tree, and so share datagrams on every hop. The ops of an author are of one stem, for they are taken in
the order of their chain; the others are divided into sixteen by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable

from lattice.cells import Cell, CellKind
from lattice.roster import Roster
from lattice.types import SECOND, CellId, Micros, NodeId

REUNION_US = 10 * SECOND
"""For so long a member that came back is of the other side. Hundreds of cells a second and node cross meanwhile."""


def stem_of(cell: Cell) -> CellId:
    """What seeds the tree that this cell takes when it heals."""
    return CellId(cell.place[0] if cell.kind is CellKind.OP else bytes([cell.id[0] >> 4]))


class Reunion:
    """Who came back to one node lately."""

    def __init__(self) -> None:
        self._returned: dict[NodeId, Micros] = {}
        self._side: Roster | None = None

    def returned(self, node: NodeId, now: Micros) -> None:
        """A member that was held as down is there."""
        self._returned[node] = now

    def changed(self, node: NodeId) -> None:
        """A member came, went, or came back."""
        if node not in self._returned:
            self._side = None

    def is_other_side(self, node: NodeId, now: Micros) -> bool:
        returned = self._returned.get(node)
        if returned is not None and now - returned > REUNION_US:
            self._returned = {node: at for node, at in self._returned.items() if now - at <= REUNION_US}
            self._side = None
            return False
        return returned is not None

    def our_side(self, us: NodeId, present: Iterable[tuple[str, NodeId]]) -> Roster:
        """Those who were never gone, ourselves included, of (area, node) of everybody present."""
        if self._side is None:
            self._side = Roster.of(us, (place for place in present if place[1] not in self._returned))
        return self._side
