"""Records survive the process; a damaged file is moved aside, never trusted and never in the way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lattice.events import Persist
from lattice.store import Store


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
    unwritable = Persist("op", b"c", object())  # type: ignore[arg-type]  # sqlite refuses it, after the first one
    with pytest.raises(sqlite3.Error):
        store.write([Persist("op", b"b", b"2"), unwritable])
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


def test_a_flipped_bit_in_a_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = Store(path)
    store.write([Persist("op", bytes([number]) * 16, bytes(3_000)) for number in range(60)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 + 2] ^= 0xFF  # within a b-tree page's header
    path.write_bytes(bytes(content))
    records = reopened(path)
    assert records == ()
    assert path.with_name("state.sqlite.damaged-1").exists()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        Store(blocked / "state.sqlite")
