"""Which routes a host may take, found with one dictionary look-up for a host that a policy names.

The index is built so that the order of routes is already decided: for every host and every `*.suffix` that the policy
names it holds *all* routes that such a host can take, in the order they were written. A host looks for its own name
first, then for the longest suffix, then for "any".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ANY_HOST = "*"


def covering_patterns(host: str) -> list[str]:
    """Every pattern that holds all that `host` (a host or itself a pattern) holds: itself first, `*` last.

    `*.example.com` holds every name below example.com, however deep, and not example.com itself.
    """
    if host == ANY_HOST:
        return [ANY_HOST]
    patterns = [host]
    suffix = "" if host.startswith("[") else host.removeprefix("*.")
    while (parts := suffix.partition("."))[1]:
        suffix = parts[2]
        patterns.append(f"*.{suffix}")
    return [*patterns, ANY_HOST]


def host_key(host: str) -> str:
    """A request's host as patterns are written: lower case, without port or trailing dot."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower() or host.lower()
    return host.partition(":")[0].lower().removesuffix(".")


@dataclass(frozen=True, slots=True)
class HostIndex:
    """Indexes of routes by host. Each tuple is in the order the routes were written."""

    exact: Mapping[str, tuple[int, ...]]
    below: Mapping[str, tuple[int, ...]]
    """By suffix, without the star and dot: "example.com" for `*.example.com`."""
    anywhere: tuple[int, ...]

    @classmethod
    def of(cls, patterns: Iterable[tuple[str, ...]]) -> HostIndex:
        """From the host patterns of every route, in order."""
        direct: dict[str, set[int]] = {}
        for index, hosts in enumerate(patterns):
            for host in hosts:
                direct.setdefault(host, set()).add(index)
        found = {
            host: tuple(sorted(set().union(*(direct.get(wider, ()) for wider in covering_patterns(host)))))
            for host in sorted(direct)
        }
        return cls(
            exact={pattern: indexes for pattern, indexes in found.items() if not pattern.startswith("*")},
            below={pattern[2:]: indexes for pattern, indexes in found.items() if pattern.startswith("*.")},
            anywhere=found.get(ANY_HOST, ()),
        )

    def routes_for(self, host: str) -> tuple[int, ...]:
        """The routes a request's host may take, in order. Never raises, whatever the host is."""
        routes = self.exact.get(host)
        return self._search(host) if routes is None else routes

    def _search(self, host: str) -> tuple[int, ...]:
        key = host_key(host)
        routes = self.exact.get(key)
        if routes is None and key.startswith(("[", ".")):  # an address, or no name at all: below nothing
            return self.anywhere
        while routes is None:
            _, dot, key = key.partition(".")
            if not dot:
                return self.anywhere
            routes = self.below.get(key)
        return routes
