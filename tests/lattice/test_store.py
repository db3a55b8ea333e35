"""Records survive the process; a damaged file is moved aside, never trusted and never in the way."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.events import Persist
from lattice.store import DAMAGED_MAX, Store
from lattice.write_ahead_log import damage_of_log


def reopened(path: Path) -> tuple[tuple[str, bytes, bytes], ...]:
    store = Store(path)
    try:
        return store.read()
    finally:
        store.close()


def test_what_was_written_is_read_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", b"b", b"2"), Persist("op", b"a", b"1"), Persist("self", b"incarnation", b"\x05")])
    store.write([Persist("op", b"a", None), Persist("self", b"incarnation", b"\x06")])
    store.close()
    assert reopened(path) == (("op", b"b", b"2"), ("self", b"incarnation", b"\x06"))


def test_a_batch_is_in_or_out(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", b"a", b"1")])
    with closing(sqlite3.connect(path)) as vandal:  # sqlite refuses the second one, after the first
        vandal.execute("CREATE TRIGGER t INSERT ON records WHEN NEW.key = x'63' BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error, match="no"):
        store.write([Persist("op", b"b", b"2"), Persist("op", b"c", b"3")])
    assert store.damage() is None
    store.close()
    assert reopened(path) == (("op", b"a", b"1"),)


@pytest.mark.parametrize("damage", ["not a database at all" * 100, ""])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.sqlite"
    path.write_text(damage)
    store = Store(path)
    store.write([Persist("op", b"a", b"1")])
    store.close()
    assert reopened(path) == (("op", b"a", b"1"),)
    aside = path.with_name("state.sqlite.damaged-1")
    assert aside.exists() == bool(damage), "an empty file is a new one; anything else is kept for whoever looks"
    if damage:
        assert aside.read_text() == damage


def test_a_disk_that_damages_all_it_holds_is_not_filled_with_what_was_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    for number in range(DAMAGED_MAX + 5):
        path.write_text(f"no database, {number} " * 100)
        Store(path).close()
    aside = [path.with_name(f"state.sqlite.damaged-{number}") for number in range(1, DAMAGED_MAX + 2)]
    assert sorted(tmp_path.glob("*.damaged-*")) == sorted(aside)
    assert [int(each.read_text().split()[2]) for each in aside] == [*range(DAMAGED_MAX), DAMAGED_MAX + 4]


def test_a_flipped_bit_in_a_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", bytes([number]) * 16, bytes(3_000)) for number in range(60)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 + 2] ^= 0xFF  # within a b-tree page's header
    path.write_bytes(bytes(content))
    records = reopened(path)
    assert all(len(key) == 16 and value == bytes(3_000) for _, key, value in records)
    assert path.with_name("state.sqlite.damaged-1").exists()


def test_a_flipped_bit_in_a_value_is_found_and_the_other_records_are_rescued(tmp_path: Path) -> None:
    """sqlite would hand it out: its pages have no hashes."""
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", bytes([number]) * 16, b"value %d" % number * 20) for number in range(50)])
    assert store.damage() is None
    store.close()
    content = bytearray(path.read_bytes())
    content[content.index(b"value 33value") + 40] ^= 0x10
    path.write_bytes(bytes(content))
    store = Store(path)
    assert [key[0] for _, key, _ in store.read()] == [number for number in range(50) if number != 33]
    assert "a record of 'op' is not what was written" in (store.replaced or "")
    assert "49 records rescued" in (store.replaced or "")
    assert store.damage() is None
    store.close()


def test_a_record_that_is_gone_or_older_than_the_others_is_missed(tmp_path: Path) -> None:
    """A disk that said it had written, and had not: each record is whole, but they do not belong together."""
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("self", b"incarnation", b"\x05"), Persist("op", b"a", b"1")])
    with closing(sqlite3.connect(path)) as vandal:
        old = vandal.execute("SELECT value, hash FROM records WHERE kind = 'self'").fetchone()
    store.write([Persist("self", b"incarnation", b"\x06")])
    for spoil in (
        ("DELETE FROM records WHERE kind = 'op'", ()),
        ("UPDATE records SET value = ?, hash = ? WHERE kind = 'self'", old),
        ("DELETE FROM total", ()),
    ):
        assert store.damage() is None
        with closing(sqlite3.connect(path)) as vandal:
            kept = vandal.execute("SELECT * FROM records").fetchall(), vandal.execute("SELECT * FROM total").fetchall()
            vandal.execute(*spoil)
            vandal.commit()
            assert "missing" in (store.damage() or "")
            vandal.execute("DELETE FROM records")
            vandal.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", kept[0])
            vandal.execute("DELETE FROM total")
            vandal.executemany("INSERT INTO total VALUES (?)", kept[1])
            vandal.commit()
    store.close()


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_no_flipped_bit_and_no_cut_gives_a_record_that_was_never_written(data: st.DataObject) -> None:
    """Wherever the file is hurt: what is read was written, and what is not there was moved aside with the rest."""
    written = {(kind, bytes([key])): bytes([key]) * 40 for kind in ("op", "row") for key in range(40)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state.sqlite"
        store = Store(path)
        store.write([Persist(kind, key, value) for (kind, key), value in written.items()])
        store.close()
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans(), label="cut"):
            del content[data.draw(st.integers(1, len(content) - 1), label="at") :]
        else:
            content[data.draw(st.integers(0, len(content) - 1), label="at")] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(content))
        store = Store(path)
        found = {(kind, key): value for kind, key, value in store.read()}
        assert found.items() <= written.items()
        assert store.replaced is not None or found == written
        store.write([Persist("op", b"new", b"v")])
        assert store.damage() is None
        store.close()


@pytest.mark.parametrize("what", ["removed", "replaced", "directory removed"])
def test_a_file_that_somebody_took_away_is_begun_anew_and_not_written_to_unseen(what: str, tmp_path: Path) -> None:
    """What is open goes on taking writes, and they are gone with it."""
    path = tmp_path / "node.state" / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", b"a", b"1")])
    assert store.damage() is None
    if what == "directory removed":
        shutil.rmtree(path.parent)
    elif what == "replaced":
        other = Store(tmp_path / "backup.sqlite")
        other.write([Persist("op", b"old", b"0")])
        other.close()
        (tmp_path / "backup.sqlite").replace(path)
    else:
        path.unlink()
    why = store.damage()
    assert why == ("another file is in its place" if what == "replaced" else "it was removed")
    assert ("moved to state.sqlite.damaged-1" in store.renew(why)) == (what == "replaced")
    store.write([Persist("op", b"b", b"2")])
    assert store.damage() is None
    store.close()
    assert [key for _, key, _ in reopened(path)] == ([b"b", b"old"] if what == "replaced" else [b"b"])


def killed_after(folder: Path, writes: int) -> tuple[Path, bytearray]:
    """The file of a process that was killed after so many writes, and its log."""
    path = folder / "dead" / "state.sqlite"
    store = Store(folder / "alive" / "state.sqlite")
    for number in range(writes):
        store.write([Persist("op", bytes([number]), bytes([number]) * 40)])
    shutil.copytree(folder / "alive", folder / "dead")
    store.close()
    return path, bytearray(path.with_name("state.sqlite-wal").read_bytes())


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_no_flipped_bit_in_a_log_loses_anything_without_a_word(data: st.DataObject) -> None:
    """sqlite takes the log's first frame that does not hold for its end. Of the last write nobody can know."""
    with TemporaryDirectory() as folder:
        path, log = killed_after(Path(folder), 12)
        log[data.draw(st.integers(0, len(log) - 1), label="at")] ^= 1 << data.draw(st.integers(0, 7))
        path.with_name("state.sqlite-wal").write_bytes(log)
        store = Store(path)
        found = {key[0]: value for _, key, value in store.read()}
        assert found == {number: bytes([number]) * 40 for number in range(len(found))}
        assert store.replaced is not None or len(found) >= 11
        store.write([Persist("op", b"new", b"v")])
        assert store.damage() is None
        store.close()


