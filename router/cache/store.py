"""Stored responses in memory, within a bound of bytes: least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from router.cache.rules import matches
from router.cache.stored import Stored
from router.policy.hosts import covering_patterns
from router.policy.paths import PathPattern
from router.traffic.http1 import Field

VARIANTS_MAX = 16
"""Variants of one target. A Vary on a field that is different for everybody must not fill the cache."""
PURGES_MAX = 1_024
"""Purges remembered, against answers that were asked for before them and come after."""


class Key(NamedTuple):
    """What policy says differently is kept apart: a rule may be about where data may come from."""

    route: str
    rule: str
    zone: str
    host: str
    target: bytes


@dataclass(frozen=True, slots=True)
class Purge:
    """Everything of these hosts and paths that was asked for until `at_ms` is gone."""

    host: str
    """A pattern: "shop.example.com", "*.example.com" or "*"."""
    path: PathPattern
    at_ms: int

    def covers(self, key: Key, asked_ms: int) -> bool:
        path = key.target.partition(b"?")[0].decode("ascii")
        return asked_ms <= self.at_ms and self.host in covering_patterns(key.host) and self.path.matches(path)


class CacheStore:
    """Not thread safe; one per process."""

    def __init__(self, bytes_max: int, object_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.object_bytes_max = object_bytes_max
        """The largest body that is kept."""
        self._entries: OrderedDict[Key, list[Stored]] = OrderedDict()
        self._purges: list[Purge] = []
        self.size = 0
        """Bytes counted, by `Stored.size`."""
        self.evicted = 0

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def find(self, key: Key, fields: Sequence[Field]) -> tuple[Stored | None, bool]:
        """The variant for a request with these fields, the newest if several match; and whether the target is known."""
        variants = self._entries.get(key)
        if variants is None:
            return None, False
        self._entries.move_to_end(key)
        fitting = [stored for stored in variants if matches(stored, fields)]
        return max(fitting, key=lambda stored: (stored.date_s, stored.answered_ms), default=None), True

    def put(self, key: Key, stored: Stored) -> bool:
        """Keep `stored`, in place of the variant that answers the same requests. False if it may or can not be kept."""
        if len(stored.body) > self.object_bytes_max or stored.size > self._bytes_max:
            return False
        if any(purge.covers(key, stored.asked_ms) for purge in self._purges):
            return False
        variants = self._entries.setdefault(key, [])
        for known in [known for known in variants if known.varies == stored.varies]:
            self._drop(variants, known)
        if len(variants) >= VARIANTS_MAX:
            self._drop(variants, variants[0])
        variants.append(stored)
        self.size += stored.size
        self._entries.move_to_end(key)
        while self.size > self._bytes_max:
            oldest, of_oldest = next(iter(self._entries.items()))
            self._drop(of_oldest, of_oldest[0])
            self.evicted += 1
            if not of_oldest:
                del self._entries[oldest]
        return True

    def forget(self, key: Key, stored: Stored) -> None:
        """Drop one variant, if it is still there."""
        variants = self._entries.get(key, [])
        if any(known is stored for known in variants):
            self._drop(variants, stored)
            if not variants:
                del self._entries[key]

    def invalidate(self, host: str, target: bytes) -> None:
        """Drop everything of one target, whatever rule brought it (RFC 9111 4.4)."""
        for key in [key for key in self._entries if key.host == host and key.target == target]:
            self._drop_all(key)

    def purge(self, purge: Purge) -> int:
        """Drop what is covered, now and when it is still on its way; how many responses were dropped."""
        self._purges = [*self._purges, purge][-PURGES_MAX:]
        dropped = 0
        for key, variants in list(self._entries.items()):
            for stored in [stored for stored in variants if purge.covers(key, stored.asked_ms)]:
                self._drop(variants, stored)
                dropped += 1
            if not variants:
                del self._entries[key]
        return dropped

    def _drop(self, variants: list[Stored], stored: Stored) -> None:
        variants[:] = [known for known in variants if known is not stored]
        self.size -= stored.size

    def _drop_all(self, key: Key) -> None:
        for stored in self._entries.pop(key):
            self.size -= stored.size
