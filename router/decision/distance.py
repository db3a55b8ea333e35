"""Great-circle distance in whole metres, the same on every machine.

Which region is nearest must not depend on whose libm computed a sine: IEEE 754 does not say what `sin` returns, and C
libraries differ in the last bit. So everything here is an integer.

A coordinate becomes a point on a sphere of radius 2^128 (sine and cosine by their Taylor series). Two points have a
chord, and the arc over a chord is found as Archimedes found π (Measurement of a Circle, 250 BC): the chord over half
the angle is √(2 − √(4 − c²)), and after sixteen halvings chord and arc differ by less than one part in 10^10, two
millimetres at most. The earth is taken as a sphere, which is up to 0.5 % off: far better than an address tells where
a client is.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

EARTH_RADIUS_M = 6_371_009
"""Mean radius R1 of the WGS 84 ellipsoid (Moritz 1980), rounded."""
ONE_BITS = 128
_ONE = 1 << ONE_BITS
_PI = 314_159_265_358_979_323_846_264_338_327_950_288_419_716_939_937_510 * _ONE // 10**50
_HALVINGS = 16
_REMEMBERED_MAX = 65_536
"""Distances kept: 250 zones to 256 regions. Planning anew after every change of health asks for the same ones."""


@lru_cache(maxsize=_REMEMBERED_MAX)
def distance_m(latitude_e6: int, longitude_e6: int, other_latitude_e6: int, other_longitude_e6: int) -> int:
    """Metres along the surface between two places given in millionths of a degree. Symmetric."""
    here, there = point(latitude_e6, longitude_e6), point(other_latitude_e6, other_longitude_e6)
    chord_squared = min(sum((a - b) ** 2 for a, b in zip(here, there, strict=True)) // _ONE, 4 * _ONE)
    for _ in range(_HALVINGS):
        chord_squared = 2 * _ONE - isqrt((4 * _ONE - chord_squared) * _ONE)
    arc = isqrt(chord_squared * _ONE) << _HALVINGS
    return (arc * EARTH_RADIUS_M + _ONE // 2) // _ONE


@lru_cache(maxsize=1_024)
def point(latitude_e6: int, longitude_e6: int) -> tuple[int, int, int]:
    """Where a place is on a sphere of radius 2^128; its axes leave at 0° and 90° east, and at the north pole."""
    latitude, longitude = (e6 * _PI // 180_000_000 for e6 in (latitude_e6, longitude_e6))
    sine, cosine = _sine(latitude), _sine(latitude + _PI // 2)
    return cosine * _sine(longitude + _PI // 2) // _ONE, cosine * _sine(longitude) // _ONE, sine


def sine_of_degrees(degrees: int) -> int:
    """The sine of -180 to 269 whole degrees, scaled by 2^128; exactly 0, 1 and -1 where it is."""
    if degrees % 90 == 0:
        return (0, _ONE, 0, -_ONE)[degrees // 90 % 4]
    return _sine(degrees * _PI // 180)


def _sine(angle: int) -> int:
    """The sine of an angle in radians, both scaled by 2^128; for |angle| ≤ 3π/2."""
    term = total = angle
    square = angle * angle // _ONE
    step = 2
    while term:
        term = -(term * square // _ONE) // (step * (step + 1))
        total += term
        # Floor division of a negative number stops at -1, never at 0.
        if term == -1:
            break
        step += 2
    return total
