"""The engine on trio: one task owns it, feeds it one input at a time, and performs all its effects (edge).

::

    udp socket ──▶ reader ──┐
    tcp listener ─▶ frames ─┼──▶ bounded inbox ──▶ the task that owns the engine ──▶ sockets, store, `on_notification`
    submit / call ──────────┘

When the inbox is full the network's share is dropped and counted, as UDP may; local changes wait. Before it comes to
that, each source has a bucket of its own, so that one who floods cannot fill the inbox for all. An input that waited
too long means that this node is starved: it is counted, and the engine is told (`loop_watch`).
"""

from __future__ import annotations

import logging
import math
import socket as stdlib_socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import trio

from lattice.engine import Engine
from lattice.errors import LatticeError, UntrustedError, WireError
from lattice.events import (
    DatagramReceived,
    Input,
    LocalChange,
    LocalUpdate,
    LoopLagged,
    Notification,
    Notify,
    Persist,
    Restored,
    SendDatagram,
    SendStream,
    SetTimer,
    StreamFrameReceived,
    TimerFired,
)
from lattice.loop_watch import LoopWatch
from lattice.policy_store import PolicyStore
from lattice.seal import sender_in
from lattice.store import Store
from lattice.stream_security import StreamSecurity, TlsStream, tls_error
from lattice.token_bucket import TokenBuckets
from lattice.types import SECOND, Endpoint, Micros, short
from lattice.view import LatticeView

log = logging.getLogger("edgelattice.gossip")

INBOX_MAX = 4_096
SOURCE_FRAMES_PER_S = 1_000
"""What one source may send in the long run: a small part of what the engine handles, many times what a peer sends."""
SOURCE_FRAMES_BURST = 2_000
"""And at once: half the inbox; a relay passes on a thousand rows in some 250 datagrams."""
SOURCES_MAX = 4_096
"""Sources with a bucket of their own; beyond them strangers share one."""
STREAM_TOKEN_BYTES = 1_200
"""A stream frame costs as many tokens as it would have been datagrams."""
STREAMS_MAX = 64
"""Stream frames being sent, and being received, at a time."""
STREAM_TIMEOUT_S = 5
LENGTH_BYTES = 4


class Clock:
    """`Micros` since the Unix epoch that never go back: the wall clock's reading at the start, then trio's clock."""

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1_000 - round(trio.current_time() * SECOND)

    def now(self) -> Micros:
        return Micros(round(trio.current_time() * SECOND) + self._offset_us)

    def trio_time(self, at: Micros) -> float:
        """The same moment in trio's seconds."""
        return (at - self._offset_us) / SECOND


class Transport:
    """A UDP socket, and a TCP listener on the same port."""

    def __init__(self, udp: trio.socket.SocketType, tcp: trio.SocketListener) -> None:
        self.udp = udp
        self.tcp = tcp

    @property
    def endpoint(self) -> Endpoint:
        """The address that is bound; its host may be a wildcard."""
        host, port = self.udp.getsockname()[:2]
        return host, port

    def close(self) -> None:
        self.udp.close()
        self.tcp.socket.close()


async def bind(host: str, port: int) -> Transport:
    """Bind both sockets; port 0 lets the kernel choose one that is free for both. Raises OSError."""
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    for attempt in range(20):
        udp = trio.socket.socket(family, stdlib_socket.SOCK_DGRAM)
        tcp = trio.socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            await udp.bind((host, port))
            tcp.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            await tcp.bind((host, udp.getsockname()[1]))
            tcp.listen(128)
        except OSError:
            udp.close()
            tcp.close()
            if port or attempt == 19:
                raise
        else:
            return Transport(udp, trio.SocketListener(tcp))
    raise AssertionError("the last attempt returns or raises")


