"""Program + levels + place + time -> `RouteTable`: every choice made off the request path, to be looked up on it.

A *lane* is the answer for one (route, rule, zone): the regions its clients may go to, best first. How regions are
ordered:

1. by class of level: HEALTHY, then DEGRADED, then FAILING; UNKNOWN is what the region's health block says it is; DOWN
   is left out, and so is a region that a time window says to avoid,
2. within a class by tier,
3. within a tier as written, or by distance from the zone's place (from the site when the zone has none), then by name.

Where a tier says `to client`, distance is from where the client itself is, when that is known. Such a lane is one for
each order that regions can have around a client: they are made as clients come, and kept with the table.

Affinity, weights and spill reorder the regions of one class for each user (`decide`). So a HEALTHY secondary comes
before a DEGRADED primary, and health alone never moves a region within its class. The part that levels cannot change
(`layout`) is computed once per program and site.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from lattice.types import Endpoint, Level
from router.decision.layout import (
    Candidate,
    LaneLayout,
    Layout,
    Picker,
    SitePlace,
    lay_out,
    octaves_of,
    picker,
    resolved,
)
from router.decision.nearby import LOCATION_MAX
from router.decision.predicates import CHOOSERS_MAX, NO_RULE, Chooser, chooser
from router.decision.program import Program
from router.decision.spells import spell_at
from router.policy.settings import NO_SETTINGS, Settings
from router.policy.syntax import Deny, Otherwise

CLASSES = {Level.HEALTHY: 0, Level.DEGRADED: 1, Level.FAILING: 2}
"""The order of levels that may serve."""
_OUT = len(CLASSES)
REASON_REGIONS_MAX = 3
"""How many regions a reason names; it goes into a response header."""
_ROAMED_MAX = 4_096
"""Lanes for clients of a location, some kilobytes each, until the next plan."""


class Attempt(NamedTuple):
    """One thing to try for a request: an endpoint, the region it belongs to, and why it is on the list."""

    region: str
    tier: str
    level: Level
    endpoint: Endpoint


class Option(NamedTuple):
    """A candidate with its level: what `decide` walks through. Every lane that holds the candidate shares it."""

    region: str
    tier: str
    level: Level
    attempts: tuple[Attempt, ...]
    """One for each endpoint, in the order written."""
    names: tuple[bytes, ...]
    """The same endpoints, as rendezvous hashing names them."""
    weights: tuple[int, ...] = ()
    """Of the endpoints; empty when all are alike."""
    weight: int = 0
    avoided: bool = False
    """Whether a time window says to avoid the region now."""
    rank: int = 0
    """By class of level, the best first; `_OUT` when it may not serve."""


class Lane(NamedTuple):
    """The answer for the clients of one zone on one route, or on one rule of it."""

    candidates: tuple[Option, ...]
    """Every region that policy allows, in the order of policy: the first is what policy alone wants. Never empty."""
    options: tuple[Option, ...]
    """Those that may serve, best first; what is DOWN is not here."""
    otherwise: Otherwise
    settings: Settings = NO_SETTINGS
    classes: tuple[tuple[tuple[Option, ...], ...], ...] = ()
    """The options by class of level, then by tier; empty when every user gets them in the same order."""
    spilling: tuple[tuple[str, int], ...] = ()
    """Regions whose users do not all go there, and what share of them (millionths) goes elsewhere: some are too full,
    some have only just come back."""
    returning: tuple[tuple[str, int], ...] = ()
    """Of those, which have come back, and what share of their users is not to follow yet."""
    panicked: bool = False
    """Health is not believed here: too little of it is left."""
    roams: bool = False
    """Whether it is another for clients whose location is known: see `RouteTable.lane_near`."""

    @property
    def last_resort(self) -> tuple[Option, ...]:
        """The primary tier whatever its level, when the policy fails open; else empty."""
        if isinstance(self.otherwise, Deny):
            return ()
        primary = tuple(option for option in self.candidates if option.tier == self.candidates[0].tier)
        return tuple(option for option in primary if not option.avoided) or primary

    def reason(self, chosen: Option) -> str:
        """Why `chosen` was taken. It is when every option before it is ejected; all else policy preferred is worse."""
        outcome = f"panic: {chosen.tier}" if self.panicked else chosen.tier
        if chosen is self.candidates[0]:
            return outcome
        if (
            len(self.options) > 1
            and chosen is self.options[1] is self.candidates[1]
            and (self.options[0] is self.candidates[0])
        ):
            return f"{outcome}: {self.options[0].region} ejected"
        ejected = self.options[: self.options.index(chosen)]
        return self._reason(outcome, self.candidates[: self.candidates.index(chosen)], ejected)

    def lost(self, outcome: str) -> str:
        """Why nothing is left, beginning with what comes of it."""
        return self._reason(outcome, self.candidates, self.options)

    @staticmethod
    def _reason(outcome: str, passed_over: tuple[Option, ...], ejected: tuple[Option, ...]) -> str:
        """Short ASCII, fit for a header: "secondary: fra DOWN, ams ejected"."""
        named = ", ".join(
            f"{option.region} {'ejected' if option in ejected else standing(option)}"
            for option in passed_over[:REASON_REGIONS_MAX]
        )
        more = len(passed_over) - REASON_REGIONS_MAX
        return f"{outcome}: {named}{f', {more} more' if more > 0 else ''}"


def standing(option: Option) -> str:
    """A region's level, or that it is avoided."""
    return "avoided" if option.avoided else option.level.name


