"""A claim of a bearer token (RFC 7519): base64url, then JSON (RFC 8259), read as `request.jwt_claim` reads them.

The payload is decoded into `DECODED`, and its strings within it: what an escape stands for is never longer than the
escape. A claim that comes twice counts as it comes last.
"""

from __future__ import annotations

from router.decision.wasm.engine.parts import find_header, hex_digit, keep, may_follow
from router.decision.wasm.engine.texts import is_continuation, is_text, lowered, place_of
from router.decision.wasm.language import get8, get32, put8, put32, text, u32
from router.decision.wasm.layout import DECODED, JSON_TEXT, JSON_TEXT_SIZE, NONE, PART, PART_SIZE

TOKEN_BYTES_MAX = 8_192
DEPTH_MAX = 32


def find_claim(name: u32) -> u32:
    if not find_header(text("authorization")):
        return 0
    at = get32(PART)
    end = at + get32(PART_SIZE)
    first = place_of(at, end, ord(" "))
    if not is_bearer(at, first):
        return 0
    at = first + 1
    if at >= end or end - at > TOKEN_BYTES_MAX or not is_ascii(at, end):
        return 0
    first = place_of(at, end, ord(".")) + 1
    last = place_of(first, end, ord("."))
    if last >= end or place_of(last + 1, end, ord(".")) < end:
        return 0
    size = from_base64(first, last)
    if size == NONE or not is_utf8(DECODED, DECODED + size):
        return 0
    return claim_in(DECODED, DECODED + size, name)


def is_bearer(at: u32, end: u32) -> u32:
    if end - at != 6:
        return 0
    for place in range(6):
        if lowered(get8(at + place)) != get8(text("bearer") + 4 + place):
            return 0
    return 1


def is_ascii(at: u32, end: u32) -> u32:
    while at < end:
        if get8(at) > 0x7F:
            return 0
        at += 1
    return 1


def from_base64(at: u32, end: u32) -> u32:
    """Decode into `DECODED`: its size, or `NONE`. Equals signs at the end are let be."""
    while end > at and get8(end - 1) == ord("="):
        end -= 1
    if (end - at) % 4 == 1:
        return NONE
    to = DECODED
    held = 0
    bits = 0
    while at < end:
        digit = six_bits(get8(at))
        if digit == NONE:
            return NONE
        held = held << 6 | digit
        bits += 6
        if bits >= 8:
            bits -= 8
            put8(to, held >> bits)
            to += 1
        at += 1
    return to - DECODED


def six_bits(byte: u32) -> u32:
    if ord("A") <= byte <= ord("Z"):
        return byte - ord("A")
    if ord("a") <= byte <= ord("z"):
        return byte - ord("a") + 26
    if ord("0") <= byte <= ord("9"):
        return byte - ord("0") + 52
    return 62 if byte == ord("-") else 63 if byte == ord("_") else NONE


def is_utf8(at: u32, end: u32) -> u32:
    while at < end:
        lead = get8(at)
        size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        if (0x80 <= lead < 0xC2) or lead > 0xF4 or size > end - at:
            return 0
        for place in range(1, size):
            if not is_continuation(get8(at + place)):
                return 0
        if size > 1 and not may_follow(lead, get8(at + 1)):
            return 0
        at += size
    return 1


def after_blank(at: u32, end: u32) -> u32:
    while at < end and (get8(at) == 32 or get8(at) == 9 or get8(at) == 10 or get8(at) == 13):
        at += 1
    return at


def claim_in(at: u32, end: u32, name: u32) -> u32:
    """The text, or the digits of the whole number, that an object's member is."""
    keep(0, NONE)
    at = after_blank(at, end)
    if at == end or get8(at) != ord("{"):
        return 0
    at = after_members(at + 1, end, 1, name)
    if at == 0 or after_blank(at, end) != end:
        return 0
    return get32(PART_SIZE) != NONE


def after_members(at: u32, end: u32, depth: u32, name: u32) -> u32:
    """Where an object ends whose first member may begin here; 0 when there is none. A member of this name is kept."""
    at = after_blank(at, end)
    if at < end and get8(at) == ord("}"):
        return at + 1
    while True:
        at = after_blank(at, end)
        if at == end or get8(at) != ord('"'):
            return 0
        at = after_string(at + 1, end)
        if at == 0:
            return 0
        wanted = name != 0 and is_text(get32(JSON_TEXT), get32(JSON_TEXT_SIZE), name)
        at = after_blank(at, end)
        if at == end or get8(at) != ord(":"):
            return 0
        at = after_blank(at + 1, end)
        after = after_value(at, end, depth)
        if after == 0:
            return 0
        if wanted:
            keep_value(at, after)
        at = after_blank(after, end)
        if at == end:
            return 0
        if get8(at) == ord("}"):
            return at + 1
        if get8(at) != ord(","):
            return 0
        at += 1


