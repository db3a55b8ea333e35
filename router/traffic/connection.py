"""A non-blocking socket under trio, with a deadline on every wait.

trio's own sockets pass through the scheduler on every successful call; here the system call is tried first and the
scheduler entered only to wait, which halves the cost of a small request. Whoever loops over calls that may all succeed
at once must pass a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Final

import trio

RECEIVE_BYTES: Final = 65_536
"""What one read takes: the bound of every buffer between two peers."""

_BUSY: Final = (BlockingIOError, InterruptedError)


class Connection:
    """One peer. Methods raise OSError when the peer is lost, and trio.TooSlowError when it keeps us waiting."""

    __slots__ = ("sent", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.sent = 0
        """Bytes the kernel has taken; whoever wants to know about a part of them sets it to zero before."""

    def receive_now(self) -> bytes | None:
        """What has arrived; b"" if the peer has closed its side; None if nothing is there yet."""
        try:
            return self.sock.recv(RECEIVE_BYTES)
        except _BUSY:
            return None

    async def receive(self, timeout_us: int) -> bytes:
        """The next bytes, or b"" if the peer has closed its side."""
        while (data := self.receive_now()) is None:
            await self.readable(timeout_us)
        return data

    async def readable(self, timeout_us: int) -> None:
        with trio.move_on_after(timeout_us / 1e6) as scope:
            await trio.lowlevel.wait_readable(self.sock)
        if scope.cancelled_caught:
            raise trio.TooSlowError

    def send_now(self, data: bytes | memoryview) -> bytes | memoryview:
        """Send what the kernel takes at once; return what is left."""
        try:
            count = self.sock.send(data)
        except _BUSY:
            return data
        self.sent += count
        return b"" if count == len(data) else memoryview(data)[count:]

    async def send(self, data: bytes | memoryview, stall_timeout_us: int) -> None:
        """Send everything; the limit is on how long not a single byte is taken."""
        while left := self.send_now(data):
            data = left
            with trio.move_on_after(stall_timeout_us / 1e6) as scope:
                await trio.lowlevel.wait_writable(self.sock)
            if scope.cancelled_caught:
                raise trio.TooSlowError

    def is_quiet(self) -> bool:
        """Open, and nothing to read: what an idle upstream connection must be to be used again."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except _BUSY:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self.sock.close()

    def abort(self) -> None:
        """Close with a reset: the only way to tell a peer that what ends here was not the end."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def linger(self, timeout_us: int, bytes_max: int) -> None:
        """Close our side, then read and discard for a while: unread bytes at close would make the kernel send a reset,
        and that may overtake our last answer (RFC 9112 9.6)."""
        with contextlib.suppress(OSError), trio.move_on_after(timeout_us / 1e6):
            self.sock.shutdown(socket.SHUT_WR)
            while bytes_max > 0:
                data = self.receive_now()
                if data is None:
                    await trio.lowlevel.wait_readable(self.sock)
                elif data:
                    bytes_max -= len(data)
                    await trio.lowlevel.checkpoint()
                else:
                    break


async def connect(host: str, port: int, timeout_us: int) -> socket.socket:
    """A connected socket to a numeric address. Raises OSError, or trio.TooSlowError after `timeout_us`."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex((host, port))
        if code == errno.EINPROGRESS:
            with trio.move_on_after(timeout_us / 1e6) as scope:
                await trio.lowlevel.wait_writable(sock)
            if scope.cancelled_caught:
                raise trio.TooSlowError
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, "connect failed"))
        if sock.getsockname() == sock.getpeername():
            # On loopback a connection to a closed port of the ephemeral range can meet itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
    except BaseException:
        sock.close()
        raise
    return sock
