"""What the demo plays: where the regions and the users are, who is nearest to whom, and when a region dies.

Everything here is made of the command's options and the addresses that the processes chose; nothing is read from a
clock or a socket. Which region is nearest is worked out by a great-circle formula of our own, apart from the router's
integer one: the figures judge the router, so they must not share its answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lattice.types import MILLISECOND, SECOND, Endpoint

SECONDS_MIN = 2
SECONDS_MAX = 600
RATE_MAX = 1_000
"""One Python process sends and times about this many requests a second on a fifth of a core."""
SITES_MAX = 8
REGIONS_MAX = 8
CLIENTS_PER_ZONE = 4
HOST = "shop.example.com"
CLUSTER = "demo"

KILL_AT_PERCENT = 40
RETURN_AFTER_PERCENT = 25
"""A killed region comes back after this share of the run, so by default at 65 % of it."""


class ScenarioError(Exception):
    """An option asks for something that the run cannot play; the message names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Site:
    """An edge site, and the zone of the users who talk to it."""

    place: Place
    zone: str
    network: str
    """The zone's CIDR."""
    clients: tuple[str, ...]
    """The source addresses of its users."""

    @property
    def name(self) -> str:
        return self.place.name


@dataclass(frozen=True, slots=True)
class Region:
    place: Place
    host: str

    @property
    def name(self) -> str:
        return self.place.name


@dataclass(frozen=True, slots=True)
class Kill:
    """One region's death and return, counted from the first request."""

    region: str
    at_us: int
    return_at_us: int


@dataclass(frozen=True, slots=True)
class Scenario:
    seconds: float
    rate: int
    sites: tuple[Site, ...]
    regions: tuple[Region, ...]
    kills: tuple[Kill, ...]
    """In the order in which they happen."""


# By IATA codes. A site is near the region of the same line, and the first line's is the region that dies by default.
_REGION_PLACES = (
    Place("fra", 50.03, 8.57),
    Place("iad", 38.95, -77.46),
    Place("nrt", 35.76, 140.39),
    Place("gru", -23.43, -46.47),
    Place("syd", -33.95, 151.18),
    Place("bom", 19.09, 72.87),
    Place("sin", 1.36, 103.99),
    Place("jnb", -26.13, 28.24),
)
_SITE_PLACES = (
    (Place("ams", 52.31, 4.76), "europe"),
    (Place("nyc", 40.64, -73.78), "america"),
    (Place("kix", 34.43, 135.24), "japan"),
    (Place("eze", -34.82, -58.54), "plata"),
    (Place("akl", -37.01, 174.79), "pacific"),
    (Place("del", 28.57, 77.10), "india"),
    (Place("kul", 2.75, 101.71), "malaya"),
    (Place("cpt", -33.97, 18.60), "cape"),
)


def compose(seconds: float, rate: int, sites: int, regions: int, kills: Sequence[str]) -> Scenario:
    """The scenario for these options; each of `kills` is written REGION@SECONDS, none means the default one.

    Raises `ScenarioError` for a kill that the run cannot play.
    """
    chosen = tuple(Region(place, f"127.1.0.{index + 1}") for index, place in enumerate(_REGION_PLACES[:regions]))
    if not kills:
        kills = (f"{chosen[0].name}@{seconds * KILL_AT_PERCENT / 100:g}",)
    names = [region.name for region in chosen]
    return Scenario(
        seconds=seconds,
        rate=rate,
        sites=tuple(_site(index, place, zone) for index, (place, zone) in enumerate(_SITE_PLACES[:sites])),
        regions=chosen,
        kills=plan_kills([parse_kill(text, names, seconds) for text in kills], seconds),
    )


def _site(index: int, place: Place, zone: str) -> Site:
    clients = tuple(f"127.{10 + index}.{client}.1" for client in range(CLIENTS_PER_ZONE))
    return Site(place, zone, f"127.{10 + index}.0.0/16", clients)


def parse_kill(text: str, regions: Collection[str], seconds: float) -> tuple[str, int]:
    """`fra@8` as ("fra", 8_000_000). Raises `ScenarioError` naming the value and what would be right."""
    match = re.fullmatch(r"([a-z0-9-]+)@([0-9]{1,6}(?:\.[0-9]{1,6})?)", text)
    if match is None:
        raise ScenarioError(f"{text!r} is not REGION@SECONDS, for example {min(regions)}@8")
    region, at = match[1], round(float(match[2]) * SECOND)
    if region not in regions:
        raise ScenarioError(f"{text!r}: there is no region {region!r}; this run has {', '.join(regions)}")
    if not 0 < at < seconds * SECOND:
        raise ScenarioError(f"{text!r}: the time must lie within the run, after 0 and before {seconds:g} seconds")
    return region, at


