"""Hypothesis plays the world: nodes observe, publish, crash and come back over a wire that loses, repeats and reorders.

Whatever it does, at every step what must never happen has not; and once it stops, all become equal.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lattice.engine import Engine
from lattice.events import LocalUpdate, PeerDiscovered
from lattice.identity import author_id_of
from lattice.prng import Prng
from lattice.types import MILLISECOND, SECOND, Endpoint, Level, NodeId, VersionId
from lattice.wire import Compare, IHave, Message
from tests.lattice.cluster import Cluster, Judge, lossy, reliable, signer_of

REGIONS = ("fra", "iad")
OPERATORS = tuple(signer_of(f"operator {index}") for index in range(4))
AUTHORS = tuple(author_id_of(operator.public_key) for operator in OPERATORS)
indices = st.integers(min_value=0, max_value=3)


class World(RuleBasedStateMachine):
    """Two to four nodes, each with an operator of its own."""

    cluster: Cluster
    engine_type = Engine

    @initialize(count=st.integers(min_value=2, max_value=4), seed=st.integers(min_value=0, max_value=999))
    def begin(self, count: int, seed: int) -> None:
        self.count = count
        self.cluster = Cluster(
            count,
            seed=str(seed),
            judge=lossy,
            authors=dict.fromkeys(range(count), AUTHORS[:count]),
            engine_type=self.engine_type,
        )
        self.published: set[VersionId] = set()
        self.texts = 0
        self.rows: dict[tuple[Engine, NodeId], tuple[int, int, bytes]] = {}
        self.counted: dict[Engine, dict[str, int]] = {}
        self.incarnations: dict[int, int] = {}
        self.find_each_other()

    def find_each_other(self) -> None:
        for index in range(self.count):
            self.seeds(index)

    def seeds(self, index: int) -> None:
        """What the configuration of every node says: where node 0 and node 1 are."""
        for other in (0, 1):
            if other != index and self.cluster.alive[index]:
                self.cluster.give(index, LocalUpdate(PeerDiscovered(self.cluster.endpoint(other))))

    @rule(milliseconds=st.sampled_from((1, 50, 400, 3_000, 20_000)))
    def run(self, milliseconds: int) -> None:
        self.cluster.run(milliseconds * MILLISECOND)

    @rule(index=indices, fra=st.sampled_from(Level), iad=st.sampled_from(Level))
    def observe(self, index: int, fra: Level, iad: Level) -> None:
        index %= self.count
        if self.cluster.alive[index]:
            self.cluster.observe(index, fra=fra, iad=iad)

    @rule(index=indices, size=st.sampled_from((10, 2_000)), policy=st.sampled_from(("default", "other")))
    def publish(self, index: int, size: int, policy: str) -> None:
        index %= self.count
        if self.cluster.alive[index]:
            self.texts += 1
            text = f"# {self.texts} {'x' * size}\n"
            version = self.cluster.publish(index, text, policy=policy, operator=OPERATORS[index])
            self.published.add(version)

    @rule(index=indices)
    def crash(self, index: int) -> None:
        self.cluster.crash(index % self.count)

    @precondition(lambda self: not all(self.cluster.alive))
    @rule(disk_lost=st.booleans())
    def restart(self, disk_lost: bool) -> None:
        index = self.cluster.alive.index(False)
        self.cluster.restart(index, disk_lost=disk_lost)
        self.seeds(index)

    @rule(groups=st.lists(st.booleans(), min_size=4, max_size=4))
    def partition(self, groups: list[bool]) -> None:
        self.cluster.judge = parted(groups)

    @rule()
    def heal(self) -> None:
        self.cluster.judge = lossy

    # --- what must never happen

    @invariant()
    def rows_only_go_up(self) -> None:
        for engine in self.engines():
            for signed in engine._health.table.rows():
                assert signed.order >= self.rows.get((engine, signed.observer), signed.order)
                self.rows[engine, signed.observer] = signed.order

    @invariant()
    def nobody_serves_what_nobody_published(self) -> None:
        for engine in self.engines():
            for policy in engine.view().policies:
                assert policy.version in self.published

    @invariant()
    def views_are_sorted(self) -> None:
        for engine in self.engines():
            view = engine.view()
            assert list(view.members) == sorted(view.members, key=lambda member: (member.site, member.node))
            assert [seen.region for seen in view.regions] == sorted({seen.region for seen in view.regions})
            assert [seen.policy for seen in view.policies] == sorted({seen.policy for seen in view.policies})

    @invariant()
    def counters_only_grow(self) -> None:
        for engine in self.engines():
            now = engine.counters()
            del now["local health"]  # a gauge
            assert all(now[name] >= value for name, value in self.counted.get(engine, {}).items())
            self.counted[engine] = now

    @invariant()
    def nothing_was_refused(self) -> None:
        """Nobody lies here: a refusal would be one of us misreading another.

        Two are honest. A repeated datagram answers a salt that served already. And a node that lost its disk in its
        first moments signs a version twice: the proof of that may be somewhere before any of its rows is.
        """
        honest = ("unknown salt", "evidence about a stranger")
        for engine in self.engines():
            refused = [name for name in engine.counters() if "rejected" in name]
            assert [name for name in refused if not name.endswith(honest)] == []

    def engines(self) -> list[Engine]:
        return self.cluster.engines if hasattr(self, "cluster") else []

    # --- what must happen once the world is kind

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        self.cluster.judge = reliable
        for index in range(self.count):
            if not self.cluster.alive[index]:
                self.cluster.restart(index)
            self.seeds(index)
        self.cluster.run_until(self.settled, at_most_us=90 * SECOND, step_us=SECOND)
        self.nobody_serves_what_nobody_published()
        hashes = {engine.policy.content_hash() for engine in self.engines()}
        assert len(hashes) == 1

    def settled(self) -> bool:
        cluster = self.cluster
        return (
            cluster.all_know_all()
            and cluster.equal()
            and all(len(set(cluster.verdicts(region))) == 1 for region in REGIONS)
            and all(len(set(cluster.serving(policy))) == 1 for policy in ("default", "other"))
        )


def parted(groups: list[bool]) -> Judge:
    """As lossy as ever, and nothing passes between the two groups."""

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        if not target[1] <= len(groups) or groups[source[1] - 1] != groups[target[1] - 1]:
            return []
        return lossy(source, target, prng)

    return judge


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=30, stateful_step_count=30)


def play(world: World) -> None:
    """One known history that visits every rule."""
    world.begin(count=3, seed=7)
    world.run(3_000)
    world.publish(0, 10, "default")
    world.crash(1)
    world.publish(2, 2_000, "default")
    world.partition([True, True, False, False])
    world.run(20_000)
    world.heal()
    world.restart(disk_lost=True)
    world.observe(0, Level.DOWN, Level.HEALTHY)
    world.teardown()


def test_the_rules_do_something() -> None:
    world = World()
    play(world)
    assert len(world.published) == 2
    assert set(world.cluster.serving()) <= world.published
    assert world.cluster.verdicts("fra") == [Level.DEGRADED] * 3, "a lone voice"


def test_the_machine_can_fail() -> None:
    """Without anti-entropy, rumours alone do not make all equal, and the machine says so."""

    class Deaf(Engine):
        def _on_message(
            self, message: Message, sender: NodeId, source: Endpoint, at: Endpoint, streamed: bool = False
        ) -> None:
            if not isinstance(message, Compare | IHave):
                super()._on_message(message, sender, source, at, streamed)

    world = World()
    world.engine_type = Deaf
    with pytest.raises(AssertionError, match="not within"):
        play(world)
