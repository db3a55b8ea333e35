"""A policy, parsed: frozen nodes that say what was written and where.

Two policies are equal when they say the same; where it is written (spans, the text's blocks) is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from lattice.types import MILLISECOND, SECOND, Level

PRIMARY, SECONDARY, TERTIARY = TIERS = ("primary", "secondary", "tertiary")
HEALTH_DEFAULT = "default"
"""The health block that grades every region which names no other."""
ZONE_NOWHERE = ""
"""The zone of clients that no declared zone holds."""

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Span:
    """A place in the text: line and column count from 1, width in characters. A span never crosses lines."""

    line: int
    column: int
    width: int


NOWHERE = Span(1, 1, 1)
"""The span of what was never written: a default, or a policy made by a program."""


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """Where a region listens: a numeric IPv4 or IPv6 address in canonical form, and a port."""

    host: str
    port: int
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Region:
    """A place requests are sent to. Coordinates are in millionths of a degree."""

    name: str
    latitude_e6: int
    longitude_e6: int
    endpoints: tuple[UpstreamEndpoint, ...]
    health: str = HEALTH_DEFAULT
    span: Span = field(default=NOWHERE, compare=False)
    health_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Cidr:
    """A block of client addresses."""

    network: Network
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Zone:
    """A group of clients, and optionally where they are (both coordinates or neither)."""

    name: str
    cidrs: tuple[Cidr, ...]
    latitude_e6: int | None = None
    longitude_e6: int | None = None
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Health:
    """How a region's endpoints are probed and graded. What a block leaves out is as here.

    Three failures in a row is HAProxy's `fall 3`; its `inter 2s` would make that six seconds, so the interval is
    shorter here: three probes that fail condemn an endpoint in under a second.
    """

    name: str = HEALTH_DEFAULT
    probe_path: str = "/healthz"
    probe_interval_us: int = 250 * MILLISECOND
    probe_timeout_us: int = 200 * MILLISECOND
    latency_us_max: int = 400 * MILLISECOND
    """A smoothed latency above this is DEGRADED."""
    errors_ppm_max: int = 200_000
    """An error share above this (millionths, over the last window) is FAILING."""
    fail_after: int = 3
    """So many failures in a row are DOWN."""
    recover_after_us: int = 2 * SECOND
    """An endpoint that was worse than HEALTHY must be clean for so long before it is better again."""
    unknown_as: Level = Level.HEALTHY
    """What UNKNOWN means to a decision: HEALTHY or DOWN."""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class RegionName:
    name: str
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """These regions, in this order."""

    regions: tuple[RegionName, ...]


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest `count` that no earlier tier took."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class AnyLeft:
    """All that no earlier tier took, nearest first."""


Choice: TypeAlias = Named | Nearest | AnyLeft


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    choice: Choice
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """When nothing is left, answer with this HTTP status."""

    status: int = 503


@dataclass(frozen=True, slots=True)
class ServePrimary:
    """When nothing is left, fail open: use the primary tier as if it were well."""


Otherwise: TypeAlias = Deny | ServePrimary


@dataclass(frozen=True, slots=True)
class Override:
    """The tiers that clients of one zone get in place of the route's own. Without `otherwise`, the route's holds."""

    zone: str
    tiers: tuple[Tier, ...]
    otherwise: Otherwise | None = None
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Route:
    """What requests a route is for (lower-case host patterns, a path pattern), and where they may go."""

    name: str
    hosts: tuple[str, ...]
    path: str
    tiers: tuple[Tier, ...]
    overrides: tuple[Override, ...] = ()
    otherwise: Otherwise = Deny()
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy. Regions, zones, health blocks and routes keep the order they were written in."""

    edition: int
    regions: tuple[Region, ...]
    zones: tuple[Zone, ...]
    health: tuple[Health, ...]
    routes: tuple[Route, ...]
    blocks: tuple[str, ...] = field(default=(), compare=False)
    """The text in pieces, one a top-level statement: joined without a separator they are the text."""
    file: str = field(default="policy", compare=False)

    def health_of(self, region: Region) -> Health:
        """The rules a region is graded by; those of `Health` itself when the policy has no default block."""
        return next((health for health in self.health if health.name == region.health), Health())
