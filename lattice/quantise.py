"""Metrics in logarithmic buckets with a dead band, so that a row changes only when a decision could.

A bucket keeps a value's highest set bit and the two after it (the layout of HdrHistogram with two significant bits):
0, 1, 2, 3 are exact, and from there each power of two is cut into four, so a bucket is at most a quarter of its value
wide. A value must leave its bucket by half the bucket's width before the next bucket is taken: jitter around an edge
is not news.
"""

from __future__ import annotations


def bucket_of(value: int) -> int:
    """The bucket that holds `value` >= 0; monotonic, and the identity for 0..3."""
    assert value >= 0, f"{value} is negative"
    if value < 4:
        return value
    exponent = value.bit_length() - 1
    return (exponent - 1) * 4 + ((value >> (exponent - 2)) & 3)


def lower_edge(bucket: int) -> int:
    """The least value in `bucket`; `bucket_of(lower_edge(b)) == b`."""
    if bucket < 4:
        return bucket
    exponent = bucket // 4 + 1
    return (4 + bucket % 4) << (exponent - 2)


def requantise(value: int, held: int | None) -> int:
    """The bucket of `value`, or `held` (the bucket last published) while `value` is within its dead band."""
    bucket = bucket_of(value)
    if held is None or bucket == held:
        return bucket
    low, high = lower_edge(held), lower_edge(held + 1)
    band = (high - low) // 2
    return held if low - band <= value < high + band else bucket
