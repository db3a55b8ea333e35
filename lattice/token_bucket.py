"""A share for each: token buckets by key, so that one who floods spends only what is his.

A bucket holds up to `burst` tokens and regains `rate_per_s`. Tokens are counted in millionths, so a microsecond of one
token a second is exactly one of them and nothing is rounded. The table is bounded: when it is full, buckets that have
filled up again (nobody used them for long) are forgotten, and if there is none, strangers share one bucket.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from lattice.types import SECOND, Micros

Key = TypeVar("Key")


class TokenBuckets(Generic[Key]):
    """One bucket a key."""

    def __init__(self, rate_per_s: int, burst: int, keys_max: int) -> None:
        self._rate_per_s = rate_per_s
        self._full = burst * SECOND
        self._keys_max = keys_max
        self._buckets: dict[Key, tuple[int, Micros]] = {}
        self._strangers = (self._full, Micros(0))

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Key, now: Micros, tokens: int = 1) -> bool:
        """Whether there were so many tokens left for this key; if so they are spent."""
        known = self._buckets.get(key)
        if known is None and len(self._buckets) >= self._keys_max:
            self._forget_idle(now)
            if len(self._buckets) >= self._keys_max:
                self._strangers, taken = self._spend(self._strangers, now, tokens)
                return taken
        self._buckets[key], taken = self._spend(known or (self._full, now), now, tokens)
        return taken

    def _spend(self, bucket: tuple[int, Micros], now: Micros, tokens: int) -> tuple[tuple[int, Micros], bool]:
        held, since = bucket
        if now > since:
            held = min(self._full, held + (now - since) * self._rate_per_s)
        enough = held >= tokens * SECOND
        return (held - tokens * SECOND if enough else held, now), enough

    def _forget_idle(self, now: Micros) -> None:
        spent = {key: self._spend(bucket, now, 0)[0] for key, bucket in self._buckets.items()}
        self._buckets = {key: bucket for key, bucket in spent.items() if bucket[0] < self._full}