@dataclass(frozen=True, slots=True, eq=False)
class RouteTable:
    """Immutable; swapping it for a new one is one assignment."""

    program: Program
    site: SitePlace
    levels: Mapping[str, Level]
    """Every region's level that was planned with, sorted by name."""
    layout: Layout
    lanes: tuple[Lane, ...]
    choosers: tuple[Chooser | None, ...]
    """For each route: which of the rules that hold now a request passes; None when none holds."""
    valid_until: int | None
    """When the next time window opens or closes, in microseconds since the epoch: plan anew then."""
    world: _World = field(repr=False)
    usual: tuple[tuple[dict[str, Any], ...], ...] = field(repr=False)
    """What `decide` remembers: by route, by rule (the last is for `NO_RULE`) and by zone, the `Settled` decision that
    all clients get. A decision is a function of the table, so remembering it changes no answer."""
    roamed: dict[tuple[int, tuple[str, ...]], Lane] = field(default_factory=dict, repr=False)
    """So too: by lane, and by the order of regions around a client."""

    def lane(self, route: int, zone: str, location: int = 0) -> Lane:
        return self.lane_near(self.layout.lane_of[route][zone], location)

    def lane_near(self, number: int, location: int) -> Lane:
        """A lane, for clients of a location; what is none is unknown."""
        lane = self.lanes[number]
        if not lane.roams or not 0 < location <= LOCATION_MAX:
            return lane
        order = self.program.nearby.order(location)
        found = self.roamed.get((number, order))
        if found is None:
            if len(self.roamed) >= _ROAMED_MAX:
                self.roamed.clear()
            laid_out = self.layout.lanes[number]
            assert laid_out.roaming is not None, "it roams"
            tiers, nearest_first = laid_out.roaming
            candidates = resolved(tiers, nearest_first, order, self.program.groups)
            numbers = tuple([self.world.number_of(candidate) for candidate in candidates])
            found = self.roamed[number, order] = self.world.lane(laid_out, picker(numbers))
        return found


def plan(
    program: Program,
    levels: Mapping[str, Level],
    site: SitePlace,
    now: int = 0,
    saturation_ppm: Mapping[str, int] = MappingProxyType({}),
    rtt_us: Mapping[str, int] = MappingProxyType({}),
    away_ppm: Mapping[str, int] = MappingProxyType({}),
) -> RouteTable:
    """Rank every lane. A region that `levels` does not name is UNKNOWN; names that the policy lacks are ignored.

    `now` is in microseconds since the epoch, and matters to time windows only. `saturation_ppm` is how full regions say
    they are; `rtt_us` what round trips from this site were measured; `away_ppm` what share of a region's users, in
    millionths, does not go back to it yet though it is well again (`failback`): while another region is as well, they
    are spilled there. Who they are depends on the user and the region alone, so that a share that only falls sends
    each user back once.
    """
    known = {region: levels.get(region, Level.UNKNOWN) for region in program.regions}
    layout = lay_out(program, site, octaves_of(program, rtt_us))
    spells = {
        name: [spell_at(program.spells, window, now) for window in region.avoid]
        for name, region in program.regions.items()
        if region.avoid
    }
    avoided = {name for name, asked in spells.items() if any(spell.is_open for spell in asked)}
    world = _World(program, layout.options, known, avoided, saturation_ppm, away_ppm)
    for candidate in layout.candidates:
        world.number_of(candidate)
    lanes = tuple(map(world.lane, layout.lanes, layout.pickers))
    choosers, edges = _rules_at(program, now)
    edges += [spell.until_us for asked in spells.values() for spell in asked]
    valid_until = min((edge for edge in edges if edge is not None), default=None)
    usual: tuple[tuple[dict[str, Any], ...], ...] = tuple(
        [tuple([{} for _ in (*route.rules, NO_RULE)]) for route in program.routes]
    )
    return RouteTable(program, site, known, layout, lanes, choosers, valid_until, world, usual)


