"""What comes in, taken apart: a request or a view, as `abi` describes them. No size is believed unchecked.

`CURSOR` moves on; the first thing that is wrong sets `FAULT`, and from then on everything reads as nothing.
"""

from __future__ import annotations

from router.decision.nearby import LOCATION_MAX
from router.decision.wasm.engine.texts import found
from router.decision.wasm.language import fill, get8, get16, get32, get64, put8, put32, u32, u64, wide
from router.decision.wasm.layout import (
    ASN,
    CURSOR,
    CURSOR_END,
    EJECTED,
    EJECTED_COUNT,
    EJECTED_MARKS,
    ENDPOINT_COUNT,
    ENDPOINTS,
    FAULT,
    HEADER_COUNT,
    HEADERS,
    INPUT,
    INPUT_BYTES_MAX,
    LOCATION,
    MALFORMED,
    NONE,
    ORDERED,
    PORT,
    REQUEST_TEXTS,
    TOO_LONG,
)


def begin(size: u32) -> None:
    put32(FAULT, TOO_LONG if size > INPUT_BYTES_MAX else 0)
    put32(CURSOR, INPUT)
    put32(CURSOR_END, INPUT + (0 if size > INPUT_BYTES_MAX else size))


def ended() -> u32:
    """The fault, also when something is left over."""
    if get32(FAULT) == 0 and get32(CURSOR) != get32(CURSOR_END):
        put32(FAULT, MALFORMED)
    return get32(FAULT)


def fail(fault: u32) -> None:
    if get32(FAULT) == 0:
        put32(FAULT, fault)


def take(size: u32) -> u32:
    """Where so many bytes are; 0 when they are not there, or something was wrong before."""
    at = get32(CURSOR)
    if get32(FAULT) != 0 or get32(CURSOR_END) - at < size:
        fail(MALFORMED)
        return 0
    put32(CURSOR, at + size)
    return at


def take8() -> u32:
    at = take(1)
    return get8(at) if at else 0


def take16() -> u32:
    at = take(2)
    return get16(at) if at else 0


def take32() -> u32:
    at = take(4)
    return get32(at) if at else 0


def take64() -> u64:
    at = take(8)
    return get64(at) if at else wide(0)


def take_text(into: u32) -> None:
    size = take16()
    at = take(size)
    put32(into, at)
    put32(into + 4, size if at else 0)


def read_request(size: u32) -> u32:
    """The fault, or 0."""
    begin(size)
    for field in range(8):
        take_text(REQUEST_TEXTS + 8 * field)
    put32(ASN, take32())
    location = take16()
    put32(LOCATION, location if location <= LOCATION_MAX else 0)
    put32(ORDERED, 0)
    put32(PORT, take16())
    put32(HEADER_COUNT, take16())
    put32(HEADERS, get32(CURSOR))
    for _ in range(2 * get32(HEADER_COUNT)):
        take(take16())
    put32(EJECTED_COUNT, take16())
    put32(EJECTED, get32(CURSOR))
    for _ in range(get32(EJECTED_COUNT)):
        take(take16())
        take16()
    if ended() == 0:
        mark_ejected()
    return get32(FAULT)


def mark_ejected() -> None:
    """A byte for each endpoint of the policy: whether it is among those that are not to be tried."""
    fill(get32(EJECTED_MARKS), 0, get32(ENDPOINT_COUNT))
    at = get32(EJECTED)
    for _ in range(get32(EJECTED_COUNT)):
        size = get16(at)
        ports = found(get32(ENDPOINTS), at + 2, size)
        port = get16(at + 2 + size)
        if ports != NONE:
            for place in range(get32(ports)):
                if get32(ports + 4 + 8 * place) == port:
                    put8(get32(EJECTED_MARKS) + get32(ports + 8 + 8 * place), 1)
        at += size + 4