def test_a_log_that_is_whole_torn_or_empty_is_no_damage(tmp_path: Path) -> None:
    for cut, kept in ((0, 4), (1, 3), (5_000, 3)):
        folder = tmp_path / str(cut)
        path, log = killed_after(folder, 4)
        path.with_name("state.sqlite-wal").write_bytes(log[: len(log) - cut])
        store = Store(path)
        assert store.replaced is None
        assert [key[0] for _, key, _ in store.read()] == list(range(kept))
        store.close()
    assert damage_of_log(b"", 0) is damage_of_log(bytes(32), 0) is None


@pytest.mark.parametrize("word", [b"records", b"total", b"kind", b"key", b"value", b"hash"])
def test_a_flipped_bit_in_the_name_of_a_table_or_column_is_damage(word: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    for number in range(times_said(word, tmp_path)):
        store = Store(path)
        store.write([Persist("op", b"a", b"1")])
        store.close()
        content = bytearray(path.read_bytes())
        at = [match.start() for match in re.finditer(word, content[:4096])][number]
        content[at] ^= 1
        path.write_bytes(bytes(content))
        damaged = Store(path)
        assert damaged.replaced is not None or damaged.read() == (("op", b"a", b"1"),)
        assert damaged.damage() is None
        damaged.close()
        path.unlink()


def times_said(word: bytes, folder: Path) -> int:
    """How often the schema of a new file says a word."""
    Store(folder / "new.sqlite").close()
    return len(re.findall(word, (folder / "new.sqlite").read_bytes()[:4096]))


def test_a_death_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", b"a", b"1")])
    store.close()
    path.rename(tmp_path / "state.sqlite.new")
    assert reopened(path) == (("op", b"a", b"1"),)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        Store(blocked / "state.sqlite")
