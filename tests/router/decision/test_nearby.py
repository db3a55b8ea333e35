"""Nearest to the client: in whole degrees, by the same integers everywhere, and as the globe has it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import decide
from router.decision.distance import distance_m
from router.decision.layout import SitePlace
from router.decision.nearby import LOCATION_MAX, chord_squared, degrees_of, location_at, point_of, point_of_region
from router.decision.plan import plan
from router.decision.program import Program, compile_policy
from router.decision.proofs import prove
from router.decision.request import Request
from router.policy import parse
from router.policy.syntax import Region
from tests.router.policy.policy_strategies import latitudes, longitudes

REGIONS = """edition 1
region fra { at 50.11 8.68 endpoint 192.0.2.1:443 }
region iad { at 38.94 -77.45 endpoint 192.0.2.2:443 }
region nrt { at 35.76 140.39 endpoint 192.0.2.3:443 }
region syd { at -33.95 151.18 endpoint 192.0.2.4:443 }
"""
BERLIN = SitePlace("ber", 52_500_000, 13_400_000)
WELL = dict.fromkeys(("fra", "iad", "nrt", "syd"), Level.HEALTHY)
locations = st.integers(1, LOCATION_MAX)


def program(rest: str) -> Program:
    return compile_policy(parse(REGIONS + rest))


def near(latitude: float, longitude: float) -> int:
    return location_at(round(latitude * 1_000_000), round(longitude * 1_000_000))


@given(latitudes, longitudes)
def test_a_location_is_the_degree_that_a_place_is_nearest_to(latitude_e6: int, longitude_e6: int) -> None:
    latitude, longitude = degrees_of(location_at(latitude_e6, longitude_e6))
    assert abs(latitude * 1_000_000 - latitude_e6) <= 500_000
    around = abs(longitude * 1_000_000 - longitude_e6)
    assert min(around, 360_000_000 - around) <= 500_000


@given(locations)
def test_every_number_is_a_place(location: int) -> None:
    latitude, longitude = degrees_of(location)
    assert location_at(latitude * 1_000_000, longitude * 1_000_000) == location
    assert all(0 <= coordinate <= 1 << 31 for coordinate in point_of(location))


@given(latitudes, longitudes)
@example(0, -90_000_000)
@example(-90_000_000, 0)
def test_every_region_is_on_the_sphere(latitude_e6: int, longitude_e6: int) -> None:
    at = point_of_region(Region("r", latitude_e6, longitude_e6, ()))
    assert all(0 <= coordinate <= 1 << 31 for coordinate in at)
    assert abs(chord_squared(at, (1 << 30, 1 << 30, 1 << 30)) - (1 << 60)) < 1 << 32


@given(locations, locations, locations)
def test_who_is_nearer_by_chord_is_nearer_over_the_ground(here: int, one: int, other: int) -> None:
    ground = [
        distance_m(*[each * 1_000_000 for each in (*degrees_of(here), *degrees_of(there))]) for there in (one, other)
    ]
    if abs(ground[0] - ground[1]) > 50:  # of two so alike it does not matter
        chords = [chord_squared(point_of(here), point_of(there)) for there in (one, other)]
        assert (chords[0] < chords[1]) == (ground[0] < ground[1])


def test_clients_get_what_is_nearest_to_themselves_as_far_as_it_is_known_where_they_are() -> None:
    table = plan(program('route all for "*" { primary nearest to client secondary any to client }\n'), WELL, BERLIN)

    def regions(location: int) -> list[str]:
        request = Request("192.0.2.77", "h", "/", location=location)
        return [attempt.region for attempt in decide(table, request, frozenset()).attempts]

    assert regions(near(40.7, -74.0)) == ["iad", "fra", "nrt", "syd"]
    assert regions(near(-41.3, 174.8)) == ["syd", "nrt", "iad", "fra"]
    assert regions(near(1.35, 103.8)) == ["nrt", "syd", "fra", "iad"]
    for unknown in (0, -1, LOCATION_MAX + 1):
        assert regions(unknown) == ["fra", "iad", "nrt", "syd"], "as near to the site"


def test_where_the_client_is_says_more_than_where_its_zone_is() -> None:
    rest = 'zone lab { at 35 139  203.0.113.0/24 }\nroute all for "*" { primary nearest to client }\n'
    table = plan(program(rest), WELL, BERLIN)
    client = Request("203.0.113.9", "h", "/")
    assert decide(table, client, frozenset()).region == "nrt"
    assert decide(table, client._replace(location=near(40.7, -74.0)), frozenset()).region == "iad"


def test_tiers_that_do_not_say_it_stay_as_near_to_the_site() -> None:
    table = plan(program('route all for "*" { primary nearest secondary nearest to client }\n'), WELL, BERLIN)
    request = Request("192.0.2.77", "h", "/", location=near(-41.3, 174.8))
    assert [attempt.region for attempt in decide(table, request, frozenset()).attempts] == ["fra", "syd"]


def test_health_and_reasons_are_as_in_any_lane() -> None:
    levels = WELL | {"iad": Level.DOWN}
    table = plan(program('route all for "*" { primary nearest 2 to client secondary any }\n'), levels, BERLIN)
    decision = decide(table, Request("192.0.2.77", "h", "/", location=near(40.7, -74.0)), frozenset())
    assert (decision.proposed, decision.region, decision.reason) == ("iad", "fra", "primary: iad DOWN")


@pytest.mark.parametrize("rest", ["", "zone de { at 50 9 country DE }\n"])
def test_a_never_that_some_client_could_break_is_not_proved(rest: str) -> None:
    rest += 'route all for "*" { primary nearest to client }\nnever down_under { serves syd }\n'
    (found,) = prove(program(rest))
    assert found.code == "E402"
    assert "at a site and for clients near syd" in found.message


def test_the_database_is_asked_only_where_a_tier_wants_it() -> None:
    assert program('route all for "*" { primary fra secondary any to client }\n').needs.place
    assert not program('route all for "*" { primary nearest }\n').needs.place
