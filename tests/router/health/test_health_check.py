"""The checker, on a clock of its own: who is probed when. What a probe asks is `test_probe_once`'s."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import trio
from trio.testing import MockClock

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.health_check import BURST_PAUSE_US, BURST_PROBES_MAX, HealthChecker, ProbeTarget
from router.health.probe_once import ProbeResult

FRA = ProbeTarget("fra", ("127.1.0.1", 9001), 250 * MILLISECOND, 200 * MILLISECOND, 3)
IAD = replace(FRA, region="iad", endpoint=("127.1.0.2", 9001))
WELL = ProbeResult(True, 1_000, connect_failed=False, detail="200")
REFUSED = ProbeResult(False, 100, connect_failed=True, detail="connection refused")


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

    async def probe(self, target: ProbeTarget) -> ProbeResult:
        self.probes.append((self.now_ms(), target.endpoint[0]))
        await trio.sleep(self.takes_us / SECOND)
        return self.results.get(target.endpoint, WELL)

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


async def test_the_first_routine_probe_that_fails_starts_a_burst(autojump_clock: MockClock) -> None:
    """And no other: an endpoint that stays dead, or was never well, is probed at its interval."""
    async with checking(replace(FRA, every_us=SECOND)) as (checker, regions):
        await trio.sleep(5)
        regions.results[FRA.endpoint] = REFUSED
        await trio.sleep(1.2)
        failed = [ms for ms, _, ok in regions.seen if not ok]
        assert [ms - failed[0] for ms in failed[:4]] == [0, 1, 16, 31]
        await trio.sleep(10)
        regions.results.clear()
        await trio.sleep(3)
        regions.results[FRA.endpoint] = REFUSED
        await trio.sleep(10)
        assert checker.counters["bursts"] == 2
        assert 20 + 2 * 3 <= checker.counters["probes_failed"] <= 24 + 2 * 3
    async with checking(FRA) as (checker, regions):
        regions.results[FRA.endpoint] = REFUSED
        await trio.sleep(5)
        assert checker.counters["bursts"] == 0


async def test_a_routine_probe_that_is_late_starts_no_burst(autojump_clock: MockClock) -> None:
    """It may be this machine that is late, and then so would be all of a burst."""
    async with checking(FRA) as (checker, regions):
        await trio.sleep(5)
        regions.takes_us = FRA.timeout_us
        regions.results[FRA.endpoint] = replace(REFUSED, connect_failed=False, latency_us=FRA.timeout_us)
        await trio.sleep(5)
        assert checker.counters["probes_failed"] > 10
        assert checker.counters["bursts"] == 0


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
