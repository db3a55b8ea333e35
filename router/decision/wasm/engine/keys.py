"""What tells users apart, made ready for hashing in `KEY`, as `request.key_bytes` and `decide.user_key` make it."""

from __future__ import annotations

from router.decision.wasm.engine.parts import find_cookie, find_header, keep, path_end
from router.decision.wasm.engine.token import find_claim
from router.decision.wasm.language import copy, get8, get32, get64, narrow, put8, put32, text, u32, u64, wide
from router.decision.wasm.layout import (
    ADDRESS_HIGH,
    ADDRESS_LOW,
    BY_COOKIE,
    BY_HEADER,
    BY_IP,
    BY_PATH,
    CLIENT,
    FAMILY,
    KEY,
    KEY_COUNT,
    KEY_KIND,
    KEY_NAME,
    KEY_PREFIX,
    KEY_SIZE,
    LANE_KEYS,
    PART,
    PART_SIZE,
    PATH,
)


def append(at: u32, size: u32) -> None:
    copy(KEY + get32(KEY_SIZE), at, size)
    put32(KEY_SIZE, get32(KEY_SIZE) + size)


def append_number(value: u64, bytes_wanted: u32) -> None:
    """Its lowest bytes, the greatest first."""
    at = KEY + get32(KEY_SIZE)
    for place in range(bytes_wanted):
        put8(at + bytes_wanted - 1 - place, narrow(value >> wide(8 * place)) & 0xFF)
    put32(KEY_SIZE, get32(KEY_SIZE) + bytes_wanted)


def take_client() -> None:
    """A client's address however it was written, else its text."""
    put32(KEY_SIZE, 0)
    family = get32(FAMILY)
    if family == 0:
        append(get32(CLIENT), get32(CLIENT + 4))
    if family == 6:
        append_number(get64(ADDRESS_HIGH), 8)
        append_number(get64(ADDRESS_LOW), 8)
    if family == 4:
        append_number(get64(ADDRESS_LOW), 4)


def take_user(lane: u32) -> None:
    """The first affinity key of the lane that the request has, else the client."""
    keys = get32(lane + LANE_KEYS)
    if keys:
        for place in range(get32(keys)):
            if take_key(get32(keys + 4 + 4 * place)):
                return
    take_client()


def take_key(key: u32) -> u32:
    """Whether the request has it; nothing counts as not having it."""
    kind = get32(key + KEY_KIND)
    if kind == BY_IP:
        return take_prefix(get32(key + KEY_COUNT))
    if kind == BY_PATH:
        keep_path(get32(key + KEY_COUNT))
    else:
        name = get32(key + KEY_NAME)
        has = find_cookie(name) if kind == BY_COOKIE else find_header(name) if kind == BY_HEADER else find_claim(name)
        if not has:
            return 0
    if get32(PART_SIZE) == 0:
        return 0
    put32(KEY_SIZE, 0)
    prefix = get32(key + KEY_PREFIX)
    append(prefix + 4, get32(prefix))
    append(get32(PART), get32(PART_SIZE))
    return 1


def keep_path(segments: u32) -> None:
    """So many segments of the path, without its query."""
    at = get32(PATH)
    end = path_end()
    while at < end:
        if get8(at) == ord("/"):
            if segments == 0:
                end = at
                break
            segments -= 1
        at += 1
    keep(get32(PATH), end - get32(PATH))


def take_prefix(bits: u32) -> u32:
    """So many bits of an IPv4 address, twice as many of an IPv6 one."""
    family = get32(FAMILY)
    if family == 0:
        return 0
    high = get64(ADDRESS_HIGH)
    low = get64(ADDRESS_LOW)
    dropped = wide(32 - bits if family == 4 else 128 - 2 * bits)
    if dropped >= 64:
        low = high >> (dropped - 64)
        high = 0
    elif dropped > 0:
        low = low >> dropped | high << (64 - dropped)
        high = high >> dropped
    put32(KEY_SIZE, 0)
    append(text("ip ") + 4, 3)
    append_number(high, 8)
    append_number(low, 8)
    return 1
