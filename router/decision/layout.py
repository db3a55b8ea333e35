"""Tiers resolved to regions: the part of a table that neither health nor time can change.

Nearest is by great circle from where the zone's clients are, where the policy says that. Else it is by the round trip
from the site: as measured, and where nothing was measured as light in fibre needs it (100 km to a millisecond, there
and back). An answer that came faster than light came from somebody nearer than the region (a cache, a proxy, a trial on
one machine), so there the great circle counts. Round trips are taken to a quarter of an octave, so that noise turns no
tables.

Lanes that cannot differ are one lane, so that 250 zones are planned anew as fast as the number of distinct lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from lattice.types import Level
from router.decision.distance import distance_m
from router.decision.nearby import location_at
from router.decision.program import Program
from router.policy.settings import Settings
from router.policy.syntax import AnyLeft, Named, Nearest, Otherwise, Tier, Zone, is_to_client

METRES_PER_RTT_US = 100
_LAYOUTS_MAX = 8
_Origin: TypeAlias = tuple[int, int] | None
Picker: TypeAlias = Callable[[Sequence[Any]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class SitePlace:
    """Which site plans, and where it is, in millionths of a degree."""

    name: str
    latitude_e6: int
    longitude_e6: int
    placed: bool = True
    """Whether the place is known: without it only measured round trips say what is near."""


class Candidate(NamedTuple):
    """A region that policy allows in a lane, before anything is known of its health."""

    region: str
    tier: str
    weight: int = 0
    """Within its tier; 0 when the tier has no weights."""


class LaneLayout(NamedTuple):
    """A lane, as far as policy and place make it."""

    numbers: tuple[int, ...]
    """Its candidates, as indexes into `Layout.candidates`."""
    otherwise: Otherwise
    settings: Settings
    roaming: tuple[tuple[Tier, ...], tuple[str, ...]] | None = None
    """Its tiers, and all regions nearest first, when some tier wants them nearest to the client."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which lanes there are, and their candidates in the order of policy. Neither health nor time plays a part."""

    candidates: tuple[Candidate, ...]
    """Every candidate of any lane, once."""
    lane_of: tuple[Mapping[str, int], ...]
    """For each route: the zone's lane, an index into `lanes`."""
    rule_lanes: tuple[tuple[Mapping[str, int] | None, ...], ...]
    """For each route and each of its rules: the same; None for a rule that refuses."""
    lanes: tuple[LaneLayout, ...]
    pickers: tuple[Picker, ...]
    """For each of `lanes`: what takes its candidates' own out of a sequence that has something for every candidate."""
    options: dict[tuple[Candidate, Level, bool], Any]
    """What `plan` remembers: what it made of a candidate with a level, avoided or not. A function of these, so that
    remembering it changes no answer."""


def picker(numbers: tuple[int, ...]) -> Picker:
    """What takes the things with these numbers out of a sequence, in this order, as a tuple: in one call, not by one
    step of the interpreter each."""
    if len(numbers) == 1:
        (number,) = numbers
        return lambda things: (things[number],)  # an `itemgetter` of one gives the thing itself
    return itemgetter(*numbers)


