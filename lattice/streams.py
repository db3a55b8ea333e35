"""Frames that no datagram holds: one connection to each peer, for as long as there is something to say (edge).

::

    connection = TLS { frame ... }
    frame      = length (4 bytes, big endian), sealed message

A connection costs two round trips and the certificates of both ends, some four kilobytes: many times what a frame
does. So frames for a peer stand in line for the connection that is open, which ends `IDLE_S` after the last of them.
A line is bounded, since whoever waits long asks again anyway (`antientropy`). A frame may take as long as its length
takes on the slowest link that we serve: an upload over 64 kbit/s is no fault, a peer that holds a place for nothing is.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter, deque
from collections.abc import Callable

import trio

from lattice.errors import LatticeError, UntrustedError, WireError
from lattice.seal import sender_in
from lattice.stream_security import StreamSecurity, TlsStream, tls_error
from lattice.transport import Clock, came_from
from lattice.types import Endpoint, NodeId, short

log = logging.getLogger("edgelattice.gossip")

STREAMS_MAX = 64
"""Connections out, and connections in, at a time."""
STREAMS_A_HOST_MAX = 16
"""Connections in from one address, behind which there may be several nodes."""
LINE_BYTES_MAX = 256 * 1024
"""What stands in line for one peer."""
SETUP_S = 10
"""Until both ends know each other: some kilobytes each way, behind whatever else is on the link."""
FRAME_S = 5
"""How long a frame may take, beside what its length takes at `BYTES_PER_S_MIN`."""
BYTES_PER_S_MIN = 1_000
"""An eighth of 64 kbit/s."""
UNSENT_BYTES = 16 * 1024
"""What the kernel takes beyond what is on its way, or it would take a whole line and every frame would seem sent."""
IDLE_S = 2
"""How long a connection is kept for another frame."""
IDLE_IN_S = 30
"""And how long one that a peer opened: the peer ends it, where it is well."""
LENGTH_BYTES = 4

_Stream = trio.SocketStream | TlsStream
_FAULTS = (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError, LatticeError)


class Streams:
    """One node's connections, both ways. A fault is counted and ends its connection; what is lost is asked for anew."""

    def __init__(
        self,
        counters: Counter[str],
        clock: Clock,
        frame_bytes_max: int,
        is_revoked: Callable[[NodeId], bool],
        on_frame: Callable[[bytes, Endpoint], None],
    ) -> None:
        self.security: StreamSecurity | None = None
        """Of connections from now on: with None no end shows a certificate."""
        self._counters = counters
        self._clock = clock
        self._frame_bytes_max = frame_bytes_max
        self._is_revoked = is_revoked
        self._on_frame = on_frame
        self._lines: dict[Endpoint, _Line] = {}
        self._from_host: Counter[str] = Counter()

    # --- out

    def send(self, frame: bytes, target: Endpoint, nursery: trio.Nursery) -> None:
        """Put a frame in line; one that finds no room is dropped and counted."""
        line = self._lines.get(target)
        if line is None:
            if len(self._lines) >= STREAMS_MAX:
                self._counters["stream frames not sent: too many streams"] += 1
                return
            line = self._lines[target] = _Line()
            nursery.start_soon(self._serve, line, target)
        if not line.put(frame):
            self._counters["stream frames not sent: line full"] += 1

    async def _serve(self, line: _Line, target: Endpoint) -> None:
        try:
            with trio.fail_after(SETUP_S):
                tcp = await trio.open_tcp_stream(*target)
            async with tcp:
                tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
                stream: _Stream = tcp
                if self.security is not None:
                    with trio.fail_after(SETUP_S):
                        stream, node = await self.security.connect(tcp, self._clock.now())
                    self._check_standing(node)
                await line.say(stream)
                del self._lines[target]  # whoever has more to say opens another
                if stream is not tcp:
                    with trio.move_on_after(FRAME_S):
                        await stream.aclose()
        except _FAULTS as error:
            self._counters[f"stream frames not sent: {_reason(error)}"] += max(1, line.waiting)
        finally:
            if self._lines.get(target) is line:
                del self._lines[target]

    # --- in

    async def serve(self, stream: trio.SocketStream) -> None:
        """Hand on a peer's frames until it ends the connection, or does wrong."""
        async with stream:
            try:
                peer = stream.socket.getpeername()
                source: Endpoint = came_from(peer) if len(peer) > 2 else peer
                host = source[0]
                if self._from_host.total() >= STREAMS_MAX or self._from_host[host] >= STREAMS_A_HOST_MAX:
                    self._counters["frame rejected: too many streams"] += 1
                    return
                self._from_host[host] += 1
                try:
                    await self._read(stream, source)
                finally:
                    self._from_host[host] -= 1
                    if not self._from_host[host]:
                        del self._from_host[host]
            except _FAULTS as error:
                self._counters[f"frame rejected: {_reason(error)}"] += 1
                if isinstance(error, UntrustedError):
                    log.warning("a stream frame was refused: %s", error)

    async def _read(self, tcp: trio.SocketStream, source: Endpoint) -> None:
        if self.security is None:
            await self._hand_on(tcp, None, source)
            return
        with trio.fail_after(SETUP_S):
            tls, node = await self.security.accept(tcp, self._clock.now())
        try:
            await self._hand_on(tls, node, source)
        except trio.BrokenResourceError as error:
            raise tls_error(error) from None
        with trio.move_on_after(FRAME_S):
            await tls.aclose()

    async def _hand_on(self, stream: _Stream, node: NodeId | None, source: Endpoint) -> None:
        """All frames of a connection, each from the node whose certificate was shown (None: from whomever)."""
        first = True
        while True:
            if node is not None:
                self._check_standing(node)
            with trio.fail_after(FRAME_S if first else IDLE_IN_S):
                head = await _receive(stream, LENGTH_BYTES)
            if not head and not first:
                return
            length = int.from_bytes(_whole(head, LENGTH_BYTES), "big")
            if length > self._frame_bytes_max:
                raise WireError("oversized", f"{length} bytes claimed")
            with trio.fail_after(FRAME_S + length / BYTES_PER_S_MIN):
                frame = _whole(await _receive(stream, length), length)
            if node is not None and sender_in(frame) != node:
                raise UntrustedError("sender is not the certificate's", f"node {short(node)} shows it")
            self._on_frame(frame, source)
            first = False

    def _check_standing(self, node: NodeId) -> None:
        if self._is_revoked(node):
            raise UntrustedError("certificate revoked", f"node {short(node)}")


