"""Where the sites are, and how long a packet takes between any two: from coordinates, from a matrix, or one room.

The coordinate model: one-way delay = great circle × fibre factor / the speed of light in glass + both ends' access
delay. Sites are drawn around the cities where edge sites are, one stream a site, so that the first hundred of a
thousand are the same hundred. A measured matrix (round trips) is halved; several sites may share one of its places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import dist, floor, isqrt
from typing import Final

from lattice.prng import Prng
from lattice.roster import area_of
from lattice.types import MILLISECOND

EARTH_RADIUS_KM: Final = 6_371
GLASS_KM_PER_S: Final = 204_190
"""The speed of light over the refractive index of fibre, 1.468 (ITU-T G.652)."""
_UNIT_BITS: Final = 20
_TABLE_BITS: Final = 13
_CHORD_SHIFT: Final = _UNIT_BITS - _TABLE_BITS + 1
_ROUNDED: Final = 2.0**-24
"""A chord is the root of a whole number below 2^44: in floating point, whichever way its last bits were rounded, with
this much added it has the whole part of the exact one, since below a whole number k the next root is 1/2k less. The
same goes for both divided by a power of two."""
_STEP: Final = 2.0**_CHORD_SHIFT
_ROUNDED_STEP: Final = _ROUNDED / _STEP
_SPREAD_E6: Final = 1_200_000
"""Sites lie within 1.2 degrees of their city."""
_PIECE_E6: Final = 3_000_000
"""A piece of the map as a clump of sites: so many degrees each way."""

CITIES: Final = (
    ("frankfurt", "europe", 50_110_000, 8_680_000, 5),
    ("london", "europe", 51_510_000, -130_000, 5),
    ("amsterdam", "europe", 52_370_000, 4_900_000, 4),
    ("paris", "europe", 48_860_000, 2_350_000, 4),
    ("madrid", "europe", 40_420_000, -3_700_000, 2),
    ("milan", "europe", 45_460_000, 9_190_000, 2),
    ("stockholm", "europe", 59_330_000, 18_070_000, 2),
    ("warsaw", "europe", 52_230_000, 21_010_000, 2),
    ("istanbul", "europe", 41_010_000, 28_980_000, 2),
    ("ashburn", "north-america", 39_040_000, -77_490_000, 6),
    ("new-york", "north-america", 40_710_000, -74_010_000, 4),
    ("chicago", "north-america", 41_880_000, -87_630_000, 3),
    ("dallas", "north-america", 32_780_000, -96_800_000, 3),
    ("miami", "north-america", 25_760_000, -80_190_000, 2),
    ("los-angeles", "north-america", 34_050_000, -118_240_000, 4),
    ("san-jose", "north-america", 37_340_000, -121_890_000, 4),
    ("seattle", "north-america", 47_610_000, -122_330_000, 2),
    ("toronto", "north-america", 43_650_000, -79_380_000, 2),
    ("mexico-city", "north-america", 19_430_000, -99_130_000, 1),
    ("sao-paulo", "south-america", -23_550_000, -46_630_000, 3),
    ("buenos-aires", "south-america", -34_600_000, -58_380_000, 1),
    ("santiago", "south-america", -33_450_000, -70_670_000, 1),
    ("bogota", "south-america", 4_710_000, -74_070_000, 1),
    ("johannesburg", "africa", -26_200_000, 28_050_000, 2),
    ("lagos", "africa", 6_520_000, 3_380_000, 1),
    ("nairobi", "africa", -1_290_000, 36_820_000, 1),
    ("cairo", "africa", 30_040_000, 31_240_000, 1),
    ("dubai", "asia", 25_200_000, 55_270_000, 2),
    ("mumbai", "asia", 19_080_000, 72_880_000, 3),
    ("chennai", "asia", 13_080_000, 80_270_000, 2),
    ("singapore", "asia", 1_350_000, 103_820_000, 4),
    ("jakarta", "asia", -6_210_000, 106_850_000, 1),
    ("hong-kong", "asia", 22_320_000, 114_170_000, 3),
    ("taipei", "asia", 25_030_000, 121_570_000, 1),
    ("seoul", "asia", 37_570_000, 126_980_000, 3),
    ("tokyo", "asia", 35_680_000, 139_690_000, 5),
    ("osaka", "asia", 34_690_000, 135_500_000, 2),
    ("sydney", "oceania", -33_870_000, 151_210_000, 3),
    ("melbourne", "oceania", -37_810_000, 144_960_000, 1),
    ("auckland", "oceania", -36_850_000, 174_760_000, 1),
)
"""(city, continent, latitude and longitude in millionths of a degree, how many sites in proportion): where traffic
exchanges and cloud regions are dense. The weights are judgement, not measurement."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a site is. `group` is what a region cut severs: its continent, or its row of the matrix."""

    name: str
    group: str
    latitude_e6: int = 0
    longitude_e6: int = 0

    @property
    def area(self) -> str:
        """What the site calls its area: that of its coordinates, or its group when it has none."""
        if self.latitude_e6 or self.longitude_e6:
            return area_of(self.latitude_e6, self.longitude_e6)
        return self.group


