"""A stored response: what was kept of it, how old it is, and how long it is good (RFC 9111 4.2).

::

    asked_ms      answered_ms              now_ms
       |---- delay ---|------ resident -------|
       Date, Age  ->  initial age  +  resident  =  age;     fresh while age < lifetime
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from router.cache.cache_control import SECONDS_MAX, read_cache_control, seconds
from router.cache.http_date import read_http_date
from router.cache.surrogate import for_us
from router.traffic.http1 import Field

HEURISTIC_SHARE: Final = 10
"""RFC 9111 4.2.2: "a typical setting of this fraction might be 10 %" of the time since Last-Modified."""
HEURISTIC_SECONDS_MAX: Final = 86_400
"""Nobody said that it is good for longer than a day: Squid allows three, nginx none."""
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 15.1, without 206: parts are not stored."""

_SURROGATE: Final = b"surrogate-control"
_TARGETED: Final = (b"cdn-cache-control", _SURROGATE)
"""Cache-Control for caches like this one (RFC 9213; the W3C's Edge Architecture), the more particular first."""

_AGE: Final = re.compile(rb"([0-9]{1,10})(?:,[0-9]+)*+")
OVERHEAD_BYTES: Final = 1_024
"""What an entry costs beside the bytes of its fields and body, about: objects, and its places in two tables."""


def values_of(fields: Iterable[Field], name: bytes) -> list[bytes]:
    return [value for key, _, value in fields if key == name]


def said_for_us(fields: Iterable[Field]) -> Mapping[bytes, bytes | None]:
    """The directives that hold here: those for caches at the edge, where there are any, in place of everybody's."""
    fields = tuple(fields)
    return _said_in_particular(fields) or read_cache_control(values_of(fields, b"cache-control"))


def _said_in_particular(fields: Iterable[Field]) -> Mapping[bytes, bytes | None]:
    for name in _TARGETED:
        values = values_of(fields, name)
        directives = read_cache_control(for_us(values) if name is _SURROGATE else values)
        if directives:
            return directives
    return {}


@dataclass(frozen=True)
class Stored:
    """A whole response, and what it takes to choose and to judge it. Equal requests get equal bytes."""

    status: int
    reason: bytes
    fields: tuple[Field, ...]
    """Those that may be kept (RFC 9111 3.1), in order."""
    body: bytes
    varies: tuple[tuple[bytes, bytes | None], ...]
    """The request's fields that Vary named, normalized; None: the request had none of that name."""
    asked_ms: int
    answered_ms: int
    """When the request was sent and its response's head had come, by our clock."""
    region: str
    """Which region gave it."""

    @cached_property
    def directives(self) -> Mapping[bytes, bytes | None]:
        return said_for_us(self.fields)

    @cached_property
    def _expires(self) -> list[bytes]:
        """None where directives are for us in particular: RFC 9213 2.2."""
        return [] if _said_in_particular(self.fields) else values_of(self.fields, b"expires")

    @cached_property
    def size(self) -> int:
        """Bytes that it counts for in the cache."""
        return OVERHEAD_BYTES + len(self.body) + sum(2 * len(name) + len(value) for _, name, value in self.fields)

    @cached_property
    def etag(self) -> bytes | None:
        values = values_of(self.fields, b"etag")
        return values[0] if len(values) == 1 else None

    @cached_property
    def last_modified(self) -> bytes | None:
        values = values_of(self.fields, b"last-modified")
        return values[0] if len(values) == 1 else None

    @cached_property
    def date_s(self) -> int:
        """When its origin made it; without a readable Date, when it came."""
        values = values_of(self.fields, b"date")
        said = read_http_date(values[0], self.answered_ms) if len(values) == 1 else None
        return self.answered_ms // 1_000 if said is None else said

    @cached_property
    def modified_s(self) -> int | None:
        return None if self.last_modified is None else read_http_date(self.last_modified, self.answered_ms)

    @cached_property
    def lifetime_s(self) -> int:
        """How long it is fresh (RFC 9111 4.2.1): what it says for shared caches, for all, until when, or a guess."""
        for name in (b"s-maxage", b"max-age"):
            said = seconds(self.directives, name)
            if said is not None:
                return said
        if self._expires:
            until = read_http_date(self._expires[0], self.answered_ms)
            return 0 if until is None else max(0, until - self.date_s)
        if self.modified_s is None or not (self.status in HEURISTIC_STATUSES or b"public" in self.directives):
            return 0
        return min(max(0, self.date_s - self.modified_s) // HEURISTIC_SHARE, HEURISTIC_SECONDS_MAX)

    @cached_property
    def _initial_age_s(self) -> int:
        values = values_of(self.fields, b"age")
        said = 0
        if values:
            # Of a list the first counts (RFC 9111 5.1); anything else, or more than one line, is as old as can be.
            match = _AGE.fullmatch(values[0]) if len(values) == 1 else None
            said = SECONDS_MAX if match is None else int(match[1])
        apparent = max(0, self.answered_ms // 1_000 - self.date_s)
        return max(apparent, said + (self.answered_ms - self.asked_ms) // 1_000)

    def age_s(self, now_ms: int) -> int:
        """RFC 9111 4.2.3."""
        return self._initial_age_s + max(0, now_ms - self.answered_ms) // 1_000

    def stale_s(self, now_ms: int) -> int:
        """For how many seconds it has been stale; below zero while it is fresh."""
        return self.age_s(now_ms) - self.lifetime_s
