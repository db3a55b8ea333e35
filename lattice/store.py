"""A node's memory between lives: `Persist` records in one sqlite table (edge; call it from a worker thread).

WAL mode with synchronous=FULL: a batch is durable when `write` returns, and a crash at any moment leaves the batch in
or out, never torn. A file that sqlite finds damaged is moved aside and a new one begun: everything in it but the
incarnation can be had from the peers again, and a peer's memory of the incarnation corrects that.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from lattice.events import Persist

log = logging.getLogger("edgelattice.store")

_SCHEMA = "CREATE TABLE IF NOT EXISTS record (kind TEXT, key BLOB, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"


class Store:
    """One open database. Not for two threads at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises OSError or sqlite3.OperationalError when the place is not writable."""
        self.path = path
        try:
            self._database = _open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = _move_aside(path)
            log.error("%s is damaged (%s): moved to %s, starting afresh", path, error, aside)
            self._database = _open(path)

    def read(self) -> tuple[tuple[str, bytes, bytes], ...]:
        """Every record, for `Restored`."""
        return tuple(self._database.execute("SELECT kind, key, value FROM record ORDER BY kind, key"))

    def write(self, records: Iterable[Persist]) -> None:
        """Make a batch durable, all or nothing. Raises sqlite3.Error with nothing changed."""
        with self._database:
            for record in records:
                if record.value is None:
                    self._database.execute("DELETE FROM record WHERE kind = ? AND key = ?", (record.table, record.key))
                else:
                    self._database.execute(
                        "INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (record.table, record.key, record.value)
                    )

    def close(self) -> None:
        self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        verdict = database.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        database.execute(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
