"""The judge: what a policy says of one request, worked out from its syntax tree, slowly and without an index.

No table, no generated code, nothing prepared: each request asks every route, every rule, every zone. It shares with
`plan` and `decide` only the leaves that have tests of their own (distance, hashing, reading of request parts, windows),
and the words of a `Decision`. Where the two differ, one of them is wrong; tests hold them to the same answer on random
policies, levels, times and requests, and the JSON form and other targets are judged by this file too.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType

from lattice.types import Endpoint, Level
from router.decision.decide import Attempt, Decision
from router.decision.distance import distance_m
from router.decision.layout import SitePlace
from router.decision.nearby import LOCATION_MAX, point_of, point_of_region
from router.decision.rendezvous import ranking
from router.decision.request import (
    Request,
    bucket,
    client_bytes,
    cookie,
    header,
    in_share,
    key_bytes,
    query,
)
from router.policy.conditions import And, Condition, Match, Not, Or, Present
from router.policy.settings import Settings
from router.policy.syntax import (
    AnyLeft,
    Deny,
    Named,
    Nearest,
    Otherwise,
    Policy,
    Region,
    Route,
    Rule,
    Tier,
    Zone,
)
from router.policy.zones import read_client

_ORDER = {Level.HEALTHY: 0, Level.DEGRADED: 1, Level.FAILING: 2}
_Place = tuple[str, str, int]
"""A region in a tier, with its weight."""


def interpret(
    policy: Policy,
    levels: Mapping[str, Level],
    site: SitePlace,
    now: int,
    saturation_ppm: Mapping[str, int],
    request: Request,
    ejected: AbstractSet[Endpoint],
    rtt_us: Mapping[str, int] = MappingProxyType({}),
    away_ppm: Mapping[str, int] = MappingProxyType({}),
) -> Decision:
    """What `decide` must say by the table that `plan` makes of the compiled policy and the same world."""
    zone = _zone(policy, request)
    route = next((route for route in policy.routes if _takes(route, request)), None)
    if route is None:
        return Decision("", zone, None, None, "", "no route", 404, ())
    rule = next((rule for rule in route.rules if _passes(route, rule, request, zone, now)), None)
    name = rule.name if rule else ""
    if rule and rule.refuse:
        return Decision(
            route.name, zone, None, None, "", f"denied: {rule.refuse.reason or name}", rule.refuse.status, (), name
        )
    tiers, otherwise, settings = _instructions(route, rule, zone)
    return _Case(policy, levels, site, now, saturation_ppm, request, ejected, rtt_us, away_ppm).choose(
        route.name, zone, name, tiers, otherwise, settings
    )


def _quarter_octave(number: int) -> int:
    """Four for each doubling, and one for each quarter of the way to the next."""
    number = max(1, number)
    power, found = 1, 4
    while power * 2 <= number:
        power, found = power * 2, found + 4
    return found + (number - power) * 4 // power


def _instructions(route: Route, rule: Rule | None, zone: str) -> tuple[tuple[Tier, ...], Otherwise, Settings]:
    if rule:
        return rule.tiers, rule.otherwise or route.otherwise, rule.settings.over(route.settings)
    for override in route.overrides:
        if override.zone == zone:
            return override.tiers, override.otherwise or route.otherwise, route.settings
    return route.tiers, route.otherwise, route.settings


class _Case:
    """One request under one state of the world."""

    def __init__(
        self,
        policy: Policy,
        levels: Mapping[str, Level],
        site: SitePlace,
        now: int,
        saturation_ppm: Mapping[str, int],
        request: Request,
        ejected: AbstractSet[Endpoint],
        rtt_us: Mapping[str, int],
        away_ppm: Mapping[str, int],
    ) -> None:
        self.policy, self.levels, self.site, self.now = policy, levels, site, now
        self.saturation_ppm, self.request, self.ejected, self.rtt_us = saturation_ppm, request, ejected, rtt_us
        self.away_ppm = away_ppm
        self.client = read_client(request.client)

    def choose(
        self,
        route: str,
        zone: str,
        rule: str,
        tiers: tuple[Tier, ...],
        otherwise: Otherwise,
        settings: Settings,
    ) -> Decision:
        places = self._places(tiers, zone)
        weighted = any(weight for _, _, weight in places)
        serving = [place for place in places if self._rank(place[0]) < 3]
        panicked = settings.panic is not None and len(serving) * 1_000_000 < settings.panic.below_ppm * len(places)
        if panicked:
            serving = [place for place in places if not self._avoided(place[0])]
            self.away_ppm = {}  # who is short of regions sends nobody away from one that came back
        rank = {name: 0 if panicked else self._rank(name) for name, _, _ in places}
        key = self._key(settings)
        first_tier = [place for place in places if place[1] == places[0][1]]
        proposed = self._order(first_tier, key, settings)[0]
        ordered: list[_Place] = []
        spilled: list[_Place] = []
        for wanted in (0, 1, 2):
            leaving: list[_Place] = []
            for tier in dict.fromkeys(tier for _, tier, _ in places):
                members = [place for place in serving if rank[place[0]] == wanted and place[1] == tier]
                for place in self._order(members, key, settings):
                    (leaving if self._leaves(place[0], settings, key) else ordered).append(place)
            ordered += leaving
            spilled += leaving
        attempts: list[Attempt] = []
        chosen: _Place | None = None
        for place in ordered:
            usable = [each for each in self._endpoints(place, settings, key) if each.endpoint not in self.ejected]
            attempts += usable[:3]
            chosen = chosen or (place if usable else None)
            if len(attempts) >= 8:
                break
        if chosen is None:
            return self._nothing(route, zone, rule, places, proposed[0], otherwise, settings, ordered)
        outcome = f"panic: {chosen[1]}" if panicked else chosen[1]
        before = ordered[: ordered.index(chosen)]
        if weighted or settings.stick or any(self._share_ppm(name, settings) for name, _, _ in places):
            if chosen != proposed:
                elsewhere = self._leaves(proposed[0], settings, key) if proposed in spilled else ""
                why = "ejected" if proposed in before else elsewhere or self._word(proposed)
                outcome += f": {proposed[0]} {why}"
        elif chosen != places[0]:
            outcome = self._why(outcome, places[: places.index(chosen)], before)
        return Decision(route, zone, proposed[0], chosen[0], chosen[1], outcome, 0, tuple(attempts[:8]), rule, settings)

    def _nothing(
        self,
        route: str,
        zone: str,
        rule: str,
        places: list[_Place],
        proposed: str,
        otherwise: Otherwise,
        settings: Settings,
        ejected: list[_Place],
    ) -> Decision:
        if isinstance(otherwise, Deny):
            said = f"denied: {otherwise.reason}" if otherwise.reason else self._why("denied", places, ejected)
            return Decision(route, zone, proposed, None, "", said, otherwise.status, (), rule, settings)
        primary = [place for place in places if place[1] == places[0][1]]
        primary = [place for place in primary if not self._avoided(place[0])] or primary
        attempts = [each for place in primary for each in self._endpoints(place, Settings(), b"")[:3]]
        attempts.sort(key=lambda attempt: attempt.endpoint in self.ejected)
        said = self._why("fail open", places, ejected)
        taken = tuple(attempts[:8])
        return Decision(route, zone, proposed, attempts[0].region, attempts[0].tier, said, 0, taken, rule, settings)

    def _places(self, tiers: tuple[Tier, ...], zone: str) -> list[_Place]:
        """Which regions are in which tier, best first."""
        left = self._nearest_first(zone)
        around = self._around_the_client() or left
        places: list[_Place] = []
        for tier in tiers:
            choice = tier.choice
            weights: dict[str, int] = {}
            if isinstance(choice, Named):
                weights = {region.name: region.weight or 0 for region in choice.regions}
                taken = [region.name for region in choice.regions if region.name in left]
            else:
                order = [name for name in around if name in left] if choice.to_client else left
                taken = [name for name in order if choice.group is None or name in self._group(choice.group)]
                if isinstance(choice, Nearest):
                    taken = taken[: choice.count]
                else:
                    assert isinstance(choice, AnyLeft)
            places += [(name, tier.name, weights.get(name, 0)) for name in taken]
            left = [name for name in left if name not in taken]
        return places

    def _nearest_first(self, zone: str) -> list[str]:
        place = self.site.latitude_e6, self.site.longitude_e6
        from_site = True
        for each in self.policy.zones:
            if each.name == zone and each.latitude_e6 is not None and each.longitude_e6 is not None:
                place, from_site = (each.latitude_e6, each.longitude_e6), False
        measured = {
            region.name: self.rtt_us[region.name] for region in self.policy.regions if region.name in self.rtt_us
        }

        def far(region: Region) -> tuple[int, int, str]:
            metres = distance_m(*place, region.latitude_e6, region.longitude_e6)
            if not from_site or not measured:
                return 0, metres, region.name
            light = _quarter_octave(metres // 100) if self.site.placed else 0
            seen = _quarter_octave(measured[region.name]) if region.name in measured else 0
            return max(light, seen), metres, region.name

        return [region.name for region in sorted(self.policy.regions, key=far)]

    def _around_the_client(self) -> list[str]:
        """Regions by distance from where the client is; empty when nobody knows."""
        if not 1 <= self.request.location <= LOCATION_MAX:
            return []
        here = point_of(self.request.location)

        def far(region: Region) -> tuple[int, str]:
            there = point_of_region(region)
            return sum((here[axis] - there[axis]) ** 2 for axis in range(3)), region.name

        return [region.name for region in sorted(self.policy.regions, key=far)]

    def _group(self, name: str) -> list[str]:
        return [region.name for group in self.policy.groups if group.name == name for region in group.regions]

    def _region(self, name: str) -> Region:
        return next(region for region in self.policy.regions if region.name == name)

    def _level(self, name: str) -> Level:
        return self.levels.get(name, Level.UNKNOWN)

    def _avoided(self, name: str) -> bool:
        return any(window.open_at(self.now) for window in self._region(name).avoid)

    def _rank(self, name: str) -> int:
        level = self._level(name)
        if level is Level.UNKNOWN:
            level = self.policy.health_of(self._region(name)).unknown_as
        return 3 if self._avoided(name) else _ORDER.get(level, 3)

    def _word(self, place: _Place) -> str:
        return "avoided" if self._avoided(place[0]) else self._level(place[0]).name

    def _key(self, settings: Settings) -> bytes:
        for key in settings.stick.keys if settings.stick else ():
            found = key_bytes(key, self.request, self.client)
            if found is not None:
                return found
        return client_bytes(self.request.client, self.client)

    def _order(self, tier: list[_Place], key: bytes, settings: Settings) -> list[_Place]:
        if not tier or not (settings.stick or tier[0][2]):
            return tier
        names = [b"region " + name.encode("ascii") for name, _, _ in tier]
        return [tier[index] for index in ranking(key, names, [w for _, _, w in tier] if tier[0][2] else ())]

    def _share_ppm(self, name: str, settings: Settings) -> int:
        """How many of a region's users go elsewhere."""
        share = self.away_ppm.get(name, 0)
        if settings.spill is not None:
            above = settings.spill.above_ppm
            excess = min(self.saturation_ppm.get(name, 0), 1_000_000) - above
            share = max(share, excess * 1_000_000 // (1_000_000 - above) if excess > 0 else 0)
        return share

    def _leaves(self, name: str, settings: Settings, key: bytes) -> str:
        place = bucket(b"spill " + name.encode("ascii"), key)
        if place >= self._share_ppm(name, settings):
            return ""
        return "returning" if place < self.away_ppm.get(name, 0) else "spilled"

    def _endpoints(self, place: _Place, settings: Settings, key: bytes) -> list[Attempt]:
        name, tier, _ = place
        listed = self._region(name).endpoints
        who = key if settings.stick else client_bytes(self.request.client, self.client)
        names = [f"{endpoint.host} {endpoint.port}".encode("ascii") for endpoint in listed]
        weights = [endpoint.weight for endpoint in listed]
        order = ranking(who, names, weights if set(weights) != {1} else ())
        return [Attempt(name, tier, self._level(name), (listed[index].host, listed[index].port)) for index in order]

    def _why(self, outcome: str, passed_over: list[_Place], ejected: list[_Place]) -> str:
        words = [f"{p[0]} {'ejected' if p in ejected else self._word(p)}" for p in passed_over[:3]]
        more = [f"{len(passed_over) - 3} more"] if len(passed_over) > 3 else []
        return f"{outcome}: {', '.join(words + more)}"


def _zone(policy: Policy, request: Request) -> str:
    """The longest prefix; without one, the ASN, the country, the continent."""
    text, scope, _ = request.client.partition("%")  # a scope id names our own interface; IPv4 has none
    try:
        address = IPv6Address(text) if scope else ip_address(text)
    except ValueError:
        address = None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    best: tuple[int, str] = (-1, "")
    for zone in policy.zones:
        for cidr in zone.cidrs:
            if address is not None and address in cidr.network and cidr.network.prefixlen > best[0]:
                best = cidr.network.prefixlen, zone.name
    if best[1]:
        return best[1]

    def named(holds: list[Zone]) -> str:
        return holds[0].name if holds else ""

    return (
        named([zone for zone in policy.zones if request.asn in zone.asns])
        or named([zone for zone in policy.zones if request.country in zone.countries])
        or named([zone for zone in policy.zones if request.continent in zone.continents])
    )


def _takes(route: Route, request: Request) -> bool:
    host = _bare_host(request.host)
    return any(_host_fits(pattern, host) for pattern in route.hosts) and _path_fits(route.path, request.path)


def _passes(route: Route, rule: Rule, request: Request, zone: str, now: int) -> bool:
    if rule.condition is not None and not condition_holds(rule.condition, request, zone):
        return False
    if rule.windows and not any(window.open_at(now) for window in rule.windows):
        return False
    if rule.share is None:
        return True
    salt = f"share {route.name} {rule.name}".encode("ascii")
    return in_share(salt, rule.share.ppm, key_bytes(rule.share.by, request, read_client(request.client)))


def condition_holds(condition: Condition, request: Request, zone: str) -> bool:
    """Whether a request of this zone passes a condition."""
    match condition:
        case And(parts):
            return all(condition_holds(part, request, zone) for part in parts)
        case Or(parts):
            return any(condition_holds(part, request, zone) for part in parts)
        case Not(inner):
            return not condition_holds(inner, request, zone)
        case Present(field, argument):
            return _named_part(field, argument, request) is not None
        case Match("path", _, values):
            return any(_path_fits(pattern, request.path) for pattern in values)
        case Match("host", _, values):
            return any(_host_fits(pattern, _bare_host(request.host)) for pattern in values)
        case Match("sni", _, values):
            return any(_host_fits(pattern, request.sni) for pattern in values)
        case Match("zone", _, values):
            return zone in values
        case Match("header" | "query" | "cookie" as field, argument, values):
            return _named_part(field, argument, request) in values
        case Match(field, _, values):
            return str(getattr(request, field)) in values


def _named_part(field: str, argument: str, request: Request) -> str | None:
    return {"header": header, "query": query, "cookie": cookie}[field](request, argument)


def _bare_host(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1].lower() or host.lower()
    return host.split(":")[0].lower().removesuffix(".")


def _host_fits(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and not host.startswith(("[", "."))
    return host == pattern


def _path_fits(pattern: str, path: str) -> bool:
    if pattern == "/**":
        return True
    path = path.split("?")[0]

    def fits(wanted: list[str], given: list[str]) -> bool:
        if wanted == ["**"]:
            return True
        if not wanted or not given:
            return wanted == given
        return (wanted[0] == given[0] or (wanted[0] == "*" and given[0] != "")) and fits(wanted[1:], given[1:])

    return path.startswith("/") and fits(pattern.split("/")[1:], path.split("/")[1:])
