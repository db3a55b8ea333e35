"""Where a client is, to a degree, and which regions are near to it: the same integers in every form of a policy.

A location is one number, 1 + 360 (latitude + 90) + (longitude + 180) in whole degrees, and 0 is nowhere. A degree is
111 km at most, about what a location database knows of an address; and 65,160 of them are few enough to remember which
regions are near to each.

Near is by chord. A place is a point on a sphere of radius 2^30, each coordinate moved by 2^30 so that none is negative;
the square of the distance between two such points fits into 64 bits without a sign, which WebAssembly has as well. A
unit is less than a centimetre, so rounding turns no two regions that a traveller would tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.decision.distance import ONE_BITS, point, sine_of_degrees
from router.policy.syntax import Region

RADIUS_BITS: Final = 30
RADIUS: Final = 1 << RADIUS_BITS
_COARSER: Final = ONE_BITS - RADIUS_BITS

Point = tuple[int, int, int]


def _moved(sine: int) -> int:
    """Rounded, not cut off: a sine of -1 that came out a trifle too small must stay on the sphere."""
    return RADIUS + (sine + (1 << _COARSER - 1) >> _COARSER)


SINES: Final = tuple(_moved(sine_of_degrees(degrees)) for degrees in range(-180, 270))
"""Of -180 to 269 degrees, moved by the radius: `SINES[d + 180]` is the sine of d, `SINES[d + 270]` the cosine."""


def location_at(latitude_e6: int, longitude_e6: int) -> int:
    """The degree that a place is nearest to, given in millionths of a degree."""
    latitude, longitude = (latitude_e6 + 500_000) // 1_000_000, (longitude_e6 + 500_000) // 1_000_000
    return 1 + 360 * (latitude + 90) + (longitude + 180) % 360


def degrees_of(location: int) -> tuple[int, int]:
    """Latitude and longitude; of a location that is not nowhere."""
    latitude, longitude = divmod(location - 1, 360)
    return latitude - 90, longitude - 180


LOCATION_MAX: Final = location_at(90_000_000, 179_000_000)


def point_of(location: int) -> Point:
    latitude, longitude = degrees_of(location)
    across = SINES[latitude + 270] - RADIUS  # the cosine of the latitude, which is never negative
    return (
        (across * SINES[longitude + 270] >> RADIUS_BITS) + RADIUS - across,
        (across * SINES[longitude + 180] >> RADIUS_BITS) + RADIUS - across,
        SINES[latitude + 180],
    )


def point_of_region(region: Region) -> Point:
    x, y, z = map(_moved, point(region.latitude_e6, region.longitude_e6))
    return x, y, z


def chord_squared(one: Point, other: Point) -> int:
    """At most 2^62."""
    return sum([(a - b) ** 2 for a, b in zip(one, other, strict=True)])


class Nearby:
    """All regions by distance from a location, then by name; remembered."""

    def __init__(self, regions: Mapping[str, Region]) -> None:
        self._points = [(name, point_of_region(regions[name])) for name in sorted(regions)]
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._known: dict[int, tuple[str, ...]] = {}

    def order(self, location: int) -> tuple[str, ...]:
        """Equal orders are the same object."""
        known = self._known.get(location)
        if known is None:
            here = point_of(location)
            found = tuple([name for _, name in sorted([(chord_squared(here, at), name) for name, at in self._points])])
            known = self._known[location] = self._orders.setdefault(found, found)
        return known
