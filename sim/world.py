"""The regions that sites send requests to: how they really are, and who finds out when.

Each region has a place and a few sites that watch it by probing. When the truth about a region changes, a watcher sees
it at its next probe: within the probe interval, plus the round trip. Or sooner: told by a peer that a region is
worse than it looks from here, a watcher looks again at once, as a node's prober does. That is all that the lattice is
told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from lattice.events import HealthObserved, Notification, RegionDoubted
from lattice.health import Observation
from lattice.prng import Prng
from lattice.types import MILLISECOND, Level
from sim.cluster import Cluster
from sim.host import Host
from sim.topology import CITIES, Globe, Topology

EVIDENCE = 20
LOOK_US = 30 * MILLISECOND
"""Between the first and the third probe of a look at a region: when it is in doubt, or when a routine probe failed
(`router.health.health_check`)."""
REGION_CITIES = (
    "ashburn", "frankfurt", "tokyo", "singapore", "sao-paulo", "sydney", "london", "los-angeles", "mumbai", "dallas",
    "johannesburg", "seoul", "paris", "toronto", "stockholm", "dubai",
)  # fmt: skip
"""Where regions are placed, in this order: spread first, dense later."""


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What is watched, and how closely."""

    count: int = 4
    watchers: int = 3
    """Sites that probe a region, those nearest to it; 0 is every site."""
    probe_us: int = 250 * MILLISECOND
    """As often as a policy has regions probed that says nothing else (`router.policy.syntax.Health`)."""


@dataclass(frozen=True, slots=True)
class Region:
    """Something that requests are sent to."""

    name: str
    latitude_e6: int
    longitude_e6: int
    watchers: tuple[int, ...]
    """Hosts that probe it, nearest first."""
    rtt_us: Mapping[int, int]
    """By host: there and back."""


