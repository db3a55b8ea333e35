"""Who is of the other side, and along which trees its news goes."""

from __future__ import annotations

from lattice.cells import Cell, CellKind, Urgency
from lattice.reunion import REUNION_US, Reunion, stem_of
from lattice.types import CellId, Micros, NodeId

US, NEAR, FAR = (NodeId(bytes([number]) * 16) for number in range(3))
PRESENT = [("0,0", US), ("0,0", NEAR), ("1,0", FAR)]


def test_whoever_came_back_is_of_the_other_side_for_a_while() -> None:
    reunion = Reunion()
    assert reunion.our_side(US, PRESENT).nodes == (US, NEAR, FAR)
    reunion.returned(FAR, Micros(0))
    reunion.changed(FAR)
    assert reunion.is_other_side(FAR, Micros(REUNION_US))
    assert not reunion.is_other_side(NEAR, Micros(0))
    reunion.changed(NEAR)
    assert reunion.our_side(US, PRESENT).nodes == (US, NEAR)
    assert not reunion.is_other_side(FAR, Micros(REUNION_US + 1))
    assert reunion.our_side(US, PRESENT).nodes == (US, NEAR, FAR)


def test_the_ops_of_an_author_share_a_tree_and_rows_do_by_shard() -> None:
    def cell(first: int, kind: CellKind, writer: bytes) -> Cell:
        return Cell(CellId(bytes([first]) * 16), kind, b"", Urgency.POLICY, (writer, 1))

    assert bytes(stem_of(cell(0, CellKind.OP, FAR))) == FAR
    assert stem_of(cell(0, CellKind.OP, FAR)) == stem_of(cell(255, CellKind.OP, FAR))
    assert stem_of(cell(0, CellKind.OP, NEAR)) != stem_of(cell(0, CellKind.OP, FAR))
    assert stem_of(cell(0, CellKind.ROW, NEAR)) == stem_of(cell(15, CellKind.ROW, FAR))
    assert stem_of(cell(0, CellKind.ROW, FAR)) != stem_of(cell(16, CellKind.ROW, FAR))
