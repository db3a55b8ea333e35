"""Several real engines and a wire between them: the natural unit of test.

The wire keeps virtual time, and a seeded judge decides of every datagram whether it arrives, when, and how often.
Streams arrive once or not at all. There is no thread, socket or clock here: one seed is one history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush

from lattice.authoring import compose
from lattice.config import Config
from lattice.dissemination import Strategy
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Effect,
    HealthObserved,
    Input,
    LeaveRequested,
    LocalUpdate,
    Notification,
    Notify,
    OpsSubmitted,
    PeerDiscovered,
    Persist,
    Restored,
    SendDatagram,
    SendStream,
    StreamFrameReceived,
    TimerFired,
)
from lattice.grants import Role, sign_grant
from lattice.health import Observation
from lattice.identity import Ed25519Signer, Ed25519Verifier, Grant, author_id_of, private_key_from
from lattice.policy_ops import SignedOp
from lattice.prng import Prng
from lattice.seal import Plain, Seal
from lattice.types import MILLISECOND, SECOND, AuthorId, Endpoint, Level, Micros, VersionId
from lattice.wire import Challenge, Message, Response, decode, encode

EPOCH = Micros(1_800_000_000 * SECOND)
CLUSTER = "test"
EPHEMERAL_PORT = 50_000
ON_LINK = "fe80::1%eth0"
HOSTS = ("10.0.0.1", "10.0.1.1", ON_LINK)
"""One for each network; who sends to an address does so from its own on the same network."""


def signer_of(name: str, grant: Grant | None = None) -> Ed25519Signer:
    """The same key for the same name, for ever."""
    return Ed25519Signer(private_key_from(hashlib.blake2b(name.encode(), digest_size=32).digest()), CLUSTER, grant)


OPERATOR = signer_of("operator")
GRANTED_UNTIL_S = EPOCH // SECOND + 90 * 86_400
Judge = Callable[[Endpoint, Endpoint, Prng], list[int]]
"""(from, to, prng) -> the delays in microseconds after which copies arrive; an empty list is a loss."""


def reliable(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
    return [MILLISECOND]


def lossy(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
    """One in five is lost, one in ten comes twice, and each takes 1 to 40 ms: so order is lost too."""
    if prng.below(5) == 0:
        return []
    copies = 2 if prng.below(10) == 0 else 1
    return [MILLISECOND + prng.below(39 * MILLISECOND) for _ in range(copies)]


def one_way_loss(silent: Iterable[int]) -> Judge:
    """Nothing that these nodes (by index) send arrives; they hear everything."""
    lost = {index + 1 for index in silent}

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        return [] if source[1] in lost else [MILLISECOND]

    return judge


def cut(*pairs: tuple[Iterable[int], Iterable[int]]) -> Judge:
    """Nothing passes between the two groups (of node indices) of any pair, either way."""
    severed = {(a, b) for left, right in pairs for a in left for b in right}

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        pair = (source[1] - 1, target[1] - 1)
        return [] if pair in severed or pair[::-1] in severed else [MILLISECOND]

    return judge


class Cluster:
    """`count` nodes, each at its own site, at 10.0.0.1 ports 1, 2, …, and on a second network at 10.0.1.1"""

    def __init__(
        self,
        count: int,
        seed: str = "0",
        judge: Judge = reliable,
        config: Config | None = None,
        strategy: Callable[[], Strategy] | None = None,
        seal: Callable[[], Seal] = lambda: Plain(CLUSTER),
        authors: Mapping[int, Iterable[AuthorId]] | None = None,
        skews_us: Mapping[int, int] | None = None,
        engine_type: type[Engine] = Engine,
        wildcard: bool = False,
        ca: Ed25519Signer | None = None,
        grants: Mapping[int, Grant | None] | None = None,
    ) -> None:
        """`authors` and `skews_us` (how far a node's clock is ahead) are by node index; others have the default. With
        `wildcard` no node knows its own address: it listens on all. With a `ca` every node has its grant, unless
        `grants` has another, or None."""
        self.ca = ca
        self.grants = grants or {}
        self.wildcard = wildcard
        self.seed = seed
        self.judge = judge
        self.now = EPOCH
        self.prng = Prng.seeded(f"{seed}/wire")
        self.config = config or Config()
        self.strategy = strategy
        self.seal = seal
        self.authors = authors or {}
        self.skews_us = skews_us or {}
        self.engine_type = engine_type
        self.engines: list[Engine] = []
        self.deadlines: list[Micros | None] = []
        self.alive: list[bool] = []
        self.disks: list[dict[tuple[str, bytes], bytes]] = []
        self.notified: list[tuple[Micros, int, Notification]] = []
        self.datagrams = 0
        self.bytes = 0
        self._journal = hashlib.sha256()
        self._queue: list[tuple[int, int, int, Input]] = []
        self._seq = 0
        for index in range(count):
            self.disks.append({})
            self.engines.append(self._engine(index, 0))
            self.deadlines.append(None)
            self.alive.append(True)
            self.give(index, TimerFired())

    def _engine(self, index: int, life: int) -> Engine:
        return self.engine_type(
            config=self.config,
            site=f"site-{index}",
            endpoint=("" if self.wildcard else self.endpoint(index)[0], self.endpoint(index)[1]),
            signer=self.signer(index),
            ca_key=self.ca.public_key if self.ca else None,
            verifier=Ed25519Verifier(CLUSTER),
            seal=self.seal(),
            authors=self.authors.get(index, [author_id_of(OPERATOR.public_key)]),
            prng=Prng.seeded(f"{self.seed}/{index}/{life}"),
            now=self.clock(index),
            strategy=self.strategy() if self.strategy else None,
        )

    def signer(self, index: int) -> Ed25519Signer:
        name = f"node {index}"
        if self.ca is None or index in self.grants:
            return signer_of(name, self.grants.get(index))
        public_key = signer_of(name).public_key
        return signer_of(name, sign_grant(self.ca, public_key, Role.NODE, f"site-{index}", GRANTED_UNTIL_S))

    @staticmethod
    def endpoint(index: int) -> Endpoint:
        return (HOSTS[0], index + 1)

    def clock(self, index: int) -> Micros:
        """What a node's own clock says now."""
        return Micros(self.now + self.skews_us.get(index, 0))

    @property
    def journal(self) -> str:
        """A digest of everything that happened so far."""
        return self._journal.hexdigest()

    # --- doing

    def hear_from(
        self, source: Endpoint, index: int, sender: int, message: Message, seal: Seal | None = None
    ) -> list[Message]:
        """A node hears this of another one, which is somewhere else now and hears there: what it is sent there. It
        answers challenges, which may bring more."""
        seal = seal or Plain(CLUSTER)
        sent: list[Message] = []
        said: list[Message] = [message]
        while said:
            frame = seal.close(self.engines[sender].node, encode(said.pop()), self.now)
            effects = self.engines[index].handle(DatagramReceived(frame, source), self.clock(index))
            self._arm(index)
            for effect in effects:
                self._perform(index, effect)
                if isinstance(effect, SendDatagram | SendStream) and effect.target == source:
                    sent.append(decode(Plain(CLUSTER).open(effect.data)[1], self.config.frame_bytes_max))
                    if isinstance(answer := sent[-1], Challenge):
                        said.append(Response(answer.number))
        return sent

    def give(self, index: int, event: Input) -> list[Notification]:
        """Hand one input to one node, now; what it notified of."""
        effects = self.engines[index].handle(event, self.clock(index))
        self._journal.update(f"{self.now} {index} {event!r} {effects!r}\n".encode())
        notified = [note for effect in effects for note in self._perform(index, effect)]
        self._arm(index)
        return notified

    def _arm(self, index: int) -> None:
        due = Micros(self.engines[index].due - self.skews_us.get(index, 0))
        if due != self.deadlines[index]:
            self.deadlines[index] = due
            self._push(due, index, TimerFired())

    def _perform(self, index: int, effect: Effect) -> list[Notification]:
        match effect:
            case SendDatagram(data, target):
                assert len(data) <= self.config.datagram_bytes_max, f"a datagram of {len(data)} bytes"
                self.datagrams += 1
                self.bytes += len(data)
                source = self._source(index, target)
                for delay in self.judge(source, target, self.prng):
                    self._later(delay, target, DatagramReceived(data, source))
            case SendStream(data, target):
                self.bytes += len(data)
                source = self._source(index, target)
                if delays := self.judge(source, target, self.prng):
                    # as in life, a stream comes from a port on which nobody listens
                    frame = StreamFrameReceived(data, (source[0], EPHEMERAL_PORT + index))
                    self._later(2 * delays[0], target, frame)
            case Persist(table, key, value):
                if value is None:
                    self.disks[index].pop((table, key), None)
                else:
                    self.disks[index][table, key] = value
            case Notify(notification):
                self.notified.append((self.now, index, notification))
                return [notification]
        return []

    def _source(self, index: int, target: Endpoint) -> Endpoint:
        return (target[0] if target[0] in HOSTS else HOSTS[0], self.endpoint(index)[1])

    def _later(self, delay: int, target: Endpoint, event: Input) -> None:
        index = target[1] - 1
        if target[0] in HOSTS and 0 <= index < len(self.engines):
            self._push(self.now + delay, index, event)

    def _push(self, at: int, index: int, event: Input) -> None:
        self._seq += 1
        heappush(self._queue, (at, self._seq, index, event))

    def run(self, duration_us: int) -> None:
        """Let so much virtual time pass."""
        until = self.now + duration_us
        while self._queue and self._queue[0][0] <= until:
            at, _, index, event = heappop(self._queue)
            self.now = Micros(max(self.now, at))
            if not self.alive[index]:
                continue
            if isinstance(event, TimerFired) and self.deadlines[index] != at:
                continue
            self.give(index, event)
        self.now = Micros(until)

    def run_until(self, done: Callable[[], bool], at_most_us: int, step_us: int = 10 * MILLISECOND) -> int:
        """Let time pass until `done`; how much did, in microseconds. Fails when `at_most_us` was not enough."""
        start = self.now
        while not done():
            assert self.now - start < at_most_us, f"not within {at_most_us} us: {self.explain()}"
            self.run(step_us)
        return self.now - start

    def introduce_all(self) -> None:
        """Everybody finds node 0, and so each other."""
        for index in range(1, len(self.engines)):
            self.give(index, LocalUpdate(PeerDiscovered(self.endpoint(0))))

    def observe(self, index: int, **levels: Level) -> None:
        since_ms = self.clock(index) // 1_000
        observations = tuple(
            Observation(region, level, 20_000, 0, 0, since_ms, 10) for region, level in sorted(levels.items())
        )
        self.give(index, LocalUpdate(HealthObserved(observations)))

    def publish(
        self,
        index: int,
        *blocks: str,
        policy: str = "default",
        message: str = "",
        operator: Ed25519Signer = OPERATOR,
    ) -> VersionId:
        """An operator publishes at one node."""
        ops, version = self.composed(index, *blocks, policy=policy, message=message, operator=operator)
        self.give(index, LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))))
        return version

    def composed(
        self,
        index: int,
        *blocks: str,
        policy: str = "default",
        message: str = "",
        operator: Ed25519Signer = OPERATOR,
    ) -> tuple[tuple[SignedOp, ...], VersionId]:
        store = self.engines[index].policy
        heads = store.heads(policy)
        publication = compose(
            operator,
            store.chain(author_id_of(operator.public_key)),
            policy,
            blocks,
            message=message,
            now_ms=self.clock(index) // 1_000,
            parent=heads[-1].version if heads else None,
            supersedes=store.context(policy),
            blocks_known=store.blocks_known(author_id_of(operator.public_key)),
        )
        return publication.ops, publication.version

    def crash(self, index: int) -> None:
        self.alive[index] = False

    def leave(self, index: int) -> None:
        """Say goodbye, and stop."""
        self.give(index, LocalUpdate(LeaveRequested()))
        self.alive[index] = False

    def restart(self, index: int, disk_lost: bool = False) -> None:
        """A new process on the same disk, or on an empty one."""
        self.alive[index] = True
        if disk_lost:
            self.disks[index].clear()
        life = int.from_bytes(self.disks[index].get(("self", b"incarnation"), b"\0"), "big")
        self.engines[index] = self._engine(index, life)
        self.deadlines[index] = None
        records = tuple((table, key, value) for (table, key), value in sorted(self.disks[index].items()))
        self.give(index, Restored(records))
        self.give(index, TimerFired())

    # --- seeing

    def living(self) -> list[Engine]:
        return [engine for engine, alive in zip(self.engines, self.alive, strict=True) if alive]

    def all_know_all(self) -> bool:
        """Every living node counts every living node, and no other, as alive."""
        ids = {engine.node for engine in self.living()}
        return all(
            {member.node for member in engine.view().members if member.state == "alive"} == ids
            for engine in self.living()
        )

    def equal(self) -> bool:
        """Every living node holds the same cells."""
        return len({engine.view().root for engine in self.living()}) == 1

    def verdicts(self, region: str) -> list[Level]:
        return [
            next((seen.verdict for seen in engine.view().regions if seen.region == region), Level.UNKNOWN)
            for engine in self.living()
        ]

    def effective(self, region: str) -> list[Level]:
        return [
            next((seen.effective for seen in engine.view().regions if seen.region == region), Level.UNKNOWN)
            for engine in self.living()
        ]

    def serving(self, policy: str = "default") -> list[VersionId | None]:
        return [
            next((seen.version for seen in engine.view().policies if seen.policy == policy), None)
            for engine in self.living()
        ]

    def explain(self) -> str:
        lines = [f"{self.now - EPOCH} us after the start, seed {self.seed!r}"]
        for engine in self.living():
            view = engine.view()
            members = " ".join(f"{member.site}={member.state}" for member in view.members)
            lines.append(f"{view.site}: root {view.root.hex()[:8]} cells {view.cells} {members}")
        return "\n".join(lines)
