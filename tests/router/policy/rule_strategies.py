"""Policies of the whole language, and the requests and states of the world that make a difference to them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from lattice.types import SECOND
from router.decision.request import Request
from router.policy.check import check
from router.policy.check_routes import check_tiers
from router.policy.conditions import And, Condition, Match, Not, Or, Present
from router.policy.errors import Findings
from router.policy.settings import Cache, Hedge, Key, Panic, Retry, Settings, Share, Spill, Stick, Timeouts
from router.policy.span import NOWHERE
from router.policy.syntax import (
    AnyLeft,
    Choice,
    Deny,
    Group,
    Named,
    Nearest,
    Policy,
    Region,
    RegionName,
    Rule,
    Tier,
    Zone,
    tier_name,
)
from router.policy.windows import read_window
from tests.router.policy.policy_strategies import CLIENTS, HOSTS, PATHS, otherwise, policies

COUNTRIES = ("DE", "US", "JP")
CONTINENTS = ("EU", "NA", "AS")
ASNS = (64_500, 64_501)
WINDOWS = tuple(
    map(
        read_window,
        (
            "Mon-Fri 22:00-06:00 Europe/Berlin",
            "02:00-03:00 Europe/Berlin",
            "Sat,Sun 00:00-24:00 Asia/Tokyo",
            "2027-03-28 01:30 to 2027-03-28 03:30 Europe/Berlin",
            "1970-01-01 00:00 to 2027-03-28 03:00 Europe/Berlin",
            "Sun 02:00-03:00 Europe/Berlin",
        ),
    )
)
HEADERS = (
    (),
    (("x-tenant", "eu"),),
    (("x-tenant", "us"), ("cookie", "uid=7; sid=a")),
    (("cookie", 'uid="9"'),),
    (("authorization", "Bearer e30.eyJzdWIiOiJ1c2VyLTEifQ.x"), ("x-tenant", "")),
    (("authorization", "bearer e30.eyJzdWIiOjE3LCJhIjpbe31dfQ==.x"),),
    (("authorization", "Bearer e30.eyJzdWIiOiIrIn0.x"), ("cookie", "a; uid =1;\u2003uid=7\u00a0")),
    (("cookie", "b=1"), ("cookie", "uid=9"), ("x-tenant", "us"), ("x-tenant", "eu")),
)
keys = st.sampled_from(
    (Key("cookie", "uid"), Key("header", "x-tenant"), Key("jwt", "sub"), Key("ip", count=24), Key("path", count=1))
)
shares_ppm = st.sampled_from((10_000, 300_000, 500_000, 1_000_000))
settings_of_rules = st.builds(
    Settings,
    st.none() | st.builds(Stick, st.lists(keys, min_size=1, max_size=2).map(tuple), st.just(3_600 * SECOND)),
    st.none() | st.builds(Spill, st.sampled_from((500_000, 850_000, 1_000_000))),
    st.none() | st.builds(Panic, shares_ppm),
    st.none() | st.builds(Retry, st.integers(0, 5), shares_ppm, st.sampled_from((("GET",), ("GET", "POST")))),
    st.none() | st.builds(Hedge, st.just(50_000), shares_ppm),
    st.none() | st.builds(Timeouts, st.just(1_000_000), st.sampled_from((0, 2_000_000))),
    st.none() | st.sampled_from((Cache(), Cache(600 * SECOND), Cache(off=True))),
)
moments = st.one_of(
    st.integers(1_806_000_000, 1_806_900_000),  # the weeks around a change of clocks
    st.integers(0, 4_000_000_000),
).map(lambda seconds: seconds * SECOND)
saturations = st.dictionaries(
    st.sampled_from(("ams", "fra", "gru", "iad", "nrt")), st.sampled_from((0, 400_000, 700_000, 900_000, 1_000_000))
)
shares_away = st.dictionaries(
    st.sampled_from(("ams", "fra", "gru", "iad", "nrt")), st.sampled_from((0, 250_000, 950_000, 1_000_000))
)
round_trips = st.dictionaries(
    st.sampled_from(("ams", "fra", "gru", "iad", "nrt")), st.one_of(st.integers(0, 400_000), st.integers(0, 1 << 40))
)
REQUEST_PARTS: dict[str, tuple[Any, ...]] = {
    "client": (*CLIENTS, "10.1.2.3%eth0", "::ffff:10.1.3.9%x", "1::10.1.2.3", "2001:db8:1:1:0:0:0:1:2"),
    "host": (
        *("a.example", "x.b.example", "y.x.b.example:80", "A.Example.", "[2001:db8::9]", "192.0.2.9", "c.test"),
        *(".b.example", "[x.b.example", "[2001:DB8::9]:80", "X..B.EXAMPLE..", "\u212a.b.example", ""),
    ),
    "path": (
        *("/", "/a", "/a/", "/a/b", "/z/b", "/a/b/c", "/a?q=1&p=", "/a/b/c/d?q=/", "*", "", "?q=1", "a/b", "//b"),
        *("/a?x&%71=%2f", "/a?q=%E2%82%AC&q=1", "/a?p=&q=+%ff", "/a/b?q=\u00e9%c3", "/a?q", "/\u00e9/b?p"),
    ),
    "method": ("GET", "POST", "PUT"),
    "headers": HEADERS,
    "country": ("", *COUNTRIES),
    "continent": ("", *CONTINENTS),
    "asn": (0, *ASNS),
    "upgrade": ("", "websocket"),
    "port": (0, 443, 5432),
    "sni": ("", "a.example", "x.b.example"),
    "location": (0, 0, 1, 51_314, 47_267, 45_681, 23_894, 20_300, 65_160),
}


def some_requests(random: Random, count: int) -> list[Request]:
    """Requests that policies of `whole_policies` tell apart."""
    return [Request(**{part: random.choice(values) for part, values in REQUEST_PARTS.items()}) for _ in range(count)]


@cache
def field_tests(zones: tuple[str, ...]) -> st.SearchStrategy[Condition]:
    def listed(field: str, values: tuple[str, ...], argument: str = "") -> st.SearchStrategy[Condition]:
        chosen = st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)
        return st.builds(Match, st.just(field), st.just(argument), chosen)

    named = [listed("zone", zones)] if zones else []
    return st.one_of(
        *named,
        listed("host", HOSTS),
        listed("path", PATHS),
        listed("method", ("GET", "POST")),
        listed("header", ("eu", "us", ""), "x-tenant"),
        listed("cookie", ("7", "9"), "uid"),
        listed("query", ("1", "/", "", "\u20ac", " \ufffd", "\u00e9\ufffd"), "q"),
        listed("upgrade", ("websocket",)),
        listed("country", COUNTRIES),
        listed("continent", CONTINENTS),
        listed("asn", tuple(map(str, ASNS))),
        listed("port", ("443", "5432")),
        listed("sni", ("a.example", "*.b.example")),
        st.sampled_from((Present("header", "x-tenant"), Present("cookie", "uid"), Present("query", "p"))),
    )


@cache
def conditions(zones: tuple[str, ...]) -> st.SearchStrategy[Condition]:
    # As the parser builds them: an Or inside an Or, or an And inside an And, only in parentheses that no one needs.
    return st.recursive(
        field_tests(zones),
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner.filter(lambda each: not isinstance(each, And)), min_size=2, max_size=3).map(tuple).map(And),
            st.lists(inner.filter(lambda each: not isinstance(each, Or)), min_size=2, max_size=3).map(tuple).map(Or),
        ),
        max_leaves=5,
    )


@st.composite
def tier_lists(draw: st.DrawFn, regions: tuple[Region, ...], groups: tuple[Group, ...]) -> tuple[Tier, ...]:
    """Tiers that can all hold something: one that could not ends the list."""
    by_name = {region.name: region for region in regions}
    group_names = (None, *(group.name for group in groups))
    tiers: tuple[Tier, ...] = ()
    for number in range(1, draw(st.integers(1, 4)) + 1):
        named = {name.name for tier in tiers if isinstance(tier.choice, Named) for name in tier.choice.regions}
        left = [name for name in by_name if name not in named]
        kind = draw(st.sampled_from(("named", "nearest", "any", "weighted") if left else ("nearest", "any")))
        choice: Choice
        if kind == "nearest":
            choice = Nearest(draw(st.integers(1, 3)), draw(st.sampled_from(group_names)), draw(st.booleans()))
        elif kind == "any":
            choice = AnyLeft(draw(st.sampled_from(group_names)), draw(st.booleans()))
        else:
            names = draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
            weight = st.integers(1, 100) if kind == "weighted" else st.none()
            choice = Named(tuple(RegionName(name, draw(weight)) for name in names))
        longer = (*tiers, Tier(tier_name(number), choice))
        findings = Findings()
        check_tiers("", NOWHERE, longer, by_name, {group.name: group for group in groups}, findings)
        if findings.diagnostics:
            break
        tiers = longer
    return tiers


@st.composite
def whole_policies(draw: st.DrawFn) -> Policy:
    """Policies with groups, rules, windows, shares, affinity, spill and panic, that check finds nothing wrong with."""
    base = draw(policies())
    names = tuple(region.name for region in base.regions)
    groups = tuple(
        Group(name, tuple(map(RegionName, draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))))
        for name in draw(st.sampled_from(((), ("east",), ("east", "west"))))
    )
    regions = tuple(
        replace(
            region,
            avoid=draw(st.sampled_from(((), (), (), WINDOWS[:1], WINDOWS[2:4], WINDOWS[4:5], WINDOWS[5:]))),
            endpoints=tuple(replace(each, weight=draw(st.sampled_from((1, 1, 3)))) for each in region.endpoints),
        )
        for region in base.regions
    )
    zones = list(base.zones)
    if draw(st.booleans()):
        zones.append(Zone("world", (), None, None, ("DE", "US"), ("AS",), (64_500,)))
    zone_names = tuple(zone.name for zone in zones)
    routes = []
    for route in base.routes:
        rules = []
        for number in range(draw(st.integers(0, 4))):
            refuse = draw(st.sampled_from((None, None, None, Deny(403), Deny(451, "not here"))))
            rules.append(
                Rule(
                    f"rule-{number}",
                    draw(conditions(zone_names)),
                    draw(st.sampled_from(((), (), WINDOWS[:1], WINDOWS[1:3], WINDOWS[4:]))),
                    draw(st.none() | st.builds(Share, shares_ppm, keys)),
                    refuse,
                    () if refuse else draw(tier_lists(regions, groups)),
                    None if refuse else draw(st.none() | otherwise),
                    draw(settings_of_rules),
                )
            )
        routes.append(replace(route, rules=tuple(rules), settings=draw(settings_of_rules)))
    policy = replace(base, regions=regions, zones=tuple(zones), groups=groups, routes=tuple(routes))
    findings = Findings()
    check(policy, findings)
    assume(not findings.diagnostics)
    return policy
