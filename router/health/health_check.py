"""Active health checks: is the endpoint there, and how fast does it answer?

Each endpoint of a region has one task that probes it at the policy's interval, give or take a tenth, so that sites and
endpoints do not fall into step. What a probe saw goes to a callback; grading it is `router.health.grade`'s.

Suspicion does not wait for the interval. When live traffic ejects an endpoint, or a peer doubts a region, `look_now`
starts a burst: as many probes as confirm a failure, `BURST_SPACING_US` apart and side by side, so that even an endpoint
that hangs is judged after one timeout rather than three. So does the first routine probe that is refused or answered
wrongly after one that was not (HAProxy's `fastinter`): a region that nobody here sends users to is known to be dead an
interval after it died, not three. One that is not answered in time starts none: whatever is late, here or there, would
be late for all of a burst. A burst under way absorbs further calls, and one endpoint has
at most one burst in `BURST_PAUSE_US`: a peer that cries wolf costs a handful of probes a second, no more.

Reconfiguring keeps the task, the phase and the burst of every endpoint that stays.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import trio

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.probe_once import ProbeResult, probe_once
from router.policy.probe import USUAL_PROBE, Probe

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


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """One endpoint, and how it is probed."""

    region: str
    endpoint: Endpoint
    every_us: int
    timeout_us: int
    fail_after: int
    """Consecutive failures that make it DOWN: the size of a burst."""
    probe: Probe = USUAL_PROBE
    tls: str | None = None
    """The name its certificate must be for; None means plain text."""


class Asking(Protocol):
    """`probe_once`, or a test's stand-in."""

    async def __call__(self, target: ProbeTarget) -> ProbeResult: ...


async def _ask(target: ProbeTarget) -> ProbeResult:
    return await probe_once(target.endpoint, target.probe, target.timeout_us, tls=target.tls)


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
        self.well = False
        """Whether the last routine probe succeeded."""


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
        asking: Asking | None = None,
    ) -> None:
        """`observed` gets every result of an endpoint that is still configured, in the order they came in."""
        self._observed = observed
        self._rng = rng
        self._asking = asking or _ask
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
                before, watch.well = watch.well, await self._probe_one(watch, self._slots)
                if before and not watch.well and self._nursery is not None:
                    self._start_burst(self._nursery, watch)
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

    async def _probe_one(self, watch: _Watch, slots: trio.CapacityLimiter) -> bool:
        """Probe, and tell what was seen; whether there is no reason to look again at once."""
        async with slots:
            target = watch.target
            result = await self._asking(target)
        if watch.scope.cancel_called:
            return True
        if result.ours:
            self.counters["probes_impossible"] += 1
            return True
        self.counters["probes"] += 1
        if not result.ok:
            self.counters["probes_failed"] += 1
        self._observed(target, result)
        return result.ok or result.latency_us >= target.timeout_us