class _World:
    """What a table was planned with, and the candidates in it: numbered as they come, each with its option."""

    def __init__(
        self,
        program: Program,
        made: dict[tuple[Candidate, Level, bool], Option],
        levels: Mapping[str, Level],
        avoided: AbstractSet[str],
        saturation_ppm: Mapping[str, int],
        away_ppm: Mapping[str, int],
    ) -> None:
        self._program, self._made, self._levels, self._avoided = program, made, levels, avoided
        self._saturation_ppm, self._away_ppm = saturation_ppm, away_ppm
        self._numbers: dict[Candidate, int] = {}
        self._options: list[Option] = []
        self._ranks: list[int] = []
        """Those of the options that may serve, sorted."""
        self._weighted = False
        """Whether any option has a weight: few policies give some."""

    def number_of(self, candidate: Candidate) -> int:
        number = self._numbers.get(candidate)
        if number is None:
            number = self._numbers[candidate] = len(self._options)
            level, avoided = self._levels[candidate.region], candidate.region in self._avoided
            option = self._made.get((candidate, level, avoided))
            if option is None:
                option = self._made[candidate, level, avoided] = _option(self._program, candidate, level, avoided)
            self._options.append(option)
            if option.rank not in (*self._ranks, _OUT):
                insort(self._ranks, option.rank)
            self._weighted |= option.weight > 0
        return number

    def lane(self, laid_out: LaneLayout, pick: Picker) -> Lane:
        _, otherwise, settings, roaming = laid_out
        candidates: tuple[Option, ...] = pick(self._options)
        serving = tuple([option for rank in self._ranks for option in candidates if option.rank == rank])
        panicked = settings.panic is not None and len(serving) * 1_000_000 < settings.panic.below_ppm * len(candidates)
        if panicked:
            serving = tuple([option for option in candidates if not option.avoided])
        returning: tuple[tuple[str, int], ...] = ()
        spilling: tuple[tuple[str, int], ...] = ()
        if self._away_ppm and not panicked:
            returning = _returning(candidates, self._away_ppm)
        if returning or (settings.spill is not None and self._saturation_ppm):
            spilling = _spilling(candidates, settings, self._saturation_ppm, dict(returning))
        for_each_user = settings.stick or spilling or (self._weighted and any(option.weight for option in candidates))
        classes = _by_class(serving, panicked) if for_each_user else ()
        roams = roaming is not None
        return Lane(candidates, serving, otherwise, settings, classes, spilling, returning, panicked, roams)


def _rules_at(program: Program, now: int) -> tuple[tuple[Chooser | None, ...], list[int | None]]:
    """Which rules hold now, and until when each of their windows stays as it is."""
    edges: list[int | None] = []
    choosers: list[Chooser | None] = []
    for of_route, route in enumerate(program.routes):
        active = []
        for number, rule in enumerate(route.rules):
            spells = [spell_at(program.spells, window, now) for window in rule.windows]
            edges += [spell.until_us for spell in spells]
            if not spells or any(spell.is_open for spell in spells):
                active.append(number)
        choosers.append(_chooser(program, of_route, tuple(active)) if active else None)
    return tuple(choosers), edges


def _chooser(program: Program, route: int, active: tuple[int, ...]) -> Chooser:
    """Remembered by the route's number: to find it by all that the route says costs 0.8 us for each of its rules."""
    found = program.choosers.get((route, active))
    if found is None:
        if len(program.choosers) >= CHOOSERS_MAX:
            program.choosers.clear()
        found = program.choosers[route, active] = chooser(program.routes[route], active)
    return found


def _by_class(serving: tuple[Option, ...], panicked: bool) -> tuple[tuple[tuple[Option, ...], ...], ...]:
    return tuple(
        tuple(tuple(tier) for _, tier in groupby(of_class, key=attrgetter("tier")))
        for _, of_class in groupby(serving, key=lambda option: 0 if panicked else option.rank)
    )


def _spilling(
    candidates: tuple[Option, ...], settings: Settings, saturation_ppm: Mapping[str, int], away_ppm: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    """The share of users that leaves rises from none at the threshold to all at saturation, so that there is no cliff:
    a region settles where as many leave as it has too many. Who stays away from a region that has come back is among
    the first to leave one that is too full, so the greater share holds."""
    found = []
    for option in candidates:
        share = away_ppm.get(option.region, 0)
        if settings.spill is not None:
            above = settings.spill.above_ppm
            excess = min(saturation_ppm.get(option.region, 0), 1_000_000) - above
            if excess > 0:
                share = max(share, excess * 1_000_000 // (1_000_000 - above))
        if share > 0:
            found.append((option.region, share))
    return tuple(found)


def _returning(candidates: tuple[Option, ...], away_ppm: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(
        (option.region, away_ppm[option.region]) for option in candidates if away_ppm.get(option.region, 0) > 0
    )


def _option(program: Program, candidate: Candidate, level: Level, avoided: bool) -> Option:
    listed = program.regions[candidate.region].endpoints
    endpoints = [(endpoint.host, endpoint.port) for endpoint in listed]
    believed = program.health[candidate.region].unknown_as if level is Level.UNKNOWN else level
    return Option(
        region=candidate.region,
        tier=candidate.tier,
        level=level,
        attempts=tuple(Attempt(candidate.region, candidate.tier, level, endpoint) for endpoint in endpoints),
        names=tuple(f"{host} {port}".encode("ascii") for host, port in endpoints),
        weights=tuple(one.weight for one in listed) if any(one.weight != 1 for one in listed) else (),
        weight=candidate.weight,
        avoided=avoided,
        rank=_OUT if avoided else CLASSES.get(believed, _OUT),
    )
