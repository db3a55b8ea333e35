"""A node's route table, kept up to date with what lattice, probes and clock say. Pure.

What lies between the agreed level of a region and the table: flap damping and cooldown (`damping`), users who come back
a few at a time (`failback`), measured distance (`round_trips`), and how full regions say they are. The table is planned
when one of these changes, never for a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from lattice.types import MILLISECOND, Level, Micros
from lattice.view import RegionView
from router.control.target import RegionSteering
from router.decision.decide import warm
from router.decision.failback import Failback
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program
from router.health.damping import RegionDamping
from router.health.round_trips import RoundTrips


class Planner:
    """Owns no clock: `now` never decreases."""

    def __init__(self, place: SitePlace, failback_us: int) -> None:
        self._place = place
        self._damping = RegionDamping()
        self.failback = Failback(failback_us)
        self._trips = RoundTrips()
        self._program: Program | None = None
        self._warming: Iterator[None] = iter(())
        self._next_change: int | None = None
        self.table: RouteTable | None = None
        """None until a program is planned for the first time. Each is a new object, never changed."""
        self.saturation_ppm: Mapping[str, int] = {}
        """With which the table was planned, by region, as the following two."""
        self.rtt_us: Mapping[str, int] = {}
        self.away_ppm: Mapping[str, int] = {}

    def take(self, program: Program) -> None:
        """From now on plan this; the table stays until then."""
        self._program = program
        self._damping.configure(program.health)
        self._trips.retain(program.regions.keys())

    def measured(self, region: str, rtt_us: int) -> None:
        """A round trip of a probe."""
        self._trips.measured(region, rtt_us)

    def is_due(self, now: Micros) -> bool:
        """Whether it is time to plan though nothing was heard: a window's edge, a term of damping, a step of return."""
        return self._next_change is not None and now >= self._next_change

    def has_news(self, regions: Sequence[RegionView]) -> bool:
        """Whether regions are fuller, or farther, than what the table was planned with."""
        if self.table is None:
            return False
        return (self.saturation_ppm, self.rtt_us) != (self._saturation_ppm(regions), self._trips.rtt_us())

    def plan(self, regions: Sequence[RegionView], now: Micros) -> RouteTable | None:
        """The table of now; None while there is no program."""
        program = self._program
        if program is None:
            return None
        seen = {region.region: region.effective for region in regions}
        damped = self._damping.levels({name: seen.get(name, Level.UNKNOWN) for name in program.regions}, now)
        returning = self.failback.returning(damped.levels, now)
        self.saturation_ppm, self.rtt_us = self._saturation_ppm(regions), self._trips.rtt_us()
        self.away_ppm = returning.away_ppm
        table = self.table = plan(
            program, damped.levels, self._place, now, self.saturation_ppm, self.rtt_us, self.away_ppm
        )  # fmt: skip
        self._warming = warm(table)
        edges = (damped.next_change, returning.next_change, table.valid_until)
        self._next_change = min((edge for edge in edges if edge is not None), default=None)
        return table

    def warm(self, steps: int) -> None:
        """Settle so many of the table's lanes beforehand."""
        for _ in islice(self._warming, steps):
            pass

    def steering(self, regions: Sequence[RegionView], reasons: Mapping[str, str], now: Micros) -> list[RegionSteering]:
        """What is made of each region, by name, and why; `reasons` for the levels that this node measured itself."""
        if self._program is None or self.table is None:
            return []
        rtt_us = self._trips.rtt_us()
        saturation_ppm = {region.region: region.saturation_ppm for region in regions}
        found = []
        for name, health in self._program.health.items():
            damper = self._damping[name]
            returns = damper.returns_at(now)
            found.append(
                RegionSteering(
                    region=name,
                    planned=self.table.levels.get(name, Level.UNKNOWN),
                    reason=reasons.get(name, "no evidence"),
                    recover_after_us=health.recover_after_us,
                    penalty=damper.penalty(now),
                    suppress=health.damp.suppress if health.damp else None,
                    suppressed=damper.suppressed(now),
                    returns_ms=None if returns is None else returns // MILLISECOND,
                    saturation_ppm=saturation_ppm.get(name, 0),
                    rtt_us=rtt_us.get(name),
                    away_ppm=self.away_ppm.get(name, 0),
                )
            )
        return found

    def _saturation_ppm(self, regions: Sequence[RegionView]) -> Mapping[str, int]:
        """How full regions are, where the program asks for that."""
        if self._program is None or not self._program.spills:
            return {}
        return {region.region: region.saturation_ppm for region in regions}
