"""What changes in a run besides faults, and who has learned of it when.

A change is complete at a node when the node acts on it: its effective level of the region is the new one, the new
policy version is the one it serves. The floor is what no protocol can beat: one direct packet from whoever knew to
everybody, which for a verdict means from as many watchers as can move it. A watcher acts on the worse of the verdict
and what it sees: at once on what is worse than before, and on what is better when it sees that, at the earliest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lattice.authoring import Publication, compose
from lattice.events import OpsSubmitted
from lattice.identity import author_id_of
from lattice.policy_ops import NAMESPACE, Op, hlc_at, sign_op
from lattice.prng import Prng
from lattice.types import Level, NodeId, VersionId
from lattice.verdict import quorum
from sim import inside
from sim.host import Host
from sim.quantities import Section, choice, number, text
from sim.signing import KeyedSigner
from sim.stage import ScenarioError, Selector, Stage, selector
from sim.topology import Topology

OPERATOR = "operator"


@dataclass(slots=True)
class Change:
    """Something that everybody should learn of."""

    name: str
    kind: str
    """ "health", "policy" or "member"."""
    key: tuple[str, Level] | VersionId | tuple[NodeId, str]
    """(region, level), version or (node, state): what a node's notification is compared with."""
    at: int
    """When it happened, or could first be known."""
    sources: list[tuple[int, int]]
    """(when, host): who could tell it from then on."""
    needed: int = 1
    """How many of them must be heard for it to hold."""
    settled: frozenset[int] = frozenset()
    """Hosts among them who say nothing else than they did before."""
    worse: bool | None = None
    """Of a region, whether it is worse than before; None of all else."""
    learned: dict[int, int] = field(default_factory=dict)
    """By host, when it first acted on it."""
    needle: bytes = b""
    """Bytes that every copy of its payload holds; empty when not known."""
    found: tuple[int, int] = (0, 0)
    """When, and by which of its region's watchers, the nearest first, if the payload is that one's row."""
    copies: int = 0
    """How often the payload was sent."""
    region: str = ""
    level: Level = Level.UNKNOWN

    def learn(self, host: int, now: int) -> None:
        self.learned.setdefault(host, now)

    def delays_us(self, hosts: Iterable[int]) -> list[int]:
        """How long each of these that learned took, sorted."""
        return sorted(self.learned[host] - self.at for host in hosts if host in self.learned)

    def floor_us(self, topology: Topology, hosts: Iterable[int]) -> list[int]:
        """The least each of these could have taken, sorted."""
        saw = {host: when for when, host in self.sources}
        floors = []
        for host in hosts:
            arrivals = sorted(
                when + (0 if source == host else topology.delay_us(source, host))
                for when, source in self.sources
                if source not in self.settled
            )
            agreed = arrivals[self.needed - 1] if len(arrivals) >= self.needed else None
            if host in saw and self.worse is not None:
                agreed = saw[host] if agreed is None or not self.worse else min(saw[host], agreed)
            if agreed is not None:
                floors.append(agreed - self.at)
        return sorted(floors)


@dataclass(slots=True)
class HealthChange:
    """The truth about a region becomes another."""

    region: str
    level: Level

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        region = self.region or min(stage.world.regions)
        if region not in stage.world.regions:
            there = ", ".join(sorted(stage.world.regions))
            raise ScenarioError(f"there is no region {region!r}: there are {there}")
        now = stage.cluster.now
        worse = self.level > stage.world.truth[region]
        voices = _voices(stage, region)
        seeing = stage.world.change(stage.cluster, region, self.level)
        as_bad = {host for host, level in voices.items() if level >= self.level}
        worst = {host for host, level in voices.items() if level > self.level}
        needed = quorum(len(voices)) - len(as_bad) if worse else len(worst) - quorum(len(voices)) + 1
        settled = as_bad if worse else voices.keys() - worst
        name = f"{region} {self.level.name}"
        change = Change(name, "health", (region, self.level), now, seeing, max(1, needed), frozenset(settled), worse)
        change.region, change.level = region, self.level
        stage.changes.append(change)
        return f"{name}, seen by {len(seeing)}"

    def end(self, stage: Stage) -> None:
        """The truth stays."""


def _voices(stage: Stage, region: str) -> dict[int, Level]:
    """By host, what the region's watchers say of it: not always what they saw, for who only confirms the verdict takes
    its time, and who sees all that it watches fail has no voice."""
    here = {}
    for index in stage.world.regions[region].watchers:
        host = stage.cluster.hosts[index]
        level = inside.voice_of(host.engine, region) if host.here and host.alive else None
        if level is not None:
            here[index] = level
    return {index: level for said in stage.cluster.company.gather(here) for index, level in said.items()}


