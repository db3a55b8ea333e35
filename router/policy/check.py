"""What must hold of a policy as a whole: names mean something, nothing is twice, every line can take effect.

The last matters most. A tier that can never hold a region, a route behind a catch-all, a health block nobody uses: each
is a fail-over its author believes in and does not have. All are errors here, and all are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeVar

from router.policy.check_routes import check_reachable, check_routes
from router.policy.check_rules import check_bands, check_rules
from router.policy.errors import Findings, did_you_mean, listed
from router.policy.scenarios import Scenario
from router.policy.span import NOWHERE
from router.policy.syntax import (
    HEALTH_DEFAULT,
    Group,
    Health,
    Never,
    Policy,
    Region,
    Route,
    Zone,
)
from router.policy.values import write_duration

REGIONS_MAX = 256
"""As many as a node's health row can report on."""
ENDPOINTS_MAX = 64
"""Endpoints of one region."""
ROUTES_MAX = 1_000
HOSTS_MAX = 4_000
"""Host patterns of all routes together. Both keep the index of routes by host, and the check for unreachable routes,
within two seconds and some megabytes whatever the text; what exceeds them is not checked so far."""

Declared = TypeVar("Declared", Region, Zone, Health, Route, Group, Never, Scenario)


def check(policy: Policy, findings: Findings) -> None:
    """Report everything that is wrong with a policy as a whole; it may come from text or from a program."""
    regions = _declare("region", policy.regions, findings)
    zones = _declare("zone", policy.zones, findings)
    health = _declare("health", policy.health, findings)
    _declare("route", policy.routes, findings)
    _declare("group", policy.groups, findings)
    _declare("never", policy.nevers, findings)
    _declare("test", policy.tests, findings)
    _check_size(policy, findings)
    _check_regions(policy, health, findings)
    _check_zones(policy, findings)
    _check_health(policy, findings)
    check_routes(policy, regions, zones, findings)
    check_rules(policy, regions, zones, findings)
    if len(policy.routes) <= ROUTES_MAX and _hosts(policy) <= HOSTS_MAX:
        check_reachable(policy, findings)


def _declare(kind: str, statements: Iterable[Declared], findings: Findings) -> dict[str, Declared]:
    declared: dict[str, Declared] = {}
    for statement in statements:
        first = declared.setdefault(statement.name, statement)
        if first is not statement:
            findings.add(
                "E301",
                statement.span,
                f"{kind} {statement.name} is declared twice; first on line {first.span.line}",
                f"a name of its own for each {kind}",
                "rename one of them, or put both into one block",
            )
    return declared


def _check_size(policy: Policy, findings: Findings) -> None:
    if not policy.regions:
        findings.add(
            "E312",
            NOWHERE,
            "the policy has no region",
            "a region to send requests to",
            "add: region NAME { at ... endpoint ... }",
        )
    if not policy.routes:
        findings.add(
            "E312",
            NOWHERE,
            "the policy has no route",
            "a route that says what goes where",
            'add: route all for "*" { primary nearest }',
        )
    for count, most, what in (
        (len(policy.regions), REGIONS_MAX, "regions"),
        (len(policy.routes), ROUTES_MAX, "routes"),
        (_hosts(policy), HOSTS_MAX, "host patterns"),
    ):
        if count > most:
            findings.add("E001", NOWHERE, f"the policy has {count} {what}", f"at most {most} {what} in a policy")


def _hosts(policy: Policy) -> int:
    return sum(len(route.hosts) for route in policy.routes)


def _check_regions(policy: Policy, health: Mapping[str, Health], findings: Findings) -> None:
    owners: dict[tuple[str, int], str] = {}
    used = {HEALTH_DEFAULT}
    for region in policy.regions:
        used.add(region.health)
        if not region.endpoints and region.span not in findings.damaged:
            findings.add(
                "E203",
                region.span,
                f"region {region.name} has no endpoint",
                "an endpoint at least",
                "add a line: endpoint ADDRESS:PORT",
            )
        if len(region.endpoints) > ENDPOINTS_MAX:
            findings.add(
                "E001",
                region.endpoints[ENDPOINTS_MAX].span,
                f"region {region.name} has {len(region.endpoints)} endpoints",
                f"at most {ENDPOINTS_MAX} endpoints in a region",
            )
        for endpoint in region.endpoints:
            address = (endpoint.host, endpoint.port)
            if address in owners:
                findings.add(
                    "E306",
                    endpoint.span,
                    f"this endpoint belongs to region {owners[address]} already",
                    "each endpoint once: its health counts for one region",
                    "delete it here or there",
                )
            owners.setdefault(address, region.name)
        if region.health not in health and region.health != HEALTH_DEFAULT:
            findings.add(
                "E304",
                region.health_span,
                f"there is no health block {region.health}",
                partial(listed, "a declared health block", health),
                partial(did_you_mean, region.health, health),
            )
    for block in policy.health:
        if block.name not in used and used <= {HEALTH_DEFAULT, *health}:
            findings.add(
                "E311",
                block.span,
                f"no region is graded by health {block.name}",
                f"health blocks that are used; {HEALTH_DEFAULT} grades all regions that name none",
                f"write `health {block.name}` inside a region, or rename the block to {HEALTH_DEFAULT}",
            )


def _check_zones(policy: Policy, findings: Findings) -> None:
    owners: dict[object, str] = {}
    for zone in policy.zones:
        nobody = not (zone.cidrs or zone.countries or zone.continents or zone.asns)
        if nobody and zone.span not in findings.damaged:
            findings.add(
                "E204",
                zone.span,
                f"zone {zone.name} holds no address",
                "an address block, country, continent or asn at least",
                "add a line: 192.0.2.0/24",
            )
        for what, places in (("country", zone.countries), ("continent", zone.continents), ("asn", zone.asns)):
            for place in places:
                owner = owners.setdefault((what, place), zone.name)
                if owner != zone.name:
                    findings.add(
                        "E318",
                        zone.span,
                        f"{what} {place} belongs to zone {owner} already",
                        f"each {what} in one zone",
                        "delete it here or there",
                    )
        for cidr in zone.cidrs:
            if cidr.network in owners:
                findings.add(
                    "E307",
                    cidr.span,
                    f"{cidr.network} belongs to zone {owners[cidr.network]} already",
                    "each address block once; a longer prefix may stand in another zone and wins",
                    "delete it here or there",
                )
            owners.setdefault(cidr.network, zone.name)


def _check_health(policy: Policy, findings: Findings) -> None:
    for health in policy.health:
        if health.span not in findings.damaged:
            check_bands(health, findings)
        if health.probe_timeout_us > health.probe_interval_us and health.span not in findings.damaged:
            findings.add(
                "E207",
                health.span,
                f"health {health.name} waits longer for a probe than until the next one",
                f"a timeout of at most {write_duration(health.probe_interval_us)}",
                "shorten the timeout or probe less often",
            )
