"""Randomness by name: what befalls a packet is a hash of (seed, to, its bytes), not the next number of a stream.

A stream for each of a million links would cost gigabytes, and one for all would let a node added here move everything
there. A hash needs no memory, and each packet's fate depends on nothing but its own name. Its bytes are one: they say
who sent it and how many that one had sent before. MurmurHash3 passes SMHasher, which is all that luck must do; it keeps
no secrets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import mmh3

PPM: Final = 1_000_000
luck: Final[Callable[[bytes, int], bytes]] = mmh3.mmh3_x64_128_digest
"""``luck(name, seed)``: 16 bytes, the same for the same name for ever."""
QUANTILES: Final = tuple(round(-1_000 * math.log((index + 0.5) / 256)) / 1_000 for index in range(256))
"""Quantiles of the exponential distribution of mean 1, as many as a byte has values. Rounded, so that libraries that
differ in the last bit of a logarithm agree."""


def seed30(name: str) -> int:
    """A seed out of a name, of 30 bits: with the number of a host added it is one that `luck` takes, still."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") >> 2


def happens(bits: int, chance_ppm: int) -> bool:
    """Whether something of that chance happens; uses the low 32 bits."""
    return (bits & 0xFFFFFFFF) * PPM >> 32 < chance_ppm


def exponential(byte: int, mean: int) -> int:
    """A waiting time of that mean, at most 6.3 times it, out of a byte of luck."""
    return math.floor(QUANTILES[byte] * mean)
