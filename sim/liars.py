"""Nodes that hold a valid key and misuse it, and nodes that only make noise.

A liar about health runs the honest protocol on false evidence: all else about it is true. The others send frames of
their own making beside the protocol, some a second, to peers drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from lattice import wire
from lattice.cells import SHARDS_MIN, CellKind, Shards
from lattice.digest import BLOCK_BYTES, Bloom
from lattice.events import DatagramReceived, Input
from lattice.health import Report, Row, sign_row
from lattice.prng import Prng
from lattice.types import SECOND, Level, Micros
from lattice.wire import Delta, Digest, Message, Rumour, WireCell
from sim import inside
from sim.changes import LEVELS
from sim.host import Host
from sim.quantities import Section, choice, some_duration, text
from sim.signing import KeyedSigner
from sim.stage import ScenarioError, Selector, Stage, selector

ONE = Selector("count", 1)
CAUGHT_MAX = 64
"""Frames a replayer keeps."""


@dataclass(slots=True)
class LieAboutHealth:
    """Every watcher chosen reports the region at a level that it does not see."""

    which: Selector
    region: str
    level: Level
    _hosts: list[Host] = field(default_factory=list)

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        region = self.region or min(stage.world.regions)
        if region not in stage.world.regions:
            raise ScenarioError(f"there is no region {region!r}: there are {', '.join(sorted(stage.world.regions))}")
        if self.which.kind == "count":
            watchers = stage.world.regions[region].watchers
            self._hosts = [stage.cluster.hosts[index] for index in prng.sample(sorted(watchers), self.which.count)]
        else:
            self._hosts = stage.chosen(self.which, prng)
        for host in self._hosts:
            stage.liars.add(host.index)
            stage.world.lies.setdefault(host.index, {})[region] = self.level
            stage.world.tell(stage.cluster, host)
        return f"{len(self._hosts)} nodes say {region} is {self.level.name}"

    def end(self, stage: Stage) -> None:
        for host in self._hosts:
            stage.world.lies.pop(host.index, None)
            stage.world.tell(stage.cluster, host)


Compose = Callable[[Stage, Host, Prng], "list[Message | bytes]"]


@dataclass(slots=True)
class Noise:
    """Nodes that send frames of their own making beside the protocol."""

    which: Selector
    every_us: int
    compose: Compose
    _hosts: list[Host] = field(default_factory=list)
    _on: bool = False

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._hosts = stage.chosen(self.which, prng)
        self._on = True
        for host in self._hosts:
            stage.liars.add(host.index)
        self._turn(stage, prng)
        return f"{len(self._hosts)} nodes, every {self.every_us // 1_000} ms"

    def _turn(self, stage: Stage, prng: Prng) -> None:
        if not self._on:
            return
        cluster = stage.cluster
        for host in self._hosts:
            if not host.alive:
                continue
            seal = inside.seal_of(host.engine)
            for message in self.compose(stage, host, prng):
                target = cluster.hosts[prng.below(len(cluster.hosts))]
                if isinstance(message, bytes):
                    frame = message
                else:
                    frame = seal.close(host.node, wire.encode(message), Micros(cluster.now))
                cluster.inject(host, target, frame)
        cluster.scheduler.call(cluster.now + self.every_us, lambda: self._turn(stage, prng))

    def end(self, stage: Stage) -> None:
        self._on = False


def equivocating(stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
    """Two rows of one version, one calling every region DOWN; each goes to somebody else."""
    own = inside.row_of(host.engine)
    if own is None:
        return []
    honest = replace(own.row, seq=own.row.seq + 1)
    false = replace(honest, reports=tuple(replace(report, level=Level.DOWN) for report in honest.reports))
    for report in honest.reports:
        stage.world.said.setdefault((host.index, report.region), set()).add(Level.DOWN)
    return [Rumour((WireCell(CellKind.ROW, sign_row(row, host.signer).data),)) for row in (honest, false)]


def forging(stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
    """A later row of somebody else's, all regions DOWN, under a signature that does not hold."""
    victim = stage.cluster.hosts[prng.below(len(stage.cluster.hosts))]
    known = inside.row_of(victim.engine)
    if known is None or victim is host:
        return []
    forged: Row = replace(
        known.row,
        seq=known.row.seq + 5,
        reports=tuple(replace(report, level=Level.DOWN) for report in known.row.reports),
    )
    signature = host.signer.sign(b"row", forged.payload())
    data = forged.payload() + signature
    return [Rumour((WireCell(CellKind.ROW, data),)), Delta(bytes(16), (WireCell(CellKind.ROW, data),))]


