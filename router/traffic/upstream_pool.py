"""Kept connections to endpoints: the warm half of a fast failover.

Per endpoint a stack: the connection used last is the one most likely alive, and those at the bottom grow old and go.
Before reuse a connection must be quiet: if its peer has closed it, or sent bytes nobody asked for, it is not used
again, and the request has lost nothing, for no byte of it was written. A fiber need not ask the kernel for that: all
that had come a moment ago, when the nest last looked, has been told. What came since might as well be on its way yet,
and a close that crosses the request on the way is nobody's fault (`Upstream.was_left`).

To every endpoint that was decided as a standby lately, a few connections are held ready: connected, TLS done, our
certificate shown. Once a second they are pinged in the cheapest way there is: the kernel, and OpenSSL, know whether the
peer has closed, and no request is spent on it. What that cannot tell (a path that swallows packets) renewal does: each
is replaced before it is as old as the pool lets a connection be, so one that was just made always stands ready.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import ssl
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio

from lattice.types import MILLISECOND, Endpoint
from router.decision.decide import Attempt
from router.traffic.connection import ESTABLISHED, Connection, connect, connect_unix
from router.traffic.http1 import ResponseReader
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.server_tls import handshake_fault
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_tls import UpstreamTls, UpstreamTlsError

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""This process, not its peer, has run out of something."""


EXPECTED_SECONDS: Final = 60.0
"""How long after its last decision a standby is held ready."""


RENEW_SECONDS: Final = 1.5
"""How long before its last moment a connection is not counted on any more, and another made: a pass of `keep_warm` and
the time to connect."""


RTO_MAX_MS: Final = 2_000
"""Between two times that the kernel sends again what nobody acknowledged. By itself it doubles the time up to two
minutes: whoever waits when a cut network heals would wait as long again as the cut was. It gives up after 27 s."""
_RTO_MAX_USUAL_MS: Final = 120_000
CROSSING_US: Final = 20 * MILLISECOND
"""What may come to a round trip that an endpoint's close and our request cross in: the kernel's figure is a mean, and
both sides may be busy. Whoever closes later has most likely read the request, and died of it."""
_TCPI_RTT: Final = slice(68, 72)
"""Of Linux's `struct tcp_info`: the smoothed round trip in microseconds."""
_NEVER_IDLE: Final = -math.inf
_TCP_RTO_MAX_MS: Final = 44
"""Of Linux 6.15 and later; Python has no name for it."""


class ForbiddenAddressError(OSError):
    """The policy names an address that this site does not connect to (see `upstream_address`)."""


class ExhaustedError(Exception):
    """No connection could be made for want of descriptors, ports or memory here: no evidence against the endpoint."""


