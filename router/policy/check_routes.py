"""What must hold of routes: tiers in order that can all hold something, and no route that another one hides."""

from __future__ import annotations

from collections.abc import Mapping

from router.policy.errors import Findings, did_you_mean, listed
from router.policy.hosts import covering_patterns
from router.policy.paths import PathPattern
from router.policy.syntax import PRIMARY, TIERS, AnyLeft, Named, Nearest, Policy, Region, Route, Span, Tier, Zone


def check_routes(policy: Policy, regions: Mapping[str, Region], zones: Mapping[str, Zone], findings: Findings) -> None:
    """Check each route by itself, against the declared regions and zones."""
    for route in policy.routes:
        _check_tiers(f"route {route.name}", route.span, route.tiers, regions, findings)
        _check_overrides(route, regions, zones, findings)


def _check_overrides(
    route: Route, regions: Mapping[str, Region], zones: Mapping[str, Zone], findings: Findings
) -> None:
    seen: dict[str, Span] = {}
    for override in route.overrides:
        if override.zone not in zones:
            findings.add(
                "E303",
                override.span,
                f"there is no zone {override.zone}",
                listed("a declared zone", zones),
                did_you_mean(override.zone, zones),
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
        _check_tiers(what, override.span, override.tiers, regions, findings)


def _check_tiers(
    what: str, span: Span, tiers: tuple[Tier, ...], regions: Mapping[str, Region], findings: Findings
) -> None:
    found = len(findings.diagnostics)
    names = [tier.name for tier in tiers]
    if PRIMARY not in names:
        findings.add(
            "E206", span, f"{what} has no primary tier", "a primary tier, first", "add a line: primary nearest"
        )
    for place, tier in enumerate(tiers):
        wanted = TIERS[place] if place < len(TIERS) else None
        if tier.name == wanted or (PRIMARY not in names and tier.name not in names[:place]):
            continue
        again = tier.name in names[:place]
        findings.add(
            "E205",
            tier.span,
            f"{what} has {'a second' if again else 'its'} {tier.name} tier {'here' if again else 'in the wrong place'}",
            "primary, then secondary, then tertiary, each at most once",
            f"name it {wanted}"
            if wanted and wanted not in names
            else "put the tiers in order and delete what is too much",
        )
        break
    _check_names(tiers, regions, findings)
    if len(findings.diagnostics) == found:
        _check_inert(what, tiers, len(regions), findings)


def _check_names(tiers: tuple[Tier, ...], regions: Mapping[str, Region], findings: Findings) -> None:
    taken: dict[str, str] = {}
    for tier in tiers:
        for region in tier.choice.regions if isinstance(tier.choice, Named) else ():
            if region.name not in regions:
                findings.add(
                    "E302",
                    region.span,
                    f"there is no region {region.name}",
                    listed("a declared region", regions),
                    did_you_mean(region.name, [*regions, "nearest", "any"]),
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


def _check_inert(what: str, tiers: tuple[Tier, ...], region_count: int, findings: Findings) -> None:
    """A tier is inert when the tiers before it are certain to have taken every region."""
    taken = 0  # at least so many regions are in earlier tiers, whatever the distances are
    by_name_only = True
    for tier in tiers:
        if taken >= region_count > 0:
            findings.add(
                "E309",
                tier.span,
                f"the {tier.name} tier of {what} can never hold a region: the tiers before it take all {region_count}",
                "a tier that something is left for",
                "delete it, take fewer in the tiers before it, or declare more regions",
            )
            return
        match tier.choice:
            case Named(named):
                # Names that an earlier `nearest` may have taken already are not counted.
                taken += len(named) if by_name_only else 0
            case Nearest(count):
                by_name_only = False
                taken += count
            case AnyLeft():
                taken = region_count


def check_reachable(policy: Policy, findings: Findings) -> None:
    """A route is unreachable when earlier routes take every host of it, on every path of it."""
    exact: dict[tuple[str, str], Route] = {}
    wide: dict[str, list[tuple[PathPattern, Route]]] = {}
    for route in policy.routes:
        path = PathPattern.compiled(route.path)
        takers = [_taker(host, route.path, path, exact, wide) for host in route.hosts]
        named = {taker.name: f"{taker.name} (line {taker.span.line})" for taker in takers if taker}
        if takers and all(takers) and route.span not in findings.damaged:
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
