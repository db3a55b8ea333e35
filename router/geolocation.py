"""Where a client's address is, by the operator's own MaxMind database (edge).

Two schemas are read: nested, as GeoLite2 and DB-IP have it ({"country": {"iso_code": "DE"}, "continent": {"code":
"EU"}, "autonomous_system_number": 64500}), and flat, as IPinfo has it ({"country": "DE", "asn": "AS64500"}). A file
that changes is read anew; one that is damaged changes nothing: the last good one stays, and `problem` says why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import maxminddb

REMEMBERED_MAX = 65_536
"""Addresses whose place is remembered, between two readings of the file."""


@dataclass(frozen=True, slots=True)
class GeoPlace:
    country: str = ""
    continent: str = ""
    asn: int = 0


NOWHERE = GeoPlace()


def place_of(record: object) -> GeoPlace:
    """What a record says, in either schema; what it does not say, or says strangely, is unknown."""
    if not isinstance(record, Mapping):
        return NOWHERE
    country = _text(record, "country", "iso_code") or _text(record, "country_code")
    continent = _text(record, "continent", "code") or _text(record, "continent_code")
    asn = record.get("autonomous_system_number", record.get("asn", 0))
    if isinstance(asn, str):
        digits = re.match(r"(?:AS)?([0-9]{1,10})\Z", asn)
        asn = int(digits[1]) if digits else 0
    return GeoPlace(
        country if re.match(r"[A-Z]{2}\Z", country) else "",
        continent if re.match(r"[A-Z]{2}\Z", continent) else "",
        asn if isinstance(asn, int) and 0 <= asn < 1 << 32 else 0,
    )


def _text(record: Mapping[object, object], name: str, inner: str = "") -> str:
    value = record.get(name)
    if isinstance(value, Mapping) and inner:
        value = value.get(inner)
    return value if isinstance(value, str) else ""


class GeoDatabase:
    """A database file, and what it says of addresses."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it can be: `problem` says what is wrong."""
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._reader: maxminddb.Reader | None = None
        self.problem = ""
        self.place = lru_cache(maxsize=REMEMBERED_MAX)(self._place)
        self.reload()

    def reload(self) -> bool:
        """Read the file again if it changed; whether it did and is in use now. Blocks: call it off the loop."""
        try:
            status = os.stat(self._path)  # noqa: PTH116  (one call for all three numbers)
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            # In memory, not mapped: a file overwritten in place must not change, or crash, what is being read.
            reader = maxminddb.open_database(self._path, maxminddb.MODE_MEMORY)
            reader.get("192.0.2.1")
        except Exception as error:  # noqa: BLE001  (of damaged bytes the library raises whatever comes up)
            self.problem = f"{self._path}: {error}"
            return False
        self._reader, self.problem = reader, ""
        self.place = lru_cache(maxsize=REMEMBERED_MAX)(self._place)
        return True

    def _place(self, address: str) -> GeoPlace:
        """Where an address is; unknown for what is no address and for what a damaged file says of it."""
        if self._reader is None:
            return NOWHERE
        try:
            return place_of(self._reader.get(address))
        except Exception:  # noqa: BLE001  (as above; a client must not be refused for it)
            return NOWHERE