class Upstream(Connection):
    """One connection to an endpoint, with what has been read of it."""

    __slots__ = ("endpoint", "idle_since", "local", "made_as", "name", "reader", "resumable", "reusable")

    endpoint: Endpoint
    reader: ResponseReader
    idle_since: float
    reusable: bool
    """Request and response are whole, and nobody wants to close: it may serve another request."""
    local: bool
    """It is a Unix socket."""
    name: str | None
    """The name its endpoint has proved; None without TLS."""
    made_as: UpstreamTls | None
    """What we showed, and held its endpoint against; None without TLS."""
    resumable: bool
    """Its session ticket was not taken yet."""

    def was_left(self, waited_us: int) -> bool:
        """Of a connection that is over without a byte for the request that was sent `waited_us` ago: whether its
        endpoint may have closed it before the request arrived. It had waited for one, and the news takes a round trip.
        """
        return self.idle_since > _NEVER_IDLE and waited_us <= 2 * self._round_trip_us() + CROSSING_US

    def _round_trip_us(self) -> int:
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_RTT.stop)
        except OSError:  # not TCP
            return 0
        return int.from_bytes(info[_TCPI_RTT], sys.byteorder)

    def send_again_within(self, rto_max_ms: int) -> None:
        """See `RTO_MAX_MS`. Where the kernel cannot, it stays as it is."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, rto_max_ms)

    def outlive_cuts(self) -> None:
        """Requests end here, and a conversation begins that may outlive longer ones."""
        self.send_again_within(_RTO_MAX_USUAL_MS)

    def is_quiet(self) -> bool:
        """As of any connection; one whose sockets are watched needs no vain read, which costs twice as much."""
        if self._nest is None or self.ready or self.local:
            return super().is_quiet()
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == ESTABLISHED


class UpstreamPool:
    """All upstream connections of one process. `counters`: connections opened, reused, stale, …"""

    def __init__(
        self,
        limits: ProxyLimits,
        nest: NestedEpoll | None = None,
        addresses: AddressRule | None = None,
        unix: Mapping[Endpoint, Path] = MappingProxyType({}),
    ) -> None:
        """`unix` says which endpoints are reached by a Unix socket of this machine, whatever their address."""
        self._limits = limits
        self._idle_seconds = limits.upstream_idle_timeout_us / 1e6
        self._nest = nest
        self._addresses = addresses or AddressRule()
        self._unix = unix
        self._tls: UpstreamTls | None = None
        self._names: Mapping[Endpoint, str] = {}  # of those that speak TLS
        self._sessions: dict[Endpoint, ssl.SSLSession] = {}
        self.wanted = trio.Event()
        """A new standby has none; replaced by each pass of `keep_warm`."""
        self._idle: dict[Endpoint, list[Upstream]] = {}
        self._expected: dict[Endpoint, float] = {}  # standbys, by when they were last decided
        self._warming: Counter[Endpoint] = Counter()  # connections being opened
        self._attempts: Sequence[Attempt] = ()
        self.counters: defaultdict[str, int] = defaultdict(int)

    def configure(self, names: Mapping[Endpoint, str], tls: UpstreamTls | None) -> None:
        """Which endpoints speak TLS, by the name each must prove to have, and as whom we speak to them."""
        for endpoint in sorted(set(self._idle)):
            if tls is not self._tls or names.get(endpoint) != self._names.get(endpoint):
                self.discard(endpoint)
        if tls is not self._tls or names != self._names:
            self._sessions.clear()  # they hold for one context and one name
        self._tls, self._names = tls, names

    def is_tls(self, endpoint: Endpoint) -> bool:
        """Whether connections there speak TLS."""
        return endpoint in self._names

    def take(self, endpoint: Endpoint, now: float) -> Upstream | None:
        """A kept connection, or None."""
        idle, nest = self._idle.get(endpoint), self._nest
        while idle:
            upstream = idle.pop()
            if upstream.idle_since >= now - self._idle_seconds:
                told = nest is not None and nest.current is not None
                if (told and not upstream.ready) or upstream.is_quiet():
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
        path = self._unix.get(endpoint)
        why = self._addresses.why_refused(endpoint[0]) if path is None else None
        if why is not None:
            self.counters["forbidden"] += 1
            raise ForbiddenAddressError(errno.EACCES, f"{why} address")
        began = self._now()
        try:
            if path is None:
                upstream = await connect(*endpoint, timeout_us, Upstream, self._nest)
                upstream.send_again_within(RTO_MAX_MS)
            else:
                upstream = await connect_unix(str(path), timeout_us, Upstream, self._nest)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.close_idle()
                raise ExhaustedError from error
            raise
        upstream.endpoint = endpoint
        upstream.local = path is not None
        upstream.reader = ResponseReader()
        upstream.reusable = False
        upstream.idle_since = _NEVER_IDLE
        upstream.made_as = None
        upstream.resumable = False
        upstream.name = self._names.get(endpoint)
        if upstream.name is not None:
            await self._shake(upstream, upstream.name, timeout_us - int((self._now() - began) * 1e6))
        self.counters["opened"] += 1
        return upstream

    async def _shake(self, upstream: Upstream, name: str, timeout_us: int) -> None:
        tls = self._tls
        try:
            if tls is None:
                raise UpstreamTlsError("no TLS here")
            upstream.begin_tls(tls.context("http/1.1"), name, self._sessions.get(upstream.endpoint))
            await upstream.shake(timeout_us)
        except UpstreamTlsError as error:
            self.counters["tls.not configured"] += 1
            upstream.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from None
        except BaseException as error:
            if isinstance(error, OSError):
                self.counters[f"tls.{handshake_fault(error)}"] += 1
            elif isinstance(error, trio.TooSlowError):
                self.counters["tls.timeout"] += 1
            upstream.close()
            raise
        assert isinstance(upstream.sock, ssl.SSLSocket)
        self.counters["tls.resumed" if upstream.sock.session_reused else "tls.full"] += 1
        upstream.made_as = tls
        upstream.resumable = True

    def _keep_session(self, upstream: Upstream) -> None:
        """For the next handshake with its endpoint. A TLS 1.3 ticket comes with the first read, if it comes."""
        assert isinstance(upstream.sock, ssl.SSLSocket)
        session = upstream.sock.session
        if session is not None and session.has_ticket:
            self._sessions[upstream.endpoint] = session
            upstream.resumable = False

    def expect(self, attempts: Sequence[Attempt]) -> None:
        """These were decided for a request: all but the first are standbys, to be held ready."""
        if attempts is not self._attempts:
            self._attempts = attempts
            now = self._now()
            for attempt in attempts[1:]:
                if attempt.endpoint not in self._expected:
                    self.wanted.set()
                self._expected[attempt.endpoint] = now

    def keep_warm(self, nursery: trio.Nursery) -> None:
        """Ping what is idle, and begin in `nursery` to open what is missing to the standbys of late: one that does not
        answer keeps nobody else waiting."""
        self.wanted = trio.Event()
        self._attempts = ()  # so that the next decision counts anew
        self.sweep()
        now = self._now()
        life = self._limits.upstream_idle_timeout_us / 1e6
        counted_on = now - life + min(RENEW_SECONDS, life / 2)
        for endpoint in sorted(self._expected):
            if self._expected[endpoint] < now - EXPECTED_SECONDS:
                del self._expected[endpoint]
                continue
            fresh = sum(upstream.idle_since >= counted_on for upstream in self._idle.get(endpoint, ()))
            for _ in range(self._limits.warm_per_standby - fresh - self._warming[endpoint]):
                self._warming[endpoint] += 1
                nursery.start_soon(self._warm, endpoint)

    async def _warm(self, endpoint: Endpoint) -> None:
        try:
            upstream = await self.open(endpoint, self._limits.connect_timeout_us)
        except (OSError, trio.TooSlowError, ExhaustedError):
            self.counters["not_warmed"] += 1
            return
        finally:
            self._warming[endpoint] -= 1
            if not self._warming[endpoint]:
                del self._warming[endpoint]
        self.counters["warmed"] += 1
        upstream.reusable = True
        self.release(upstream, self._now())

    def release(self, upstream: Upstream, now: float) -> None:
        """Take a connection back, or close it if it is not reusable or the stack is full."""
        idle = self._idle.get(upstream.endpoint)
        if idle is None:
            idle = self._idle[upstream.endpoint] = []
        # Else the policy, or what we show, has changed while it was in use.
        same = upstream.name == self._names.get(upstream.endpoint)
        same = same and (upstream.made_as is None or upstream.made_as is self._tls)
        if upstream.reusable and same and len(idle) < self._limits.idle_per_endpoint_max:
            upstream.idle_since = now
            if upstream.resumable:
                self._keep_session(upstream)
            idle.append(upstream)
        else:
            upstream.close()

    def discard(self, endpoint: Endpoint) -> None:
        """Close what is kept of an endpoint that just failed: its other connections lead to the same place."""
        for upstream in self._idle.pop(endpoint, ()):
            upstream.close()

    def discard_as_old(self, left: Upstream) -> None:
        """Close what has been idle for as long as this one, which its endpoint has left: whatever ends idle connections
        has ended those as well, and their close may not be on its way to us at all (a router that has forgotten them
        says so only to who sends). One that was put back later may do."""
        idle = self._idle.pop(left.endpoint, [])
        for upstream in idle:
            if upstream.idle_since <= left.idle_since:
                upstream.close()
        if fresh := [upstream for upstream in idle if upstream.idle_since > left.idle_since]:
            self._idle[left.endpoint] = fresh

    def sweep(self) -> None:
        """Close what has grown old or was closed by its peer."""
        oldest = self._now() - self._limits.upstream_idle_timeout_us / 1e6
        for endpoint in sorted(self._idle):
            kept = []
            for upstream in self._idle[endpoint]:
                if upstream.idle_since >= oldest and upstream.is_quiet():
                    if upstream.resumable:
                        self._keep_session(upstream)
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
