"""N hosts, a wire between them, and the loop that lets time pass. No protocol logic lives here.

Whoever wants to see what happens (metrics, checkers, users) is a watcher: it hears of every step, or only of what
engines notify of, which is far less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Effect,
    Input,
    LocalChange,
    LocalUpdate,
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
from lattice.identity import node_id_of
from lattice.types import Endpoint, Micros, NodeId
from sim.host import INBOX_MAX, RIGHT, STREAM_PORT, Host, Maker, endpoint_of
from sim.journal import Journal
from sim.network import Network
from sim.scheduler import ANY_LIFE, EPOCH, Act, Scheduler
from sim.signing import MESSAGES
from sim.topology import Place

TIMER: Final = TimerFired()


class Watcher(Protocol):
    """Sees every step of every host."""

    def stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None: ...


class Listener(Protocol):
    """Hears what engines notify of."""

    def heard(self, host: Host, notification: Notification) -> None: ...


Sniffer: TypeAlias = Callable[[Host, bytes], None]
"""Sees every frame of some kinds that is sent."""


class Cluster:
    """All hosts of a run. They are down until `start`."""

    def __init__(self, maker: Maker, network: Network, journal: Journal | None = None) -> None:
        self.maker = maker
        self.network = network
        self.scheduler = Scheduler()
        self.journal = journal or Journal(EPOCH)
        self.hosts: list[Host] = []
        self.by_node: dict[NodeId, Host] = {}
        self.watchers: list[Watcher] = []
        self.listeners: list[Listener] = []
        self.restarts: list[Callable[[Host, Engine], None]] = []
        """Told of each process that follows another, before it is given anything, and of that one's engine."""
        self.sniffers: list[list[Sniffer]] = [[] for _ in MESSAGES]
        self.frames = [0] * len(MESSAGES)
        self.frame_bytes = [0] * len(MESSAGES)
        """What was sent; all three by the message's number on the wire, 0 if it is none."""
        self.dropped: Counter[str] = Counter()
        self.deaths: list[tuple[int, int]] = []
        """(when, host) of every crash."""
        self._by_endpoint: dict[Endpoint, int] = {}
        for index, place in enumerate(network.topology.places):
            signer = maker.signer(index, place)
            engine = maker.engine(index, 0, place, signer, Micros(EPOCH))
            host = Host(index, place.name, endpoint_of(index), signer, node_id_of(signer.public_key), engine)
            self.hosts.append(host)
            self.by_node[host.node] = host
            self._by_endpoint[host.endpoint] = index

    @property
    def now(self) -> int:
        return self.scheduler.now

    def living(self) -> list[Host]:
        return [host for host in self.hosts if host.alive]

    # --- processes

    def start(self, host: Host) -> None:
        """A new process on the host's disk."""
        host.life += 1
        host.alive, host.paused, host.deadline = True, False, None
        host.busy_until = 0
        host.began_whole, host.disk_whole = host.disk_whole, True
        host.inbox.clear()
        host.last_read = host.clock.read(self.now)
        # An engine made for the first life has never run: it serves. Later lives have new ones.
        if host.life > 1:
            before, place = host.engine, self._place(host)
            host.engine = self.maker.engine(host.index, host.life, place, host.signer, Micros(host.last_read))
            for restarted in self.restarts:
                restarted(host, before)
        if host.disk:
            records = tuple((table, key, value) for (table, key), value in sorted(host.disk.items()))
            self.give(host, Restored(records))
        self.give(host, TIMER)

    def _place(self, host: Host) -> Place:
        return self.network.topology.places[host.index]

    def adopt(self, host: Host, effects: Sequence[Effect]) -> None:
        """The host's engine was started elsewhere, with these effects: keep what it wrote; nothing is sent."""
        host.life += 1
        host.alive = True
        for ordinal, effect in enumerate(effects):
            if isinstance(effect, Persist):
                self._perform(host, ordinal, effect)

    def arm(self, host: Host, timer: SetTimer) -> None:
        """Set the timer of a host whose engine was prepared elsewhere."""
        self._perform(host, 0, timer)

    def crash(self, host: Host) -> None:
        """The process is gone, without a word."""
        self.deaths.append((self.now, host.index))
        host.alive = False
        host.deadline = None
        host.inbox.clear()

    def pause(self, host: Host) -> None:
        """The process is stopped (SIGSTOP): what arrives waits in the kernel."""
        host.paused = True

    def resume(self, host: Host) -> None:
        host.paused = False
        self._work_off(host)
        if host.alive and host.deadline is not None and host.deadline <= self.now:
            self.scheduler.give(self.now, host.index, host.life, TIMER)
            host.deadline = self.now

    # --- time

    def run_until(self, until: int) -> None:
        """Let time pass. Whatever a watcher raises stops it, between two steps."""
        hosts, give = self.hosts, self.give
        for at, _, index, life, event in self.scheduler.due(until):
            if isinstance(event, Act):
                event.do()
                continue
            host = hosts[index]
            if not host.alive or (life != host.life and life != ANY_LIFE):
                continue
            if event is TIMER and host.deadline != at:
                continue
            if host.paused or host.cost_us:
                self._queue(host, event, at)
            else:
                give(host, event)

    def _queue(self, host: Host, event: Input, at: int) -> None:
        if host.paused or host.busy_until > at:
            if event is TIMER:
                if not host.paused:  # a stopped process looks at its timer when it goes on
                    host.deadline = host.busy_until
                    self.scheduler.give(host.busy_until, host.index, host.life, TIMER)
                return
            if len(host.inbox) >= INBOX_MAX:
                self.dropped["inbox full"] += 1
                return
            host.inbox.append(event)
            if not host.paused and len(host.inbox) == 1:
                self._wake_later(host)
            return
        host.busy_until = at + host.cost_us
        self.give(host, event)

    def _wake_later(self, host: Host) -> None:
        life = host.life
        self.scheduler.call(host.busy_until, lambda: self._work_off(host) if host.life == life else None)

    def _work_off(self, host: Host) -> None:
        """Take what waited: one input when the machine is slow, all of it when it was only stopped."""
        while host.inbox and host.alive and not host.paused:
            if host.busy_until > self.now:
                self._wake_later(host)
                return
            event = host.inbox.popleft()
            host.busy_until = self.now + host.cost_us
            self.give(host, event)

    # --- one step

    def tell(self, host: Host, change: LocalChange) -> None:
        """Give the engine a local change, now; a host that is down or stopped does not hear it."""
        if host.alive and not host.paused:
            self.give(host, LocalUpdate(change))

    def give(self, host: Host, event: Input) -> None:
        """Hand one input to one engine, now, and perform what it asks for."""
        at = self.scheduler.now
        self.journal.record(at, host.index, event)
        now = at if host.clock is RIGHT else host.read_clock(at)
        effects: Sequence[Effect] = host.engine.handle(event, now)  # type: ignore[arg-type]  # a call the less
        if host.distort is not None:
            effects = host.distort(effects)
        for ordinal, effect in enumerate(effects):
            self._perform(host, ordinal, effect)
        for watcher in self.watchers:
            watcher.stepped(host, event, effects)

    def _perform(self, host: Host, ordinal: int, effect: Effect) -> None:
        if isinstance(effect, SendDatagram):
            self._send(host, ordinal, effect.data, effect.target, False)
        elif isinstance(effect, SetTimer):
            deadline: int | None = effect.deadline
            if deadline is not None:
                scheduler = self.scheduler
                deadline = max(deadline if host.clock is RIGHT else host.clock.when(deadline), scheduler.now)
                scheduler.give(deadline, host.index, host.life, TIMER)
            host.deadline = deadline
        elif isinstance(effect, Notify):
            for listener in self.listeners:
                listener.heard(host, effect.notification)
        elif isinstance(effect, SendStream):
            self._send(host, ordinal, effect.data, effect.target, True)
        elif effect.value is None:
            host.disk.pop((effect.table, effect.key), None)
        else:
            host.disk[effect.table, effect.key] = effect.value

    def inject(self, host: Host, target: Host, frame: bytes) -> None:
        """Send a frame of the simulation's own making as if the host had."""
        self._send(host, 1_000, frame, target.endpoint, False)

    def _send(self, host: Host, ordinal: int, data: bytes, target: Endpoint, stream: bool) -> None:
        kind, size = self.maker.seal.sent(data), len(data)
        self.frames[kind] += 1
        self.frame_bytes[kind] += size
        host.bytes_out += size
        for sniff in self.sniffers[kind]:
            sniff(host, data)
        index = self._by_endpoint.get(target)
        if index is None:
            self.dropped["no such address"] += 1
            return
        scheduler = self.scheduler
        at = scheduler.now
        for delay_us, copy in self.network.send(host.index, index, data, stream, at, ordinal):
            event: Input
            if stream:
                event = StreamFrameReceived(copy, (host.endpoint[0], STREAM_PORT))
            else:
                event = DatagramReceived(copy, host.endpoint)
            scheduler.give(at + delay_us, index, ANY_LIFE, event)
