"""A non-blocking socket with a deadline on every wait, for fibers (see `nested_epoll`) and for trio tasks.

The system call is tried first and the driver entered only to wait, which halves the cost of a small request. Whoever
loops over calls that may all succeed at once must pause on its own.

TLS is the same socket in an `ssl.SSLSocket`, whose "want read" is another word for "busy". What differs: a read may end
with a record rather than with what the kernel has, a write takes everything or is busy and wants to be repeated with
the same bytes, nothing can be looked at without being taken, and an orderly end is said (close_notify): an end that is
not said is a loss.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import ssl
import struct
import termios
from typing import Final, TypeVar

import trio

from lattice.types import Endpoint
from router.traffic.nested_epoll import Member, NestedEpoll, Wake
from router.traffic.proxy_protocol import BadProxyHeaderError, ProxyHeader, read_proxy_header

RECEIVE_BYTES: Final = 65_536
"""What one read takes: the bound of every buffer between two peers."""

ESTABLISHED: Final = b"\x01"
"""The first byte of `tcp_info`: `tcpi_state`."""

RECORD_BYTES: Final = 16_384
"""The most that one TLS record holds (RFC 8446 5.1)."""

_NONE: Final = bytes(4)
_BUSY: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection(Member):
    """One peer. Methods raise OSError when the peer is lost, and trio.TooSlowError when it keeps us waiting.

    Without a `nest` only trio tasks can wait for it.
    """

    __slots__ = ("_early", "_nest", "_watches_writing", "secure", "sent", "sock")

    def __init__(self, sock: socket.socket, nest: NestedEpoll | None = None) -> None:
        super().__init__()
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.secure = isinstance(sock, ssl.SSLSocket)
        self.sent = 0
        """Bytes the kernel has taken, or a few more; zero only if the peer can have read none. Whoever wants to know
        about a part of them sets it to zero before."""
        self._early = b""  # read by who only wanted to look
        self._nest = nest
        self._watches_writing = False
        if nest is not None:
            nest.join(sock.fileno(), self)

    def receive_now(self) -> bytes | None:
        """What has arrived; b"" if the peer has closed its side; None if nothing is there yet."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except _BUSY:
            self.ready = self.over = False  # `over` was an event of whoever had this descriptor before
            return None
        # A read of TLS ends with a record, and takes all of it; the kernel may hold the next, of which it will not tell
        # again. To ask it costs a third of a vain read.
        self.ready = (
            self.over
            or len(data) == RECEIVE_BYTES
            or (self.secure and fcntl.ioctl(self.sock, termios.FIONREAD, _NONE) != _NONE)
        )
        return data

    async def receive(self, timeout_us: int) -> bytes:
        """The next bytes, or b"" if the peer has closed its side."""
        while (data := self.receive_now()) is None:
            await self.readable(timeout_us)
        return data

    async def readable(self, timeout_us: int) -> None:
        """Wait until there may be something to receive."""
        nest = self._nest
        fiber = None if nest is None else nest.current
        if nest is None or (fiber is None and not self.patient):
            with trio.move_on_after(timeout_us / 1e6) as scope:
                await trio.lowlevel.wait_readable(self.sock)
            late = scope.cancelled_caught
        elif self.ready:
            return
        elif fiber is None:
            with trio.move_on_after(timeout_us / 1e6) as scope:
                await nest.wait_behind(self)
            late = scope.cancelled_caught
        else:
            self.read_waiter = fiber
            late = await fiber.park(nest.time() + timeout_us / 1e6) is Wake.LATE
            if late:
                self.read_waiter = None
        if late:
            raise trio.TooSlowError

    async def writable(self, timeout_us: int) -> None:
        """Wait until the kernel may take bytes, after it has refused some."""
        nest = self._nest
        if nest is None or (fiber := nest.current) is None:
            with trio.move_on_after(timeout_us / 1e6) as scope:
                await trio.lowlevel.wait_writable(self.sock)
            if scope.cancelled_caught:
                raise trio.TooSlowError
            return
        self.write_waiter = fiber
        if not self._watches_writing:
            nest.watch_writing(self.sock.fileno())
            self._watches_writing = True
        deadline = nest.time() + timeout_us / 1e6
        while (wake := await fiber.park(deadline)) is Wake.NUDGED:
            pass
        if wake is Wake.LATE:
            self.write_waiter = None
            raise trio.TooSlowError

    def send_now(self, data: bytes | memoryview) -> bytes | memoryview:
        """Send what the kernel takes at once; return what is left."""
        try:
            count = self.sock.send(data)
        except _BUSY:
            if self.secure and len(data) > RECORD_BYTES:
                self.sent += 1  # OpenSSL counts only what is all gone; records of it may be
            return data
        self.sent += count
        if count == len(data):
            return b""
        return memoryview(data)[count:]  # the kernel is full, and will say when it is not

    async def send(self, data: bytes | memoryview, stall_timeout_us: int, rate_min: int = 0) -> None:
        """Send everything. The limit is on how long not a single byte is taken, and, once as long has passed, on the
        bytes a second that are taken over all."""
        left = self.send_now(data)
        if not left:
            return
        began = self.time()
        while left:
            await self.writable(stall_timeout_us)
            left = self.send_now(left)
            elapsed = self.time() - began
            if elapsed * 1e6 > stall_timeout_us and len(data) - len(left) < rate_min * elapsed:
                raise trio.TooSlowError

    def time(self) -> float:
        """Now, in trio's seconds."""
        return trio.current_time() if self._nest is None else self._nest.time()

    def is_quiet(self) -> bool:
        """Open, and nothing to read: what an idle upstream connection must be to be used again."""
        if self.secure:
            return self._is_quiet_inside()
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except _BUSY:
            return True
        except OSError:
            return False
        return False

    def _is_quiet_inside(self) -> bool:
        """Records that carry nothing (session tickets, key updates) are read here, and say nothing."""
        try:
            data = self.receive_now()
        except OSError:
            return False
        if data:
            self._early = data
        return data is None

    def has_left(self) -> bool:
        """The peer has closed its side, or is lost, whatever of its words still lies unread."""
        if self.sock.family != socket.AF_UNIX:
            return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != ESTABLISHED
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except _BUSY:
            return False
        except OSError:
            return True

    def look_below(self) -> bytes | None:
        """What has arrived, below TLS, and stays there. As `receive_now`."""
        try:
            return socket.socket.recv(self.sock, RECEIVE_BYTES, socket.MSG_PEEK)
        except _BUSY:
            self.ready = self.over = False
            return None

    def take_below(self, count: int) -> None:
        """Drop so much of what `look_below` saw."""
        socket.socket.recv(self.sock, count)
        self.ready = True

    async def hear_who(self, timeout_us: int) -> ProxyHeader:
        """Take the PROXY protocol header that comes before everything else, and no byte more. Raises
        `BadProxyHeaderError`."""
        held = b""
        deadline = self.time() + timeout_us / 1e6
        while True:
            # Below TLS, whose bytes must stay where they are: looked at, and taken only up to the header's end.
            if seen := self.look_below():
                header = read_proxy_header(held + seen)
                self.take_below(len(seen) if header is None else header.size - len(held))
                if header is not None:
                    return header
                held += seen
            elif seen is not None:
                raise BadProxyHeaderError("closed")
            else:
                await self.readable(max(0, int((deadline - self.time()) * 1e6)))

    def begin_tls(self, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None) -> None:
        """From now on speak TLS, as the end that called; `shake` comes next. The peer must be `name`.

        The descriptor stays, so whoever watches it need not know. Raises OSError."""
        self.sock = context.wrap_socket(
            self.sock,
            server_hostname=name,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            session=session,
        )
        self.secure = True

    async def shake(self, timeout_us: int) -> None:
        """The TLS handshake. Raises OSError (`ssl.SSLError` says why), or trio.TooSlowError."""
        assert isinstance(self.sock, ssl.SSLSocket)
        deadline = self.time() + timeout_us / 1e6
        while True:
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.ready = self.over = False
                await self.readable(max(0, int((deadline - self.time()) * 1e6)))
            except ssl.SSLWantWriteError:
                await self.writable(max(0, int((deadline - self.time()) * 1e6)))
            else:
                return

    def _say_end(self) -> None:
        """TLS's close_notify, as far as the kernel takes it at once."""
        if isinstance(self.sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # want read: the peer's own has not come; nor need it
                self.sock.unwrap()

    def close(self) -> None:
        self._say_end()
        self._leave()

    def _leave(self) -> None:
        if self._nest is not None:
            self._nest.leave(self.sock.fileno())
        self.sock.close()

    def abort(self) -> None:
        """Close with a reset: the only way to tell a peer that what ends here was not the end."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._leave()

    async def linger(self, timeout_us: int, bytes_max: int) -> None:
        """Close our side, then read and discard for a while: unread bytes at close would make the kernel send a reset,
        and that may overtake our last answer (RFC 9112 9.6)."""
        self._say_end()
        with contextlib.suppress(OSError, trio.TooSlowError):
            self.sock.shutdown(socket.SHUT_WR)  # from here on even of TLS only the raw bytes are read
            end = self.time() + timeout_us / 1e6
            while bytes_max > 0:
                data = self.receive_now()
                if data is None:
                    await self.readable(max(0, int((end - self.time()) * 1e6)))
                elif data:
                    bytes_max -= len(data)
                    await self.pause()
                else:
                    break

    async def pause(self) -> None:
        """Let others run."""
        if self._nest is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._nest.pause()


ConnectionT = TypeVar("ConnectionT", bound=Connection)


async def connect(
    host: str, port: int, timeout_us: int, kind: type[ConnectionT], nest: NestedEpoll | None = None
) -> ConnectionT:
    """A connection to a numeric address. Raises OSError, or trio.TooSlowError after `timeout_us`."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    return await _connected(sock, (host, port), timeout_us, kind, nest)


async def connect_unix(
    path: str, timeout_us: int, kind: type[ConnectionT], nest: NestedEpoll | None = None
) -> ConnectionT:
    """A connection to a Unix socket; raises as `connect` does. A full queue of who waits there is a refusal."""
    return await _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path, timeout_us, kind, nest)


async def _connected(
    sock: socket.socket, address: Endpoint | str, timeout_us: int, kind: type[ConnectionT], nest: NestedEpoll | None
) -> ConnectionT:
    connection: ConnectionT | None = None
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            # Whoever is near has answered by now, and a refusal that is read at once is a standby asked at once.
            code = _error_of(sock) or (0 if _has_peer(sock) else errno.EINPROGRESS)
        if code not in (0, errno.EINPROGRESS):
            raise _failed(code)
        connection = kind(sock, nest)  # joins only now: an unconnected socket looks like a lost one
        while code == errno.EINPROGRESS:
            await connection.writable(timeout_us)
            if code := _error_of(sock):
                raise _failed(code)
            if not _has_peer(sock):
                code = errno.EINPROGRESS  # that was an event of whoever had this descriptor before
        if sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # On loopback a connection to a closed port of the ephemeral range can meet itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
    except BaseException:
        if connection is not None:
            connection.close()
        sock.close()
        raise
    return connection


def _failed(code: int) -> OSError:
    return OSError(code, errno.errorcode.get(code, "connect failed"))


def _error_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
