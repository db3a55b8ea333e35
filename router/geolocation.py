"""Where a client's address is, by the operator's own MaxMind database (edge).

Two schemas are read: nested, as GeoLite2 and DB-IP have it ({"country": {"iso_code": "DE"}, "continent": {"code":
"EU"}, "location": {"latitude": 52.5, "longitude": 13.4}, "autonomous_system_number": 64500}), and flat, as IPinfo has
it ({"country": "DE", "lat": "52.5", "lng": "13.4", "asn": "AS64500"}). A file that changes is read anew; one that is
damaged changes nothing: the last good one stays, and `problem` says why. So that it stays across a restart too, a copy
of the last good file is kept beside the node's other state.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import maxminddb

from router.decision.nearby import location_at
from router.site.key_file import replace_file

_HAS_LIBRARY = find_spec("maxminddb.extension") is not None and hasattr(os, "memfd_create")
REMEMBERED_MAX = 65_536
"""Addresses whose place is remembered, between two readings of the file."""


class GeoPlace(NamedTuple):
    country: str = ""
    continent: str = ""
    asn: int = 0
    location: int = 0
    """See `router.decision.nearby`."""


NOWHERE = GeoPlace()


def place_of(record: object) -> GeoPlace:
    """What a record says, in either schema; what it does not say, or says strangely, is unknown."""
    if not isinstance(record, dict):
        return NOWHERE
    country = _text(record, "country", "iso_code") or _text(record, "country_code")
    continent = _text(record, "continent", "code") or _text(record, "continent_code")
    asn = record.get("autonomous_system_number", record.get("asn", 0))
    if isinstance(asn, str):
        digits = re.match(r"(?:AS)?([0-9]{1,10})\Z", asn)
        asn = int(digits[1]) if digits else 0
    return GeoPlace(
        country if _is_code(country) else "",
        continent if _is_code(continent) else "",
        asn if isinstance(asn, int) and 0 <= asn < 1 << 32 else 0,
        _location(record),
    )


def _location(record: Mapping[object, object]) -> int:
    """{"location": {"latitude": 52.5, "longitude": 13.4}}, or flat: {"lat": "52.5", "lng": "13.4"} and the like."""
    nested = record.get("location")
    where = nested if isinstance(nested, dict) else record
    latitude = _degrees(where.get("latitude", where.get("lat")), 90)
    longitude = _degrees(where.get("longitude", where.get("lng", where.get("lon"))), 180)
    return 0 if latitude is None or longitude is None else location_at(latitude, longitude)


def _degrees(value: object, most: int) -> int | None:
    """In millionths; None for what is no such number."""
    try:
        degrees = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        return None
    return round(degrees * 1_000_000) if -most <= degrees <= most else None


def _is_code(text: str) -> bool:
    return len(text) == 2 and text.isascii() and text.isalpha() and text.isupper()


def _text(record: Mapping[object, object], name: str, inner: str = "") -> str:
    value = record.get(name)
    if isinstance(value, dict) and inner:
        value = value.get(inner)
    return value if isinstance(value, str) else ""


def _opened(content: bytes) -> maxminddb.Reader:
    """A reader of a copy in memory: a file overwritten in place must not change, or crash, what is being read.

    The C library, ten times as fast as the Python one, only maps files; an anonymous one (memfd_create(2)) will do.
    """
    if _HAS_LIBRARY:
        with os.fdopen(os.memfd_create("geolocation"), "wb") as copy:
            copy.write(content)
            copy.flush()
            return maxminddb.open_database(f"/proc/self/fd/{copy.fileno()}", maxminddb.MODE_MMAP_EXT)
    return maxminddb.open_database(BytesIO(content), maxminddb.MODE_FD)


class GeoDatabase:
    """A database file, and what it says of addresses."""

    def __init__(self, path: Path, last_good: Path | None = None, *, keep: bool = True) -> None:
        """Read the file, or else its last good copy: `problem` says what is wrong. With `keep`, this process is the one
        that writes the copy."""
        self._path = path
        self._last_good = last_good
        self._keep = keep
        self._stamp: tuple[int, int, int] | None = None
        self._reader: maxminddb.Reader | None = None
        self.problem = ""
        self.place = lru_cache(maxsize=REMEMBERED_MAX)(self._place)
        if not self.reload() and last_good is not None and last_good.exists():
            try:
                self._use(last_good.read_bytes())
            except Exception as error:  # noqa: BLE001  (as in `reload`)
                self.problem += f"; nor its last good copy: {last_good}: {error}"

    def reload(self) -> bool:
        """Read the file again if it changed; whether it did and is in use now. Blocks: call it off the loop."""
        try:
            status = os.stat(self._path)  # noqa: PTH116  (one call for all three numbers)
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            content = self._path.read_bytes()
            self._use(content)
        except Exception as error:  # noqa: BLE001  (of damaged bytes the library raises whatever comes up)
            self.problem = f"{self._path}: {error}"
            return False
        self.problem = ""
        if self._last_good is not None and self._keep:
            try:
                self._remember(self._last_good, content, status)
            except OSError as error:
                self.problem = f"{self._last_good}: no copy could be kept: {error.strerror}"
        return True

    def _use(self, content: bytes) -> None:
        reader = _opened(content)
        reader.get("192.0.2.1")
        self._reader = reader
        self.place = lru_cache(maxsize=REMEMBERED_MAX)(self._place)

    @staticmethod
    def _remember(copy: Path, content: bytes, status: os.stat_result) -> None:
        """Keep a copy, of the same date and size; unless there is one: a node that restarts writes nothing."""
        with suppress(FileNotFoundError):
            known = copy.stat()
            if (known.st_mtime_ns, known.st_size) == (status.st_mtime_ns, len(content)):
                return
        replace_file(copy, content, 0o600)
        os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _place(self, address: str) -> GeoPlace:
        """Where an address is; unknown for what is no address and for what a damaged file says of it."""
        if self._reader is None:
            return NOWHERE
        try:
            return place_of(self._reader.get(address))
        except Exception:  # noqa: BLE001  (as above; a client must not be refused for it)
            return NOWHERE
