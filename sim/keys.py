"""Keys and versions that change while the cluster runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Final

from lattice import canonical
from lattice.key_ring import KeyRing
from lattice.prng import Prng
from lattice.seal import VERSION
from lattice.types import MILLISECOND, SECOND, Micros
from sim import inside
from sim.envelopes import cluster_secret
from sim.host import Host
from sim.host_faults import boot
from sim.quantities import Section, any_duration, choice, some_duration
from sim.stage import ScenarioError, Selector, Stage, selector

UNKNOWN_MESSAGE: Final = 100
"""A message type that no version so far has."""


@dataclass(slots=True)
class RotateKeys:
    """Add, use, remove: each step at every node, at a moment of its own within `over`, and `rest` before the next."""

    which: Selector
    over_us: int
    rest_us: int

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        if not stage.seals.sealed:
            raise ScenarioError('keys can rotate only where there are any: set protocol.seal = "sealed"')
        stage.rotations += 1
        fresh = cluster_secret(f"rotation {stage.rotations}")
        hosts = stage.chosen(self.which, prng)
        if len(hosts) < len(stage.cluster.hosts):
            stage.keys_in_order = False  # whoever is left out is refused in the end, and must be
        for number, step in enumerate(("add", "use", "remove")):
            for host in hosts:
                at = stage.cluster.now + number * (self.over_us + self.rest_us) + prng.below(self.over_us + 1)
                stage.cluster.scheduler.call(at, partial(self._turn, stage, host, step, fresh))
        return f"{len(hosts)} nodes, in {(3 * self.over_us + 2 * self.rest_us) / SECOND:.1f} s"

    @staticmethod
    def _turn(stage: Stage, host: Host, step: str, fresh: bytes) -> None:
        ring = stage.seals.ring_of(host.index)
        new = KeyRing.of(fresh).used.id
        if step == "add":
            ring = ring.add(fresh, f"number-{stage.rotations}")
        elif step == "use":
            ring = ring.use(new)
        else:
            for key in ring.keys:
                if key.id != new:
                    ring = ring.remove(key.id)
        stage.seals.rekey(host.index, ring)

    def end(self, stage: Stage) -> None:
        """It goes through to its end."""


@dataclass(slots=True)
class MixVersions:
    """Nodes of the next version among those of this one: restarted into it one after the other.

    `speaks = "another"`: the protocol's version is raised, so neither opens what the other says, and the cluster falls
    in two until all have it. `speaks = "more"`: a build that did not raise it, and now and then says what this one does
    not know.
    """

    which: Selector
    speaks: str
    every_us: int
    _waiting: list[Host] = field(default_factory=list)
    _newer: list[Host] = field(default_factory=list)
    _on: bool = False

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._waiting = stage.chosen(self.which, prng)
        self._on = True
        stage.touch(stage.cluster.hosts if self.speaks == "another" else self._waiting)
        self._turn(stage, prng)
        return f"{len(self._waiting)} nodes, speaking {self.speaks}"

    def _turn(self, stage: Stage, prng: Prng) -> None:
        if not self._on:
            return
        if self._waiting:
            self._upgrade(stage, self._waiting.pop(0))
        if self.speaks == "more":
            for host in self._newer:
                if host.alive:
                    _say_more(stage, host, prng)
        stage.cluster.scheduler.call(stage.cluster.now + self.every_us, partial(self._turn, stage, prng))

    def _upgrade(self, stage: Stage, host: Host) -> None:
        if self.speaks == "another":
            stage.seals.speak(host.index, VERSION + 1)
        if host.alive:
            stage.cluster.crash(host)
            boot(stage, host)
        self._newer.append(host)

    def end(self, stage: Stage) -> None:
        """Everybody has the next version."""
        self._on = False
        chosen = [*self._newer, *self._waiting]
        everybody = stage.cluster.hosts if self.speaks == "another" else self._waiting
        for host in everybody:
            if host not in self._newer:
                self._upgrade(stage, host)
        stage.release(stage.cluster.hosts if self.speaks == "another" else chosen)


def _say_more(stage: Stage, host: Host, prng: Prng) -> None:
    """A message of a type that is not known here, and a ping with a field that is not."""
    cluster = stage.cluster
    target = cluster.hosts[prng.below(len(cluster.hosts))]
    unknown = canonical.pack((UNKNOWN_MESSAGE, prng.token(), "what this is, only the next version knows"))
    more = canonical.pack((1, prng.token(), bytes(16), (), (), "one field more"))
    for body in (unknown, more):
        cluster.inject(host, target, inside.seal_of(host.engine).close(host.node, body, Micros(cluster.now)))


def read_rotation(section: Section) -> RotateKeys:
    return RotateKeys(
        section.take("nodes", selector, Selector("all")),
        section.take("over", some_duration, 5 * SECOND),
        section.take("rest", any_duration, 500 * MILLISECOND),
    )


def read_versions(section: Section) -> MixVersions:
    return MixVersions(
        section.take("nodes", selector, Selector("share", 500_000)),
        section.take("speaks", choice("more", "another"), "more"),
        section.take("every", some_duration, SECOND),
    )
