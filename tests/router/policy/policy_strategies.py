"""Valid policies and what can happen to them: strategies that the policy, plan and decision tests share."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import assume
from hypothesis import strategies as st

from lattice.types import Endpoint, Level
from router.decision.decide import Request
from router.decision.layout import SitePlace
from router.policy.check import check
from router.policy.errors import Findings
from router.policy.probe import Probe, ProbeKind, StatusRange
from router.policy.syntax import (
    HEALTH_DEFAULT,
    TIERS,
    AnyLeft,
    Choice,
    Cidr,
    Deny,
    Health,
    Named,
    Nearest,
    Otherwise,
    Override,
    Policy,
    Region,
    RegionName,
    Route,
    ServePrimary,
    Tier,
    UpstreamEndpoint,
    Zone,
)

REGIONS = ("ams", "fra", "gru", "iad", "nrt")
ZONES = ("asia", "at", "home", "office")
HOSTS = ("*", "a.example", "b.example", "*.example", "x.b.example", "*.b.example", "192.0.2.9", "[2001:db8::9]")
PATHS = ("/**", "/", "/a", "/a/**", "/a/*", "/*/b", "/a/*/c/**")
# fmt: off
BLOCKS = tuple(map(ip_network, (
    "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.3.0/24", "192.0.2.0/24",
    "192.0.2.128/25", "::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1:1::/64", "2001:db8::1/128",
)))
CLIENTS = (
    "10.1.2.3", "10.1.2.4", "10.1.3.255", "10.200.0.1", "192.0.2.1", "192.0.2.200", "203.0.113.7", "::ffff:10.1.2.3",
    "2001:db8::1", "2001:DB8:1:1::5", "2001:db9::1", "fe80::1%eth0", "010.1.2.3", "not-an-address", "",
)
# fmt: on

latitudes = st.integers(-90_000_000, 90_000_000)
longitudes = st.integers(-180_000_000, 180_000_000)
durations_us = st.integers(10, 3_600_000).map(lambda milliseconds: milliseconds * 1_000)
levels = st.sampled_from(Level)
sites = st.builds(SitePlace, st.just("here"), latitudes, longitudes)
all_levels = st.dictionaries(st.sampled_from(REGIONS), levels)
otherwise = st.one_of(st.builds(Deny, st.integers(400, 599)), st.just(ServePrimary()))
requests = st.builds(
    Request,
    client=st.one_of(st.sampled_from(CLIENTS), st.text(max_size=20)),
    host=st.one_of(
        st.sampled_from((*HOSTS, "A.Example:80", "b.example.", "y.x.b.example", "[2001:DB8::9]:80", "[", "", ".")),
        st.text(max_size=20),
    ),
    path=st.one_of(st.sampled_from(("/", "/a", "/a/", "/a/b", "/z/b", "/a/b/c", "/a/b/c/d?q=/", "*", "")), st.text()),
)


statuses = st.tuples(st.integers(200, 599), st.integers(200, 599)).map(lambda ends: StatusRange(min(ends), max(ends)))
probes = st.one_of(
    st.builds(
        Probe,
        st.just(ProbeKind.HTTP),
        st.sampled_from(("/healthz", "/", "/a?b=c")),
        st.lists(statuses, min_size=1, max_size=3).map(tuple),
        st.text("abc {}#", max_size=5),
    ),
    st.just(Probe(ProbeKind.TCP, "")),
    st.builds(Probe, st.just(ProbeKind.GRPC), st.sampled_from(("", "shop.v1.Cart"))),
)


@st.composite
def healths(draw: st.DrawFn, name: str) -> Health:
    interval_us = draw(durations_us)
    return Health(
        name,
        draw(probes),
        interval_us,
        min(interval_us, draw(durations_us)),
        draw(durations_us),
        draw(st.integers(1, 1_000_000)),
        draw(st.integers(1, 100)),
        draw(durations_us),
        draw(st.sampled_from((Level.HEALTHY, Level.DOWN))),
        cooldown_us=draw(st.just(0) | durations_us),
        probation_us=draw(st.just(0) | durations_us),
    )


@st.composite
def tier_lists(draw: st.DrawFn, regions: tuple[str, ...]) -> tuple[Tier, ...]:
    """Tiers that can all hold something."""
    left = list(regions)
    named_only = True
    tiers = []
    for name in TIERS[: draw(st.integers(1, 3))]:
        if not left:
            break
        kind = draw(st.sampled_from(("named", "nearest", "any") if named_only else ("nearest", "any")))
        choice: Choice = AnyLeft()
        if kind == "named":
            names = draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
            choice, left = Named(tuple(map(RegionName, names))), [region for region in left if region not in names]
        elif kind == "nearest":
            count = draw(st.integers(1, len(left)))
            choice, left, named_only = Nearest(count, to_client=draw(st.booleans())), left[count:], False
        else:
            choice, left = AnyLeft(to_client=draw(st.booleans())), []
        tiers.append(Tier(name, choice))
    return tuple(tiers)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Policies that check finds nothing wrong with."""
    names = tuple(draw(st.lists(st.sampled_from(REGIONS), min_size=1, unique=True)))
    health_names = draw(st.sampled_from(((), (HEALTH_DEFAULT,), ("far",), (HEALTH_DEFAULT, "far"))))
    regions: list[Region] = []
    for name in names:
        hosts = draw(st.lists(st.sampled_from(("192.0.2", "2001:db8:")), min_size=1, max_size=4))
        endpoints = tuple(
            UpstreamEndpoint(
                f"{host}.{len(regions) + 1}" if "." in host else f"{host}:{len(regions) + 1}", 8000 + place
            )
            for place, host in enumerate(hosts)
        )
        health = draw(st.sampled_from((HEALTH_DEFAULT, *health_names)))
        regions.append(Region(name, draw(latitudes), draw(longitudes), endpoints, health))
    zone_of = draw(st.dictionaries(st.sampled_from(BLOCKS), st.sampled_from(ZONES), max_size=8))
    zones = []
    for name in sorted(set(zone_of.values())):
        place = draw(st.one_of(st.just((None, None)), st.tuples(latitudes, longitudes)))
        cidrs = tuple(Cidr(block) for block, owner in zone_of.items() if owner == name)
        zones.append(Zone(name, cidrs, *place))
    routes = []
    for number in range(draw(st.integers(1, 3))):
        overridden = draw(st.lists(st.sampled_from([zone.name for zone in zones]), unique=True)) if zones else []
        overrides = tuple(_override(draw, zone, names) for zone in overridden)
        hosts = draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3, unique=True))
        path = draw(st.sampled_from(PATHS))
        tiers = draw(tier_lists(names))
        routes.append(Route(f"route-{number}", tuple(hosts), path, tiers, overrides, draw(otherwise)))
    health_blocks = tuple(draw(healths(name)) for name in health_names)
    policy = Policy(1, tuple(regions), tuple(zones), health_blocks, tuple(routes))
    findings = Findings()
    check(policy, findings)
    assume(not findings.diagnostics)
    return policy


def _override(draw: st.DrawFn, zone: str, regions: tuple[str, ...]) -> Override:
    fallback: Otherwise | None = draw(st.one_of(st.none(), otherwise))
    return Override(zone, draw(tier_lists(regions)), fallback)


def endpoints_of(policy: Policy) -> list[Endpoint]:
    return [(endpoint.host, endpoint.port) for region in policy.regions for endpoint in region.endpoints]
