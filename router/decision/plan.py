"""Program + levels + place -> `RouteTable`: every choice made off the request path, to be looked up on it.

A *lane* is the answer for one (route, zone): the regions its clients may go to, best first. How regions are ordered:

1. by class of level: HEALTHY, then DEGRADED, then FAILING; UNKNOWN is what the region's health block says it is; DOWN
   is left out,
2. within a class by tier,
3. within a tier as written, or by distance from the zone's place (from the site when the zone has none), then by name.

So a HEALTHY secondary comes before a DEGRADED primary, and health alone never moves a region within its class. The part
that levels cannot change (`Layout`: tiers resolved to candidates) is computed once per program and site, and lanes that
cannot differ are one lane, so that a change of health re-plans 250 zones as fast as the number of distinct lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lattice.types import Endpoint, Level
from router.decision.distance import distance_m
from router.decision.program import Program
from router.policy.syntax import AnyLeft, Deny, Named, Nearest, Otherwise, Tier, Zone

CLASSES = {Level.HEALTHY: 0, Level.DEGRADED: 1, Level.FAILING: 2}
"""The order of levels that may serve."""
_OUT = len(CLASSES)
REASON_REGIONS_MAX = 3
"""How many regions a reason names; it goes into a response header."""
_LAYOUTS_MAX = 8


@dataclass(frozen=True, slots=True)
class SitePlace:
    """Which site plans, and where it is, in millionths of a degree."""

    name: str
    latitude_e6: int
    longitude_e6: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing to try for a request: an endpoint, the region it belongs to, and why it is on the list."""

    region: str
    tier: str
    level: Level
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Candidate:
    """A region that policy allows in a lane, before anything is known of its health."""

    region: str
    tier: str


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate with its level: what `decide` walks through. Every lane that holds the candidate shares it."""

    region: str
    tier: str
    level: Level
    attempts: tuple[Attempt, ...]
    """One for each endpoint, in the order written."""
    names: tuple[bytes, ...]
    """The same endpoints, as rendezvous hashing names them."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The answer for the clients of one zone on one route."""

    candidates: tuple[Option, ...]
    """Every region that policy allows, in the order of policy: the first is what policy alone wants. Never empty."""
    options: tuple[Option, ...]
    """Those that may serve, best first; what is DOWN is not here."""
    otherwise: Otherwise

    @property
    def last_resort(self) -> tuple[Option, ...]:
        """The primary tier whatever its level, when the policy fails open; else empty."""
        if isinstance(self.otherwise, Deny):
            return ()
        return tuple(option for option in self.candidates if option.tier == self.candidates[0].tier)

    def reason(self, chosen: Option) -> str:
        """Why `chosen` was taken. It is when every option before it is ejected; all else policy preferred is worse."""
        if chosen is self.candidates[0]:
            return chosen.tier
        ejected = self.options[: self.options.index(chosen)]
        return self._reason(chosen.tier, self.candidates[: self.candidates.index(chosen)], ejected)

    def lost(self, outcome: str) -> str:
        """Why nothing is left, beginning with what comes of it."""
        return self._reason(outcome, self.candidates, self.options)

    @staticmethod
    def _reason(outcome: str, passed_over: tuple[Option, ...], ejected: tuple[Option, ...]) -> str:
        """Short ASCII, fit for a header: "secondary: fra DOWN, ams ejected"."""
        named = ", ".join(
            f"{option.region} {'ejected' if option in ejected else option.level.name}"
            for option in passed_over[:REASON_REGIONS_MAX]
        )
        more = len(passed_over) - REASON_REGIONS_MAX
        return f"{outcome}: {named}{f', {more} more' if more > 0 else ''}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which lanes there are, and their candidates in the order of policy. Health plays no part."""

    candidates: tuple[Candidate, ...]
    """Every candidate of any lane, once."""
    lane_of: tuple[Mapping[str, int], ...]
    """For each route: the zone's lane, an index into `lanes`."""
    lanes: tuple[tuple[tuple[int, ...], Otherwise], ...]
    """For each lane: its candidates, as indexes into `candidates`, and what happens without them."""


@dataclass(frozen=True, slots=True, eq=False)
class RouteTable:
    """Immutable; swapping it for a new one is one assignment."""

    program: Program
    site: SitePlace
    levels: Mapping[str, Level]
    """Every region's level that was planned with, sorted by name."""
    layout: Layout
    lanes: tuple[Lane, ...]

    def lane(self, route: int, zone: str) -> Lane:
        return self.lanes[self.layout.lane_of[route][zone]]


