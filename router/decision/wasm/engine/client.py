"""The client's address, read as strictly as `router.policy.zones.read_client` reads it, and the zone it is in."""

from __future__ import annotations

from router.decision.wasm.engine.texts import found, lowered, place_of
from router.decision.wasm.language import get8, get32, get64, narrow, put32, put64, u32, u64, wide
from router.decision.wasm.layout import (
    ADDRESS_HIGH,
    ADDRESS_LOW,
    ASN,
    ASNS,
    CLIENT,
    CONTINENT,
    CONTINENTS,
    COUNTRIES,
    COUNTRY,
    FAMILY,
    IPV4,
    IPV6,
    NONE,
    ZONE,
)


def read_ipv4(at: u32, end: u32) -> u64:
    """Four numbers without leading zeros; a number above 32 bits when they are not."""
    address: u64 = 0
    for octet in range(4):
        stop = place_of(at, end, ord("."))
        size = stop - at
        if size == 0 or size > 3 or (size > 1 and get8(at) == ord("0")) or (stop < end) != (octet < 3):
            return 1 << 32
        value = 0
        while at < stop:
            digit = get8(at) - ord("0")
            if digit > 9:
                return 1 << 32
            value = 10 * value + digit
            at += 1
        if value > 255:
            return 1 << 32
        address = address << 8 | wide(value)
        at = stop + 1
    return address


def read_group(at: u32, end: u32) -> u32:
    """One to four hexadecimal digits, or `NONE`."""
    value = 0
    if at == end or end - at > 4:
        return NONE
    while at < end:
        digit = get8(at) - ord("0")
        if digit > 9:
            digit = lowered(get8(at)) - ord("a") + 10
            if digit < 10 or digit > 15:
                return NONE
        value = value << 4 | digit
        at += 1
    return value


def append_group(value: u32) -> None:
    """Shift the address by sixteen bits and put these in."""
    put64(ADDRESS_HIGH, get64(ADDRESS_HIGH) << 16 | get64(ADDRESS_LOW) >> 48)
    put64(ADDRESS_LOW, get64(ADDRESS_LOW) << 16 | wide(value))


def read_ipv6(at: u32, end: u32) -> u32:
    """RFC 4291 2.2, its third form too. Whether it is one; the address is then in the engine's variables."""
    put64(ADDRESS_HIGH, 0)
    put64(ADDRESS_LOW, 0)
    groups = 0
    gap = NONE
    if end - at < 2:
        return 0
    if get8(at) == ord(":"):
        if get8(at + 1) != ord(":"):
            return 0
        gap = 0
        at += 2
        if at == end:
            return 1
    while True:
        stop = place_of(at, end, ord(":"))
        if stop == end and place_of(at, end, ord(".")) < end:
            last = read_ipv4(at, end)
            if last >> 32 != 0 or groups > 6:
                return 0
            append_group(0)
            append_group(0)
            put64(ADDRESS_LOW, get64(ADDRESS_LOW) | last)
            groups += 2
            break
        value = read_group(at, stop)
        if value == NONE or groups > 7:
            return 0
        append_group(value)
        groups += 1
        if stop == end:
            break
        at = stop + 1
        if at == end:
            return 0
        if get8(at) == ord(":"):
            if gap != NONE:
                return 0
            gap = groups
            at += 1
            if at == end:
                break
    if gap == NONE:
        return groups == 8
    if groups > 7:
        return 0
    spread(groups, gap)
    return 1


def spread(groups: u32, gap: u32) -> None:
    """Put zeros where the address has its "::": what stands before them goes up to the top."""
    high = get64(ADDRESS_HIGH)
    low = get64(ADDRESS_LOW)
    after = groups - gap
    put64(ADDRESS_HIGH, 0)
    put64(ADDRESS_LOW, 0)
    for place in range(8):
        number = place if place < gap else (place - (8 - groups) if place >= 8 - after else NONE)
        if number == NONE:
            append_group(0)
        else:
            shift = 16 * wide(groups - 1 - number)
            append_group(low_bits(high, low, shift))


def low_bits(high: u64, low: u64, shift: u64) -> u32:
    """Sixteen bits of a number of 128, from this bit on. The bit is a multiple of sixteen."""
    return narrow(high >> (shift - 64) if shift >= 64 else low >> shift) & 0xFFFF


def read_client() -> None:
    """Family (4 or 6) and address; family 0 for what is no address. A mapped IPv4 address is an IPv4 address."""
    at = get32(CLIENT)
    end = at + get32(CLIENT + 4)
    address = read_ipv4(at, end)
    if address >> 32 == 0:
        put32(FAMILY, 4)
        put64(ADDRESS_HIGH, 0)
        put64(ADDRESS_LOW, address)
    elif not read_ipv6(at, place_of(at, end, ord("%"))):
        put32(FAMILY, 0)
    elif get64(ADDRESS_HIGH) == 0 and get64(ADDRESS_LOW) >> 32 == 0xFFFF:
        put32(FAMILY, 4)
        put64(ADDRESS_LOW, get64(ADDRESS_LOW) & 0xFFFF_FFFF)
    else:
        put32(FAMILY, 6)


def find_zone() -> None:
    """By address, else by ASN, country, continent; 0 is nowhere."""
    zone = 0
    if get32(FAMILY) == 4:
        zone = owner4(narrow(get64(ADDRESS_LOW)))
    elif get32(FAMILY) == 6:
        zone = owner6(get64(ADDRESS_HIGH), get64(ADDRESS_LOW))
    if zone == 0:
        zone = owner_of_number(get32(ASNS), get32(ASN))
    if zone == 0:
        zone = found_or_0(get32(COUNTRIES), COUNTRY)
    if zone == 0:
        zone = found_or_0(get32(CONTINENTS), CONTINENT)
    put32(ZONE, zone)


def owner4(address: u32) -> u32:
    """Whose stretch holds it: the last that starts at or below it. The first starts at 0."""
    index = get32(IPV4)
    low = 0
    high = get32(index)
    while high - low > 1:
        middle = (low + high) // 2
        if get32(index + 4 + 8 * middle) <= address:
            low = middle
        else:
            high = middle
    return get32(index + 8 + 8 * low)


def owner6(address_high: u64, address_low: u64) -> u32:
    index = get32(IPV6)
    low = 0
    high = get32(index)
    while high - low > 1:
        middle = (low + high) // 2
        start = index + 4 + 20 * middle
        top = get64(start)
        if top < address_high or (top == address_high and get64(start + 8) <= address_low):
            low = middle
        else:
            high = middle
    return get32(index + 20 + 20 * low)


def owner_of_number(pairs: u32, number: u32) -> u32:
    for place in range(get32(pairs)):
        if get32(pairs + 4 + 8 * place) == number:
            return get32(pairs + 8 + 8 * place)
    return 0


def found_or_0(dictionary: u32, field: u32) -> u32:
    zone = found(dictionary, get32(field), get32(field + 4))
    return 0 if zone == NONE else zone
