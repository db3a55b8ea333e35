"""What faults and changes act on: the cluster, the regions, and who is under a fault right now."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattice.authoring import Publication
from lattice.prng import Prng
from lattice.rollouts import RolloutId
from lattice.types import SECOND, VersionId
from router.decision.decide import Decision
from sim.cluster import Cluster
from sim.host import ClockFault, Host
from sim.network import Rule
from sim.quantities import NotExpected
from sim.world import World

if TYPE_CHECKING:
    from sim.canaries import Told
    from sim.changes import Change


class ScenarioError(Exception):
    """The scenario asks for something that this cluster does not have."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which hosts, as a scenario says it: a count, a share, a group, names, or all."""

    kind: str
    count: int = 0
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "count":
                return str(self.count)
            case "share":
                return f"{self.count / 10_000:g}%"
            case "all" | "late":
                return self.kind
        return f"{self.kind} {', '.join(self.names)}"


ALL = Selector("all")
AFTERMATH_US = 20 * SECOND
"""So long after a fault, what is said of its victims is still its doing: a suspicion lasts 8 s among a hundred."""


def selector(value: object) -> Selector:
    """Read a selector: 3, "10%", "group europe", "site paris-1, milan-2", "node 0, 4", "late" or "all"."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Selector("count", value)
    if isinstance(value, str):
        if value in {"all", "late"}:
            return Selector(value)
        if match := re.fullmatch(r"(\d{1,3}(?:\.\d{1,4})?)\s*%", value):
            return Selector("share", round(float(match.group(1)) * 10_000))
        kind, _, rest = value.partition(" ")
        listed = tuple(name.strip() for name in rest.split(",") if name.strip())
        if kind in {"group", "site"} and listed:
            return Selector(kind, names=listed)
        if kind == "node" and listed and all(name.isdecimal() for name in listed):
            return Selector(kind, names=listed)
    raise NotExpected('nodes: a count, "10%", "group NAME", "site NAME, NAME", "node 0, 4", "late" or "all"')


class Stage:
    """Everything that an act of a scenario may touch."""

    def __init__(self, cluster: Cluster, world: World, late: Iterable[int] = ()) -> None:
        self.cluster = cluster
        self.world = world
        cluster.company.on("looked", world.looked)
        self.late = frozenset(late)
        self.seeds: list[Host] = []
        self.touched: Counter[int] = Counter()
        """By host, how many faults act on it now."""
        self.clocks: dict[int, ClockFault] = {}
        """By host, a clock that was set back: whoever runs there has not read it, the next process will."""
        self._wire_faults = 0
        self._wire_quiet_from = 0
        self._quiet_from: dict[int, int] = {}
        self.liars: set[int] = set()
        self.changes: list[Change] = []
        self.published = 0
        self.publications: list[Publication] = []
        self.chain_seq = 0
        """How many ops the operator has signed."""
        self.versions: dict[VersionId, int] = {}
        """Every version that was ever published, by when."""
        self.policy_blocks: Callable[[int], list[str]] | None = None
        """What version n of the policy says, when users go by it."""
        self.canary_blocks: Callable[[int], list[str]] | None = None
        """What the n-th rollout's version says, when users go by it."""
        self.rollouts: dict[RolloutId, Told] = {}
        """Every rollout that was ever begun."""
        self.deciding: dict[int, VersionId] = {}
        """By host, the version by which its users' last request was decided."""
        self.seed = cluster.maker.seed
        self.seals = cluster.maker.seal
        self.rotations = 0
        self.keys_in_order = True
        """Every node takes part in every rotation of keys."""
        self.idle_us = 0
        self.idle_bytes_per_node_s: int | None = None
        """What the time before the first act came to; None when there was none."""
        self.routed: list[Callable[[Host, Decision], object]] = []
        """Who wants to see every decision for a user."""

    def prng(self, name: str) -> Prng:
        """The stream of one fault or change."""
        return Prng.seeded(f"{self.seed}/{name}")

    def chosen(self, which: Selector, prng: Prng) -> list[Host]:
        """The hosts a selector means, by index. Raises `ScenarioError` when it names something that is not there."""
        hosts = self.cluster.hosts
        match which.kind:
            case "all":
                return list(hosts)
            case "late":
                return [host for host in hosts if host.index in self.late]
            case "count":
                return self._drawn(which.count, prng)
            case "share":
                return self._drawn(max(1, len(hosts) * which.count // 1_000_000), prng)
            case "node":
                wanted = sorted({int(name) for name in which.names})
                if wanted[-1] >= len(hosts):
                    raise ScenarioError(f"there is no node {wanted[-1]}: they are 0 to {len(hosts) - 1}")
                return [hosts[index] for index in wanted]
            case "group":
                places = self.cluster.network.topology.places
                self._known(which.names, {place.group for place in places}, "group")
                return [host for host in hosts if places[host.index].group in which.names]
        self._known(which.names, {host.site for host in hosts}, "site")
        return [host for host in hosts if host.site in which.names]

    def _drawn(self, count: int, prng: Prng) -> list[Host]:
        candidates = [host for host in self.cluster.hosts if host.index not in self.late]
        return sorted(prng.sample(candidates, count), key=lambda host: host.index)

    @staticmethod
    def _known(wanted: Sequence[str], there: Iterable[str], what: str) -> None:
        known = sorted(there)
        for name in wanted:
            if name not in known:
                shown = ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")
                raise ScenarioError(f"there is no {what} {name!r}: there are {shown}")

    def touch(self, hosts: Iterable[Host]) -> None:
        for host in hosts:
            self.touched[host.index] += 1

    def release(self, hosts: Iterable[Host]) -> None:
        for host in hosts:
            self.touched[host.index] -= 1
            self._quiet_from[host.index] = self.cluster.now + AFTERMATH_US

    def disturb_wire(self, rule: Rule) -> None:
        """Add a fault on the wire."""
        self.cluster.network.rules.append(rule)
        self._wire_faults += 1

    def mend_wire(self, rule: Rule) -> None:
        self.cluster.network.rules.remove(rule)
        self._wire_faults -= 1
        self._wire_quiet_from = self.cluster.now + AFTERMATH_US

    @property
    def wire_is_sound(self) -> bool:
        """Whether no fault acts, or lately acted, on the wire."""
        return not self._wire_faults and self._wire_quiet_from <= self.cluster.now

    def sound(self, host: Host) -> bool:
        """Whether the host runs, and nothing is or was lately done to it or to the wire."""
        now = self.cluster.now
        if not self.wire_is_sound or self._quiet_from.get(host.index, 0) > now:
            return False
        return host.alive and not host.paused and not self.touched[host.index]
