"""A node's place on disk: its key, its database, and a lock so that two processes never share them (edge)."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO

from lattice.identity import private_key_from
from lattice.store import Store
from router.errors import StartError
from router.site.key_file import KeyFileError, read_secret, write_secret


class StateDir:
    """An open, locked state directory. Close it when the node has stopped."""

    def __init__(self, path: Path) -> None:
        """Create what is missing. Raises `StartError`; a directory that another node uses is left alone."""
        self.path = path
        self._lock = _lock(path)
        try:
            self.node_key = _node_key(path / "node.key")
            self.store = Store(path / "state.sqlite")
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError | sqlite3.Error | KeyFileError):
                raise StartError(f"site.state_dir: {path}: {error}") from None
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


def _node_key(path: Path) -> bytes:
    """The node's private key, made at its first start."""
    if not path.exists():
        write_secret(path, private_key_from(os.urandom(64)), "edgelattice node key: who this node is")
    return read_secret(path, "node's key")[0]