def octaves_of(program: Program, rtt_us: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """How near regions are by measured round trips, in quarters of an octave."""
    return tuple((name, _octaves(rtt_us[name])) for name in program.regions if name in rtt_us)


def _octaves(rtt_us: int) -> int:
    """Quarters of an octave: 4 log2, downwards."""
    rtt_us = max(1, rtt_us)
    length = rtt_us.bit_length()
    return 4 * length + ((rtt_us << 3 >> length) & 3)


@lru_cache(maxsize=_LAYOUTS_MAX)
def lay_out(
    program: Program,
    site: SitePlace,
    measured: tuple[tuple[str, int], ...] = (),
    near_client: tuple[str, ...] = (),
) -> Layout:
    """Resolve every tier of every (route, rule, zone) to regions. `measured` is how near regions are to the site, in
    quarters of an octave; `near_client` all regions, nearest first, around clients whose location is known."""
    candidates: dict[Candidate, int] = {}
    lanes: dict[LaneLayout, int] = {}
    orders: dict[_Origin, tuple[str, ...]] = {None: nearest_to_site(program, site, dict(measured))}
    asked: dict[tuple[int, _Origin, Otherwise, Settings], int] = {}
    tier_lists: dict[tuple[Tier, ...], int] = {}

    def lane(tiers: tuple[Tier, ...], zone: Zone | None, otherwise: Otherwise, settings: Settings) -> int:
        origin = place_of(zone)
        question = (tier_lists.setdefault(tiers, len(tier_lists)), origin, otherwise, settings)
        if question not in asked:
            if origin not in orders:
                assert origin is not None, "the site's own order is there from the start"
                orders[origin] = nearest_to(program, origin)
            nearest_first = orders[origin]
            found = resolved(tiers, nearest_first, near_client or nearest_first, program.groups)
            numbers = tuple(candidates.setdefault(candidate, len(candidates)) for candidate in found)
            roaming = (tiers, nearest_first) if any(map(is_to_client, tiers)) else None
            laid_out = LaneLayout(numbers, otherwise, settings, roaming)
            asked[question] = lanes.setdefault(laid_out, len(lanes))
        return asked[question]

    lane_of, rule_lanes = [], []
    for route in program.routes:
        overrides = {override.zone: override for override in route.overrides}
        zones = {}
        for name, zone in program.zones.items():
            tiers, otherwise = route.tiers, route.otherwise
            if override := overrides.get(name):
                tiers, otherwise = override.tiers, override.otherwise or otherwise
            zones[name] = lane(tiers, zone, otherwise, route.settings)
        lane_of.append(zones)
        of_rules: list[Mapping[str, int] | None] = []
        for rule in route.rules:
            if rule.refuse is not None:
                of_rules.append(None)
                continue
            otherwise, settings = rule.otherwise or route.otherwise, rule.settings.over(route.settings)
            of_rules.append({name: lane(rule.tiers, zone, otherwise, settings) for name, zone in program.zones.items()})
        rule_lanes.append(tuple(of_rules))
    pickers = tuple([picker(laid_out.numbers) for laid_out in lanes])
    return Layout(tuple(candidates), tuple(lane_of), tuple(rule_lanes), tuple(lanes), pickers, {})


def lay_out_next_to(program: Program, region: str) -> Layout:
    """As a site next to a region lays it out, for clients who are there too."""
    at = program.regions[region]
    around = program.nearby.order(location_at(at.latitude_e6, at.longitude_e6))
    near_client = (region, *[name for name in around if name != region])
    return lay_out(program, SitePlace("", at.latitude_e6, at.longitude_e6), near_client=near_client)


def place_of(zone: Zone | None) -> _Origin:
    """Where a zone says its clients are; None when it does not, and nearest means to the site."""
    if zone is None or zone.latitude_e6 is None or zone.longitude_e6 is None:
        return None
    return zone.latitude_e6, zone.longitude_e6


def nearest_to(program: Program, place: tuple[int, int]) -> tuple[str, ...]:
    """All regions by great circle from a place, then by name."""

    def far(name: str) -> tuple[int, str]:
        return _metres(program, place, name), name

    return tuple(sorted(program.regions, key=far))


def nearest_to_site(program: Program, site: SitePlace, measured: Mapping[str, int]) -> tuple[str, ...]:
    """All regions by round trip from the site, as far as any was measured, then by great circle and name."""
    here = site.latitude_e6, site.longitude_e6
    if not measured:
        return nearest_to(program, here)

    def far(name: str) -> tuple[int, int, str]:
        metres = _metres(program, here, name)
        light = _octaves(metres // METRES_PER_RTT_US) if site.placed else 0
        return max(light, measured.get(name, 0)), metres, name

    return tuple(sorted(program.regions, key=far))


def _metres(program: Program, place: tuple[int, int], name: str) -> int:
    region = program.regions[name]
    return distance_m(*place, region.latitude_e6, region.longitude_e6)


def resolved(
    tiers: Iterable[Tier],
    nearest_first: tuple[str, ...],
    near_client: tuple[str, ...],
    groups: Mapping[str, frozenset[str]],
) -> Iterable[Candidate]:
    """Regions tier by tier, each once: a tier takes what no earlier tier took."""
    left = dict.fromkeys(nearest_first)

    def allowed(group: str | None, to_client: bool) -> list[str]:
        order = [name for name in near_client if name in left] if to_client else left
        return [name for name in order if group is None or name in groups[group]]

    for tier in tiers:
        weights: dict[str, int] = {}
        match tier.choice:
            case Named(regions):
                taken = [region.name for region in regions if region.name in left]
                weights = {region.name: region.weight or 0 for region in regions}
            case Nearest(count, group, to_client):
                taken = allowed(group, to_client)[:count]
            case AnyLeft(group, to_client):
                taken = allowed(group, to_client)
        for region in taken:
            del left[region]
            yield Candidate(region, tier.name, weights.get(region, 0))
