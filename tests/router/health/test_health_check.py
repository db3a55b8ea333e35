from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.grade import Sample
from router.health.health_check import (
    BODY_BYTES_MAX,
    BURST_PAUSE_US,
    BURST_PROBES_MAX,
    HEAD_BYTES_MAX,
    HealthChecker,
    ProbeResult,
    ProbeTarget,
    probe_once,
)

FRA = ProbeTarget("fra", ("127.1.0.1", 9001), "/healthz", 250 * MILLISECOND, 200 * MILLISECOND, 3)
IAD = replace(FRA, region="iad", endpoint=("127.1.0.2", 9001))
WELL = ProbeResult(True, 1_000, connect_failed=False, detail="200")
REFUSED = ProbeResult(False, 100, connect_failed=True, detail="connection refused")


# --- one probe, over real sockets


@asynccontextmanager
async def serving(
    answer: Callable[[trio.SocketStream], Awaitable[None]], host: str = "127.0.0.1"
) -> AsyncIterator[Endpoint]:
    """A server that does `answer` to each connection."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await answer(stream)
            except trio.BrokenResourceError:
                return  # the probe has seen enough

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=host))
        yield listeners[0].socket.getsockname()[:2]
        nursery.cancel_scope.cancel()


def saying(response: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(response)

    return answer


async def probed(response: bytes) -> ProbeResult:
    with trio.fail_after(20):
        async with serving(saying(response)) as endpoint:
            return await probe_once(endpoint, "/healthz", 10 * SECOND, "")


@pytest.mark.parametrize(
    ("response", "ok", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, "200"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, "204"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", True, "200"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True, "200"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, "200"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * (BODY_BYTES_MAX + 1), True, "200"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", False, "302"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", False, "503"),
        (b"", False, "connection closed before an answer"),
        (b"HTTP/1.1 20", False, "connection closed before an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", False, "connection closed within the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", False, "connection closed within the answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", False, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX * 2, False, "headers of more than"),
    ],
)
async def test_an_answer_is_judged_by_status_and_shape(response: bytes, ok: bool, detail: str) -> None:
    result = await probed(response)
    assert result.ok == ok
    assert detail in result.detail
    assert not result.connect_failed
    assert not result.ours
    assert result.sample() == Sample(ok, result.latency_us, connect_failed=False)


async def test_the_request_is_what_a_server_expects() -> None:
    seen = bytearray()

    async def answer(stream: trio.SocketStream) -> None:
        seen.extend(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with serving(answer, "::1") as endpoint:
        assert (await probe_once(endpoint, "/up?x=1", SECOND, "")).ok
        lines = bytes(seen).split(b"\r\n")
        assert lines[0] == b"GET /up?x=1 HTTP/1.1"
        assert b"Host: [::1]:%d" % endpoint[1] in lines
        assert b"Connection: close" in lines
        seen.clear()
        await probe_once(endpoint, "/", SECOND, "shop.example.com")
        assert b"Host: shop.example.com\r\n" in seen


async def test_nobody_listens() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        result = await probe_once(unused.getsockname(), "/", SECOND, "")
    assert (result.ok, result.connect_failed, result.detail) == (False, True, "connection refused")


async def test_an_endpoint_that_hangs_takes_no_longer_than_the_timeout() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 ")
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with serving(answer) as endpoint:
            result = await probe_once(endpoint, "/", 20 * MILLISECOND, "")
    assert (result.ok, result.connect_failed, result.detail) == (False, False, "no answer in 20 ms")


async def test_a_reset_is_an_answer_too() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        # SO_LINGER with 0 seconds: closing sends RST.
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with serving(answer) as endpoint:
        result = await probe_once(endpoint, "/", SECOND, "")
    assert not result.ok


async def test_what_this_node_lacks_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> trio.socket.SocketType:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.socket, "socket", exhausted)
    result = await probe_once(FRA.endpoint, "/", SECOND, "")
    assert result.ours
    assert result.detail == "this node: Too many open files"


# --- the checker, on a clock of its own


class Regions:
    """Endpoints that answer as told, after `takes_us`, and a list of who was probed when."""

    def __init__(self) -> None:
        self.results: dict[Endpoint, ProbeResult] = {}
        self.takes_us = MILLISECOND
        self.started = trio.current_time()
        self.probes: list[tuple[int, str]] = []
        self.seen: list[tuple[int, str, bool]] = []

    def now_ms(self) -> int:
        return round((trio.current_time() - self.started) * 1_000)

    async def probe(self, endpoint: Endpoint, path: str, timeout_us: int, host: str) -> ProbeResult:
        self.probes.append((self.now_ms(), endpoint[0]))
        await trio.sleep(self.takes_us / SECOND)
        return self.results.get(endpoint, WELL)

    def observed(self, target: ProbeTarget, result: ProbeResult) -> None:
        self.seen.append((self.now_ms(), target.region, result.ok))


@asynccontextmanager
async def checking(*targets: ProbeTarget, seed: int = 1) -> AsyncIterator[tuple[HealthChecker, Regions]]:
    regions = Regions()
    checker = HealthChecker(regions.observed, random.Random(seed), regions.probe)
    checker.configure(targets)
    async with trio.open_nursery() as nursery:
        await nursery.start(checker.run)
        yield checker, regions
        nursery.cancel_scope.cancel()


async def test_each_endpoint_is_probed_at_once_and_then_at_its_interval(autojump_clock: MockClock) -> None:
    async with checking(FRA, replace(IAD, every_us=SECOND)) as (checker, regions):
        await trio.sleep(10)
    at = {name: [ms for ms, region, _ in regions.seen if region == name] for name in ("fra", "iad")}
    assert at["fra"][0] <= 51
    assert at["iad"][0] <= 51
    assert 36 <= len(at["fra"]) <= 45
    assert 9 <= len(at["iad"]) <= 12
    gaps = [later - earlier for earlier, later in pairwise(at["fra"])]
    assert min(gaps) >= 224
    assert max(gaps) <= 276
    assert len(set(gaps)) > 5  # jitter
    assert checker.counters["probes"] == len(regions.seen)


async def test_one_seed_gives_one_schedule(autojump_clock: MockClock) -> None:
    schedules = []
    for seed in (1, 1, 2):
        async with checking(FRA, IAD, seed=seed) as (_, regions):
            await trio.sleep(2)
            schedules.append(sorted(regions.probes))
    assert schedules[0] == schedules[1]
    assert schedules[0] != schedules[2]


async def test_probes_of_one_endpoint_do_not_overlap(autojump_clock: MockClock) -> None:
    async with checking(FRA) as (_, regions):
        regions.takes_us = 600 * MILLISECOND
        await trio.sleep(6)
        starts = [ms for ms, _ in regions.probes]
    assert all(later - earlier >= 600 for earlier, later in pairwise(starts))
    assert len(starts) >= 9


async def test_a_suspicion_is_settled_within_tens_of_milliseconds(autojump_clock: MockClock) -> None:
    async with checking(replace(FRA, every_us=10 * SECOND), IAD) as (checker, regions):
        await trio.sleep(1)
        regions.results[FRA.endpoint] = REFUSED
        asked = regions.now_ms()
        checker.look_now("fra")
        await trio.sleep(0.1)
        failed = [ms - asked for ms, region, ok in regions.seen if region == "fra" and not ok]
        assert failed == [1, 16, 31]
        assert checker.counters["bursts"] == 1


async def test_an_endpoint_that_hangs_is_judged_after_one_timeout(autojump_clock: MockClock) -> None:
    async with checking(replace(FRA, every_us=10 * SECOND)) as (checker, regions):
        await trio.sleep(1)
        regions.results[FRA.endpoint] = replace(REFUSED, connect_failed=False)
        regions.takes_us = FRA.timeout_us
        asked = regions.now_ms()
        checker.look_now("fra")
        await trio.sleep(1)
        assert [ms - asked for ms, _, ok in regions.seen if not ok] == [200, 215, 230]


async def test_crying_wolf_is_absorbed(autojump_clock: MockClock) -> None:
    async with checking(replace(FRA, every_us=100 * SECOND, fail_after=100)) as (checker, regions):
        await trio.sleep(1)
        before = len(regions.probes)
        for _ in range(1_000):
            checker.look_now("fra")
            await trio.sleep(0.001)
        bursts = checker.counters["bursts"]
        assert bursts == 1 + 1_000 // ((BURST_PROBES_MAX - 1) * 15 + 1 + BURST_PAUSE_US // MILLISECOND + 1)
        assert len(regions.probes) - before <= bursts * BURST_PROBES_MAX
        assert checker.counters["bursts_absorbed"] == 1_000 - bursts


async def test_a_burst_may_be_for_one_endpoint_of_a_region(autojump_clock: MockClock) -> None:
    slow, other = replace(FRA, every_us=100 * SECOND), replace(FRA, every_us=100 * SECOND, endpoint=("127.1.0.9", 1))
    async with checking(slow, other) as (checker, regions):
        await trio.sleep(1)
        regions.probes.clear()
        checker.look_now("fra", other.endpoint)
        checker.look_now("nowhere")
        await trio.sleep(0.2)
        assert [host for _, host in regions.probes] == ["127.1.0.9"] * 3


async def test_reconfiguring_leaves_what_stays_alone(autojump_clock: MockClock) -> None:
    slow = replace(FRA, every_us=10 * SECOND)
    async with checking(slow, IAD) as (checker, regions):
        await trio.sleep(1)
        regions.probes.clear()
        checker.configure([slow])
        assert checker.targets == (slow,)
        await trio.sleep(5)
        assert regions.probes == []  # fra keeps its phase, iad is gone
        checker.configure([replace(slow, every_us=MILLISECOND * 500), IAD])
        await trio.sleep(0.6)
        assert {host for _, host in regions.probes} == {"127.1.0.1", "127.1.0.2"}  # the shorter interval counts at once
        checker.configure([])
        regions.probes.clear()
        await trio.sleep(5)
        assert regions.probes == []


async def test_nothing_is_heard_of_an_endpoint_that_was_removed(autojump_clock: MockClock) -> None:
    async with checking(replace(FRA, every_us=100 * SECOND)) as (checker, regions):
        await trio.sleep(1)
        regions.takes_us = 100 * MILLISECOND
        regions.seen.clear()
        checker.look_now("fra")
        await trio.sleep(0.02)
        checker.configure([])
        await trio.sleep(1)
        assert regions.seen == []


async def test_what_this_node_could_not_try_is_counted_and_not_told(autojump_clock: MockClock) -> None:
    async with checking(FRA) as (checker, regions):
        regions.results[FRA.endpoint] = replace(REFUSED, ours=True)
        await trio.sleep(1)
        assert regions.seen == []
        assert checker.counters["probes_impossible"] >= 3
