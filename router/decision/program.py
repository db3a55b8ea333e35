"""A policy, checked and indexed: everything about a decision that neither health, place nor time can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from router.decision.nearby import Nearby
from router.decision.predicates import Chooser
from router.decision.request import NO_NEEDS, Needs, Request
from router.decision.spells import Spell
from router.policy.check import check
from router.policy.conditions import tests_of
from router.policy.errors import Findings
from router.policy.hosts import HostIndex
from router.policy.paths import PathPattern
from router.policy.settings import Settings
from router.policy.syntax import ZONE_NOWHERE, Health, Policy, Region, Route, Tier, Zone, is_to_client
from router.policy.windows import Window
from router.policy.zones import ZoneIndex


@dataclass(frozen=True, slots=True)
class GeoZones:
    """Zones of clients that no address block holds: by ASN, else by country, else by continent."""

    asns: Mapping[int, str]
    countries: Mapping[str, str]
    continents: Mapping[str, str]

    def zone_of(self, request: Request) -> str:
        return (
            self.asns.get(request.asn)
            or self.countries.get(request.country)
            or self.continents.get(request.continent)
            or ZONE_NOWHERE
        )


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What `compile_policy` makes of a policy. Two programs are equal only if they are the same object."""

    policy: Policy
    regions: Mapping[str, Region]
    """By name, sorted."""
    health: Mapping[str, Health]
    """By region, sorted: the rules each region's endpoints are probed and graded by."""
    groups: Mapping[str, frozenset[str]]
    """Names of regions by group."""
    routes: tuple[Route, ...]
    """In the order written: the first that matches wins."""
    paths: tuple[PathPattern | None, ...]
    """A pattern for each route; None for one that takes every path."""
    hosts: HostIndex
    zones: Mapping[str, Zone | None]
    """By name, sorted; the first is "", the clients that no zone holds."""
    addresses: ZoneIndex
    geo: GeoZones | None
    """None when every zone is made of address blocks alone."""
    needs: Needs
    """What of a request some decision depends on."""
    nearby: Nearby
    spills: bool
    """Whether some decision depends on how full regions are."""
    spells: dict[Window, Spell] = field(default_factory=dict, repr=False)
    """What `plan` remembers of time windows."""
    choosers: dict[tuple[int, tuple[int, ...]], Chooser] = field(default_factory=dict, repr=False)
    """And of the rules that held: by route and by the numbers of these rules."""


def compile_policy(policy: Policy) -> Program:
    """Check and index a policy, parsed or made by a program. Raises `PolicyError` with everything that is wrong."""
    findings = Findings(policy.file)
    check(policy, findings)
    findings.raise_if_any()
    regions = sorted(policy.regions, key=lambda region: region.name)
    zones: dict[str, Zone | None] = {ZONE_NOWHERE: None}
    zones |= {zone.name: zone for zone in sorted(policy.zones, key=lambda zone: zone.name)}
    patterns = [PathPattern.compiled(route.path) for route in policy.routes]
    geo = GeoZones(
        asns={asn: zone.name for zone in policy.zones for asn in zone.asns},
        countries={country: zone.name for zone in policy.zones for country in zone.countries},
        continents={continent: zone.name for zone in policy.zones for continent in zone.continents},
    )
    return Program(
        policy=policy,
        regions=MappingProxyType({region.name: region for region in regions}),
        health=MappingProxyType({region.name: policy.health_of(region) for region in regions}),
        groups=MappingProxyType(
            {group.name: frozenset(region.name for region in group.regions) for group in policy.groups}
        ),
        routes=policy.routes,
        paths=tuple(None if pattern.everything else pattern for pattern in patterns),
        hosts=HostIndex.of(route.hosts for route in policy.routes),
        zones=MappingProxyType(zones),
        addresses=ZoneIndex.of(policy.zones),
        geo=geo if geo.asns or geo.countries or geo.continents else None,
        needs=_needs(policy, geo),
        nearby=Nearby({region.name: region for region in regions}),
        spills=any(settings.spill for route in policy.routes for settings in _settings(route)),
    )


def _settings(route: Route) -> list[Settings]:
    return [route.settings, *(rule.settings for rule in route.rules)]


def _tiers(route: Route) -> list[Tier]:
    parts = [route.tiers, *(each.tiers for each in route.overrides), *(rule.tiers for rule in route.rules)]
    return [tier for tiers in parts for tier in tiers]


def _needs(policy: Policy, geo: GeoZones) -> Needs:
    fields: set[tuple[str, str]] = set()
    for route in policy.routes:
        fields |= {(test.field, test.argument) for rule in route.rules for test in tests_of(rule.condition)}
        keys = [key for settings in _settings(route) if settings.stick for key in settings.stick.keys]
        keys += [rule.share.by for rule in route.rules if rule.share]
        fields |= {(key.kind, key.name) for key in keys}
    kinds = {kind for kind, _ in fields}
    headers = {name.encode("ascii") for kind, name in fields if kind == "header"}
    headers |= {name for kind, name in _CARRIED_IN.items() if kind in kinds}
    needs = Needs(
        headers=frozenset(headers),
        query="query" in kinds,
        upgrade="upgrade" in kinds,
        port="port" in kinds,
        place=bool(geo.asns or geo.countries or geo.continents)
        or bool(kinds & {"asn", "country", "continent"})
        or any(is_to_client(tier) for route in policy.routes for tier in _tiers(route)),
        sni="sni" in kinds,
    )
    return NO_NEEDS if needs == NO_NEEDS else needs


_CARRIED_IN = {"cookie": b"cookie", "jwt": b"authorization"}
