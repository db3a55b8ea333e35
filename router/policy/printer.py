"""The canonical text of a policy: `parse(print_policy(p)) == p`, whatever `p`'s own text looked like."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lattice.types import Level
from router.policy.printer_parts import print_condition, print_key, print_settings
from router.policy.probe import USUAL_PROBE, Probe, ProbeKind, StatusRange
from router.policy.scenarios import (
    BOUNDS,
    Action,
    At,
    Expected,
    Fact,
    Given,
    Repeat,
    SetLevel,
    SetSaturation,
    Step,
)
from router.policy.syntax import (
    HEALTH_DEFAULT,
    AnyLeft,
    Choice,
    Deny,
    Health,
    Named,
    Nearest,
    Never,
    Otherwise,
    Policy,
    Region,
    RegionName,
    Route,
    Rule,
    Tier,
    UpstreamEndpoint,
    Zone,
)
from router.policy.values import write_degrees, write_duration, write_percent
from router.policy.windows import write_moment


def print_policy(policy: Policy) -> str:
    """Every statement written out in full, defaults included, kinds in the order of the language's description."""
    statements = [f"edition {policy.edition}\n"]
    statements += [_block(f"region {region.name}", _region(region)) for region in policy.regions]
    statements += [_block(f"group {group.name}", [_regions(group.regions)]) for group in policy.groups]
    statements += [_block(f"zone {zone.name}", _zone(zone)) for zone in policy.zones]
    statements += [_block(f"health {health.name}", _health(health)) for health in policy.health]
    statements += [_block(_route_head(route), _route(route)) for route in policy.routes]
    statements += [_block(f"never {never.name}", _never(never)) for never in policy.nevers]
    statements += [_block(f'test "{test.name}"', _actions(test.actions)) for test in policy.tests]
    return "\n".join(statements)


def _block(head: str, lines: Iterable[str]) -> str:
    return "".join([f"{head} {{\n", *(f"  {line}\n" for line in lines), "}\n"])


def _region(region: Region) -> list[str]:
    lines = [f"at {write_degrees(region.latitude_e6)} {write_degrees(region.longitude_e6)}"]
    lines += [f"endpoint {_endpoint(endpoint)}" for endpoint in region.endpoints]
    if region.health != HEALTH_DEFAULT:
        lines.append(f"health {region.health}")
    if region.capacity_rps is not None:
        lines.append(f"capacity {region.capacity_rps}rps")
    lines += [f'avoid during "{window}"' for window in region.avoid]
    if region.drain_us is not None:
        lines.append(f"drain {write_duration(region.drain_us)}")
    return lines


def _zone(zone: Zone) -> list[str]:
    lines = [str(cidr.network) for cidr in zone.cidrs]
    if zone.latitude_e6 is not None and zone.longitude_e6 is not None:
        lines.insert(0, f"at {write_degrees(zone.latitude_e6)} {write_degrees(zone.longitude_e6)}")
    for keyword, places in (("country", zone.countries), ("continent", zone.continents), ("asn", zone.asns)):
        lines += [f"{keyword} {', '.join(map(str, places))}"] if places else []
    if zone.demand_rps is not None:
        lines.append(f"demand {zone.demand_rps}rps")
    return lines


def _probe(probe: Probe) -> str:
    words = [] if probe.kind is ProbeKind.HTTP else [probe.kind.value]
    if probe.kind is ProbeKind.HTTP or probe.target:
        words.append(f'"{probe.target}"')
    if probe.statuses != USUAL_PROBE.statuses:
        words.append("expect " + ", ".join(map(_statuses, probe.statuses)))
    if probe.containing:
        words.append(f'containing "{probe.containing}"')
    return "".join(f"{word} " for word in words)


def _statuses(statuses: StatusRange) -> str:
    return f"{statuses.first}" if statuses.first == statuses.last else f"{statuses.first}-{statuses.last}"


def _health(health: Health) -> list[str]:
    every, timeout = write_duration(health.probe_interval_us), write_duration(health.probe_timeout_us)
    lines = [
        f"probe {_probe(health.probe)}every {every} timeout {timeout}",
        f"latency above {write_duration(health.latency_us_max)}{_back(health.latency_us_back, write_duration)}",
        f"errors above {write_percent(health.errors_ppm_max)}{_evidence(health)}",
    ]
    usual = Health()
    if (health.saturation_ppm_max, health.saturation_ppm_back) != (usual.saturation_ppm_max, None):
        back = _back(health.saturation_ppm_back, write_percent)
        lines.append(f"saturation above {write_percent(health.saturation_ppm_max)}{back}")
    if health.oldest_us_max is not None:
        lines.append(
            f"oldest above {write_duration(health.oldest_us_max)}{_back(health.oldest_us_back, write_duration)}"
        )
    lines += [f"fail after {health.fail_after}", f"recover after {write_duration(health.recover_after_us)}"]
    if health.cooldown_us:
        lines.append(f"cooldown {write_duration(health.cooldown_us)}")
    if health.probation_us != usual.probation_us:
        lines.append(f"probation {write_duration(health.probation_us)}")
    if damp := health.damp:
        lines.append(
            f"damp penalty {damp.penalty} suppress {damp.suppress} reuse {damp.reuse} "
            f"half-life {write_duration(damp.half_life_us)} max {write_duration(damp.longest_us)}"
        )
    return [*lines, f"unknown as {'down' if health.unknown_as is Level.DOWN else 'healthy'}"]


