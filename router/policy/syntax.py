"""A policy, parsed: frozen nodes that say what was written and where.

Two policies are equal when they say the same; where it is written (spans, the text's blocks) is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from lattice.types import MILLISECOND, SECOND, Level
from router.policy.conditions import Condition
from router.policy.probe import USUAL_PROBE, Probe
from router.policy.scenarios import Scenario
from router.policy.settings import NO_SETTINGS, Damp, Settings, Share
from router.policy.span import NOWHERE, Span
from router.policy.windows import Window

PRIMARY, SECONDARY, TERTIARY = TIERS = ("primary", "secondary", "tertiary")
HEALTH_DEFAULT = "default"
"""The health block that grades every region which names no other."""
ZONE_NOWHERE = ""
"""The zone of clients that no declared zone holds."""

Network: TypeAlias = IPv4Network | IPv6Network


def tier_name(number: int) -> str:
    """What the tier of this number (from 1) is called."""
    return TIERS[number - 1] if number <= len(TIERS) else f"tier {number}"


def tier_number(name: str) -> int:
    return TIERS.index(name) + 1 if name in TIERS else int(name.removeprefix("tier "))


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """Where a region listens: a numeric IPv4 or IPv6 address in canonical form, and a port.

    `tls` is the name its certificate must be for; None means plain text.
    """

    host: str
    port: int
    tls: str | None = None
    weight: int = 1
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Region:
    """A place requests are sent to. Coordinates are in millionths of a degree."""

    name: str
    latitude_e6: int
    longitude_e6: int
    endpoints: tuple[UpstreamEndpoint, ...]
    health: str = HEALTH_DEFAULT
    capacity_rps: int | None = None
    """Requests a second that it is built for."""
    avoid: tuple[Window, ...] = ()
    """While one of these is open, the region serves nobody."""
    drain_us: int | None = None
    """How long the region lets sessions end once it is left."""
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
    countries: tuple[str, ...] = ()
    """ISO 3166-1 codes of two letters."""
    continents: tuple[str, ...] = ()
    asns: tuple[int, ...] = ()
    demand_rps: int | None = None
    """Requests a second that its users are expected to make: what proofs of capacity count with."""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """Regions under one name."""

    name: str
    regions: tuple[RegionName, ...]
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Health:
    """How a region's endpoints are probed and graded. What a block leaves out is as here.

    Three failures in a row is HAProxy's `fall 3`; its `inter 2s` would make that six seconds, so the interval is
    shorter here: three probes that fail condemn an endpoint in under a second.
    """

    name: str = HEALTH_DEFAULT
    probe: Probe = USUAL_PROBE
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
    latency_us_back: int | None = None
    """What is DEGRADED for its latency stays so until it is under this; 80 % of the threshold when None."""
    errors_ppm_back: int | None = None
    """The same for errors."""
    errors_over_us: int = 10 * SECOND
    errors_samples_min: int = 10
    saturation_ppm_max: int = 950_000
    """A region that says it is fuller than this is DEGRADED."""
    saturation_ppm_back: int | None = None
    oldest_us_max: int | None = None
    """With a request unanswered for longer than this, an endpoint is DEGRADED; None does not look."""
    oldest_us_back: int | None = None
    cooldown_us: int = 0
    """After it became worse, a level stays for so long at least."""
    probation_us: int = 360 * SECOND
    """A region that users had to leave must be better for as long as it was away and half as long again, this at most,
    before they return; 0 asks for nothing. Six minutes, because what comes and goes every five is a flap, and is told
    from an outage with some margin."""
    damp: Damp | None = None
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class RegionName:
    name: str
    weight: int | None = None
    """Its share of the tier's users, relative to the others'; None when the tier has no weights."""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """These regions, in this order."""

    regions: tuple[RegionName, ...]


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest `count` that no earlier tier took, of a group or of all."""

    count: int = 1
    group: str | None = None
    to_client: bool = False
    """Near to where the client itself is, as far as that is known."""
    group_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class AnyLeft:
    """All that no earlier tier took, nearest first, of a group or of all."""

    group: str | None = None
    to_client: bool = False
    group_span: Span = field(default=NOWHERE, compare=False)


Choice: TypeAlias = Named | Nearest | AnyLeft


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    choice: Choice
    span: Span = field(default=NOWHERE, compare=False)


def is_to_client(tier: Tier) -> bool:
    """Whether it depends on where the client itself is."""
    return not isinstance(tier.choice, Named) and tier.choice.to_client


@dataclass(frozen=True, slots=True)
class Deny:
    """When nothing is left, answer with this HTTP status; `reason` says why, in printable ASCII."""

    status: int = 503
    reason: str = ""


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
class Rule:
    """What some of a route's requests get in place of its own tiers: those that pass all of its tests.

    A rule either refuses or has tiers. One with windows holds while one of them is open.
    """

    name: str
    condition: Condition | None = None
    windows: tuple[Window, ...] = ()
    share: Share | None = None
    refuse: Deny | None = None
    tiers: tuple[Tier, ...] = ()
    otherwise: Otherwise | None = None
    settings: Settings = NO_SETTINGS
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Never:
    """Requests that pass `condition` (all, when None) are never served by a region outside a group, or by these."""

    name: str
    condition: Condition | None
    outside: str | None
    """A group; else `regions` are meant."""
    regions: tuple[RegionName, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    group_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Route:
    """What requests a route is for (lower-case host patterns, a path pattern), and where they may go."""

    name: str
    hosts: tuple[str, ...]
    path: str
    tiers: tuple[Tier, ...]
    overrides: tuple[Override, ...] = ()
    otherwise: Otherwise = Deny()
    rules: tuple[Rule, ...] = ()
    """The first whose tests the request passes decides; without one, the overrides and tiers do."""
    settings: Settings = NO_SETTINGS
    span: Span = field(default=NOWHERE, compare=False)

    def tiers_for(self, zone: str) -> tuple[Tier, ...]:
        """Its own tiers, as clients of a zone get them."""
        return next((override.tiers for override in self.overrides if override.zone == zone), self.tiers)


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy. Statements of one kind keep the order they were written in."""

    edition: int
    regions: tuple[Region, ...]
    zones: tuple[Zone, ...]
    health: tuple[Health, ...]
    routes: tuple[Route, ...]
    groups: tuple[Group, ...] = ()
    nevers: tuple[Never, ...] = ()
    tests: tuple[Scenario, ...] = ()
    blocks: tuple[str, ...] = field(default=(), compare=False)
    """The text in pieces, one a top-level statement: joined without a separator they are the text."""
    file: str = field(default="policy", compare=False)

    def health_of(self, region: Region) -> Health:
        """The rules a region is graded by; those of `Health` itself when the policy has no default block."""
        return next((health for health in self.health if health.name == region.health), Health())
