"""One part of a stored response (RFC 9110 part 14): `Range: bytes=0-99`, cut here instead of asked for again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from router.cache.http_date import read_http_date
from router.cache.stored import Stored, values_of
from router.traffic.http1 import Fields

_ONE_RANGE: Final = re.compile(rb"[Bb][Yy][Tt][Ee][Ss]=[ \t]*+([0-9]{0,18})-([0-9]{0,18})[ \t]*+")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `first` to `last`, inclusive, of `length`; `last` before `first` when nothing of it is there (416)."""

    first: int
    last: int
    length: int

    @property
    def satisfiable(self) -> bool:
        return self.first <= self.last

    @property
    def content_range(self) -> bytes:
        if not self.satisfiable:
            return b"bytes */%d" % self.length
        return b"bytes %d-%d/%d" % (self.first, self.last, self.length)


def part_asked(fields: Fields, stored: Stored) -> Part | None:
    """The part that these request fields ask for; None for the whole.

    A Range that is malformed, names several parts, or fails its If-Range is ignored, as RFC 9110 14.2 and 13.1.5 let a
    server do.
    """
    asked = values_of(fields, b"range")
    if len(asked) != 1 or stored.status != 200 or not _is_unchanged(fields, stored):
        return None
    match = _ONE_RANGE.fullmatch(asked[0])
    if match is None or match[1] == match[2] == b"":
        return None
    length = len(stored.body)
    if not match[1]:
        suffix = min(int(match[2]), length)
        return Part(length - suffix, length - 1, length) if suffix else Part(0, -1, length)
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return None
    if first >= length:
        return Part(0, -1, length)
    return Part(first, min(int(match[2]), length - 1) if match[2] else length - 1, length)


def _is_unchanged(fields: Fields, stored: Stored) -> bool:
    """If-Range: the part only if the client's others are of this very representation, by a strong validator."""
    condition = values_of(fields, b"if-range")
    if not condition:
        return True
    if len(condition) != 1:
        return False
    value = condition[0]
    if value.startswith((b'"', b"W/")):
        return value == stored.etag and not value.startswith(b"W/")
    date_s = read_http_date(value, stored.answered_ms)
    # RFC 9110 8.8.2.2: a Last-Modified is strong only when it lies a while before the Date.
    return date_s is not None and date_s == stored.modified_s and stored.date_s - date_s >= 60
