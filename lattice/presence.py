"""Who is there, ourselves included, as those see it who send: the trees want everybody, a reunion only our side."""

from __future__ import annotations

from collections.abc import Sequence

from lattice.cells import Cell, CellKind
from lattice.membership import Membership
from lattice.outbox import Outbox
from lattice.reunion import Reunion
from lattice.roster import Roster
from lattice.types import NodeId


class Presence:
    """Of one node."""

    def __init__(self, out: Outbox, members: Membership) -> None:
        self._out = out
        self._members = members
        self._reunion = Reunion()
        self._roster = Roster(out.node, members.area, members.everybody)

    def changed(self, node: NodeId) -> None:
        """A member came, went, or came back."""
        self._reunion.changed(node)

    def returned(self, node: NodeId) -> None:
        """A member that was held as down is there."""
        self._reunion.returned(node, self._out.now)

    def includes(self, node: NodeId) -> bool:
        return node == self._out.node or self._members.is_present(node)

    def everybody(self) -> Roster:
        everybody = self._members.everybody
        if self._roster.everybody is not everybody:
            self._roster = Roster(self._out.node, self._members.area, everybody)
        return self._roster

    def others(self, node: NodeId) -> Roster:
        """Everybody but this one."""
        member = self._members.get(node)
        if member is None or not member.present:
            return self.everybody()
        others = self._members.everybody.lacking(member.area, node)
        return Roster(self._out.node, self._members.area, others)

    def our_side(self) -> Roster:
        """Those of them who were never gone."""
        return self._reunion.our_side(self._out.node, self._members.everybody.places)

    def is_other_side(self, peer: NodeId) -> bool:
        return self._reunion.is_other_side(peer, self._out.now)

    def not_theirs(self, cells: Sequence[Cell], peer: NodeId) -> list[Cell]:
        """Without the rows of the other side, if the peer is there: what it has of those is newer."""
        if not self.is_other_side(peer):
            return list(cells)
        return [cell for cell in cells if cell.kind is not CellKind.ROW or self._is_ours(NodeId(cell.place[0]))]

    def _is_ours(self, node: NodeId) -> bool:
        return self.includes(node) and not self.is_other_side(node)