def inventing(stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
    """A row of a site that is made up for this one word: every region DOWN. Whoever has the cluster's keys can."""
    signer = KeyedSigner(f"invented {prng.token()}")
    place = stage.cluster.network.topology.places[host.index]
    row = Row(
        public_key=signer.public_key,
        incarnation=1,
        seq=1,
        issued_ms=stage.cluster.now // 1_000,
        lease_ms=600_000,
        site=f"nowhere-{prng.below(1_000_000)}",
        endpoint=host.endpoint,
        isolated=False,
        reports=tuple(Report(region, Level.DOWN) for region in sorted(stage.world.regions)),
        applied=(),
        area=place.area,
    )
    return [Rumour((WireCell(CellKind.ROW, sign_row(row, signer).data),))]


def garbage(stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
    """Random bytes, and a true frame cut short."""
    noise = bytes(prng.below(256) for _ in range(1 + prng.below(400)))
    own = inside.row_of(host.engine)
    if own is None:
        return [noise]
    body = wire.encode(Rumour((WireCell(CellKind.ROW, own.data),)))
    frame = inside.seal_of(host.engine).close(host.node, body[: prng.below(len(body))], Micros(stage.cluster.now))
    return [noise, frame]


def overfull(stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
    """A filter that claims to hold everything, and one nobody asked for."""
    shards = Shards(SHARDS_MIN, tuple(range(SHARDS_MIN)))
    return [
        Digest(shards, prng.token() | 1, Bloom(b"\xff" * BLOCK_BYTES), 0),
        Digest(shards, prng.token() | 1, Bloom(bytes(BLOCK_BYTES)), prng.token() | 1),
    ]


class Replayer:
    """Keeps what its hosts receive, and sends it again."""

    def __init__(self) -> None:
        self._caught: dict[int, list[bytes]] = {}
        self._watches = False

    def _stepped(self, host: Host, event: Input, effects: object) -> None:
        assert isinstance(event, DatagramReceived)
        if host.index in self._caught:
            kept = self._caught[host.index]
            if len(kept) < CAUGHT_MAX:
                kept.append(event.data)

    def __call__(self, stage: Stage, host: Host, prng: Prng) -> list[Message | bytes]:
        if host.index not in self._caught:
            self._caught[host.index] = []
            if not self._watches:
                self._watches = True
                stage.cluster.watchers[DatagramReceived].append(self._stepped)
            return []
        kept = self._caught[host.index]
        return [kept[prng.below(len(kept))]] if kept else []


def read_health(section: Section) -> LieAboutHealth:
    return LieAboutHealth(
        section.take("nodes", selector, ONE),
        section.take("region", text, ""),
        Level[section.take("level", choice(*LEVELS), "down").upper()],
    )


def _noise(compose: Callable[[], Compose]) -> Callable[[Section], Noise]:
    def read(section: Section) -> Noise:
        which = section.take("nodes", selector, ONE)
        return Noise(which, section.take("every", some_duration, SECOND // 5), compose())

    return read


read_equivocation = _noise(lambda: equivocating)
read_forged = _noise(lambda: forging)
read_invented = _noise(lambda: inventing)
read_garbage = _noise(lambda: garbage)
read_overfull = _noise(lambda: overfull)
read_replayed = _noise(Replayer)
