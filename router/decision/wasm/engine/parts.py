"""Headers, cookies and query parameters of a request, read as `router.decision.request` reads them.

Each leaves what it found in `PART` and `PART_SIZE` and answers whether it found anything.
"""

from __future__ import annotations

from router.decision.wasm.engine.texts import after_space, before_space, is_continuation, is_text, lowered, place_of
from router.decision.wasm.language import get8, get16, get32, put8, put32, text, u32
from router.decision.wasm.layout import (
    DECODED,
    HEADER_COUNT,
    HEADERS,
    HOST,
    HOST_KEY,
    HOST_KEY_SIZE,
    NONE,
    PART,
    PART_SIZE,
    PATH,
)


def keep(at: u32, size: u32) -> u32:
    put32(PART, at)
    put32(PART_SIZE, size)
    return 1


def path_end() -> u32:
    """Where the path's query begins, or the path ends."""
    return place_of(get32(PATH), get32(PATH) + get32(PATH + 4), ord("?"))


def find_header(name: u32) -> u32:
    return header_from(get32(HEADERS), get32(HEADER_COUNT), name) != 0


def header_from(at: u32, left: u32, name: u32) -> u32:
    """The first header of a name: where the next one is (never 0), or 0 when there is none. `PART` is its value."""
    while left > 0:
        size = get16(at)
        value = at + 2 + size
        following = value + 2 + get16(value)
        if is_text(at + 2, size, name):
            keep(value + 2, get16(value))
            return following
        at = following
        left -= 1
    return 0


def find_cookie(name: u32) -> u32:
    """Of all Cookie headers, the first that has it."""
    at = get32(HEADERS)
    for _ in range(get32(HEADER_COUNT)):
        size = get16(at)
        value = at + 2 + size
        if is_text(at + 2, size, text("cookie")) and cookie_in(value + 2, value + 2 + get16(value), name):
            return 1
        at = value + 2 + get16(value)
    return 0


def cookie_in(at: u32, end: u32, name: u32) -> u32:
    while True:
        stop = place_of(at, end, ord(";"))
        first = after_space(at, stop)
        last = before_space(first, stop)
        equals = place_of(first, last, ord("="))
        if equals < last and is_text(first, equals - first, name):
            first = equals + 1
            while first < last and get8(first) == ord('"'):
                first += 1
            while first < last and get8(last - 1) == ord('"'):
                last -= 1
            return keep(first, last - first)
        if stop == end:
            return 0
        at = stop + 1


def find_query(name: u32) -> u32:
    at = path_end() + 1
    end = get32(PATH) + get32(PATH + 4)
    if at >= end:
        return 0
    while True:
        stop = place_of(at, end, ord("&"))
        equals = place_of(at, stop, ord("="))
        if is_text(at, equals - at, name) or is_text(DECODED, decoded(at, equals), name):
            at = equals + 1 if equals < stop else stop
            return keep(DECODED, decoded(at, stop))
        if stop == end:
            return 0
        at = stop + 1


def hex_digit(byte: u32) -> u32:
    """Its value, or more than 15."""
    digit = byte - ord("0")
    if digit <= 9:
        return digit
    digit = lowered(byte) - ord("a")
    return digit + 10 if digit < 6 else NONE


def escaped(at: u32, end: u32) -> u32:
    """The byte that a percent escape here stands for, or `NONE`."""
    if at + 2 >= end or get8(at) != ord("%") or hex_digit(get8(at + 1)) > 15 or hex_digit(get8(at + 2)) > 15:
        return NONE
    return hex_digit(get8(at + 1)) << 4 | hex_digit(get8(at + 2))


def decoded(at: u32, end: u32) -> u32:
    """`unquote_plus` of a stretch, into `DECODED`; its size. Escapes that are no UTF-8 become U+FFFD, one for each
    stretch that could have begun a character."""
    to = DECODED
    while at < end:
        byte = escaped(at, end)
        if byte == NONE:
            byte = get8(at)
            put8(to, ord(" ") if byte == ord("+") else byte)
            to += 1
            at += 1
        elif byte < 0x80:
            put8(to, byte)
            to += 1
            at += 3
        else:
            taken = character(at, end, byte)
            if taken & 0x100:
                taken = taken & 0xFF
                for place in range(taken):
                    put8(to + place, escaped(at + 3 * place, end))
                to += taken
            else:
                put8(to, 0xEF)
                put8(to + 1, 0xBF)
                put8(to + 2, 0xBD)
                to += 3
            at += 3 * taken
    return to - DECODED


def character(at: u32, end: u32, lead: u32) -> u32:
    """How many escapes here make a character, with 0x100 added; or, when they make none, how many go together."""
    wanted = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 1
    if wanted == 1:
        return 1
    for place in range(1, wanted):
        byte = escaped(at + 3 * place, end)
        if byte == NONE or not is_continuation(byte):
            return place
        if place == 1 and not may_follow(lead, byte):
            return 1
    return wanted | 0x100


def may_follow(lead: u32, byte: u32) -> u32:
    """Table 3-7 of the Unicode Standard: no long forms, no surrogates, nothing above U+10FFFF."""
    if lead == 0xE0:
        return byte >= 0xA0
    if lead == 0xED:
        return byte < 0xA0
    if lead == 0xF0:
        return byte >= 0x90
    return lead != 0xF4 or byte < 0x90


def make_host_key() -> None:
    """The host as patterns are written: lower case, without port or trailing dot, into `HOST_KEY`."""
    at = get32(HOST)
    end = at + get32(HOST + 4)
    bracketed = at < end and get8(at) == ord("[")
    stop = place_of(at, end, ord("]") if bracketed else ord(":"))
    if bracketed and stop < end:
        stop += 1
    to = HOST_KEY
    while at < stop:
        byte = get8(at)
        # U+212A, the sign for kelvin, is the one character outside ASCII whose lower case is inside: k.
        if byte == 0xE2 and at + 2 < stop and get8(at + 1) == 0x84 and get8(at + 2) == 0xAA:
            byte = ord("k")
            at += 2
        put8(to, lowered(byte))
        to += 1
        at += 1
    if not bracketed and to > HOST_KEY and get8(to - 1) == ord("."):
        to -= 1
    put32(HOST_KEY_SIZE, to - HOST_KEY)