def plan(program: Program, levels: Mapping[str, Level], site: SitePlace) -> RouteTable:
    """Rank every lane. A region that `levels` does not name is UNKNOWN; names that the policy lacks are ignored."""
    known = {region: levels.get(region, Level.UNKNOWN) for region in program.regions}
    layout = lay_out(program, site)
    options = [_option(program, candidate, known[candidate.region]) for candidate in layout.candidates]
    classes = [_class(program, option) for option in options]
    lanes = []
    for numbers, otherwise in layout.lanes:
        serving = [number for number in numbers if classes[number] < _OUT]
        serving.sort(key=classes.__getitem__)  # a stable sort: within a class the order of policy stays
        lanes.append(Lane(tuple([options[n] for n in numbers]), tuple([options[n] for n in serving]), otherwise))
    return RouteTable(program, site, known, layout, tuple(lanes))


@lru_cache(maxsize=_LAYOUTS_MAX)
def lay_out(program: Program, site: SitePlace) -> Layout:
    """Resolve every tier of every (route, zone) to regions."""
    candidates: dict[Candidate, int] = {}
    lanes: dict[tuple[tuple[int, ...], Otherwise], int] = {}
    orders: dict[tuple[int, int], tuple[str, ...]] = {}
    asked: dict[tuple[int, tuple[int, int], Otherwise], int] = {}
    tier_lists: dict[tuple[Tier, ...], int] = {}
    lane_of = []

    def lane(tiers: tuple[Tier, ...], origin: tuple[int, int], otherwise: Otherwise) -> int:
        if origin not in orders:
            orders[origin] = _by_distance(program, origin)
        resolved = _candidates(tiers, orders[origin])
        numbers = tuple(candidates.setdefault(candidate, len(candidates)) for candidate in resolved)
        return lanes.setdefault((numbers, otherwise), len(lanes))

    for route in program.routes:
        overrides = {override.zone: override for override in route.overrides}
        usual = tier_lists.setdefault(route.tiers, len(tier_lists))
        zones = {}
        for name, zone in program.zones.items():
            tiers, number, otherwise = route.tiers, usual, route.otherwise
            if override := overrides.get(name):
                tiers, otherwise = override.tiers, override.otherwise or otherwise
                number = tier_lists.setdefault(tiers, len(tier_lists))
            question = (number, _origin(zone, site), otherwise)
            if question not in asked:
                asked[question] = lane(tiers, question[1], otherwise)
            zones[name] = asked[question]
        lane_of.append(zones)
    return Layout(tuple(candidates), tuple(lane_of), tuple(lanes))


def _origin(zone: Zone | None, site: SitePlace) -> tuple[int, int]:
    if zone is None or zone.latitude_e6 is None or zone.longitude_e6 is None:
        return site.latitude_e6, site.longitude_e6
    return zone.latitude_e6, zone.longitude_e6


def _by_distance(program: Program, origin: tuple[int, int]) -> tuple[str, ...]:
    return tuple(
        sorted(
            program.regions,
            key=lambda name: (
                distance_m(*origin, program.regions[name].latitude_e6, program.regions[name].longitude_e6),
                name,
            ),
        )
    )


def _candidates(tiers: Iterable[Tier], nearest_first: tuple[str, ...]) -> Iterable[Candidate]:
    """Regions tier by tier, each once: a tier takes what no earlier tier took."""
    left = dict.fromkeys(nearest_first)
    for tier in tiers:
        match tier.choice:
            case Named(regions):
                taken = [region.name for region in regions if region.name in left]
            case Nearest(count):
                taken = list(left)[:count]
            case AnyLeft():
                taken = list(left)
        for region in taken:
            del left[region]
            yield Candidate(region, tier.name)


def _class(program: Program, option: Option) -> int:
    level = program.health[option.region].unknown_as if option.level is Level.UNKNOWN else option.level
    return CLASSES.get(level, _OUT)


def _option(program: Program, candidate: Candidate, level: Level) -> Option:
    endpoints = [(endpoint.host, endpoint.port) for endpoint in program.regions[candidate.region].endpoints]
    return Option(
        region=candidate.region,
        tier=candidate.tier,
        level=level,
        attempts=tuple(Attempt(candidate.region, candidate.tier, level, endpoint) for endpoint in endpoints),
        names=tuple(f"{host} {port}".encode("ascii") for host, port in endpoints),
    )