class Driver:
    """Owns one engine. `view` and `submit` may be called from any trio task; nothing else touches the engine."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        store: Store | None,
        clock: Clock,
        on_notification: Callable[[Notification], None],
        frame_bytes_max: int,
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._store = store
        self._clock = clock
        self._on_notification = on_notification
        self._frame_bytes_max = frame_bytes_max
        self._send_inbox, self._inbox = trio.open_memory_channel[tuple[Input, "_Reply | None", Micros]](INBOX_MAX)
        self._counters: Counter[str] = Counter()
        self._streams_out = trio.CapacityLimiter(STREAMS_MAX)
        self._streams_in = trio.CapacityLimiter(STREAMS_MAX)
        self._deadline: Micros | None = None
        self._watch = LoopWatch()
        self._sources: TokenBuckets[tuple[str, int]] = TokenBuckets(
            SOURCE_FRAMES_PER_S, SOURCE_FRAMES_BURST, SOURCES_MAX
        )
        self._security: StreamSecurity | None = None

    # --- for the router

    def secure(self, security: StreamSecurity) -> None:
        """From the next stream on, both ends show certificates; streams that are open go on as they began."""
        self._security = security

    def view(self) -> LatticeView:
        return self._engine.view()

    @property
    def policy(self) -> PolicyStore:
        """For whoever composes a publish. Read only."""
        return self._engine.policy

    def counters(self) -> dict[str, int]:
        """The engine's counters and the transport's."""
        return dict(sorted((Counter(self._engine.counters()) + self._counters + self._watch.counters).items()))

    async def submit(self, change: LocalChange) -> None:
        """Hand in a change and do not wait for what comes of it."""
        await self._send_inbox.send((LocalUpdate(change), None, self._clock.now()))

    def submit_nowait(self, change: LocalChange) -> bool:
        """As `submit`; False, and counted, when the inbox is full."""
        return self._offer(LocalUpdate(change), "inbox full: local change dropped")

    async def call(self, change: LocalChange) -> list[Notification]:
        """Hand in a change; what the engine notified of while it took it."""
        reply = _Reply()
        await self._send_inbox.send((LocalUpdate(change), reply, self._clock.now()))
        await reply.done.wait()
        return reply.notifications

    # --- the tasks

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until cancelled. Started once the records of earlier lives are restored."""
        async with trio.open_nursery() as nursery:
            if self._store is not None:
                records = await trio.to_thread.run_sync(self._store.read)
                await self._take(Restored(records), None, nursery)
            await self._take(TimerFired(), None, nursery)
            nursery.start_soon(self._read_datagrams)
            nursery.start_soon(partial(trio.serve_listeners, self._read_frames, [self._transport.tcp]))
            task_status.started()
            while True:
                event, reply, due = await self._next_input()
                lag_us = self._watch.late(due, self._clock.now())
                if lag_us is not None:
                    await self._take(LocalUpdate(LoopLagged(lag_us)), None, nursery)
                await self._take(event, reply, nursery)

    async def _next_input(self) -> tuple[Input, _Reply | None, Micros]:
        """What is to be done next, who waits for it, and since when it could have been."""
        deadline = math.inf if self._deadline is None else self._clock.trio_time(self._deadline)
        with trio.move_on_at(deadline):
            return await self._inbox.receive()
        return TimerFired(), None, self._clock.now() if self._deadline is None else self._deadline

    async def _take(self, event: Input, reply: _Reply | None, nursery: trio.Nursery) -> None:
        now = self._clock.now()
        if isinstance(event, TimerFired) and self._deadline is not None:
            now = max(now, self._deadline)  # trio's floating seconds may wake us a microsecond early
        unwritten: list[Persist] = []
        for effect in self._engine.handle(event, now):
            if isinstance(effect, Persist):
                unwritten.append(effect)
                continue
            if unwritten and isinstance(effect, SendDatagram | SendStream):
                await self._write(unwritten)
                unwritten = []
            match effect:
                case SendDatagram(data, target):
                    await self._send_datagram(data, target)
                case SendStream(data, target):
                    nursery.start_soon(self._send_stream, data, target)
                case SetTimer(deadline):
                    self._deadline = deadline
                case Notify(notification):
                    self._on_notification(notification)
                    if reply is not None:
                        reply.notifications.append(notification)
        await self._write(unwritten)
        if reply is not None:
            reply.done.set()

    async def _write(self, records: list[Persist]) -> None:
        if self._store is None or not records:
            return
        try:
            await trio.to_thread.run_sync(self._store.write, records)
        except sqlite3.Error as error:
            self._counters["records not written"] += len(records)
            log.error("cannot write %s: %s; going on without", self._store.path, error)

    async def _send_datagram(self, data: bytes, target: Endpoint) -> None:
        try:
            await self._transport.udp.sendto(data, target)
        except (OSError, ValueError) as error:
            self._counters[f"datagrams not sent: {type(error).__name__}"] += 1

    async def _send_stream(self, data: bytes, target: Endpoint) -> None:
        try:
            self._streams_out.acquire_nowait()
        except trio.WouldBlock:
            self._counters["stream frames not sent: too many"] += 1
            return
        try:
            with trio.fail_after(STREAM_TIMEOUT_S):
                async with await trio.open_tcp_stream(*target) as stream:
                    framed = len(data).to_bytes(LENGTH_BYTES, "big") + data
                    if self._security is None:
                        await stream.send_all(framed)
                    else:
                        await self._send_secured(stream, framed, self._security)
        except (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError, LatticeError) as error:
            reason = error.reason if isinstance(error, LatticeError) else type(error).__name__
            self._counters[f"stream frames not sent: {reason}"] += 1
        finally:
            self._streams_out.release()

    async def _send_secured(self, stream: trio.SocketStream, framed: bytes, security: StreamSecurity) -> None:
        tls, _ = await security.connect(stream, self._clock.now())
        try:
            await tls.send_all(framed)
            await tls.receive_some(1)  # in TLS 1.3 only this tells whether the peer took our certificate
        except trio.BrokenResourceError as error:
            raise tls_error(error) from None
        await tls.aclose()

    async def _read_datagrams(self) -> None:
        while True:
            try:
                data, source = await self._transport.udp.recvfrom(65_536)
            except OSError as error:  # an ICMP error of an earlier send; never fatal to a datagram socket
                self._counters[f"datagrams not read: {type(error).__name__}"] += 1
                await trio.lowlevel.checkpoint()
                continue
            if self._may_pass(source[:2], 1):
                self._offer(DatagramReceived(data, source[:2]), "inbox full: datagram dropped")
            else:
                self._counters["datagram dropped: source over its rate"] += 1

    async def _read_frames(self, stream: trio.SocketStream) -> None:
        """One frame, then the connection ends."""
        async with stream:
            try:
                self._streams_in.acquire_nowait()
            except trio.WouldBlock:
                self._counters["frame rejected: too many streams"] += 1
                return
            try:
                source = stream.socket.getpeername()[:2]
                with trio.fail_after(STREAM_TIMEOUT_S):
                    if self._security is None:
                        data = await self._read_frame(stream)
                    else:
                        data = await self._read_secured(stream, self._security)
                if self._may_pass((source[0], 0), 1 + len(data) // STREAM_TOKEN_BYTES):
                    self._offer(StreamFrameReceived(data, source), "inbox full: frame dropped")
                else:
                    self._counters["frame dropped: source over its rate"] += 1
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, LatticeError) as error:
                reason = error.reason if isinstance(error, LatticeError) else type(error).__name__
                self._counters[f"frame rejected: {reason}"] += 1
                if isinstance(error, UntrustedError):
                    log.warning("a stream frame was refused: %s", error)
            finally:
                self._streams_in.release()

    async def _read_secured(self, stream: trio.SocketStream, security: StreamSecurity) -> bytes:
        """A frame whose sender is the node of the certificate that was shown. Whatever else comes is cut off."""
        tls, node = await security.accept(stream, self._clock.now())
        try:
            data = await self._read_frame(tls)
        except trio.BrokenResourceError as error:
            raise tls_error(error) from None
        sender = sender_in(data)
        if sender != node:
            raise UntrustedError("sender is not the certificate's", f"node {short(node)} shows it")
        await tls.aclose()
        return data

    async def _read_frame(self, stream: trio.SocketStream | TlsStream) -> bytes:
        length = int.from_bytes(await _receive_exactly(stream, LENGTH_BYTES), "big")
        if length > self._frame_bytes_max:
            raise WireError("oversized", f"{length} bytes claimed")
        return await _receive_exactly(stream, length)

    def _may_pass(self, source: tuple[str, int], tokens: int) -> bool:
        """Streams come from any port: their source is a host."""
        return self._sources.take(source, self._clock.now(), tokens)

    def _offer(self, event: Input, or_count: str) -> bool:
        try:
            self._send_inbox.send_nowait((event, None, self._clock.now()))
        except trio.WouldBlock:
            self._counters[or_count] += 1
            return False
        return True


class _Reply:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.notifications: list[Notification] = []


async def _receive_exactly(stream: trio.SocketStream | TlsStream, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = await stream.receive_some(length - len(parts))
        if not part:
            raise WireError("truncated", f"{len(parts)} of {length} bytes")
        parts += part
    return bytes(parts)