def plan_kills(kills: Sequence[tuple[str, int]], seconds: float) -> tuple[Kill, ...]:
    """Gives each kill its return: a quarter of the run later, or half-way to the end if that comes first.

    Raises `ScenarioError` for a region that would be killed while it is dead.
    """
    end = round(seconds * SECOND)
    planned: list[Kill] = []
    returns: dict[str, int] = {}
    for region, at in sorted(kills, key=lambda kill: (kill[1], kill[0])):
        back = returns.get(region)
        if back is not None and at <= back:
            raise ScenarioError(
                f"{region} is to be killed at {at / SECOND:g} s, but is dead until {back / SECOND:g} s: "
                f"choose a time after that"
            )
        returns[region] = min(at + end * RETURN_AFTER_PERCENT // 100, (at + end) // 2)
        planned.append(Kill(region, at, returns[region]))
    return tuple(planned)


def ranking(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """For every zone, the regions by distance from its users, nearest first."""
    return {
        site.zone: tuple(
            region.name
            for region in sorted(
                scenario.regions, key=lambda region: (_distance_km(site.place, region.place), region.name)
            )
        )
        for site in scenario.sites
    }


def _distance_km(one: Place, other: Place) -> float:
    """The haversine formula on a sphere of 6,371 km."""
    latitude, other_latitude = math.radians(one.latitude), math.radians(other.latitude)
    half_chord_squared = (
        math.sin((other_latitude - latitude) / 2) ** 2
        + math.cos(latitude)
        * math.cos(other_latitude)
        * math.sin(math.radians(other.longitude - one.longitude) / 2) ** 2
    )
    return 2 * 6_371 * math.asin(math.sqrt(half_chord_squared))


def policy_text(scenario: Scenario, endpoints: Mapping[str, Endpoint]) -> str:
    """The policy of the run, as a person would write it; `endpoints` says where each region listens."""
    statements = ["edition 1\n\n# The demo's policy: every zone to its nearest region that is well.\n"]
    for region in scenario.regions:
        host, port = endpoints[region.name]
        statements.append(f"region {region.name} {{\n  at {_at(region.place)}\n  endpoint {host}:{port}\n}}\n")
    statements.extend(f"zone {site.zone} {{\n  at {_at(site.place)}\n  {site.network}\n}}\n" for site in scenario.sites)
    statements.append(
        "health default {\n"
        '  probe   "/healthz" every 250ms timeout 200ms\n'
        "  latency above 400ms\n"
        "  errors  above 20%\n"
        "  fail after 3\n"
        f"  recover after {recover_after_us(scenario) // MILLISECOND}ms\n"
        "  probation 0s\n"  # a run of seconds shows a return, not the proof that it lasts
        "  unknown as healthy\n"
        "}\n"
    )
    tiers = ("primary   nearest", "secondary nearest", "tertiary  any")[: len(scenario.regions)]
    statements.append(
        f'route shop for "{HOST}" path "/**" {{\n' + "".join(f"  {tier}\n" for tier in tiers) + "  otherwise deny 503\n"
        "}\n"
    )
    return "\n".join(statements)


def recover_after_us(scenario: Scenario) -> int:
    """How long a region must be clean before it serves again: a tenth of the run, 2 s at most, so that short runs
    see the return too."""
    return min(2 * SECOND, round(scenario.seconds * SECOND) // 10)


def _at(place: Place) -> str:
    return f"{place.latitude:.2f} {place.longitude:.2f}"


def site_toml(site: Site, directory: Path, author: str) -> str:
    """The configuration of one node: no seeds, mDNS on loopback only, every port chosen by the system.

    `author` is the Ed25519 public key that may sign policy, 64 hexadecimal digits.
    """
    return (
        "[site]\n"
        f'name = "{site.name}"\n'
        f'at = "{_at(site.place)}"\n'
        f"state_dir = {_toml_string(directory / site.name)}\n\n"
        "[cluster]\n"
        f'name = "{CLUSTER}"\n'
        f"key_file = {_toml_string(directory / 'cluster.key')}\n\n"
        "[gossip]\n"
        'listen = "127.0.0.1:0"\n'
        "seeds = []\n"
        "mdns = true\n"
        'mdns_interfaces = ["127.0.0.1"]\n\n'
        "[http]\n"
        'listen = ["127.0.0.1:0"]\n\n'
        "[control]\n"
        'listen = "127.0.0.1:0"\n\n'
        "[policy]\n"
        f'authors = ["{author}"]\n\n'
        "[timing]\n"
        'failback = "0s"\n'  # a run of seconds shows a return, not a ramp
    )


def _toml_string(path: Path) -> str:
    """A basic TOML string: everything that is not plain ASCII is escaped."""
    plain = {"\\": "\\\\", '"': '\\"'}
    return f'"{"".join(plain.get(c, c if " " <= c <= "~" else f"{chr(92)}U{ord(c):08x}") for c in str(path))}"'