class _Line:
    """What is to be said to one peer."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._came = trio.Event()
        self._fault: Exception | None = None

    @property
    def waiting(self) -> int:
        """Frames that are not sent."""
        return len(self._frames)

    def put(self, frame: bytes) -> bool:
        """False when there is no room."""
        if self._size + len(frame) > LINE_BYTES_MAX:
            return False
        self._frames.append(frame)
        self._size += len(frame)
        self._came.set()
        return True

    async def say(self, stream: _Stream) -> None:
        """Send what comes until nothing does. Raises what the connection raises, and `WireError` when it ends early."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, stream, nursery.cancel_scope)
            try:
                await self._send(stream)
            except _FAULTS as fault:
                self._fault = self._fault or fault
            nursery.cancel_scope.cancel()
        if isinstance(self._fault, trio.BrokenResourceError) and isinstance(stream, trio.SSLStream):
            raise tls_error(self._fault)
        if self._fault is not None:
            raise self._fault

    async def _send(self, stream: _Stream) -> None:
        while True:
            while self._frames:
                frame = self._frames[0]
                with trio.fail_after(FRAME_S + len(frame) / BYTES_PER_S_MIN):
                    await stream.send_all(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
                self._frames.popleft()
                self._size -= len(frame)
            self._came = trio.Event()
            with trio.move_on_after(IDLE_S) as waiting:
                await self._came.wait()
            if waiting.cancelled_caught and not self._frames:
                return

    async def _watch(self, stream: _Stream, scope: trio.CancelScope) -> None:
        """Nothing is said to us here: what comes is the end, and in TLS 1.3 the only refusal."""
        try:
            await stream.receive_some(1)
            self._fault = self._fault or (WireError("ended by the peer", "frames were left") if self._frames else None)
        except _FAULTS as fault:
            self._fault = self._fault or fault
        scope.cancel()


def _reason(fault: Exception) -> str:
    return fault.reason if isinstance(fault, LatticeError) else type(fault).__name__


async def _receive(stream: _Stream, length: int) -> bytes:
    """So many bytes; fewer where the stream ends."""
    parts = bytearray()
    while len(parts) < length and (part := await stream.receive_some(length - len(parts))):
        parts += part
    return bytes(parts)


def _whole(data: bytes, length: int) -> bytes:
    if len(data) < length:
        raise WireError("truncated", f"{len(data)} of {length} bytes")
    return data
