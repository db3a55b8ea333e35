"""One value, one sequence of bytes: msgpack, narrowed to what we replicate and sign.

Only integers, byte strings, text, booleans, None and arrays travel: no maps (their order is a choice), no floats (their
printing and arithmetic differ), no extension types. Arrays come back as tuples. `unpack` bounds every length before the
library allocates, and `unpack_canonical` refuses an encoding that `pack` would not have produced, so that a hash or a
signature covers exactly one spelling of a value.

Written by msgspec, which takes a third of the time, and read by msgpack, which bounds what it reads; no other module
knows of either form. It never reuses an `Unpacker` (CVE-2026-57585).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn, TypeAlias

import msgpack
from msgspec.msgpack import Encoder

from lattice.errors import MalformedError
from lattice.types import Endpoint

Value: TypeAlias = "int | bytes | str | bool | Sequence[Value] | None"

ARRAY_LENGTH_MAX = 4_096
INTEGER_MAX = 2**63 - 1
"""Enough for microseconds until the year 294,000, and the same in every language."""

pack: Callable[[Value], bytes] = Encoder().encode
"""The one encoding of a value, the shortest that msgpack has for it."""


def unpack(data: bytes, bytes_max: int) -> object:
    """Decode hostile bytes. Raises `MalformedError`; allocates no more than a small multiple of `len(data)`."""
    size = len(data)
    if size > bytes_max:
        raise MalformedError("oversized", f"{size} bytes, at most {bytes_max}")
    try:
        return msgpack.unpackb(  # no text or byte string is longer than the data: `unpackb` sees to that
            data,
            use_list=False,
            max_array_len=min(ARRAY_LENGTH_MAX, size),
            max_map_len=0,
            max_ext_len=0,
            object_hook=_refuse,  # an empty map or extension has no length to exceed
            ext_hook=_refuse,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MalformedError("not msgpack", type(error).__name__) from error


def _refuse(*_: object) -> NoReturn:
    raise ValueError("maps and extension types do not travel")


def unpack_canonical(data: bytes, bytes_max: int) -> object:
    """As `unpack`, and refuse any other spelling of the same value than `pack` gives."""
    value = unpack(data, bytes_max)
    try:
        again = pack(value)  # type: ignore[arg-type]  # whatever came out is being checked here
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError("not canonical", type(error).__name__) from error
    if again != data:
        raise MalformedError("not canonical", "another encoding of the same value")
    return value


# --- shapes: each returns its argument, narrowed, or raises MalformedError("bad shape", what)


def array(
    value: object, what: str, length: int | None = None, length_max: int = ARRAY_LENGTH_MAX
) -> tuple[object, ...]:
    if type(value) is tuple and len(value) == length:
        return value
    if not isinstance(value, tuple):
        raise MalformedError("bad shape", f"{what}: expected an array, got {type(value).__name__}")
    if length is not None:
        raise MalformedError("bad shape", f"{what}: expected {length} items, got {len(value)}")
    if len(value) > length_max:
        raise MalformedError("bad shape", f"{what}: {len(value)} items, at most {length_max}")
    return value


def integer(value: object, what: str, low: int = 0, high: int = INTEGER_MAX) -> int:
    if type(value) is not int:  # a bool is one, too
        raise MalformedError("bad shape", f"{what}: expected an integer, got {type(value).__name__}")
    if not low <= value <= high:
        raise MalformedError("bad shape", f"{what}: {value} is not within {low}..{high}")
    return value


def boolean(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedError("bad shape", f"{what}: expected true or false, got {type(value).__name__}")
    return value


def blob(value: object, what: str, length: int | None = None, length_max: int = 65_536) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedError("bad shape", f"{what}: expected bytes, got {type(value).__name__}")
    if length is not None and len(value) != length:
        raise MalformedError("bad shape", f"{what}: expected {length} bytes, got {len(value)}")
    if len(value) > length_max:
        raise MalformedError("bad shape", f"{what}: {len(value)} bytes, at most {length_max}")
    return value


def text(value: object, what: str, length_max: int) -> str:
    """Printable text of at most `length_max` characters: control characters would reach logs and screens."""
    if not isinstance(value, str):
        raise MalformedError("bad shape", f"{what}: expected text, got {type(value).__name__}")
    if len(value) > length_max:
        raise MalformedError("bad shape", f"{what}: {len(value)} characters, at most {length_max}")
    if not value.isprintable():
        raise MalformedError("bad shape", f"{what}: unprintable characters")
    return value


def endpoint(value: object, what: str) -> Endpoint:
    """(numeric address or nothing, port). A name would have whoever sends there ask the name service for it, and a
    scope (`%eth0`) means something on the peer's machine only."""
    host, port = array(value, what, length=2)
    address = text(host, what, 45)
    if not _is_numeric(address):
        raise MalformedError("bad shape", f"{what}: {address!r} is not a numeric address")
    return address, integer(port, what, 0, 65_535)


@lru_cache(maxsize=16_384)
def _is_numeric(address: str) -> bool:
    """A numeric address without a scope, or nothing. Every row has one, mostly the last one's: hence the cache."""
    try:
        return not address or (ip_address(address) is not None and "%" not in address)
    except ValueError:
        return False
