"""N hosts, a wire between them, and the loop that lets time pass. No protocol logic lives here.

Whoever wants to see what happens (metrics, checkers, users) is told of what it asks for: steps by what was taken, or
only what engines notify of, write down or send, which is far less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final, Protocol, TypeAlias, get_args

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
    StreamFrameReceived,
    TimerFired,
)
from lattice.identity import node_id_of
from lattice.timers import NEVER_COMES
from lattice.types import Endpoint, Micros, NodeId
from sim.company import Company
from sim.host import INBOX_MAX, NOT_HERE, RIGHT, STREAM_PORT, Host, Maker, Shard, endpoint_of
from sim.journal import Journal, said
from sim.network import Network
from sim.scheduler import EPOCH, NOBODY, STOP, Scheduler, first_order
from sim.shards import cut
from sim.signing import KIND_AT, KINDS
from sim.topology import Place

TIMER: Final = TimerFired()


class Listener(Protocol):
    """Hears what engines notify of."""

    def heard(self, host: Host, notification: Notification) -> None: ...


Stepped: TypeAlias = Callable[[Host, Input, Sequence[Effect]], None]
Sniffer: TypeAlias = Callable[[Host, bytes], None]
Carrier: TypeAlias = Callable[[Host, int, bytes], None]
INPUTS: Final[tuple[type[Input], ...]] = get_args(Input)


class Cluster:
    """All hosts of a run. They are down until `start`, and without engines until `equip`."""

    def __init__(self, maker: Maker, network: Network, journal: Journal | None = None) -> None:
        self.maker = maker
        self._seals, self._sealed = maker.seal, maker.seal.sealed
        self._datagram_bytes_max, self._frame_bytes_max = maker.config.datagram_bytes_max, maker.config.frame_bytes_max
        self.network = network
        self.scheduler = Scheduler()
        self.company = Company()
        self.journal = journal or Journal(EPOCH)
        self._writes = self.journal.has_lines
        self.hosts: list[Host] = []
        self.by_node: dict[NodeId, Host] = {}
        self.watchers: dict[type[Input], list[Stepped]] = {kind: [] for kind in INPUTS}
        """By what a host took, who is told of the step when its effects are performed."""
        self.watchers_told: dict[type[Input], list[Stepped]] = {kind: [] for kind in INPUTS}
        """And who before them, if the engine notified of something."""
        self._every = 0
        """How many steps of a shard lie between two looks at whole hosts."""
        self._look: Callable[[Host], object] = lambda _: None
        self.listeners: list[Listener] = []
        self.keepers: list[Callable[[Host, Persist], object]] = []
        """Told of whatever an engine writes down, or removes, once it is."""
        self.restarts: list[Callable[[Host, Engine], None]] = []
        """Told of each process that follows another, before it is given anything, and of that one's engine."""
        self.sniffers: list[list[Sniffer]] = [[] for _ in range(KINDS)]
        """Told of every frame that is sent, by its kind: the message's number on the wire, 0 if it is none."""
        self.carriers: list[Carrier] = []
        """Told of every frame that is sent with cells in it."""
        self.oversized: list[Sniffer] = []
        """Told of every frame that an engine sends although it is larger than its configuration allows."""
        self.impatient: list[Callable[[Host], None]] = []
        """Told of whoever is due already."""
        self.frames = [0] * KINDS
        """How many were sent, by their kind."""
        self.bytes = [0] * KINDS
        """How long those were; `Host.sent` has how much of it each host sent."""
        self.dropped: Counter[str] = Counter()
        self.deaths: list[tuple[int, int]] = []
        """(when, host) of every crash."""
        self._by_endpoint: dict[Endpoint, int] = {}
        self.cut = cut(network.topology)
        self._shards = [Shard(self.journal.taking(number)) for number in range(self.cut.count)]
        for index, place in enumerate(network.topology.places):
            signer = maker.signer(index, place)
            node, shard = node_id_of(signer.public_key), self._shards[self.cut.of[index]]
            endpoint, order = endpoint_of(index), first_order(index)
            host = Host(index, endpoint, NOT_HERE, shard, order, site=place.name, signer=signer, node=node)
            self.hosts.append(host)
            self.by_node[host.node] = host
            self._by_endpoint[host.endpoint] = index

    @property
    def now(self) -> int:
        return self.scheduler.now

    def look_every(self, steps: int, look: Callable[[Host], object]) -> None:
        """After every so many steps of a shard, have this look at the host that just stepped."""
        self._every = steps
        for shard in self._shards:
            shard.until_look = steps
        self._look = look

    def living(self) -> list[Host]:
        return [host for host in self.hosts if host.alive]

    def merge(self) -> None:
        """Have every process know what each counted of its own hosts."""
        own = {self.cut.of[host.index] for host in self.hosts if host.here}
        parts = {number: (self.journal.parts[number].digest, self.journal.parts[number].events) for number in own}
        sent = {host.index: host.sent for host in self.hosts if host.here}
        told = self.company.gather((parts, sent, self.frames, self.bytes, self.dropped, self.network.dropped))
        self.frames[:] = map(sum, zip(*(frames for _, _, frames, *_ in told), strict=True))
        self.bytes[:] = map(sum, zip(*(sizes for _, _, _, sizes, *_ in told), strict=True))
        self.dropped = sum((dropped for *_, dropped, _ in told), Counter())
        self.network.dropped = sum((dropped for *_, dropped in told), Counter())
        for parts, sent, *_ in told:
            for number, kept in parts.items():
                if number not in own:
                    self.journal.parts[number].is_elsewhere(*kept)
            for index, size in sent.items():
                self.hosts[index].sent = size

    # --- processes

    def equip(self) -> None:
        """Make the first engine of every host whose engines this process has. It has not run yet."""
        for host in self.hosts:
            if host.here:
                host.engine = self.maker.engine(host.index, 0, self._place(host), host.signer, Micros(self.now))

    def start(self, host: Host) -> None:
        """A new process on the host's disk."""
        host.life += 1
        host.alive, host.paused, host.deadline = True, False, NEVER_COMES
        host.busy_until = 0
        host.began_whole, host.disk_whole = host.disk_whole, True
        host.inbox.clear()
        host.last_read = host.clock.read(self.now)
        # An engine made for the first life has never run: it serves. Later lives have new ones.
        if not host.here:
            return
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
        for effect in effects:
            if isinstance(effect, Persist):
                self._keep(host, effect)

    def crash(self, host: Host) -> None:
        """The process is gone, without a word."""
        self.deaths.append((self.now, host.index))
        host.alive = False
        host.inbox.clear()

    def pause(self, host: Host) -> None:
        """The process is stopped (SIGSTOP): what arrives waits in the kernel."""
        host.paused = True

    def resume(self, host: Host) -> None:
        host.paused = False
        if not host.here:
            return
        self._work_off(host)
        if host.alive and host.deadline == NEVER_COMES:
            self.arm(host)

    # --- time

    def run_until(self, until: int) -> None:
        """Let time pass. Whatever a watcher raises stops it, between two steps."""
        hosts, give, scheduler = self.hosts, self.give, self.scheduler
        queue = scheduler.queue
        heappush(queue, (until + 1, 0, STOP, None))
        while True:
            at, _, index, event = heappop(queue)
            if index < 0:
                if index == NOBODY:
                    scheduler.now = at
                    event.do()
                elif at > until:  # else it is left of a time in which something was raised
                    break
                continue
            scheduler.now = at
            host = hosts[index]
            if not host.alive:
                continue
            if event is TIMER and not self._is_over(host, at):
                continue
            if host.paused or host.cost_us:
                self._queue(host, event, at)
            else:
                give(host, event)
        scheduler.now = max(scheduler.now, until)
        self.journal.flush()

    def _queue(self, host: Host, event: Input, at: int) -> None:
        if host.paused or host.busy_until > at:
            if event is TIMER:
                if not host.paused:  # a stopped process looks at its timer when it goes on
                    self._set_timer(host, host.busy_until)
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
        self.scheduler.call(
            host.busy_until, lambda: self._work_off(host) if host.life == life else None, host.next_order()
        )

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
        if host.alive and not host.paused and host.here:
            self.give(host, LocalUpdate(change))

    def give(self, host: Host, event: Input) -> None:
        """Hand one input to one engine, now, and perform what it asks for."""
        at, shard, engine = self.scheduler.now, host.shard, host.engine
        take = shard.take
        what = event.data if isinstance(event, DatagramReceived) else None if event is TIMER else said(event)
        take((at, host.index, what))
        if self._writes:
            self.journal.write(at, host.index, event)
        now = at if host.clock is RIGHT else host.read_clock(at)
        effects: Sequence[Effect] = engine.handle(event, now)  # type: ignore[arg-type]  # a call the less
        told = False
        for effect in effects:
            if isinstance(effect, SendDatagram):  # the frequent first
                self._send(host, effect, False)
            elif isinstance(effect, Notify):
                told = True
                for listener in self.listeners:
                    listener.heard(host, effect.notification)
            elif isinstance(effect, SendStream):
                self._send(host, effect, True)
            else:
                self._keep(host, effect)
        if engine.due < host.deadline or host.clock is not RIGHT:
            self.arm(host)
        kind = type(event)
        if told:
            for look in self.watchers_told[kind]:
                look(host, event, effects)
        if looks := self.watchers[kind]:  # mostly nobody: to ask takes a sixth of what a loop over nobody does
            for look in looks:
                look(host, event, effects)
        shard.until_look -= 1
        if not shard.until_look:
            shard.until_look = self._every
            self._look(host)

    def arm(self, host: Host) -> None:
        """Have the host's timer be over when its engine is due, by its own clock, or before."""
        due, now = host.engine.due, self.scheduler.now
        at = due if host.clock is RIGHT else host.clock.when(due)
        if at <= now:
            at = now
        if at < host.deadline:
            self._set_timer(host, at)
            if at == now:
                for hear in self.impatient:
                    hear(host)

    def _is_over(self, host: Host, at: int) -> bool:
        """Whether it is the host's timer that is over, and its engine due. Mostly an answer has come meanwhile, and the
        engine is due later: then the timer is set anew, and a timer that nobody needed costs no more than that."""
        if host.deadline != at:
            return False  # it was set to an earlier time, or by a process that is no more
        due = host.engine.due if host.clock is RIGHT else host.clock.when(host.engine.due)
        if due > at:
            self._set_timer(host, due)
            return False
        host.deadline = NEVER_COMES
        return True

    def _set_timer(self, host: Host, at: int) -> None:
        host.deadline = at
        host.order = order = host.order + 1
        heappush(self.scheduler.queue, (at, order, host.index, TIMER))  # `give`, of one that is here

    def inject(self, host: Host, target: Host, frame: bytes) -> None:
        """Send a frame of the simulation's own making as if the host had."""
        self._send(host, SendDatagram(frame, target.endpoint), False)

    def _send(self, host: Host, frame: SendDatagram | SendStream, stream: bool) -> None:
        data = frame.data
        size = len(data)
        if size > self._datagram_bytes_max and (not stream or size > self._frame_bytes_max):
            for tell in self.oversized:
                tell(host, data)
        kind = self._seals.sent(data) if self._sealed else data[KIND_AT] if size > KIND_AT else 0
        if kind >= KINDS:
            kind = 0
        self.frames[kind] += 1
        self.bytes[kind] += size
        host.sent += size
        if frame.cells:
            for carry in self.carriers:
                carry(host, kind, data)
        if sniffers := self.sniffers[kind]:
            for sniff in sniffers:
                sniff(host, data)
        index = self._by_endpoint.get(frame.target)
        if index is None:
            self.dropped["no such address"] += 1
            return
        scheduler, network = self.scheduler, self.network
        at = scheduler.now
        if stream:
            for delay_us, copy in network.send(host.index, index, data, True, at):
                given = StreamFrameReceived(copy, (host.endpoint[0], STREAM_PORT))
                scheduler.give(at + delay_us, host.next_order(), index, given)
        elif network.faultless and not network.rules:  # as most are
            at += network.delay_us(host.index, index, data)
            host.order = order = host.order + 1
            taken = DatagramReceived(data, host.endpoint)
            if scheduler.elsewhere:
                scheduler.give(at, order, index, taken)
            else:
                heappush(scheduler.queue, (at, order, index, taken))
        else:
            for delay_us, copy in network.send(host.index, index, data, False, at):
                scheduler.give(at + delay_us, host.next_order(), index, DatagramReceived(copy, host.endpoint))

    def _keep(self, host: Host, record: Persist) -> None:
        if record.value is None:
            host.disk.pop((record.table, record.key), None)
        else:
            host.disk[record.table, record.key] = record.value
        for kept in self.keepers:
            kept(host, record)
