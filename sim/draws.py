"""Randomness by name: what befalls a packet is a hash of (seed, from, to, when), not the next number of a stream.

A stream for each of a million links would cost gigabytes, and one for all would let a node added here move everything
there. A hash needs no memory, and each packet's fate depends on nothing but its own name. MurmurHash3 passes SMHasher,
which is all that luck must do; it keeps no secrets.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from struct import Struct
from typing import Final

import mmh3
from mmh3 import hash64

PPM: Final = 1_000_000
packet_name = Struct("<IIQI").pack
delay_bits = mmh3.hash
"""``delay_bits(packet_name(…), seed)``: a number of 32 bits with a sign, of a packet's own, for its delay. Most packets
need no other luck."""
_BITS: Final = 10
SHARE_BITS: Final = 13
"""A share of a delay that is drawn for every packet is a whole number of 2^-13: what comes of it is within the 30 bits
with which CPython reckons several times as fast as with more."""
QUANTILE_BITS: Final = 2**_BITS - 1
QUANTILE_ONE: Final = 1_000
QUANTILES: Final = tuple(round(-QUANTILE_ONE * math.log((index + 0.5) / 2**_BITS)) for index in range(2**_BITS))
"""Quantiles of the exponential distribution of mean 1,000. Rounded, so that libraries that differ in the last bit of a
logarithm agree."""


def seed32(name: str) -> int:
    """A 32-bit seed out of a name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")


def luck(seed: int, source: int, target: int, at: int, ordinal: int) -> tuple[int, int]:
    """Two numbers of 64 bits, the same for the same packet for ever."""
    return hash64(packet_name(source, target, at, ordinal), seed, signed=False)


def happens(bits: int, chance_ppm: int) -> bool:
    """Whether something of that chance happens; uses the low 32 bits."""
    return (bits & 0xFFFFFFFF) * PPM >> 32 < chance_ppm


def exponential(bits: int, mean: int) -> int:
    """A waiting time of that mean, at most 7.6 times it; uses the low 10 bits."""
    return QUANTILES[bits & QUANTILE_BITS] * mean // QUANTILE_ONE