@dataclass(frozen=True, slots=True)
class PathSettings:
    """What coordinates do not say."""

    fibre_factor_ppm: int = 1_760_000
    """Path over great circle: the median of 4,496 measured paths between cloud regions more than 500 km apart
    (Skyplane, 2022-04, 2 ms taken off for both ends' access); p10 1.31, p90 2.64."""
    access_us: int = 500
    """Mean of each end's own delay; a site's is drawn once, between half and one and a half of it."""


class Topology:
    """The sites of a run and the delays between them."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = tuple(places)

    def __len__(self) -> int:
        return len(self.places)

    def delay_us(self, source: int, target: int) -> int:
        """One way, without jitter."""
        raise NotImplementedError

    def clumps(self) -> list[list[int]]:
        """Hosts that are near each other, together: what `sim.shards` does not cut through."""
        return [list(range(len(self.places)))]

    def apart_us(self, clumps: Sequence[Sequence[int]]) -> list[list[int]]:
        """By two of these: a delay that no path from a host of one to a host of the other is shorter than."""
        return [[0] * len(clumps) for _ in clumps]

    def groups(self) -> tuple[str, ...]:
        return tuple(sorted({place.group for place in self.places}))

    def nearest(self, latitude_e6: int, longitude_e6: int, count: int) -> list[int]:
        """The sites nearest to a point, nearest first."""
        here = _unit(latitude_e6, longitude_e6)
        spots = [_unit(place.latitude_e6, place.longitude_e6) for place in self.places]
        return sorted(range(len(spots)), key=lambda index: (_chord(here, spots[index]), index))[:count]


class Room(Topology):
    """All in one local network: the same delay between any two."""

    def __init__(self, count: int, delay_us: int) -> None:
        super().__init__([Place(f"site-{index}", f"rack-{index % 10}") for index in range(count)])
        self._delay_us = delay_us

    def delay_us(self, source: int, target: int) -> int:
        return self._delay_us


class Globe(Topology):
    """Sites on the earth, by the coordinate model."""

    def __init__(self, places: Sequence[Place], settings: PathSettings, seed: str) -> None:
        super().__init__(places)
        self._units = [_unit(place.latitude_e6, place.longitude_e6) for place in places]
        self._points = [tuple([axis / _STEP for axis in unit]) for unit in self._units]
        """In steps of the table."""
        self._access_us = [
            settings.access_us // 2 + Prng.seeded(f"{seed}/topology/access/{index}").below(settings.access_us + 1)
            for index in range(len(places))
        ]
        self._table = _delays(settings.fibre_factor_ppm)

    def delay_us(self, source: int, target: int) -> int:
        points, access_us = self._points, self._access_us
        step = floor(dist(points[source], points[target]) + _ROUNDED_STEP)  # of `_chord`, for every packet
        return self._table[step] + access_us[source] + access_us[target]

    def clumps(self) -> list[list[int]]:
        pieces: dict[tuple[int, int], list[int]] = {}
        for index, place in enumerate(self.places):
            pieces.setdefault((place.latitude_e6 // _PIECE_E6, place.longitude_e6 // _PIECE_E6), []).append(index)
        return [pieces[piece] for piece in sorted(pieces)]

    def apart_us(self, clumps: Sequence[Sequence[int]]) -> list[list[int]]:
        """From middle to middle, less both clumps' radius; and the least access delay of each."""
        balls = []
        for clump in clumps:
            units = [self._units[index] for index in clump]
            x, y, z = (sum(axis) // len(units) for axis in zip(*units, strict=True))
            radius = max(_chord((x, y, z), unit) for unit in units) + 1
            balls.append(((x, y, z), radius, min(self._access_us[index] for index in clump)))
        found = [[0] * len(clumps) for _ in clumps]
        for one, (middle, radius, access_us) in enumerate(balls):
            for other in range(one):
                there, there_radius, there_access_us = balls[other]
                chord = max(0, _chord(middle, there) - radius - there_radius)
                delay_us = self._table[chord >> _CHORD_SHIFT] + access_us + there_access_us
                found[one][other] = found[other][one] = delay_us
        return found

    def delays_to_us(self, latitude_e6: int, longitude_e6: int) -> list[int]:
        """One way from each site to a point where no site is."""
        there = _unit(latitude_e6, longitude_e6)
        chords = [_chord(unit, there) for unit in self._units]
        return [
            self._table[chord >> _CHORD_SHIFT] + 2 * access_us
            for chord, access_us in zip(chords, self._access_us, strict=True)
        ]


class Measured(Topology):
    """Sites at the places of a round-trip matrix."""

    def __init__(self, places: Sequence[Place], rows: Sequence[int], rtt_us: Sequence[Sequence[int]]) -> None:
        """`rows` is each site's place in the matrix."""
        super().__init__(places)
        self._rows = list(rows)
        self._one_way_us = [[rtt // 2 for rtt in row] for row in rtt_us]

    def delay_us(self, source: int, target: int) -> int:
        return self._one_way_us[self._rows[source]][self._rows[target]]

    def clumps(self) -> list[list[int]]:
        there: dict[int, list[int]] = {}
        for index, row in enumerate(self._rows):
            there.setdefault(row, []).append(index)
        return [there[row] for row in sorted(there)]

    def apart_us(self, clumps: Sequence[Sequence[int]]) -> list[list[int]]:
        rows, one_way_us = [self._rows[clump[0]] for clump in clumps], self._one_way_us
        return [[min(one_way_us[a][b], one_way_us[b][a]) for b in rows] for a in rows]


def globe(count: int, settings: PathSettings, seed: str) -> Globe:
    """`count` sites around the world's exchanges."""
    weighted = [city for city in CITIES for _ in range(city[4])]
    numbers: dict[str, int] = {}
    places = []
    for index in range(count):
        prng = Prng.seeded(f"{seed}/topology/{index}")
        name, continent, latitude, longitude, _ = weighted[prng.below(len(weighted))]
        numbers[name] = numbers.get(name, 0) + 1
        places.append(
            Place(
                f"{name}-{numbers[name]}",
                continent,
                latitude - _SPREAD_E6 + prng.below(2 * _SPREAD_E6),
                longitude - _SPREAD_E6 + prng.below(2 * _SPREAD_E6),
            )
        )
    return Globe(places, settings, seed)


SAME_PLACE_RTT_US: Final = 760
"""Between two sites at one place of a matrix. IBM Cloud's median between zones of a region (2026-08): 0.76 ms."""


def measured(count: int, names: Sequence[str], rtt_us: Sequence[Sequence[int]], seed: str) -> Measured:
    """`count` sites over the places of a matrix, evenly, in an order drawn from the seed."""
    order = Prng.seeded(f"{seed}/topology/order").shuffled(range(len(names)))
    rows = [order[index % len(order)] for index in range(count)]
    places = [
        Place(f"{names[row]}-{index // len(order) + 1}" if count > len(order) else names[row], names[row])
        for index, row in enumerate(rows)
    ]
    filled = [[SAME_PLACE_RTT_US if a == b else rtt for b, rtt in enumerate(row)] for a, row in enumerate(rtt_us)]
    return Measured(places, rows, filled)


def _unit(latitude_e6: int, longitude_e6: int) -> tuple[int, int, int]:
    """A point on a sphere of radius 2^20. Rounded, so that last bits of a sine do not matter."""
    latitude, longitude = math.radians(latitude_e6 / 1e6), math.radians(longitude_e6 / 1e6)
    one = 1 << _UNIT_BITS
    return (
        round(one * math.cos(latitude) * math.cos(longitude)),
        round(one * math.cos(latitude) * math.sin(longitude)),
        round(one * math.sin(latitude)),
    )


def _chord(here: tuple[int, int, int], there: tuple[int, int, int]) -> int:
    return isqrt((here[0] - there[0]) ** 2 + (here[1] - there[1]) ** 2 + (here[2] - there[2]) ** 2)


@lru_cache(maxsize=8)
def _delays(fibre_factor_ppm: int) -> list[int]:
    """One-way delay by chord, in steps of 2^-13 of the earth's diameter (1.6 km)."""
    steps = 1 << _TABLE_BITS
    delays = []
    for step in range(steps + 2):
        arc_km = 2 * math.asin(min(1.0, step / steps)) * EARTH_RADIUS_KM
        delays.append(round(arc_km * fibre_factor_ppm / GLASS_KM_PER_S))
    return delays


ROOM_DELAY_US: Final = MILLISECOND // 4
