"""Active health checks: is the endpoint there, and how fast does it answer?

Each endpoint of a region has one task that probes it at the policy's interval, give or take a tenth, so that sites and
endpoints do not fall into step. What a probe saw goes to a callback;
grading it is `router.health.grade`'s.

Suspicion does not wait for the interval. When live traffic ejects an endpoint, or a peer doubts a region, `look_now`
starts a burst: as many probes as confirm a failure, `BURST_SPACING_US` apart and side by side, so that even an endpoint
that hangs is judged after one timeout rather than three. A burst under way absorbs further calls, and one endpoint has
at most one burst in `BURST_PAUSE_US`: a peer that cries wolf costs a handful of probes a second, no more.

Reconfiguring keeps the task, the phase and the burst of every endpoint that stays.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import httptools
import trio

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.grade import Sample
from router.site.config_reader import endpoint_text

HEAD_BYTES_MAX = 8 * 1024
"""Status line and headers of a health answer; nginx and Envoy send some hundred bytes."""
BODY_BYTES_MAX = 16 * 1024
"""So much of a body is read to see that the answer ends well; beyond it the status alone decides."""
READ_BYTES = 4096
PROBES_AT_ONCE_MAX = 64
BURST_PROBES_AT_ONCE_MAX = 32
"""Apart from the former, so that slow routine probes never delay a confirmation."""

BURST_PROBES_MAX = 8
BURST_SPACING_US = 15 * MILLISECOND
"""Three probes confirm within 30 ms and a round trip; a restarting process that refuses for less is not condemned."""
BURST_PAUSE_US = 250 * MILLISECOND

FIRST_PROBE_WITHIN_US = 50 * MILLISECOND
"""A new endpoint is probed at once, spread a little: UNKNOWN should not last an interval."""
JITTER_SHARE = 10
"""Each interval is stretched or shortened by up to a tenth."""


_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Out of descriptors, memory or local ports."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe saw."""

    ok: bool
    """A final status from 200 to 299, in time."""
    latency_us: int
    """From the first packet to the first byte of the answer, or to the failure."""
    connect_failed: bool
    """Nobody listens there, or no way leads there."""
    detail: str
    """For people: "200", "503", "connection refused", "no answer in 200 ms"."""
    ours: bool = False
    """This node could not even try (no descriptor, no port): evidence of nothing."""

    def sample(self) -> Sample:
        """What grading wants of it."""
        return Sample(self.ok, self.latency_us, self.connect_failed)


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """One endpoint, and how it is probed."""

    region: str
    endpoint: Endpoint
    path: str
    every_us: int
    timeout_us: int
    fail_after: int
    """Consecutive failures that make it DOWN: the size of a burst."""
    host: str = ""
    """The Host header; empty for the endpoint itself."""


class Probe(Protocol):
    """`probe_once`, or a test's stand-in."""

    async def __call__(self, endpoint: Endpoint, path: str, timeout_us: int, host: str) -> ProbeResult: ...


async def probe_once(endpoint: Endpoint, path: str, timeout_us: int, host: str) -> ProbeResult:
    """One GET on a connection of its own. Never raises for what the endpoint does; bounded in time and bytes."""
    started = trio.current_time()
    connected = False
    answered: float | None = None

    def result(ok: bool, detail: str) -> ProbeResult:
        until = trio.current_time() if answered is None else answered
        latency_us = round((until - started) * SECOND)
        return ProbeResult(ok, latency_us, connect_failed=not connected, detail=detail)

    family = trio.socket.AF_INET6 if ":" in endpoint[0] else trio.socket.AF_INET
    try:
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    except OSError as error:
        return ProbeResult(False, 0, connect_failed=True, detail=f"this node: {error.strerror}", ours=True)
    with trio.move_on_after(timeout_us / SECOND), sock:
        try:
            await sock.connect(endpoint)
            connected = True
            sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            await trio.SocketStream(sock).send_all(_request(path, host or endpoint_text(endpoint)))
            answer = _Answer()
            while not answer.complete:
                piece = await sock.recv(READ_BYTES)
                answered = trio.current_time() if answered is None else answered
                answer.feed(piece)
        except OSError as error:
            if error.errno in _OUR_ERRNOS:
                return ProbeResult(False, 0, connect_failed=True, detail=f"this node: {error.strerror}", ours=True)
            return result(False, _why(error))
        except _BadAnswerError as error:
            return result(False, str(error))
        return result(200 <= answer.status <= 299, str(answer.status))
    return result(False, f"no answer in {timeout_us // MILLISECOND} ms")


def _why(error: OSError) -> str:
    """The system's words for an error, without the address that trio puts before them."""
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


