"""Kept connections to endpoints: the warm half of a fast failover.

Per endpoint a stack: the connection used last is the one most likely alive, and those at the bottom grow old and go.
Before reuse a connection must be quiet: if its peer has closed it, or sent bytes nobody asked for, it is not used
again, and the request has lost nothing, for no byte of it was written.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio

from lattice.types import Endpoint
from router.decision.decide import Attempt
from router.traffic.connection import Connection, connect
from router.traffic.http1 import ResponseReader
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""This process, not its peer, has run out of something."""


EXPECTED_SECONDS: Final = 60.0
"""How long after its last decision a standby is held ready."""


class ExhaustedError(Exception):
    """No connection could be made for want of descriptors, ports or memory here: no evidence against the endpoint."""


class Upstream(Connection):
    """One connection to an endpoint, with what has been read of it."""

    __slots__ = ("endpoint", "idle_since", "reader", "reusable")

    endpoint: Endpoint
    reader: ResponseReader
    idle_since: float
    reusable: bool
    """Request and response are whole, and nobody wants to close: it may serve another request."""


class UpstreamPool:
    """All upstream connections of one process. `counters`: connections opened, reused, stale."""

    def __init__(self, limits: ProxyLimits, nest: NestedEpoll | None = None) -> None:
        self._limits = limits
        self._nest = nest
        self._idle: dict[Endpoint, list[Upstream]] = {}
        self._expected: dict[Endpoint, float] = {}  # standbys, by when they were last decided
        self._attempts: Sequence[Attempt] = ()
        self.counters: Counter[str] = Counter()

    def take(self, endpoint: Endpoint, now: float) -> Upstream | None:
        """A kept connection, or None."""
        idle = self._idle.get(endpoint)
        if idle:
            oldest = now - self._limits.upstream_idle_timeout_us / 1e6
            while idle:
                upstream = idle.pop()
                if upstream.idle_since >= oldest and upstream.is_quiet():
                    self.counters["reused"] += 1
                    upstream.reusable = False
                    upstream.sent = 0
                    return upstream
                self.counters["stale"] += 1
                upstream.close()
        return None

    async def acquire(self, endpoint: Endpoint, connect_timeout_us: int | None = None) -> Upstream:
        """A kept connection, or a new one.

        Raises OSError or trio.TooSlowError if the endpoint cannot be reached, and `ExhaustedError`.
        """
        kept = self.take(endpoint, self._now())
        return kept or await self.open(endpoint, connect_timeout_us or self._limits.connect_timeout_us)

    async def open(self, endpoint: Endpoint, timeout_us: int) -> Upstream:
        """A new connection; raises as `acquire` does."""
        try:
            upstream = await connect(*endpoint, timeout_us, Upstream, self._nest)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.close_idle()
                raise ExhaustedError from error
            raise
        upstream.endpoint = endpoint
        upstream.reader = ResponseReader()
        upstream.reusable = False
        self.counters["opened"] += 1
        return upstream

    def expect(self, attempts: Sequence[Attempt]) -> None:
        """These were decided for a request: all but the first are standbys, to be held ready."""
        if attempts is not self._attempts:
            self._attempts = attempts
            now = self._now()
            for attempt in attempts[1:]:
                self._expected[attempt.endpoint] = now

    async def keep_warm(self) -> None:
        """Open what is missing to the standbys of late, in turn. They age like all idle connections: a connection that
        was just made is the best proof that one can be made."""
        since = self._now() - EXPECTED_SECONDS
        self._attempts = ()  # so that the next decision counts anew
        for endpoint in sorted(self._expected):
            if self._expected[endpoint] < since:
                del self._expected[endpoint]
                continue
            missing = self._limits.warm_per_standby - len(self._idle.get(endpoint, ()))
            for _ in range(missing):
                try:
                    upstream = await self.open(endpoint, self._limits.connect_timeout_us)
                except (OSError, trio.TooSlowError, ExhaustedError):
                    self.counters["not_warmed"] += 1
                    break
                self.counters["warmed"] += 1
                upstream.reusable = True
                self.release(upstream, self._now())

    def release(self, upstream: Upstream, now: float) -> None:
        """Take a connection back, or close it if it is not reusable or the stack is full."""
        idle = self._idle.get(upstream.endpoint)
        if idle is None:
            idle = self._idle[upstream.endpoint] = []
        if upstream.reusable and len(idle) < self._limits.idle_per_endpoint_max:
            upstream.idle_since = now
            idle.append(upstream)
        else:
            upstream.close()

    def discard(self, endpoint: Endpoint) -> None:
        """Close what is kept of an endpoint that just failed: its other connections lead to the same place."""
        for upstream in self._idle.pop(endpoint, ()):
            upstream.close()

    def sweep(self) -> None:
        """Close what has grown old or was closed by its peer."""
        oldest = self._now() - self._limits.upstream_idle_timeout_us / 1e6
        for endpoint in sorted(self._idle):
            kept = []
            for upstream in self._idle[endpoint]:
                if upstream.idle_since >= oldest and upstream.is_quiet():
                    kept.append(upstream)
                else:
                    self.counters["stale"] += 1
                    upstream.close()
            if kept:
                self._idle[endpoint] = kept
            else:
                del self._idle[endpoint]

    def close_idle(self) -> None:
        """Close everything that is kept: descriptors are short, or the process stops."""
        for endpoint in sorted(self._idle):
            self.discard(endpoint)

    def _now(self) -> float:
        return trio.current_time() if self._nest is None else self._nest.time()

    @property
    def idle(self) -> int:
        """Kept connections."""
        return sum(map(len, self._idle.values()))
