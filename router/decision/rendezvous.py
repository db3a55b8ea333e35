"""Rendezvous hashing: every node sends a client to the same endpoint, and nobody keeps a table.

Each endpoint is scored by a hash of the client and the endpoint; the greatest score wins (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", 1998). When an endpoint goes, only its own clients move, and they
spread evenly over the others; when it returns, the same clients come back.

With weights, the least -log2(hash) / weight wins (Schindelhauer and Schomaker, "Weighted distributed hash tables",
2005): shares are as the weights, and a change of one weight moves no more users than it must. The logarithm is an
integer one, by table and interpolation, off by less than 2^-17: no machine's libm has a say.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmh3 import hash64

_FRACTION_BITS = 24
_TABLE_BITS = 8
_WEIGHT_SCALE = 1 << 32
_MASK = (1 << 64) - 1


def ranking(client: bytes, endpoints: Sequence[bytes], weights: Sequence[int] = ()) -> list[int]:
    """Indexes of `endpoints`, the one this client belongs to first, then where it goes if that one is lost.

    Equal scores (one in 2^64) keep the order given. Names must be distinct for the spread to be even.
    """
    # Signed: mmh3 takes no notice of `signed` by position. Nodes have agreed on that order, so it stays.
    scores = [hash64(client + name, signed=False)[0] for name in endpoints]
    if not weights:
        return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    costs = [
        minus_log2(score & _MASK) * (_WEIGHT_SCALE // weight) for score, weight in zip(scores, weights, strict=True)
    ]
    return sorted(range(len(costs)), key=costs.__getitem__)


def _table() -> tuple[int, ...]:
    """log2(1 + i/256) for i up to 256, in 2^-24, a bit at a time by squaring."""
    one = 1 << 62
    logarithms = []
    for index in range((1 << _TABLE_BITS) + 1):
        mantissa, logarithm = one + (one >> _TABLE_BITS) * index, 0
        for bit in range(_FRACTION_BITS + 1):
            if mantissa >= 2 * one:
                mantissa >>= 1
                logarithm += 1 << (_FRACTION_BITS - bit)
            mantissa = mantissa * mantissa >> 62
        logarithms.append(logarithm)
    return tuple(logarithms)


LOG2 = _table()


def minus_log2(number: int) -> int:
    """-log2((number + 1) / 2^64) in 2^-24, for 0 <= number < 2^64."""
    number += 1
    exponent = number.bit_length() - 1
    rest = (number << 64 >> exponent) & _MASK
    place, between = rest >> (64 - _TABLE_BITS), rest >> (64 - _TABLE_BITS - 16) & 0xFFFF
    low, high = LOG2[place], LOG2[place + 1]
    return ((64 - exponent) << _FRACTION_BITS) - low - ((high - low) * between >> 16)
