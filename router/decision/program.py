"""A policy, checked and indexed: everything about a decision that neither health nor place can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from router.policy.check import check
from router.policy.errors import Findings
from router.policy.hosts import HostIndex
from router.policy.paths import PathPattern
from router.policy.syntax import ZONE_NOWHERE, Health, Policy, Region, Route, Zone
from router.policy.zones import ZoneIndex


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What `compile_policy` makes of a policy. Two programs are equal only if they are the same object."""

    policy: Policy
    regions: Mapping[str, Region]
    """By name, sorted."""
    health: Mapping[str, Health]
    """By region, sorted: the rules each region's endpoints are probed and graded by."""
    routes: tuple[Route, ...]
    """In the order written: the first that matches wins."""
    paths: tuple[PathPattern | None, ...]
    """A pattern for each route; None for one that takes every path."""
    hosts: HostIndex
    zones: Mapping[str, Zone | None]
    """By name, sorted; the first is "", the clients that no zone holds."""
    addresses: ZoneIndex


def compile_policy(policy: Policy) -> Program:
    """Check and index a policy, parsed or made by a program. Raises `PolicyError` with everything that is wrong."""
    findings = Findings(policy.file)
    check(policy, findings)
    findings.raise_if_any()
    regions = sorted(policy.regions, key=lambda region: region.name)
    zones: dict[str, Zone | None] = {ZONE_NOWHERE: None}
    zones |= {zone.name: zone for zone in sorted(policy.zones, key=lambda zone: zone.name)}
    patterns = [PathPattern.compiled(route.path) for route in policy.routes]
    return Program(
        policy=policy,
        regions=MappingProxyType({region.name: region for region in regions}),
        health=MappingProxyType({region.name: policy.health_of(region) for region in regions}),
        routes=policy.routes,
        paths=tuple(None if pattern.everything else pattern for pattern in patterns),
        hosts=HostIndex.of(route.hosts for route in policy.routes),
        zones=MappingProxyType(zones),
        addresses=ZoneIndex.of(policy.zones),
    )