class World:
    """The truth, and what each site has seen of it."""

    def __init__(self, topology: Topology, settings: RegionSettings, seed: str) -> None:
        self.settings = settings
        self.regions = {region.name: region for region in _regions(topology, settings)}
        self.truth = dict.fromkeys(self.regions, Level.HEALTHY)
        self.truth_since = dict.fromkeys(self.regions, 0)
        self.seen: dict[int, dict[str, Level]] = {}
        self.said: dict[tuple[int, str], set[Level]] = {}
        """Every level that a host ever had evidence of: what a witness may say."""
        self.lies: dict[int, dict[str, Level]] = {}
        """What a liar says instead."""
        self.seeing: tuple[int, str, Level, bytes] | None = None
        """(host, region, level, last signature before) of the probe that is being told just now."""
        self._since_ms: dict[tuple[int, str], int] = {}
        self._seed = seed
        self._probes = 0
        self._seeing: dict[tuple[str, int], list[tuple[int, int]]] = {}
        """By region and when it changed: (when, host) of each watcher that saw it, or will."""
        for region in self.regions.values():
            for index in region.watchers:
                self.seen.setdefault(index, {})[region.name] = Level.HEALTHY
                self.said.setdefault((index, region.name), set()).add(Level.HEALTHY)

    def watched(self, host: Host) -> Mapping[str, Level]:
        return self.seen.get(host.index, {})

    def observations(self, host: Host, now: int) -> tuple[Observation, ...]:
        """What the host's router would tell its engine: all it watches."""
        told = []
        lies = self.lies.get(host.index, {})
        for region, level in sorted(self.watched(host).items()):
            said = lies.get(region, level)
            self.said.setdefault((host.index, region), set()).add(said)
            key = (host.index, region)
            since_ms = self._since_ms.setdefault(key, host.read_clock(now) // 1_000)
            told.append(Observation(region, said, self.regions[region].rtt_us[host.index], 0, 0, since_ms, EVIDENCE))
        return tuple(told)

    def tell(self, cluster: Cluster, host: Host) -> None:
        """Give the host's engine what it sees now."""
        observations = self.observations(host, cluster.now)
        if observations:
            cluster.tell(host, HealthObserved(observations))

    def change(self, cluster: Cluster, region: str, level: Level) -> list[tuple[int, int]]:
        """The truth about a region is another from now on; (when, host) of each watcher that will see it, kept up to
        date: who looks again for doubt sees it sooner."""
        self.truth[region] = level
        self.truth_since[region] = cluster.now
        self._probes += 1
        seeing = []
        for index in self.regions[region].watchers:
            prng = Prng.seeded(f"{self._seed}/workload/probe/{self._probes}/{index}")
            wait_us = prng.below(self.settings.probe_us) + LOOK_US + self.regions[region].rtt_us[index]
            seeing.append((cluster.now + wait_us, index))
            cluster.scheduler.call(cluster.now + wait_us, partial(self.see, cluster, index, region, level))
        seeing.sort()
        self._seeing[region, cluster.now] = seeing
        return seeing

    def look(self, cluster: Cluster, host: Host, region: str) -> None:
        """A watcher that doubts what it saw looks again at once."""
        if region in self.watched(host):
            due = cluster.now + LOOK_US + self.regions[region].rtt_us[host.index]
            cluster.scheduler.call(due, partial(self._look, cluster, host.index, region), host.next_order())

    def _look(self, cluster: Cluster, index: int, region: str) -> None:
        if self.seen[index][region] == self.truth[region]:
            return
        level, since = self.truth[region], self.truth_since[region]
        self._sees_sooner(index, region, since, cluster.now)
        cluster.company.tell("looked", index, region, since, cluster.now, int(level))
        self.see(cluster, index, region, level)

    def _sees_sooner(self, index: int, region: str, since: int, now: int) -> None:
        for place, (when, watcher) in enumerate(seeing := self._seeing.get((region, since), [])):
            if watcher == index and when > now:
                seeing[place] = now, index

    def looked(self, index: int, region: str, since: int, at: int, level: int) -> None:
        """In another process a watcher looked again, and found this."""
        self._sees_sooner(index, region, since, at)
        if self.truth_since[region] == since:
            self.seen[index][region] = Level(level)
        self.said[index, region].add(self.lies.get(index, {}).get(region, Level(level)))

    def see(self, cluster: Cluster, index: int, region: str, level: Level) -> None:
        """One watcher's probe finds the region at this level."""
        if self.truth[region] != level:
            return  # changed again before anybody looked
        host = cluster.hosts[index]
        if self.seen[index][region] != level:
            self.seen[index][region] = level
            self._since_ms[index, region] = host.read_clock(cluster.now) // 1_000
        self.seeing = (index, region, level, host.signer.signed_last)
        self.tell(cluster, host)
        self.seeing = None


class Doubts:
    """Hears what engines are told by peers and do not see themselves, and has the watchers look."""

    def __init__(self, cluster: Cluster, world: World) -> None:
        self._cluster = cluster
        self._world = world

    def heard(self, host: Host, notification: Notification) -> None:
        if isinstance(notification, RegionDoubted):
            self._world.look(self._cluster, host, notification.region)


def _regions(topology: Topology, settings: RegionSettings) -> Iterable[Region]:
    for number in range(settings.count):
        city = REGION_CITIES[number % len(REGION_CITIES)]
        name = city if number < len(REGION_CITIES) else f"{city}-{number // len(REGION_CITIES) + 1}"
        latitude, longitude = next((c[2], c[3]) for c in CITIES if c[0] == city)
        rtt = _round_trips(topology, number, latitude, longitude)
        order = sorted(range(len(topology)), key=lambda index: (rtt[index], index))
        watchers = order if settings.watchers == 0 else order[: settings.watchers]
        yield Region(name, latitude, longitude, tuple(watchers), rtt)


def _round_trips(topology: Topology, number: int, latitude: int, longitude: int) -> dict[int, int]:
    if isinstance(topology, Globe):
        return {index: 2 * delay_us for index, delay_us in enumerate(topology.delays_to_us(latitude, longitude))}
    # Without coordinates a region is next to a site: the regions are spread over the sites.
    home = number * 7_919 % len(topology)
    return {
        index: MILLISECOND if index == home else 2 * topology.delay_us(index, home) for index in range(len(topology))
    }


def level_of(name: str) -> Level:
    return Level[name.upper()]