def after_items(at: u32, end: u32, depth: u32) -> u32:
    at = after_blank(at, end)
    if at < end and get8(at) == ord("]"):
        return at + 1
    while True:
        at = after_value(after_blank(at, end), end, depth)
        if at == 0:
            return 0
        at = after_blank(at, end)
        if at == end:
            return 0
        if get8(at) == ord("]"):
            return at + 1
        if get8(at) != ord(","):
            return 0
        at += 1


def keep_value(at: u32, after: u32) -> None:
    """A string (just read) or a whole number; anything else is as if there were no such claim."""
    if get8(at) == ord('"'):
        keep(get32(JSON_TEXT), get32(JSON_TEXT_SIZE))
        return
    whole: u32 = get8(at) == ord("-") or get8(at) - ord("0") <= 9
    keep(at, after - at)
    while at < after:
        if get8(at) == ord(".") or lowered(get8(at)) == ord("e"):
            whole = 0
        at += 1
    if not whole:
        keep(0, NONE)


def after_value(at: u32, end: u32, depth: u32) -> u32:
    if at == end:
        return 0
    byte = get8(at)
    if byte == ord('"'):
        return after_string(at + 1, end)
    if byte == ord("{"):
        return after_members(at + 1, end, depth + 1, 0) if depth < DEPTH_MAX else 0
    if byte == ord("["):
        return after_items(at + 1, end, depth + 1) if depth < DEPTH_MAX else 0
    if byte == ord("t"):
        return after_word(at, end, text("true"))
    if byte == ord("f"):
        return after_word(at, end, text("false"))
    if byte == ord("n"):
        return after_word(at, end, text("null"))
    return after_number(at, end)


def after_word(at: u32, end: u32, word: u32) -> u32:
    size = get32(word)
    return at + size if size <= end - at and is_text(at, size, word) else 0


def after_digits(at: u32, end: u32) -> u32:
    """At least one; 0 when there is none."""
    first = at
    while at < end and get8(at) - ord("0") <= 9:
        at += 1
    return at if at > first else 0


def after_number(at: u32, end: u32) -> u32:
    if at < end and get8(at) == ord("-"):
        at += 1
    zero = at < end and get8(at) == ord("0")
    at = at + 1 if zero else after_digits(at, end)
    if at == 0:
        return 0
    if at < end and get8(at) == ord("."):
        at = after_digits(at + 1, end)
        if at == 0:
            return 0
    if at < end and lowered(get8(at)) == ord("e"):
        at += 1
        if at < end and (get8(at) == ord("+") or get8(at) == ord("-")):
            at += 1
        at = after_digits(at, end)
    return at


def after_string(at: u32, end: u32) -> u32:
    """Decode the string whose first character is here, in its place."""
    to = at
    put32(JSON_TEXT, at)
    while at < end:
        byte = get8(at)
        at += 1
        if byte == ord('"'):
            put32(JSON_TEXT_SIZE, to - get32(JSON_TEXT))
            return at
        if byte < 0x20:
            return 0
        if byte == ord("\\"):
            if at == end:
                return 0
            byte = get8(at)
            at += 1
            if byte == ord("u"):
                point = four_digits(at, end)
                at += 4
                if point & 0xFC00 == 0xD800 and at + 1 < end and get8(at) == ord("\\") and get8(at + 1) == ord("u"):
                    second = four_digits(at + 2, end)
                    if second & 0xFFFF_FC00 == 0xDC00:
                        point = 0x10000 + ((point & 0x3FF) << 10) + (second & 0x3FF)
                        at += 6
                if point == NONE:
                    return 0
                to = put_point(to, point)
                continue
            byte = escape(byte)
            if byte == 0:
                return 0
        put8(to, byte)
        to += 1
    return 0


def escape(byte: u32) -> u32:
    if byte == ord("n"):
        return 10
    if byte == ord("t"):
        return 9
    if byte == ord("r"):
        return 13
    if byte == ord("b"):
        return 8
    if byte == ord("f"):
        return 12
    return byte if byte == ord('"') or byte == ord("\\") or byte == ord("/") else 0


def four_digits(at: u32, end: u32) -> u32:
    if end - at < 4:
        return NONE
    value = 0
    for place in range(4):
        digit = hex_digit(get8(at + place))
        if digit > 15:
            return NONE
        value = value << 4 | digit
    return value


def put_point(to: u32, point: u32) -> u32:
    """A character in UTF-8; half a pair as what it would be (as Python's "surrogatepass")."""
    if point < 0x80:
        put8(to, point)
        return to + 1
    if point < 0x800:
        put8(to, 0xC0 | point >> 6)
        put8(to + 1, 0x80 | point & 0x3F)
        return to + 2
    if point < 0x10000:
        put8(to, 0xE0 | point >> 12)
        put8(to + 1, 0x80 | point >> 6 & 0x3F)
        put8(to + 2, 0x80 | point & 0x3F)
        return to + 3
    put8(to, 0xF0 | point >> 18)
    put8(to + 1, 0x80 | point >> 12 & 0x3F)
    put8(to + 2, 0x80 | point >> 6 & 0x3F)
    put8(to + 3, 0x80 | point & 0x3F)
    return to + 4
