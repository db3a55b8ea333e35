"""Integer distances against the haversine formula in floating point, and against their own laws."""

from __future__ import annotations

import math

from hypothesis import given

from router.decision.distance import EARTH_RADIUS_M, distance_m
from tests.router.policy.policy_strategies import latitudes, longitudes


def haversine_m(latitude_e6: int, longitude_e6: int, other_latitude_e6: int, other_longitude_e6: int) -> float:
    a, b, c, d = (math.radians(e6 / 1e6) for e6 in (latitude_e6, longitude_e6, other_latitude_e6, other_longitude_e6))
    h = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(h)))


@given(latitudes, longitudes, latitudes, longitudes)
def test_distance_is_the_great_circle_to_a_metre(a: int, b: int, c: int, d: int) -> None:
    # Near the antipodes the float formula loses half its digits, so a metre is asked for only elsewhere.
    tolerance = 2 if distance_m(a, b, c, d) < 19_900_000 else 50
    assert abs(distance_m(a, b, c, d) - haversine_m(a, b, c, d)) < tolerance


@given(latitudes, longitudes, latitudes, longitudes)
def test_distance_is_symmetric_and_nothing_to_oneself(a: int, b: int, c: int, d: int) -> None:
    assert distance_m(a, b, c, d) == distance_m(c, d, a, b)
    assert distance_m(a, b, a, b) == 0


@given(latitudes, longitudes, latitudes, longitudes, latitudes, longitudes)
def test_no_detour_is_shorter(a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    assert distance_m(a, b, e, f) <= distance_m(a, b, c, d) + distance_m(c, d, e, f) + 2  # rounding, twice


def test_known_distances() -> None:
    frankfurt, virginia, tokyo = (50_110_000, 8_680_000), (38_940_000, -77_450_000), (35_760_000, 140_390_000)
    assert distance_m(*frankfurt, *virginia) == 6_554_064
    assert distance_m(*frankfurt, *tokyo) == 9_355_751
    assert distance_m(90_000_000, 0, -90_000_000, 12) == distance_m(0, 0, 0, 180_000_000) == 20_015_115
    assert distance_m(0, 179_999_996, 0, -179_999_996) == 1  # across the date line
    assert distance_m(90_000_000, 0, 90_000_000, 77_000_000) == 0  # a pole has every longitude
