"""Bytes in memory: comparing, searching, taking apart. A stretch is an address and a size."""

from __future__ import annotations

from router.decision.wasm.language import get8, get32, u32
from router.decision.wasm.layout import NONE


def same(at: u32, size: u32, other: u32, other_size: u32) -> u32:
    if size != other_size:
        return 0
    for place in range(size):
        if get8(at + place) != get8(other + place):
            return 0
    return 1


def is_text(at: u32, size: u32, text: u32) -> u32:
    return same(at, size, text + 4, get32(text))


def is_below(at: u32, size: u32, text: u32, text_size: u32) -> u32:
    """Whether the one stretch sorts before the other, byte by byte."""
    for place in range(min(size, text_size)):
        mine = get8(at + place)
        theirs = get8(text + place)
        if mine != theirs:
            return mine < theirs
    return size < text_size


def place_of(at: u32, end: u32, byte: u32) -> u32:
    """Where the first such byte is; `end` when there is none."""
    while at < end and get8(at) != byte:
        at += 1
    return at


def found(dictionary: u32, at: u32, size: u32) -> u32:
    """What a dictionary has for a text, or `NONE`."""
    low = 0
    high = get32(dictionary)
    while low < high:
        middle = (low + high) // 2
        entry = dictionary + 4 + 8 * middle
        text = get32(entry)
        if is_below(text + 4, get32(text), at, size):
            low = middle + 1
        else:
            high = middle
    if low < get32(dictionary):
        entry = dictionary + 4 + 8 * low
        if is_text(at, size, get32(entry)):
            return get32(entry + 4)
    return NONE


def lowered(byte: u32) -> u32:
    return byte + 32 if ord("A") <= byte <= ord("Z") else byte


def is_continuation(byte: u32) -> u32:
    return byte & 0xC0 == 0x80


def space_size(at: u32, end: u32) -> u32:
    """How many bytes the white space here takes, by Python's `str.isspace`; 0 when there is none."""
    if at >= end:
        return 0
    byte = get8(at)
    if byte < 0x80:
        return 9 <= byte <= 13 or 28 <= byte <= 32
    if byte == 0xC2 and at + 1 < end:
        byte = get8(at + 1)
        return 2 if byte == 0x85 or byte == 0xA0 else 0
    if at + 2 >= end:
        return 0
    point = (byte & 0x0F) << 12 | (get8(at + 1) & 0x3F) << 6 | get8(at + 2) & 0x3F
    if byte == 0xE1:
        return 3 if point == 0x1680 else 0
    if byte == 0xE2:
        if 0x2000 <= point <= 0x200A or point == 0x2028 or point == 0x2029 or point == 0x202F or point == 0x205F:
            return 3
        return 0
    return 3 if byte == 0xE3 and point == 0x3000 else 0


def after_space(at: u32, end: u32) -> u32:
    """Where the first that is no white space is."""
    while space_size(at, end):
        at += space_size(at, end)
    return at


def before_space(at: u32, end: u32) -> u32:
    """Where white space at the end begins."""
    while at < end:
        last = end - 1
        while last > at and is_continuation(get8(last)):
            last -= 1
        size = space_size(last, end)
        if size == 0 or last + size != end:
            return end
        end = last
    return end
