"""The engine on trio: one task owns it, feeds it one input at a time, and performs all its effects (edge).

::

    udp socket ──▶ reader ──┐                                                     ┌──▶ sockets
    tcp listener ─▶ frames ─┼──▶ bounded inbox ──▶ the task that owns the engine ─┼──▶ `on_notification`
    submit / call ──────────┘                                                     └──▶ writer ──▶ store

When the inbox is full the network's share is dropped and counted, as UDP may; local changes wait. Before it comes to
that, each source has a bucket of its own, so that one who floods cannot fill the inbox for all. An input that waited
too long means that this node is starved: it is counted, and the engine is told (`loop_watch`).

Nothing here waits for the disk. A frame that a record `Holds` back stands in line until that record is durable, and
others go past it; whoever submitted a change hears of it when what came of it is durable.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Holds,
    Input,
    LocalChange,
    LocalUpdate,
    LoopLagged,
    Notification,
    Notify,
    Persist,
    RecordsLost,
    Restored,
    SendDatagram,
    SendStream,
    StreamFrameReceived,
    TimerFired,
)
from lattice.loop_watch import LoopWatch
from lattice.policy_store import PolicyStore
from lattice.stream_security import StreamSecurity
from lattice.streams import Streams
from lattice.token_bucket import TokenBuckets
from lattice.transport import Clock, Transport, came_from
from lattice.types import Endpoint, Micros, NodeId
from lattice.view import LatticeView
from lattice.writer import CHECK_INTERVAL_S, RecordStore, Writer

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
HELD_MAX = 4_096
"""Frames that stand in line for the disk; of more than these the oldest are dropped, as UDP may."""


class Driver:
    """Owns one engine. `view` and `submit` may be called from any trio task; nothing else touches the engine."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        store: RecordStore | None,
        clock: Clock,
        on_notification: Callable[[Notification], None],
        frame_bytes_max: int,
        say: Callable[[int, str], None] = log.log,
        check_store_s: float = CHECK_INTERVAL_S,
    ) -> None:
        """`say` tells a person what became of the disk, at a level of `logging`; it is read again every
        `check_store_s`."""
        self._engine = engine
        self._transport = transport
        self._store = store
        self._writer = None if store is None else Writer(store, self._refill, say, check_store_s)
        self._barriers = {Holds.NOTHING: 0, Holds.CELLS: 0, Holds.FRAMES: 0}
        """The tickets of the last records that hold back."""
        self._held: deque[tuple[int, SendDatagram | SendStream]] = deque()
        self._nursery: trio.Nursery | None = None
        self._clock = clock
        self._on_notification = on_notification
        self._send_inbox, self._inbox = trio.open_memory_channel[tuple[Input, "_Reply | None", Micros]](INBOX_MAX)
        self._counters: Counter[str] = Counter()
        self._streams = Streams(self._counters, clock, frame_bytes_max, engine.is_revoked, self._take_frame)
        self._watch = LoopWatch()
        self._sources: TokenBuckets[tuple[str, int]] = TokenBuckets(
            SOURCE_FRAMES_PER_S, SOURCE_FRAMES_BURST, SOURCES_MAX
        )

    # --- for the router

    def secure(self, security: StreamSecurity) -> None:
        """From the next stream on, both ends show certificates; streams that are open go on as they began."""
        self._streams.security = security

    def view(self) -> LatticeView:
        return self._engine.view()

    def is_revoked(self, key: NodeId) -> bool:
        """Whether the CA has taken this key back."""
        return self._engine.is_revoked(key)

    def clock_off_ms(self) -> int:
        """How far this node's clock is ahead of most nodes', or behind (negative)."""
        return self._engine.clock_off_ms()

    @property
    def policy(self) -> PolicyStore:
        """For whoever composes a publish. Read only."""
        return self._engine.policy

    def counters(self) -> dict[str, int]:
        """The engine's counters and the transport's."""
        counters = Counter(self._engine.counters()) + self._counters + self._watch.counters
        if dropped := self._transport.datagrams_dropped:
            counters["datagrams dropped: the socket's buffer was full"] = dropped
        if self._writer is not None:
            counters += self._writer.counters
            counters["store: records waiting"] = self._writer.waiting
            counters["store: in trouble"] = int(self._writer.trouble is not None)
        return dict(sorted(counters.items()))

    def trouble(self) -> str | None:
        """Why nothing can be written at the moment, in words; None while the disk is well."""
        if self._writer is None or self._writer.trouble is None:
            return None
        writer, trouble = self._writer, self._writer.trouble
        seconds = round(trio.current_time() - trouble.since)
        return (
            f"{writer.path} has taken no writes for {seconds} s ({trouble.why}): {writer.what_waits}; {trouble.remedy}"
        )

    async def submit(self, change: LocalChange) -> None:
        """Hand in a change and do not wait for what comes of it."""
        await self._send_inbox.send((LocalUpdate(change), None, self._clock.now()))

    def submit_nowait(self, change: LocalChange) -> bool:
        """As `submit`; False, and counted, when the inbox is full."""
        return self._offer(LocalUpdate(change), "inbox full: local change dropped")

    async def call(self, change: LocalChange) -> Answer:
        """Hand in a change, and wait for what comes of it: until it is durable, or the disk is found to be failing."""
        reply = _Reply()
        await self._send_inbox.send((LocalUpdate(change), reply, self._clock.now()))
        await reply.done.wait()
        durable = self._writer is None or await self._writer.settled(reply.ticket)
        return Answer(tuple(reply.notifications), durable)

    # --- the tasks

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until cancelled. Started once the records of earlier lives are restored."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._store is not None and self._writer is not None:
                records = await trio.to_thread.run_sync(self._store.read)
                await self._take(Restored(records), None, nursery)
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._keep_releasing, self._writer)
            await self._take(TimerFired(), None, nursery)
            nursery.start_soon(self._read_datagrams)
            nursery.start_soon(partial(trio.serve_listeners, self._streams.serve, [self._transport.tcp]))
            task_status.started()
            while True:
                event, reply, due = await self._next_input()
                lag_us = self._watch.late(due, self._clock.now())
                if lag_us is not None:
                    await self._take(LocalUpdate(LoopLagged(lag_us)), None, nursery)
                await self._take(event, reply, nursery)

    async def _next_input(self) -> tuple[Input, _Reply | None, Micros]:
        """What is to be done next, who waits for it, and since when it could have been."""
        due = self._engine.due
        with trio.move_on_at(self._clock.trio_time(due)):
            return await self._inbox.receive()
        return TimerFired(), None, due

    async def _take(self, event: Input, reply: _Reply | None, nursery: trio.Nursery) -> None:
        now = self._clock.now()
        if isinstance(event, TimerFired):
            now = max(now, self._engine.due)  # trio's floating seconds may wake us a microsecond early
        effects = self._engine.handle(event, now)
        ticket = self._put([effect for effect in effects if isinstance(effect, Persist)])
        for effect in effects:
            match effect:
                case Persist(_, _, _, holds):
                    self._barriers[holds] = ticket
                case SendDatagram() | SendStream():
                    await self._send_when_durable(effect, nursery)
                case Notify(notification):
                    self._on_notification(notification)
                    if reply is not None:
                        reply.notifications.append(notification)
        if reply is not None:
            reply.ticket = ticket
            reply.done.set()

    # --- the disk

    def _put(self, records: list[Persist]) -> int:
        return 0 if self._writer is None else self._writer.put(records)

    def _refill(self) -> None:
        assert self._nursery is not None, "the writer runs within it"
        self._nursery.start_soon(self.submit, RecordsLost())

    async def _send_when_durable(self, frame: SendDatagram | SendStream, nursery: trio.Nursery) -> None:
        """Send, or have it stand in line behind the record that holds it back."""
        ticket = max(self._barriers[Holds.FRAMES], self._barriers[Holds.CELLS] if frame.cells else 0)
        if self._writer is None or not self._writer.holds(ticket):
            await self._send(frame, nursery)
            return
        self._held.append((ticket, frame))
        if len(self._held) > HELD_MAX:
            self._held.popleft()
            self._counters["frames dropped: the disk is too slow"] += 1

    async def _keep_releasing(self, writer: Writer) -> None:
        assert self._nursery is not None, "this runs within it"
        while True:
            ready = [frame for ticket, frame in self._held if not writer.holds(ticket)]
            if not ready:
                await writer.moved()
                continue
            self._held = deque(entry for entry in self._held if writer.holds(entry[0]))
            for frame in ready:
                await self._send(frame, self._nursery)

    # --- sockets

    async def _send(self, frame: SendDatagram | SendStream, nursery: trio.Nursery) -> None:
        if isinstance(frame, SendDatagram):
            await self._send_datagram(frame.data, frame.target)
        else:
            self._streams.send(frame.data, frame.target, nursery)

    async def _send_datagram(self, data: bytes, target: Endpoint) -> None:
        try:
            await self._transport.udp.sendto(data, target)
        except (OSError, ValueError) as error:
            self._counters[f"datagrams not sent: {type(error).__name__}"] += 1

    async def _read_datagrams(self) -> None:
        while True:
            try:
                data, source = await self._transport.udp.recvfrom(65_536)
            except OSError as error:  # an ICMP error of an earlier send; never fatal to a datagram socket
                self._counters[f"datagrams not read: {type(error).__name__}"] += 1
                await trio.lowlevel.checkpoint()
                continue
            if len(source) > 2:
                source = came_from(source)
            if self._may_pass(source[:2], 1):
                self._offer(DatagramReceived(data, source[:2]), "inbox full: datagram dropped")
            else:
                self._counters["datagram dropped: source over its rate"] += 1

    def _take_frame(self, frame: bytes, source: Endpoint) -> None:
        if self._may_pass((source[0], 0), 1 + len(frame) // STREAM_TOKEN_BYTES):
            self._offer(StreamFrameReceived(frame, source), "inbox full: frame dropped")
        else:
            self._counters["frame dropped: source over its rate"] += 1

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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a change that was handed in."""

    notifications: tuple[Notification, ...]
    """What the engine notified of while it took it."""
    durable: bool
    """False: the disk is failing, and what came of the change is in this node's memory, and on its way to the peers."""


class _Reply:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.notifications: list[Notification] = []
        self.ticket = 0
