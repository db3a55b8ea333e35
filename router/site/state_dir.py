"""A node's place on disk: its key, its database, and a lock so that two processes never share them (edge)."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO

from lattice.identity import private_key_from
from lattice.store import Store
from lattice.types import VersionId
from router.errors import StartError
from router.site.key_file import KeyFileError, read_secret, replace_file, write_secret


class LastGood:
    """Which version of the policy was last in force here, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> VersionId | None:
        """None when there is none, or the file is no version."""
        try:
            version = bytes.fromhex(self.path.read_text("ascii").strip())
        except (OSError, ValueError):
            return None
        return VersionId(version) if len(version) == 16 else None

    def write(self, version: VersionId) -> None:
        """All or nothing. Raises OSError."""
        replace_file(self.path, f"{version.hex()}\n".encode("ascii"), 0o600)


class StateDir:
    """An open, locked state directory. Close it when the node has stopped."""

    def __init__(self, path: Path) -> None:
        """Create what is missing. Raises `StartError`; a directory that another node uses is left alone."""
        self.path = path
        self._lock = _lock(path)
        try:
            self.node_key = node_key_in(path)
            self.store = Store(path / "state.sqlite")
            self.last_good = LastGood(path / "policy.version")
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError | sqlite3.Error | KeyFileError):
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                hint = "" if isinstance(error, KeyFileError) else "; is there room, and may this user write there?"
                raise StartError(f"site.state_dir: {path}: {why.lower() if hint else why}{hint}") from None
            raise

    def close(self) -> None:
        self.store.close()
        self._lock.close()


def _lock(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise StartError(f"site.state_dir: {path}: {error.strerror}; choose a directory this user can write") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartError(
            f"site.state_dir: {path}: another node is running on it; stop that one, or give this site its own directory"
        ) from None
    return lock


def node_key_in(directory: Path) -> bytes:
    """The node's private key, made if it has none yet. Raises OSError or `KeyFileError`."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / "node.key"
    if not path.exists():
        write_secret(path, private_key_from(os.urandom(64)), "edgelattice node key: who this node is")
    return read_secret(path, "node's key")[0]
