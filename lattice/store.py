"""A node's memory between lives: `Persist` records in one sqlite file (edge; call it from a worker thread).

WAL mode with synchronous=FULL: a batch is durable when `write` returns, and a crash at any moment leaves the batch in
or out, never torn. sqlite notices when its own pages do not fit together, but not a flipped bit inside of a value, nor
a write that the disk said it had made and has not. So every record carries a hash of itself, and the file the sum of
all those hashes, changed in the same transaction. `damage` reads all of it again, from the disk. What a dead
process left in sqlite's log is looked at when the file is opened (`write_ahead_log`).

A damaged file is moved aside and a new one begun with the records that are whole. Everything else can be had again:
from the engine while the node runs, from the peers after a restart (a peer's memory of the incarnation corrects that).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from lattice.events import Persist
from lattice.write_ahead_log import damage_of_log

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (kind TEXT, key BLOB, value BLOB, hash BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (hash BLOB);
INSERT INTO total SELECT zeroblob(16) WHERE NOT EXISTS (SELECT 1 FROM total);
"""
_MODULUS = 2**128
_FILE_BYTES_MIN = 512
"""The least page of sqlite. What is left of a file that was cut shorter it would take for a new one, without a word."""
DAMAGED_MAX = 8
"""How many damaged files are kept beside it; of what comes after them, the last."""

Record = tuple[str, bytes, bytes]
"""(table, key, value)"""


class Store:
    """One open file. Not for two threads at a time, except `damage`."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises OSError or sqlite3.OperationalError when the place is not writable."""
        self.path = path
        self._fresh = path.with_name(path.name + ".new")
        self.replaced: str | None = None
        """That this file took the place of a damaged one, in words."""
        self._inode = 0
        if self._fresh.exists() and not path.exists():  # we died while putting it in the place of a damaged one
            self._fresh.rename(path)
        try:
            self._begin(_open(path))
            try:
                damage = _damage(self._database)
            except sqlite3.Error:
                self._database.close()
                raise
        except sqlite3.DatabaseError as error:
            if _is_the_disks(error):
                raise
            self._replace(str(error))
        else:
            if damage is not None:
                self._database.close()
                self._replace(damage)

    def _begin(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._inode = self.path.stat().st_ino

    def read(self) -> tuple[Record, ...]:
        """Every record, for `Restored`."""
        return tuple(self._database.execute("SELECT kind, key, value FROM records ORDER BY kind, key"))

    def write(self, records: Iterable[Persist]) -> None:
        """Make a batch durable, all or nothing. Raises sqlite3.Error with nothing changed."""
        _write(self._database, records)

    def damage(self) -> str | None:
        """Read the whole file again, from the disk and not from any cache; what is wrong with it, in words.

        A file that somebody removed, or put another in the place of, is no better: what is written goes nowhere. It
        reads by a connection of its own, so another thread may write meanwhile. Raises OSError or
        sqlite3.OperationalError when the file cannot be read at all.
        """
        if (taken := self._taken_away()) is not None:
            return taken
        with self.path.open("rb") as file:  # what the kernel has cached may be better than what the disk has
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            with closing(sqlite3.connect(self.path)) as database:
                database.execute("BEGIN")
                return _damage(database)
        except sqlite3.DatabaseError as error:
            if _is_the_disks(error):
                raise
            return str(error)

    def _taken_away(self) -> str | None:
        """That what stands there is not the file that is open, in words."""
        try:
            return None if self.path.stat().st_ino == self._inode else "another file is in its place"
        except FileNotFoundError:
            return "it was removed"

    def renew(self, why: str) -> str:
        """Move the file aside and begin a new one with what can be rescued; what was done, in words. Raises OSError or
        sqlite3.Error: then the old one is where it was, nothing can be written, and it is to be tried again."""
        self._database.close()
        if self._taken_away():
            _drop_log(self.path)  # it is of the file that was there
        return self._replace(why)

    def _replace(self, why: str) -> str:
        there = self.path.exists()
        rescued = [Persist(*record) for record in _rescue(self.path)] if there else []
        self._fresh.unlink(missing_ok=True)
        _drop_log(self._fresh)
        with closing(_open(self._fresh)) as database:
            _write(database, rescued)
        aside = f"moved to {_move_aside(self.path).name}, " if there else ""
        self._fresh.rename(self.path)
        self._begin(_open(self.path))
        self.replaced = f"{self.path} is damaged ({why}): {aside}{len(rescued)} records rescued"
        return self.replaced

    def close(self) -> None:
        self._database.close()


def _hash(kind: str, key: bytes, value: bytes) -> bytes:
    head = b"%s\0%d\0" % (kind.encode(), len(key))
    return blake2b(head + key + value, digest_size=16, person=b"edgelattice rec").digest()


def _write(database: sqlite3.Connection, records: Iterable[Persist]) -> None:
    with database:
        change = 0
        for record in records:
            place = (record.table, record.key)
            held = database.execute("SELECT hash FROM records WHERE kind = ? AND key = ?", place).fetchone()
            change -= int.from_bytes(held[0], "big") if held else 0
            if record.value is None:
                database.execute("DELETE FROM records WHERE kind = ? AND key = ?", place)
            else:
                hashed = _hash(*place, record.value)
                change += int.from_bytes(hashed, "big")
                database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (*place, record.value, hashed))
        total = (_total(database) + change) % _MODULUS
        database.execute("UPDATE total SET hash = ?", (total.to_bytes(16, "big"),))


