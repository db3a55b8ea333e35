"""MurmurHash3 (x64, 128 bits; Appleby) and what `rendezvous` makes of it.

The first half of the hash, with seed 0, as `mmh3.hash64` gives it.
"""

from __future__ import annotations

from router.decision.wasm.language import copy, get8, get32, get64, leading_zeros, narrow, rotated, u32, u64, wide
from router.decision.wasm.layout import HASHED, KEY, KEY_SIZE, LOGARITHMS

_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F


def mixed(value: u64) -> u64:
    value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCD
    value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53
    return value ^ (value >> 33)


def tail(at: u32, size: u32) -> u64:
    """Up to eight bytes as a number."""
    value: u64 = 0
    for place in range(size):
        value = value | wide(get8(at + place)) << wide(8 * place)
    return value


def hashed(at: u32, size: u32) -> u64:
    h1: u64 = 0
    h2: u64 = 0
    end = at + (size & 0xFFFF_FFF0)
    while at < end:
        h1 = h1 ^ rotated(get64(at) * _C1, 31) * _C2
        h1 = (rotated(h1, 27) + h2) * 5 + 0x52DCE729
        h2 = h2 ^ rotated(get64(at + 8) * _C2, 33) * _C1
        h2 = (rotated(h2, 31) + h1) * 5 + 0x38495AB5
        at += 16
    left = size & 15
    if left > 8:
        h2 = h2 ^ rotated(tail(at + 8, left - 8) * _C2, 33) * _C1
    h1 = h1 ^ rotated(tail(at, min(8, left)) * _C1, 31) * _C2
    h1 = h1 ^ wide(size)
    h2 = h2 ^ wide(size)
    h1 += h2
    return mixed(h1) + mixed(h1 + h2)


def score(name: u32) -> u64:
    """The hash of the user's key and a name behind it."""
    size = get32(KEY_SIZE)
    copy(KEY + size, name + 4, get32(name))
    return hashed(KEY, size + get32(name))


def bucket(salt: u32) -> u32:
    """Where the user is among a million, for one purpose. The salt ends with its zero byte."""
    size = get32(salt)
    copy(HASHED, salt + 4, size)
    copy(HASHED + size, KEY, get32(KEY_SIZE))
    return narrow(hashed(HASHED, size + get32(KEY_SIZE)) % 1_000_000)


def minus_log2(number: u64) -> u64:
    """-log2((number + 1) / 2^64) in 2^-24, by the table of `rendezvous`."""
    number += 1
    if number == 0:
        return 0
    exponent = 63 - leading_zeros(number)
    rest = (number << (63 - exponent)) << 1
    place = LOGARITHMS + 4 * narrow(rest >> 56)
    between = rest >> 40 & 0xFFFF
    low = wide(get32(place))
    return ((64 - exponent) << 24) - low - ((wide(get32(place + 4)) - low) * between >> 16)


def cost(name: u32, scale: u64) -> u64:
    """What ranks: the least goes first. `scale` is 2^32 // weight; 0 where there are no weights."""
    value = score(name)
    return 0xFFFF_FFFF_FFFF_FFFF - value if scale == 0 else minus_log2(value) * scale
