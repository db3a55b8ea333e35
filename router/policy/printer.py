"""The canonical text of a policy: `parse(print_policy(p)) == p`, whatever `p`'s own text looked like."""

from __future__ import annotations

from collections.abc import Iterable

from lattice.types import Level
from router.policy.syntax import (
    HEALTH_DEFAULT,
    AnyLeft,
    Choice,
    Deny,
    Health,
    Named,
    Nearest,
    Otherwise,
    Policy,
    Region,
    Route,
    Tier,
    UpstreamEndpoint,
    Zone,
)
from router.policy.values import write_duration


def print_policy(policy: Policy) -> str:
    """Every statement written out in full, defaults included, kinds in the order of the language's description."""
    statements = [f"edition {policy.edition}\n"]
    statements += [_block(f"region {region.name}", _region(region)) for region in policy.regions]
    statements += [_block(f"zone {zone.name}", _zone(zone)) for zone in policy.zones]
    statements += [_block(f"health {health.name}", _health(health)) for health in policy.health]
    statements += [_block(_route_head(route), _route(route)) for route in policy.routes]
    return "\n".join(statements)


def _block(head: str, lines: Iterable[str]) -> str:
    return "".join([f"{head} {{\n", *(f"  {line}\n" for line in lines), "}\n"])


def _region(region: Region) -> list[str]:
    lines = [f"at {_degrees(region.latitude_e6)} {_degrees(region.longitude_e6)}"]
    lines += [f"endpoint {_endpoint(endpoint)}" for endpoint in region.endpoints]
    if region.health != HEALTH_DEFAULT:
        lines.append(f"health {region.health}")
    return lines


def _zone(zone: Zone) -> list[str]:
    lines = [str(cidr.network) for cidr in zone.cidrs]
    if zone.latitude_e6 is not None and zone.longitude_e6 is not None:
        lines.insert(0, f"at {_degrees(zone.latitude_e6)} {_degrees(zone.longitude_e6)}")
    return lines


def _health(health: Health) -> list[str]:
    every, timeout = write_duration(health.probe_interval_us), write_duration(health.probe_timeout_us)
    return [
        f'probe "{health.probe_path}" every {every} timeout {timeout}',
        f"latency above {write_duration(health.latency_us_max)}",
        f"errors above {_decimal(health.errors_ppm_max, 4)}%",
        f"fail after {health.fail_after}",
        f"recover after {write_duration(health.recover_after_us)}",
        f"unknown as {'down' if health.unknown_as is Level.DOWN else 'healthy'}",
    ]


def _route_head(route: Route) -> str:
    hosts = " ".join(f'"{host}"' for host in route.hosts)
    return f'route {route.name} for {hosts} path "{route.path}"'


def _route(route: Route) -> list[str]:
    lines = []
    for override in route.overrides:
        inner = [_tier(tier) for tier in override.tiers]
        inner += [_otherwise(override.otherwise)] if override.otherwise else []
        lines.append(f"zone {override.zone} {{ {'  '.join(inner)} }}")
    return [*lines, *map(_tier, route.tiers), _otherwise(route.otherwise)]


def _tier(tier: Tier) -> str:
    return f"{tier.name} {_choice(tier.choice)}"


def _choice(choice: Choice) -> str:
    match choice:
        case Named(regions):
            return ", ".join(region.name for region in regions)
        case Nearest(count):
            return "nearest" if count == 1 else f"nearest {count}"
        case AnyLeft():
            return "any"


def _otherwise(otherwise: Otherwise) -> str:
    return f"otherwise deny {otherwise.status}" if isinstance(otherwise, Deny) else "otherwise serve primary"


def _endpoint(endpoint: UpstreamEndpoint) -> str:
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


def _degrees(e6: int) -> str:
    return f"{'-' if e6 < 0 else ''}{_decimal(abs(e6), 6)}"


def _decimal(scaled: int, digits: int) -> str:
    whole, fraction = divmod(scaled, 10**digits)
    return f"{whole}.{fraction:0{digits}d}".rstrip("0").rstrip(".")
