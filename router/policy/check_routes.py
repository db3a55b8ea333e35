"""What must hold of routes: tiers in order that can all hold something, and no route that another one hides."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from router.policy.check_rules import check_group_name
from router.policy.errors import Findings, did_you_mean, listed
from router.policy.hosts import covering_patterns
from router.policy.paths import PathPattern
from router.policy.span import Span
from router.policy.syntax import (
    PRIMARY,
    AnyLeft,
    Choice,
    Group,
    Named,
    Nearest,
    Policy,
    Region,
    Route,
    Tier,
    Zone,
    tier_name,
)


def check_routes(policy: Policy, regions: Mapping[str, Region], zones: Mapping[str, Zone], findings: Findings) -> None:
    """Check each route by itself, against the declared regions and zones."""
    groups = {group.name: group for group in policy.groups}
    for route in policy.routes:
        check_tiers(f"route {route.name}", route.span, route.tiers, regions, groups, findings)
        for rule in route.rules:
            if rule.tiers:
                check_tiers(f"rule {rule.name}", rule.span, rule.tiers, regions, groups, findings)
        _check_overrides(route, regions, zones, groups, findings)


def _check_overrides(
    route: Route,
    regions: Mapping[str, Region],
    zones: Mapping[str, Zone],
    groups: Mapping[str, Group],
    findings: Findings,
) -> None:
    seen: dict[str, Span] = {}
    for override in route.overrides:
        if override.zone not in zones:
            findings.add(
                "E303",
                override.span,
                f"there is no zone {override.zone}",
                partial(listed, "a declared zone", zones),
                partial(did_you_mean, override.zone, zones),
            )
        if override.zone in seen:
            findings.add(
                "E308",
                override.span,
                f"route {route.name} has tiers for zone {override.zone} on line {seen[override.zone].line} already",
                "each zone once in a route",
                "put them into one block",
            )
        seen.setdefault(override.zone, override.span)
        what = f"zone {override.zone} of route {route.name}"
        check_tiers(what, override.span, override.tiers, regions, groups, findings)


def check_tiers(
    what: str,
    span: Span,
    tiers: tuple[Tier, ...],
    regions: Mapping[str, Region],
    groups: Mapping[str, Group],
    findings: Findings,
) -> None:
    found = findings.count
    names = [tier.name for tier in tiers]
    if PRIMARY not in names:
        findings.add(
            "E206", span, f"{what} has no primary tier", "a primary tier, first", "add a line: primary nearest"
        )
    for place, tier in enumerate(tiers):
        wanted = tier_name(place + 1)
        if tier.span in findings.damaged:
            break
        if tier.name == wanted or (PRIMARY not in names and tier.name not in names[:place]):
            continue
        again = tier.name in names[:place]
        findings.add(
            "E205",
            tier.span,
            f"{what} has {'a second' if again else 'its'} {tier.name} tier {'here' if again else 'in the wrong place'}",
            "primary, then secondary, then tertiary, each at most once",
            f"name it {wanted}" if wanted not in names else "put the tiers in order and delete what is too much",
        )
        break
    _check_names(tiers, regions, findings)
    for tier in tiers:
        if isinstance(tier.choice, Nearest | AnyLeft) and tier.choice.group is not None:
            check_group_name(tier.choice.group, tier.choice.group_span, groups, findings)
    if findings.count == found:
        _check_inert(what, tiers, regions, groups, findings)


def _check_names(tiers: tuple[Tier, ...], regions: Mapping[str, Region], findings: Findings) -> None:
    taken: dict[str, str] = {}
    for tier in tiers:
        for region in tier.choice.regions if isinstance(tier.choice, Named) else ():
            if region.name not in regions:
                findings.add(
                    "E302",
                    region.span,
                    f"there is no region {region.name}",
                    partial(listed, "a declared region", regions),
                    partial(_near_region, region.name, regions),
                )
            if region.name in taken:
                findings.add(
                    "E305",
                    region.span,
                    f"region {region.name} is in the {taken[region.name]} tier already",
                    "each region in one tier",
                    "delete it here",
                )
            taken.setdefault(region.name, tier.name)
        if isinstance(tier.choice, Named) and len({region.weight is None for region in tier.choice.regions}) > 1:
            findings.add(
                "E213",
                tier.span,
                f"some regions of the {tier.name} tier have weights and some have none",
                "weights for all regions of a tier, or for none",
                "give each a weight",
            )


def _near_region(name: str, regions: Mapping[str, Region]) -> str:
    return did_you_mean(name, [*regions, "nearest", "any"])


def _check_inert(
    what: str,
    tiers: tuple[Tier, ...],
    regions: Mapping[str, Region],
    groups: Mapping[str, Group],
    findings: Findings,
) -> None:
    """A tier is inert when the tiers before it are certain to have taken every region that it may hold."""
    taken: set[str] = set()  # certainly in earlier tiers, whatever the distances are
    at_least = 0  # so many regions are
    by_name_only = True
    for tier in tiers:
        choice = tier.choice
        members = _members(choice, regions, groups)
        if regions and (members <= taken or at_least >= len(regions)):
            whose = f"all {len(regions)}" if at_least >= len(regions) else "all that it may hold"
            findings.add(
                "E309",
                tier.span,
                f"the {tier.name} tier of {what} can never hold a region: the tiers before it take {whose}",
                "a tier that something is left for",
                "delete it, take fewer in the tiers before it, or declare more regions",
            )
            return
        match choice:
            case Named(named):
                # Names that an earlier `nearest` may have taken already are not counted.
                at_least += len(named) if by_name_only else 0
                taken |= members
            case Nearest(count, group):
                at_least += count if group is None else 0
                if count >= len(members - taken):
                    taken |= members
                by_name_only = False
            case AnyLeft(group):
                taken |= members
                by_name_only = by_name_only and group is None
                at_least = len(regions) if group is None else at_least
        at_least = max(at_least, len(taken))


def _members(choice: Choice, regions: Mapping[str, Region], groups: Mapping[str, Group]) -> set[str]:
    if isinstance(choice, Named):
        return {region.name for region in choice.regions}
    return set(regions) if choice.group is None else {region.name for region in groups[choice.group].regions}


def check_reachable(policy: Policy, findings: Findings) -> None:
    """A route is unreachable when earlier routes take every host of it, on every path of it."""
    exact: dict[tuple[str, str], Route] = {}
    wide: dict[str, list[tuple[PathPattern, Route]]] = {}
    for route in policy.routes:
        path = PathPattern.compiled(route.path)
        takers: list[Route] = []
        for host in route.hosts:
            if (taker := _taker(host, route.path, path, exact, wide)) is None:
                break  # it is reached, and the other hosts need not be looked at
            takers.append(taker)
        named = {taker.name: f"{taker.name} (line {taker.span.line})" for taker in takers}
        if 0 < len(takers) == len(route.hosts) and route.span not in findings.damaged:
            findings.add(
                "E310",
                route.span,
                f"route {route.name} is never reached: its requests go to {', '.join(list(named.values())[:3])}",
                "routes from the particular to the general: the first that matches wins",
                f"move it above {next(iter(named))}",
            )
        for host in route.hosts if route.span not in findings.damaged else ():
            exact.setdefault((host, route.path), route)
            if path.open_end or path.literal is None:
                wide.setdefault(host, []).append((path, route))


def _taker(
    host: str,
    written: str,
    path: PathPattern,
    exact: Mapping[tuple[str, str], Route],
    wide: Mapping[str, list[tuple[PathPattern, Route]]],
) -> Route | None:
    """The earlier route that takes every request for `host` on `path`, if one does."""
    for wider in covering_patterns(host):
        if taker := exact.get((wider, written)):
            return taker
        for held, taker in wide.get(wider, ()):
            if held.covers(path):
                return taker
    return None
