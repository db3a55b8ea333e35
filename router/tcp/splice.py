"""Bytes from one socket to another through a pipe, which the kernel moves as pages: Python never sees them (edge).

splice(2) takes at most what fits the pipe. A pipe is small at first (16 pages, 64 KiB), as most connections are short;
one that has carried a megabyte gets a megabyte (the most an unprivileged process may ask for), and so sixteen times
fewer system calls. The pipe is empty whenever the source is read, so EAGAIN there always means the source.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import socket
from collections.abc import Callable
from typing import Final

import trio

SPLICE_BYTES: Final = 1 << 20
"""Asked for at a time, and the size of a large pipe: Linux' pipe-max-size."""
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Side(enum.Enum):
    SOURCE = "source"
    TARGET = "target"


class LostError(Exception):
    """One of the two was lost: neither a clean end nor the other's doing. `side` says which."""

    def __init__(self, side: Side) -> None:
        super().__init__(side.value)
        self.side = side


class Pipe:
    """One direction of one connection. A context manager; cancelling `splice` loses what is in it."""

    def __init__(self) -> None:
        """Raises OSError when descriptors run out."""
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reading)
        os.close(self._writing)

    async def splice(self, source: socket.socket, target: socket.socket, moved: Callable[[int], None]) -> None:
        """Move bytes until the source ends, then shut the target's half too: a half-close travels.

        Both sockets must be non-blocking. `moved` is told of every part, in bytes. Raises `LostError`.
        """
        carried, large = 0, False
        while held := await self._fill(source):
            await self._drain(target, held, moved)
            carried += held
            if not large and carried >= SPLICE_BYTES:
                large = True
                self.widen(SPLICE_BYTES)
            if large:
                await trio.lowlevel.checkpoint()  # two fast peers must not keep everybody else waiting
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def fill(self, source: socket.socket, count: int) -> int:
        """Take up to so many bytes; 0 at the end. Raises OSError, BlockingIOError if there is nothing now."""
        return os.splice(source.fileno(), self._writing, count, flags=_FLAGS)

    def drain(self, target: socket.socket, held: int) -> int:
        """Pass on up to so many bytes of what is held. Raises OSError, BlockingIOError if the target takes none now."""
        return os.splice(self._reading, target.fileno(), held, flags=_FLAGS)

    def widen(self, size: int) -> None:
        """Make room for so many bytes, if the user's quota of pipe pages allows it; else less serves, too."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, size)

    async def _fill(self, source: socket.socket) -> int:
        """How many bytes came; 0 at the end."""
        while True:
            try:
                return self.fill(source, SPLICE_BYTES)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(source)
            except OSError as error:
                raise LostError(Side.SOURCE) from error

    async def _drain(self, target: socket.socket, held: int, moved: Callable[[int], None]) -> None:
        while held:
            try:
                count = self.drain(target, held)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_writable(target)
            except OSError as error:
                raise LostError(Side.TARGET) from error
            else:
                held -= count
                moved(count)