def _total(database: sqlite3.Connection) -> int:
    row = database.execute("SELECT hash FROM total").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the sum of all records is missing")
    return int.from_bytes(row[0], "big")


def _damage(database: sqlite3.Connection) -> str | None:
    """What is wrong with a file that opens, in words. Raises sqlite3.DatabaseError."""
    verdict = str(database.execute("PRAGMA quick_check").fetchone()[0])
    if verdict != "ok":
        return verdict.splitlines()[0]
    total = 0
    for kind, key, value, hashed in database.execute("SELECT kind, key, value, hash FROM records"):
        if not _is_whole(kind, key, value, hashed):
            return f"a record of {kind!r} is not what was written"
        total += int.from_bytes(hashed, "big")
    return None if total % _MODULUS == _total(database) else "records are missing, or older than the others"


def _is_the_disks(error: sqlite3.DatabaseError) -> bool:
    """Whether it is the disk's fault, and not the file's.

    That a statement does not fit the tables (SQLITE_ERROR) is the file's: a flipped bit may rename a column.
    """
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR


def _is_whole(kind: object, key: object, value: object, hashed: object) -> bool:
    texts = isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)
    return texts and _hash(kind, key, value) == hashed  # type: ignore[arg-type]  # checked in the line above


def _rescue(path: Path) -> Iterator[Record]:
    """The records of a damaged file that are whole, as far as sqlite can still find them."""
    try:
        with closing(sqlite3.connect(path)) as database:
            for kind, key, value, hashed in database.execute("SELECT kind, key, value, hash FROM records"):
                if _is_whole(kind, key, value, hashed):
                    yield kind, key, value
    except sqlite3.DatabaseError:
        return


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_head(path)
    log = path.with_name(path.name + "-wal")
    logged = log.read_bytes() if log.exists() else b""
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        _, frames_read, _ = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        damage = damage_of_log(logged, frames_read)
        if damage is not None:
            raise sqlite3.DatabaseError(damage)
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _check_head(path: Path) -> None:
    """Raise what sqlite does not, or raises as if the file were none of ours to write (its format, 1.3)."""
    try:
        with path.open("rb") as file:
            head = file.read(_FILE_BYTES_MIN)
    except FileNotFoundError:
        return
    if 0 < len(head) < _FILE_BYTES_MIN:
        raise sqlite3.DatabaseError(f"cut to {len(head)} bytes")
    if head and (not {*head[18:20]} <= {1, 2} or int.from_bytes(head[44:48], "big") > 4):
        raise sqlite3.DatabaseError("its head says what sqlite never writes")


def _move_aside(path: Path) -> Path:
    """Beside it; the first `DAMAGED_MAX` stay, and the last: a bad disk must not fill itself with what it damaged."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists() and number <= DAMAGED_MAX:
        number += 1
    path.replace(aside)
    _drop_log(path)
    return aside


def _drop_log(path: Path) -> None:
    """What sqlite keeps beside a file: it would be read into whatever file is there next."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
