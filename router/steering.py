"""Where requests go, and what is learned of regions on the way (edge).

::

    probes ─┐                         ┌─▶ lattice
    traffic ┴▶ RegionalHealth ─levels─┘      │ RegionChanged
                   │ ejections               ▼
    request ───────┴──▶ decide(RouteTable) ◀── Planner(program, levels, place)

The table is planned when a level or the policy changes, never for a request. Every change of state is one assignment,
so a decision sees either the old world or the new. Worker processes decide by copies, which are kept up to date here.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import trio

from lattice.driver import Driver
from lattice.events import HealthObserved
from lattice.transport import Clock
from lattice.types import MILLISECOND, SECOND, Endpoint, Level
from router.control.target import RegionSignal, RegionSnapshot, RegionSteering
from router.decision.decide import Attempt, Decision, Request
from router.decision.layout import SitePlace
from router.decision.program import Program
from router.decision.request import NO_NEEDS, Needs
from router.decision.seen import SeenClients
from router.health.health_check import Asking, HealthChecker, ProbeTarget
from router.health.probe_once import ProbeResult
from router.health.regional_health import RegionalHealth
from router.journal import Journal
from router.location import Locations
from router.planner import Planner
from router.probing import targets_of
from router.site.config_reader import endpoint_text
from router.site.site_config import SiteConfig
from router.traffic.steering import NO_POLICY, Outcome
from router.workers.fleet import Fleet

OBSERVE_INTERVAL_US = 500 * MILLISECOND
"""How often metrics that changed no level are told to the engine, which quantises and paces them further."""
LEVEL_INTERVAL_US = 10 * MILLISECOND
"""How often at most a success is asked whether it changed its region's level; a failure always is."""
EXPIRE_INTERVAL_US = 100 * MILLISECOND
WARM_STEPS = 50
"""Lanes settled beforehand in each of these intervals: half a millisecond."""