@dataclass(slots=True)
class Publish:
    """An operator publishes the next version of the policy at one node."""

    which: Selector
    body: str
    policy: str
    blocks: int = 1

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = [host for host in stage.chosen(self.which, prng) if host.alive and not host.paused]
        if not hosts:
            return "nobody was up"
        author = author_id_of(KeyedSigner(OPERATOR).public_key)
        seq = stage.cluster.company.of(hosts[0], lambda: hosts[0].engine.policy.chain(author).seq)
        if seq < stage.chain_seq:
            # To sign on top of it would fork the author's own chain.
            return f"{hosts[0].site} holds only {seq} of the operator's {stage.chain_seq} ops: not published"
        publish(stage, hosts[0], self.texts(stage), self.policy)
        return f"version {stage.published} of {self.policy} at {hosts[0].site}"

    def texts(self, stage: Stage) -> list[str]:
        if self.body:
            return [self.body]
        padding = "#" * 200 + "\n"
        rest = [f"# version {stage.published + 1}, statement {number}\n{padding}" for number in range(self.blocks)]
        if stage.policy_blocks is not None and self.policy == "default":
            return [*stage.policy_blocks(stage.published + 1), *rest[1:]]
        return rest

    def end(self, stage: Stage) -> None:
        """What is published stays."""


def publish(stage: Stage, host: Host, blocks: Sequence[str], policy: str = "default") -> Publication:
    """Compose on the operator's machine from what this node knows, submit there, and keep book."""
    publication = stage.cluster.company.of(host, lambda: composed(stage, host, blocks, policy))
    stage.published += 1
    stage.versions[publication.version] = stage.published
    stage.publications.append(publication)
    stage.chain_seq = publication.ops[-1].op.seq
    now = stage.cluster.now
    change = Change(f"policy {policy} v{stage.published}", "policy", publication.version, now, [(now, host.index)])
    change.needle = publication.ops[-1].data[-64:]
    stage.changes.append(change)
    stage.cluster.tell(host, OpsSubmitted(tuple(op.data for op in publication.ops)))
    return publication


def composed(stage: Stage, host: Host, blocks: Sequence[str], policy: str) -> Publication:
    """The signed ops of a publish on top of what this node knows; nothing is told to anybody."""
    operator = KeyedSigner(OPERATOR)
    store = host.engine.policy
    heads = store.heads(policy)
    return compose(
        operator,
        store.chain(author_id_of(operator.public_key)),
        policy,
        blocks,
        message=f"version {stage.published + 1}",
        now_ms=stage.cluster.now // 1_000,
        parent=heads[-1].version if heads else None,
        supersedes=store.context(policy),
        blocks_known=store.blocks_known(author_id_of(operator.public_key)),
    )


LEVELS = ("healthy", "degraded", "failing", "down")


def read_health(section: Section) -> HealthChange:
    region = section.take("region", text, "")
    return HealthChange(region, Level[section.take("level", choice(*LEVELS), "down").upper()])


def read_publish(section: Section) -> Publish:
    return Publish(
        section.take("nodes", selector, Selector("count", 1)),
        section.take("text", _any_text, ""),
        section.take("policy", text, "default"),
        section.take("blocks", number(1, 500), 1),
    )


def _any_text(value: object) -> str:
    return value if isinstance(value, str) else text(value)


@dataclass(slots=True)
class PoisonOp:
    """The operator's own key signs an op whose update no handler can take; a node is given it as a publish.

    Fly's Corrosion, 2024-09-01: one update that every receiver choked on, and passed on first.
    """

    which: Selector

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        operator = KeyedSigner(OPERATOR)
        hosts = [host for host in stage.chosen(self.which, prng) if host.alive and not host.paused]
        for host in hosts:
            if not host.here:
                continue
            chain = host.engine.policy.chain(author_id_of(operator.public_key))
            hlc = hlc_at(stage.cluster.now // 1_000, chain.hlc)
            op = Op(operator.public_key, chain.seq + 1, chain.id, hlc, NAMESPACE, DECODE_BOMB)
            stage.cluster.tell(host, OpsSubmitted((sign_op(op, operator).data,)))
        return f"given to {len(hosts)} nodes"

    def end(self, stage: Stage) -> None:
        """It was refused, or the run is broken."""


@dataclass(slots=True)
class Resubmit:
    """A slow operator's machine submits the first publish once more, long after later ones (AWS, 2025-10-20)."""

    which: Selector

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = [host for host in stage.chosen(self.which, prng) if host.alive and not host.paused]
        for host in hosts:
            for publication in stage.publications[:1]:
                stage.cluster.tell(host, OpsSubmitted(tuple(op.data for op in publication.ops)))
        return f"version 1 again, at {len(hosts)} nodes"

    def end(self, stage: Stage) -> None:
        """It was no news."""


DECODE_BOMB = bytes.fromhex("0080c2d72f01000000")
"""Nine bytes that claim a hundred million clients: pycrdt alone would allocate for them all."""


def read_poison_op(section: Section) -> PoisonOp:
    return PoisonOp(section.take("nodes", selector, Selector("count", 1)))


def read_resubmit(section: Section) -> Resubmit:
    return Resubmit(section.take("nodes", selector, Selector("count", 1)))
