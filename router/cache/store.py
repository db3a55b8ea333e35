"""Stored responses in memory, within a bound of bytes: least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from router.cache.rules import matches
from router.cache.stored import Stored
from router.policy.hosts import covering_patterns
from router.policy.paths import PathPattern
from router.traffic.http1 import Field

VARIANTS_MAX = 16
"""Variants of one target, over all rules. A Vary on a field that is different for everybody must not fill the cache."""
PURGES_MAX = 1_024
"""Purges remembered, against answers that were asked for before them and come after."""


class Key(NamedTuple):
    """What policy says differently is kept apart: a rule may be about where data may come from."""

    route: str
    rule: str
    zone: str
    scheme: str
    """What is a redirection to https by http would be one for ever by https."""
    authority: bytes
    """The host as it was asked for, port and all: an origin may repeat it in its answer."""
    host: str
    """The same as policies, purges and invalidations name it."""
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


class _Entry(NamedTuple):
    key: Key
    stored: Stored


class CacheStore:
    """Not thread safe; one per process."""

    def __init__(self, bytes_max: int, object_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.object_bytes_max = object_bytes_max
        """The largest body that is kept."""
        self._targets: OrderedDict[tuple[str, bytes], list[_Entry]] = OrderedDict()
        self._purges: list[Purge] = []
        self.size = 0
        """Bytes counted, by `Stored.size`."""
        self.evicted = 0

    def __len__(self) -> int:
        return sum(map(len, self._targets.values()))

    def find(self, key: Key, fields: Sequence[Field]) -> tuple[Stored | None, bool]:
        """The variant for a request with these fields, the newest if several match; and whether there are others."""
        entries = self._targets.get((key.host, key.target))
        if entries is None:
            return None, False
        self._targets.move_to_end((key.host, key.target))
        variants = [entry.stored for entry in entries if entry.key == key]
        fitting = [stored for stored in variants if matches(stored, fields)]
        return max(fitting, key=lambda stored: (stored.date_s, stored.answered_ms), default=None), bool(variants)

    def put(self, key: Key, stored: Stored) -> bool:
        """Keep `stored`, in place of the variant that answers the same requests. False if it may or can not be kept."""
        if len(stored.body) > self.object_bytes_max or stored.size > self._bytes_max:
            return False
        if any(purge.covers(key, stored.asked_ms) for purge in self._purges):
            return False
        target = key.host, key.target
        self._keep(target, lambda entry: entry.key != key or entry.stored.varies != stored.varies)
        entries = self._targets.setdefault(target, [])
        if len(entries) >= VARIANTS_MAX:
            self.size -= entries.pop(0).stored.size
        entries.append(_Entry(key, stored))
        self.size += stored.size
        self._targets.move_to_end(target)
        while self.size > self._bytes_max:
            oldest, of_oldest = next(iter(self._targets.items()))
            self.size -= of_oldest.pop(0).stored.size
            self.evicted += 1
            if not of_oldest:
                del self._targets[oldest]
        return True

    def forget(self, key: Key, stored: Stored) -> None:
        """Drop one variant, if it is still there."""
        self._keep((key.host, key.target), lambda entry: entry.stored is not stored)

    def invalidate(self, host: str, target: bytes) -> int:
        """Drop everything of one target, whatever rule brought it (RFC 9111 4.4); how many responses."""
        return self._keep((host, target), lambda entry: False)

    def purge(self, purge: Purge) -> int:
        """Drop what is covered, now and when it is still on its way; how many responses were dropped."""
        self._purges = [*self._purges, purge][-PURGES_MAX:]
        return sum(
            self._keep(target, lambda entry: not purge.covers(entry.key, entry.stored.asked_ms))
            for target in list(self._targets)
        )

    def _keep(self, target: tuple[str, bytes], wanted: Callable[[_Entry], bool]) -> int:
        """Drop what is not wanted of one target; how many responses."""
        entries = self._targets.get(target, [])
        kept = [entry for entry in entries if wanted(entry)]
        self.size -= sum(entry.stored.size for entry in entries) - sum(entry.stored.size for entry in kept)
        if kept:
            self._targets[target] = kept
        elif entries:
            del self._targets[target]
        return len(entries) - len(kept)
