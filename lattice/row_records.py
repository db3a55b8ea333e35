"""Others' rows, written down at leisure: a node that restarts knows at once who is there and how the regions are.

A row is written with the moment since which it stands, by our clock, so that its lease goes on running while we are
down: what has expired by then is not taken up again. Only the latest row of each observer matters, so a batch every few
seconds is enough however often rows change, and what a crash loses of it the peers have. Our own row is not kept: each
life begins a new one, under a greater incarnation.
"""

from __future__ import annotations

from lattice import canonical
from lattice.events import Holds
from lattice.health import ROW_BYTES_MAX
from lattice.health_table import HealthTable
from lattice.identity import SIGNATURE_BYTES
from lattice.seal_records import Persist
from lattice.types import Micros, NodeId

ROW_TABLE = "row"
ROWS_PER_SAVE_MAX = 512
_RECORD_BYTES_MAX = ROW_BYTES_MAX + SIGNATURE_BYTES + 32


class RowRecords:
    """Which rows of a table are not written down yet, or not as they are now."""

    def __init__(self, table: HealthTable, us: NodeId, persist: Persist, kept: bool) -> None:
        self._table = table
        self._us = us
        self._kept = kept
        self._persist = persist
        self._unsaved: dict[NodeId, None] = {}

    def touch(self, observer: NodeId) -> None:
        """The observer has another row than before, or none."""
        if self._kept and observer != self._us:
            self._unsaved[observer] = None

    def save(self) -> None:
        """Call it once in `SAVE_INTERVAL_US`."""
        self._save(ROWS_PER_SAVE_MAX)

    def save_all(self) -> None:
        """Before an orderly stop."""
        self._save(len(self._unsaved))

    def forget_saved(self) -> None:
        """Whatever was written down is gone: write it again."""
        for signed in self._table.rows():
            self.touch(signed.observer)
        self.save_all()

    def _save(self, count_max: int) -> None:
        for observer in list(self._unsaved)[:count_max]:
            del self._unsaved[observer]
            held = self._table.get(observer)
            value = None if held is None else canonical.pack((max(held.born, 0), held.signed.data))
            self._persist(ROW_TABLE, observer, value, Holds.NOTHING)


def restored_row(value: bytes, now: Micros) -> tuple[bytes, int]:
    """(the row as it travels, its age in microseconds) in a record of an earlier life. Raises `MalformedError`."""
    born, data = canonical.array(canonical.unpack(value, _RECORD_BYTES_MAX), "row record", length=2)
    age_us = max(0, now - canonical.integer(born, "born"))  # a clock that was set back makes it no younger than new
    return canonical.blob(data, "row", length_max=ROW_BYTES_MAX + SIGNATURE_BYTES), age_us
