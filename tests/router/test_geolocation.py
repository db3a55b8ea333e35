"""Places of addresses: both schemas, a file that changes, and a file that is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.decision.nearby import degrees_of
from router.geolocation import NOWHERE, GeoDatabase, GeoPlace, place_of
from tests.router.mmdb_writer import database

NESTED = {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}, "autonomous_system_number": 64_500}
FLAT = {"country": "US", "continent": "NA", "asn": "AS64501"}


def write(path: Path, content: bytes, at: int) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(at, at))


def test_both_schemas_are_read(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    write(path, database({"192.0.2.0/24": NESTED, "2001:db8::/32": FLAT}), 1)
    geo = GeoDatabase(path)
    assert geo.problem == ""
    assert geo.place("192.0.2.77") == GeoPlace("DE", "EU", 64_500)
    assert geo.place("2001:db8::1") == GeoPlace("US", "NA", 64_501)
    assert geo.place("198.51.100.1") == geo.place("nobody") == geo.place("") == NOWHERE


def test_locations_are_read_to_a_degree(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    nested, flat = {"latitude": 52.52, "longitude": 13.4}, {"lat": "-33.87", "lng": "151.21"}
    write(path, database({"192.0.2.0/24": {"location": nested}, "198.51.100.0/24": flat}), 1)
    geo = GeoDatabase(path)
    assert degrees_of(geo.place("192.0.2.77").location) == (53, 13)
    assert degrees_of(geo.place("198.51.100.1").location) == (-34, 151)


def test_a_changed_file_is_read_anew_and_a_damaged_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    write(path, database({"192.0.2.0/24": NESTED}), 1)
    geo = GeoDatabase(path)
    assert not geo.reload()
    write(path, database({"192.0.2.0/24": FLAT}), 2)
    assert geo.reload()
    assert geo.place("192.0.2.1").country == "US"
    for at, damage in enumerate((b"", b"not a database", database({"192.0.2.0/24": NESTED})[:40]), start=3):
        write(path, damage, at)
        assert not geo.reload()
        assert "geo.mmdb" in geo.problem
        assert geo.place("192.0.2.1").country == "US"
    path.unlink()
    assert not geo.reload()
    assert geo.place("192.0.2.1").country == "US"
    write(path, database({"192.0.2.0/24": NESTED}), 9)
    assert geo.reload()
    assert geo.problem == ""


@pytest.mark.parametrize("seed", range(200))
def test_no_damage_inside_a_file_raises(tmp_path: Path, seed: int) -> None:
    content = bytearray(database({"192.0.2.0/24": NESTED, "2001:db8::/32": FLAT}))
    content[seed * 7919 % (len(content))] ^= 1 + seed % 255
    write(tmp_path / "geo.mmdb", bytes(content), 1)
    geo = GeoDatabase(tmp_path / "geo.mmdb")
    for address in ("192.0.2.1", "2001:db8::1", "::1"):
        assert isinstance(geo.place(address), GeoPlace)


@pytest.mark.parametrize(
    "record",
    [
        *(None, 7, [], {}, {"country": 5, "asn": "ASx"}, {"country": {"iso_code": "de"}, "asn": -1}),
        *({"lat": "north", "lng": "8"}, {"lat": 91, "lng": 8}, {"lat": "nan", "lng": "inf"}),
        *({"lat": 8}, {"lat": [], "lng": 8}, {"lat": True, "lng": None}),
        *({"location": 7}, {"location": {"latitude": 8.0}}, {"location": "Berlin"}),
    ],
)
def test_what_a_record_does_not_say_is_unknown(record: object) -> None:
    assert place_of(record) == NOWHERE


def test_the_last_good_file_outlives_a_restart(tmp_path: Path) -> None:
    path, copy = tmp_path / "geo.mmdb", tmp_path / "state.mmdb"
    write(path, database({"192.0.2.0/24": NESTED}), 1)
    GeoDatabase(path, copy)
    kept = copy.stat()
    GeoDatabase(path, copy)
    assert copy.stat() == kept, "what is there already is not written again"
    for at, damage in enumerate((b"not a database", None), start=2):
        path.unlink() if damage is None else write(path, damage, at)
        restarted = GeoDatabase(path, copy)
        assert restarted.place("192.0.2.1").country == "DE"
        assert "geo.mmdb" in restarted.problem
    write(path, database({"192.0.2.0/24": FLAT}), 5)
    assert restarted.reload()
    assert restarted.problem == ""
    assert GeoDatabase(tmp_path / "none.mmdb", copy).place("192.0.2.1").country == "US", "the copy followed"


def test_whoever_does_not_keep_the_copy_only_reads_it(tmp_path: Path) -> None:
    path, copy = tmp_path / "geo.mmdb", tmp_path / "state.mmdb"
    write(path, database({"192.0.2.0/24": NESTED}), 1)
    GeoDatabase(path, copy, keep=False)
    assert not copy.exists()
    write(copy, b"damaged", 2)
    damaged = GeoDatabase(tmp_path / "none.mmdb", copy, keep=False)
    assert damaged.place("192.0.2.1") == NOWHERE
    assert "none.mmdb" in damaged.problem
    assert "state.mmdb" in damaged.problem


def test_a_copy_that_cannot_be_kept_is_told_and_the_file_is_in_use(tmp_path: Path) -> None:
    write(tmp_path / "geo.mmdb", database({"192.0.2.0/24": NESTED}), 1)
    geo = GeoDatabase(tmp_path / "geo.mmdb", tmp_path / "missing" / "state.mmdb")
    assert geo.place("192.0.2.1").country == "DE"
    assert "no copy could be kept" in geo.problem