def _request(path: str, host: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edgelattice-health\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii", "replace")


class _BadAnswerError(Exception):
    """The endpoint answered with something that is not an HTTP response."""


class _Answer:
    """One response, read as far as a probe cares; httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._in_head = True
        self._length_told = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        if not data:
            if self._in_head:
                raise _BadAnswerError("connection closed before an answer")
            if self._length_told:
                raise _BadAnswerError("connection closed within the answer")
            self.complete = True  # the end of the connection is the end of the body (RFC 9112, 6.3)
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise _BadAnswerError(f"not HTTP: {error}") from None
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            raise _BadAnswerError(f"headers of more than {HEAD_BYTES_MAX} bytes")

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._length_told = self._length_told or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # 1xx are not the answer yet (RFC 9110, 15.2)
            self.status = status
            self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self.complete = True

    def on_message_complete(self) -> None:
        if not self._in_head:
            self.complete = True


class _Watch:
    """One endpoint under watch."""

    def __init__(self, target: ProbeTarget, seed: int) -> None:
        self.target = target
        self.rng = random.Random(seed)
        """Its own, for trio runs tasks in no particular order."""
        self.scope = trio.CancelScope()
        self.changed = trio.Event()
        self.burst_until = float("-inf")
        """No new burst before this time; far in the future while one is under way."""


def _interval_us(watch: _Watch) -> int:
    every_us = watch.target.every_us
    spread_us = every_us // JITTER_SHARE
    return every_us + watch.rng.randrange(-spread_us, spread_us + 1)


class HealthChecker:
    """Probes a changing set of endpoints until cancelled."""

    def __init__(
        self,
        observed: Callable[[ProbeTarget, ProbeResult], None],
        rng: random.Random,
        probe: Probe = probe_once,
    ) -> None:
        """`observed` gets every result of an endpoint that is still configured, in the order they came in."""
        self._observed = observed
        self._rng = rng
        self._probe = probe
        self._watches: dict[tuple[str, Endpoint], _Watch] = {}
        self._nursery: trio.Nursery | None = None
        self._slots = trio.CapacityLimiter(PROBES_AT_ONCE_MAX)
        self._burst_slots = trio.CapacityLimiter(BURST_PROBES_AT_ONCE_MAX)
        self.counters: Counter[str] = Counter()
        """probes, probes_failed, probes_impossible, bursts, bursts_absorbed."""

    @property
    def targets(self) -> tuple[ProbeTarget, ...]:
        """What is watched, by region and endpoint."""
        return tuple(self._watches[key].target for key in sorted(self._watches))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probe until cancelled. `configure` and `look_now` work before and during."""
        assert self._nursery is None, "one run at a time"
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for key in sorted(self._watches):
                    nursery.start_soon(self._attend, self._watches[key])
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def configure(self, targets: Iterable[ProbeTarget]) -> None:
        """Watch exactly these from now on. What stays keeps its phase; a changed interval counts at once."""
        wanted = {(target.region, target.endpoint): target for target in targets}
        for key in sorted(self._watches.keys() - wanted.keys()):
            self._watches.pop(key).scope.cancel()
        for key in sorted(wanted):
            watch = self._watches.get(key)
            if watch is None:
                watch = self._watches[key] = _Watch(wanted[key], self._rng.getrandbits(64))
                if self._nursery is not None:
                    self._nursery.start_soon(self._attend, watch)
            elif watch.target != wanted[key]:
                watch.target = wanted[key]
                watch.changed.set()

    def look_now(self, region: str, endpoint: Endpoint | None = None) -> None:
        """Confirm or refute a suspicion about a region, or about one endpoint of it, within tens of milliseconds."""
        if self._nursery is None:
            return
        for key in sorted(self._watches):
            if key[0] == region and endpoint in {None, key[1]}:
                self._start_burst(self._nursery, self._watches[key])

    def _start_burst(self, nursery: trio.Nursery, watch: _Watch) -> None:
        if trio.current_time() < watch.burst_until:
            self.counters["bursts_absorbed"] += 1
            return
        watch.burst_until = float("inf")
        self.counters["bursts"] += 1
        nursery.start_soon(self._burst, watch)

    async def _attend(self, watch: _Watch) -> None:
        """The task of one endpoint."""
        with watch.scope:
            within_us = min(watch.target.every_us, FIRST_PROBE_WITHIN_US)
            due = trio.current_time() + watch.rng.randrange(within_us + 1) / SECOND
            while True:
                due = await self._sleep_until_due(watch, due)
                await self._probe_one(watch, self._slots)
                # From the last due time, so that slow answers do not stretch the interval; never two at once.
                due = max(due + _interval_us(watch) / SECOND, trio.current_time())

    async def _sleep_until_due(self, watch: _Watch, due: float) -> float:
        """Sleep until `due`, or until what a reconfiguration makes of it; the time that it became."""
        while True:
            with trio.move_on_at(due) as sleeping:
                await watch.changed.wait()
            if sleeping.cancelled_caught:
                return due
            watch.changed = trio.Event()
            due = min(due, trio.current_time() + _interval_us(watch) / SECOND)

    async def _burst(self, watch: _Watch) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(min(watch.target.fail_after, BURST_PROBES_MAX)):
                if index:
                    await trio.sleep(BURST_SPACING_US / SECOND)
                if watch.scope.cancel_called:
                    break
                nursery.start_soon(self._probe_one, watch, self._burst_slots)
        watch.burst_until = trio.current_time() + BURST_PAUSE_US / SECOND

    async def _probe_one(self, watch: _Watch, slots: trio.CapacityLimiter) -> None:
        async with slots:
            target = watch.target
            result = await self._probe(target.endpoint, target.path, target.timeout_us, target.host)
        if watch.scope.cancel_called:
            return
        if result.ours:
            self.counters["probes_impossible"] += 1
            return
        self.counters["probes"] += 1
        if not result.ok:
            self.counters["probes_failed"] += 1
        self._observed(target, result)