def _back(value: int | None, write: Callable[[int], str]) -> str:
    return "" if value is None else f" below {write(value)}"


def _evidence(health: Health) -> str:
    usual, text = Health(), _back(health.errors_ppm_back, write_percent)
    if health.errors_over_us != usual.errors_over_us:
        text += f" over {write_duration(health.errors_over_us)}"
    if health.errors_samples_min != usual.errors_samples_min:
        text += f" samples {health.errors_samples_min}"
    return text


def _route_head(route: Route) -> str:
    hosts = " ".join(f'"{host}"' for host in route.hosts)
    return f'route {route.name} for {hosts} path "{route.path}"'


def _route(route: Route) -> list[str]:
    lines = []
    for rule in route.rules:
        lines += [f"rule {rule.name} {{", *(f"  {line}" for line in _rule(rule)), "}"]
    for override in route.overrides:
        inner = [_tier(tier) for tier in override.tiers]
        inner += [_otherwise(override.otherwise)] if override.otherwise else []
        lines.append(f"zone {override.zone} {{ {'  '.join(inner)} }}")
    return [*lines, *map(_tier, route.tiers), *print_settings(route.settings), _otherwise(route.otherwise)]


def _rule(rule: Rule) -> list[str]:
    lines = [f"when {print_condition(rule.condition)}"] if rule.condition else []
    lines += [f'during "{window}"' for window in rule.windows]
    if rule.share:
        lines.append(f"share {write_percent(rule.share.ppm)} by {print_key(rule.share.by)}")
    lines += map(_tier, rule.tiers)
    lines += print_settings(rule.settings)
    if rule.refuse:
        lines.append(_deny(rule.refuse))
    return [*lines, *([_otherwise(rule.otherwise)] if rule.otherwise else [])]


def _tier(tier: Tier) -> str:
    return f"{tier.name} {_choice(tier.choice)}"


def _choice(choice: Choice) -> str:
    match choice:
        case Named(regions):
            return _regions(regions)
        case Nearest(count, group, to_client):
            return f"nearest{f' {count}' if count != 1 else ''}{_from(group, to_client)}"
        case AnyLeft(group, to_client):
            return f"any{_from(group, to_client)}"


def _from(group: str | None, to_client: bool) -> str:
    return f"{f' of {group}' if group else ''}{' to client' if to_client else ''}"


def _regions(regions: Iterable[RegionName]) -> str:
    return ", ".join(r.name if r.weight is None else f"{r.name} weight {r.weight}" for r in regions)


def _otherwise(otherwise: Otherwise) -> str:
    return f"otherwise {_deny(otherwise)}" if isinstance(otherwise, Deny) else "otherwise serve primary"


def _deny(deny: Deny) -> str:
    return f'deny {deny.status} "{deny.reason}"' if deny.reason else f"deny {deny.status}"


def _never(never: Never) -> list[str]:
    lines = [f"when {print_condition(never.condition)}"] if never.condition else []
    return [*lines, f"serves outside {never.outside}" if never.outside else f"serves {_regions(never.regions)}"]


def _actions(actions: Iterable[Action]) -> list[str]:
    lines: list[str] = []
    for action in actions:
        match action:
            case Given(facts):
                lines.append(f"given {' '.join(map(_fact, facts))}")
            case At(now_us):
                lines.append(f'at "{write_moment(now_us)}"')
            case SetLevel(region, level):
                lines.append(f"set {region} {level.name.lower()}")
            case SetSaturation(region, ppm):
                lines.append(f"set {region} saturation {write_percent(ppm)}")
            case Step(by_us):
                lines.append(f"step {write_duration(by_us)}")
            case Repeat(1, claims) if len(claims) > 1 and all(isinstance(claim, Expected) for claim in claims):
                lines.append(f"expect {' '.join(_claim(claim) for claim in claims if isinstance(claim, Expected))}")
            case Repeat(count, inner):
                lines += [f"repeat {count} {{", *(f"  {line}" for line in _actions(inner)), "}"]
            case Expected():
                lines.append(f"expect {_claim(action)}")
    return lines


def _fact(fact: Fact) -> str:
    return f'{fact.name}("{fact.argument}") "{fact.value}"' if fact.argument else f'{fact.name} "{fact.value}"'


def _claim(claim: Expected) -> str:
    if claim.what == "tier":
        return f"tier {str(claim.value).removeprefix('tier ')}"
    if claim.what not in BOUNDS:
        return f"{claim.what} {claim.value}"
    value = str(claim.value) if claim.what == "switches" else write_percent(int(claim.value))
    return f"{claim.what}{f' {claim.region}' if claim.region else ''} <= {value}"


def _endpoint(endpoint: UpstreamEndpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    tls = f' tls "{endpoint.tls}"' if endpoint.tls is not None else ""
    return f"{host}:{endpoint.port}{tls}{f' weight {endpoint.weight}' if endpoint.weight != 1 else ''}"