class Steering:
    """The `Router` of everything that carries traffic here. Use on the trio thread that runs the driver."""

    def __init__(
        self,
        config: SiteConfig,
        driver: Driver,
        ask: Asking,
        locations: Locations | None,
        clock: Clock,
        journal: Journal,
    ) -> None:
        """`ask` probes an endpoint; `locations` knows where clients are."""
        latitude_e6, longitude_e6 = config.site.at_e6 or (0, 0)
        place = SitePlace(config.site.name, latitude_e6, longitude_e6, placed=config.site.at_e6 is not None)
        self._planner = Planner(place, config.timing.failback_us)
        self._driver = driver
        self._locations = locations
        self._clock = clock
        self._journal = journal
        self._health = RegionalHealth()
        self._seen = SeenClients()
        self._levels_told: dict[str, Level] = {}
        self._level_due: dict[str, int] = {}
        self._masked_told = -1
        self._private: AbstractSet[str] = frozenset()
        self.oldest: Callable[[], Mapping[tuple[str, Endpoint], int]] = dict
        """Asked for how long the oldest request at each endpoint has waited; whoever carries traffic says how."""
        self.checker = HealthChecker(self._on_probe, random.Random(os.urandom(16)), ask)
        self.fleet = Fleet(config.path, journal, self.observed, self._admitted, self.reported)
        """The worker processes; none while the node itself serves."""

    # --- `Router`

    @property
    def needs(self) -> Needs:
        table = self._planner.table
        return NO_NEEDS if table is None else table.program.needs

    def epoch(self) -> tuple[object, int]:
        """What equal requests are decided alike under: a table, and who is ejected or half open."""
        return self._planner.table, self._health.mask.epoch

    def decide(self, request: Request) -> Decision:
        """As `would_decide`, for a request that is about to be sent: it may be a half-open endpoint's trial."""
        now = self._clock.now()
        decision = self._decide(request, self._health.kept_from(request.method, now))
        if decision.attempts:
            self._health.admit(decision.attempts[0].endpoint, now)
        return decision

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int, at: float) -> None:
        now = self._clock.at(at)
        if outcome is Outcome.OK and self._health.answered_as_usual(attempt, latency_us, now):
            return
        changed = self._health.answered(attempt, outcome, latency_us, now)
        if changed:
            kind = "lift" if outcome is Outcome.OK else "eject"
            where = endpoint_text(attempt.endpoint)
            self._journal.note(
                kind, f"{attempt.region} {where}: {outcome.value}", endpoint=where, region=attempt.region
            )
            if kind == "eject":
                self.checker.look_now(attempt.region, None if outcome is Outcome.HUNG else attempt.endpoint)
            self._tell_workers()
        if outcome is not Outcome.OK or changed or now >= self._level_due.get(attempt.region, 0):
            self._level_due[attempt.region] = now + LEVEL_INTERVAL_US
            self._tell_if_changed(attempt.region)

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        self._health.reported(attempt, saturation_ppm, self._clock.now())

    # --- what operators see and say

    def would_decide(self, request: Request) -> Decision:
        """What would become of a request now."""
        return self._decide(request, self._health.ejected)

    def _decide(self, request: Request, skipped: AbstractSet[Endpoint]) -> Decision:
        table = self._planner.table
        if table is None:
            return NO_POLICY
        if self._locations is not None and table.program.needs.place:
            request = self._locations.located(request)
        decision = self._seen.decide(table, request, skipped)
        if not decision.attempts and skipped:
            return self._seen.decide(table, request, self._health.last_resort())
        return decision

    def located(self, request: Request) -> Request:
        """See `ControlTarget.located`."""
        return self._locations.located(request) if self._locations is not None and self.needs.place else request

    def regions(self) -> Sequence[RegionSteering]:
        """See `ControlTarget.steering`."""
        now = self._clock.now()
        return self._planner.steering(self._driver.view().regions, self._health.reasons(now), now)

    def ejected(self) -> AbstractSet[Endpoint]:
        return self._health.ejected

    def snapshot(self) -> Sequence[RegionSnapshot]:
        return self._health.snapshot(self._clock.now())

    def counters(self) -> dict[str, int]:
        return self._health.counters()

    def knows(self, region: str) -> bool:
        """Whether the policy in force names it."""
        return self._health.knows(region)

    def signalled(self, signal: RegionSignal) -> bool:
        """Take a region's own word, which was judged; False if a later one is known."""
        if not self._health.signalled(signal, self._clock.now()):
            return False
        self._tell()
        return True

    # --- what changes

    def configure(self, program: Program, private: AbstractSet[str] = frozenset()) -> None:
        """Steer by this from now on. What is found of the `private` regions is not for other sites, which mean
        something else by these names."""
        self._private = private
        self._health.configure(program)
        self._planner.take(program)
        self.checker.configure(targets_of(program))
        self.replan()

    def fail_back_over(self, ramp_us: int) -> None:
        """In what time users come back to a region that is well again."""
        self._planner.failback.ramp_us = ramp_us

    def replan(self) -> None:
        """The levels or the policy have changed."""
        now, planner = self._clock.now(), self._planner
        table = planner.plan(self._driver.view().regions, now)
        if table is not None:
            levels = {region: int(level) for region, level in table.levels.items()}
            self.fleet.plan(levels, dict(planner.saturation_ppm), dict(planner.rtt_us), dict(planner.away_ppm), now)

    async def keep_telling(self) -> None:
        while True:
            await trio.sleep(OBSERVE_INTERVAL_US / SECOND)
            self._tell()
            if self._planner.has_news(self._driver.view().regions):
                self.replan()

    async def keep_expiring(self) -> None:
        """Half-open ejected endpoints when their term is over; plan anew at a time window's edge; look who has waited
        for too long."""
        while True:
            await trio.sleep(EXPIRE_INTERVAL_US / SECOND)
            now = self._clock.now()
            self._health.expire(now)
            self._tell_workers()
            if self._health.minds_the_oldest:
                self._health.outstanding(self.oldest(), now)
                for region in self._health.minds_the_oldest:
                    self._tell_if_changed(region)
            if self._planner.is_due(now):
                self.replan()
            self._planner.warm(WARM_STEPS)

    def _admitted(self, endpoint: Endpoint) -> None:
        """A worker sends a half-open endpoint its trial."""
        self._health.admit(endpoint, self._clock.now())

    def _tell_workers(self) -> None:
        """Who is out of use, if that has changed."""
        if self._masked_told != self._health.mask.epoch:
            self._masked_told = self._health.mask.epoch
            self.fleet.mask(self._health.mask.out_of_use, self._health.suspected())

    def _on_probe(self, target: ProbeTarget, result: ProbeResult) -> None:
        if result.connect_us is not None:
            self._planner.measured(target.region, result.connect_us)
        if self._health.probed(target.region, target.endpoint, result.sample(), self._clock.now()):
            where = endpoint_text(target.endpoint)
            self._journal.note(
                "lift", f"{target.region} {where}: a probe succeeded", endpoint=where, region=target.region
            )
            self._tell_workers()
        self._tell_if_changed(target.region)

    def _tell_if_changed(self, region: str) -> None:
        """A level that changed is told to the lattice at once; metrics wait for their turn."""
        if self._health.level(region, self._clock.now()) != self._levels_told.get(region):
            self._tell()

    def _tell(self) -> None:
        observations = self._health.observations(self._clock.now())
        if self._private:
            observations = tuple(replace(each, private=each.region in self._private) for each in observations)
        if self._driver.submit_nowait(HealthObserved(observations)):
            self._levels_told = {observation.region: observation.level for observation in observations}
