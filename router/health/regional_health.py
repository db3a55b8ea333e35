"""Everything this node saw of the regions with its own eyes: graders, ejections and signals, in one place.

Probes and live traffic feed the same grader of an endpoint. Live traffic also works the ejection mask, which acts on
the very next decision, long before a grade changes; a probe that succeeds lifts what traffic ejected. Pure: `now` is
passed in, and what should happen elsewhere is returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from lattice.health import Observation
from lattice.types import NEVER, Endpoint, Level, Micros
from router.control.target import RegionSignal, RegionSnapshot
from router.decision.decide import Attempt
from router.decision.program import Program
from router.health.ejection import EjectionMask
from router.health.grade import SIGNAL_LEASE_US, Grader, Sample, Signal, grade_region, signal_level
from router.policy.syntax import Health
from router.traffic.steering import Outcome

_EJECTS = {
    Outcome.REFUSED: "connection refused",
    Outcome.RESET: "connection lost before an answer",
    Outcome.TIMEOUT: "no answer in time",
    Outcome.UNAVAILABLE: "most answers are 502, 503 or 504",
    Outcome.SILENT: "silent while requests wait",
    Outcome.HUNG: "silent while requests wait, as is its whole region",
}
"""What takes an endpoint out of use at once. A 5xx does not: it may be the request's fault."""
_LATE_ON_TRIAL = "late on trial"
_MET_ELSEWHERE = "another process met it"
_SUSPECTED_ELSEWHERE = "another process suspects it"
_SUSPECTED = frozenset({_EJECTS[Outcome.SILENT], _EJECTS[Outcome.HUNG], _LATE_ON_TRIAL, _SUSPECTED_ELSEWHERE})
"""Why an endpoint is out though nothing is certain."""
_MAY_BE_TRIALS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
"""Safe methods (RFC 9110 9.2.1), and TCP mode's connections: these are taken elsewhere before a byte was sent."""
_SUSPICIONS = frozenset({Outcome.SILENT, Outcome.HUNG, Outcome.LATE, Outcome.OUTRUN})
"""Told while nothing is certain yet."""


@dataclass(slots=True)
class _Region:
    health: Health
    graders: dict[Endpoint, Grader]
    signal: Signal | None = None
    signal_received: Micros = NEVER
    loads: dict[Endpoint, tuple[int, Micros]] = field(default_factory=dict)
    """What endpoints said of themselves in their answers (ORCA): share of capacity in millionths, and when."""
    said: Level = Level.UNKNOWN
    """What its word amounted to when it was graded last: its bands are wider for what was worse."""


class RegionalHealth:
    """This node's own evidence about every region of the policy in force."""

    def __init__(self) -> None:
        self._regions: dict[str, _Region] = {}
        self.mask = EjectionMask()
        """To be read: evidence changes it."""
        self.ejected: AbstractSet[Endpoint] = self.mask.ejected
        """The live set that `decide` tests."""
        self.minds_the_oldest: tuple[str, ...] = ()
        """The regions whose health block says how long a request may be unanswered."""

    def counters(self) -> dict[str, int]:
        return {f"ejections {name.replace('_', ' ')}": count for name, count in self.mask.counters.items()}

    def configure(self, program: Program) -> None:
        """Take the regions of a policy. What is known of an endpoint that stays, under rules that stay, survives."""
        before = self._regions
        self._regions = {}
        for name, region in program.regions.items():
            health = program.health[name]
            known = before.get(name)
            kept = known.graders if known is not None and known.health == health else {}
            endpoints = [(endpoint.host, endpoint.port) for endpoint in region.endpoints]
            graders = {endpoint: kept.get(endpoint) or Grader(health) for endpoint in endpoints}
            self._regions[name] = _Region(health, graders)
            if known is not None:
                self._regions[name].said = known.said if known.health == health else Level.UNKNOWN
                self._regions[name].signal = known.signal
                self._regions[name].signal_received = known.signal_received
                self._regions[name].loads = {e: said for e, said in known.loads.items() if e in graders}
        self.mask.retain(endpoint for region in self._regions.values() for endpoint in region.graders)
        self.minds_the_oldest = tuple(
            name for name, region in self._regions.items() if region.health.oldest_us_max is not None
        )

    # --- evidence in; each says whether an endpoint was taken out of use or back into use

    def probed(self, region: str, endpoint: Endpoint, sample: Sample, now: Micros) -> bool:
        """A probe's result. Whether it lifted an ejection."""
        self._observe(region, endpoint, sample, now)
        if endpoint not in self.mask.out_of_use:
            return False
        down = self._endpoint_level(region, endpoint, now) is Level.DOWN
        if not sample.ok:
            if down:
                self.mask.confirm(endpoint)
            return False
        # Whoever refused and now answers is back. Whoever kept users waiting may answer probes all the while: that
        # ejection ends by its term, with one user's request as the trial. But what kept probes waiting too is over when
        # probes have found the endpoint well again; or with the first answer, where users have nothing else.
        refused = self.mask.why(endpoint) == _EJECTS[Outcome.REFUSED]
        over = self.mask.confirmed(endpoint) and not (down and self._others_in_use(region))
        return (refused or over) and self.mask.lift(endpoint)

    def _endpoint_level(self, region: str, endpoint: Endpoint, now: Micros) -> Level:
        known = self._regions.get(region)
        grader = known.graders.get(endpoint) if known else None
        return grader.level(now) if grader else Level.UNKNOWN

    def _others_in_use(self, region: str) -> bool:
        """Whether another region has an endpoint that is not ejected."""
        ejected = self.mask.ejected
        others = (known for name, known in self._regions.items() if name != region)
        return any(endpoint not in ejected for known in others for endpoint in known.graders)

    def answered_as_usual(self, attempt: Attempt, latency_us: int, now: Micros) -> bool:
        """Take a success into account if all that it can change is figures; else nothing changes: see `answered`."""
        if attempt.endpoint in self.ejected:
            return False
        region = self._regions.get(attempt.region)
        grader = region.graders.get(attempt.endpoint) if region is not None else None
        return grader is not None and grader.observe_usual(latency_us, now)

    def answered(self, attempt: Attempt, outcome: Outcome, latency_us: int, now: Micros) -> bool:
        """What live traffic met. Whether the endpoint was ejected, or lifted by a trial, because of it."""
        if outcome in _SUSPICIONS:
            return self._suspect(attempt, outcome, now)
        ok = outcome is Outcome.OK
        sample = Sample(ok, latency_us, connect_failed=outcome is Outcome.REFUSED, conclusive=ok or outcome in _EJECTS)
        self._observe(attempt.region, attempt.endpoint, sample, now)
        why = _EJECTS.get(outcome)
        if why is not None:
            return self.mask.eject(attempt.endpoint, now, why)
        return ok and attempt.endpoint in self.mask.ejected and self.mask.lift(attempt.endpoint)

    def _suspect(self, attempt: Attempt, outcome: Outcome, now: Micros) -> bool:
        """Out of use at once, but no sample: what is suspected only now is for probes and trials to confirm."""
        if outcome in (Outcome.LATE, Outcome.OUTRUN):  # nothing new, but a trial that had to be rescued is lost
            return attempt.endpoint in self.mask.ejected and self.mask.eject(attempt.endpoint, now, _LATE_ON_TRIAL)
        if not self._others_in_use(attempt.region):
            return False  # a suspicion never takes the last resort away
        region = self._regions.get(attempt.region)
        whole = region is not None and outcome is Outcome.HUNG
        endpoints = sorted(region.graders) if region is not None and whole else [attempt.endpoint]
        fresh = [self.mask.eject(endpoint, now, _EJECTS[outcome]) for endpoint in endpoints]  # every one of them
        return any(fresh)

    def outstanding(self, oldest: Mapping[tuple[str, Endpoint], int], now: Micros) -> None:
        """For how long the oldest request at each endpoint has waited, by region and endpoint; none does elsewhere."""
        for name in self.minds_the_oldest:
            for endpoint, grader in self._regions[name].graders.items():
                grader.outstanding(oldest.get((name, endpoint), 0), now)

    def too_old(self, oldest: Mapping[tuple[str, Endpoint], int]) -> list[tuple[str, Endpoint, int]]:
        """What of this says anything to `outstanding`."""
        return [
            (name, endpoint, oldest[name, endpoint])
            for name in self.minds_the_oldest
            for endpoint, grader in self._regions[name].graders.items()
            if grader.says_something(oldest.get((name, endpoint), 0))
        ]

    def suspected(self) -> AbstractSet[Endpoint]:
        """Those of `ejected` that are so on a suspicion alone: no route is to be left with nobody for it."""
        return self.mask.out_for(_SUSPECTED) if self.ejected else self.ejected

    def last_resort(self) -> AbstractSet[Endpoint]:
        """What must not be asked even where nobody else is left. Rather a trial than nothing, and rather who is only
        suspected: it may be a moment's silence."""
        return self.ejected - self.suspected()

    def follow(
        self,
        out: AbstractSet[Endpoint],
        ours: AbstractSet[Endpoint],
        now: Micros,
        suspected: AbstractSet[Endpoint] = frozenset(),
    ) -> None:
        """Another process, which hears of more, has `out` out of use, some on a suspicion; of `ours` it did not hear
        yet. Those of this policy only."""
        known = {endpoint for region in self._regions.values() for endpoint in region.graders}
        mine = self.mask.out_of_use
        for endpoint in sorted((out & known) - mine):
            self.mask.eject(endpoint, now, _SUSPECTED_ELSEWHERE if endpoint in suspected else _MET_ELSEWHERE)
        for endpoint in sorted(mine - out - ours):
            self.mask.lift(endpoint)

    def kept_from(self, method: str, now: Micros) -> AbstractSet[Endpoint]:
        """What a request of this method must not be sent to now."""
        return self.ejected if method in _MAY_BE_TRIALS else self.mask.spared(now)

    def admit(self, endpoint: Endpoint, now: Micros) -> None:
        """A request is about to go there: if the endpoint is half open, this is its trial."""
        self.mask.admit(endpoint, now)

    def expire(self, now: Micros) -> tuple[Endpoint, ...]:
        """Half-open what has been ejected for its term."""
        return self.mask.expire(now)

    def signalled(self, signal: RegionSignal, now: Micros) -> bool:
        """A region's word about itself. False when no region of the policy has that name, or it is older than known."""
        region = self._regions.get(signal.region)
        if region is None:
            return False
        fresh = region.signal is not None and now - region.signal_received < SIGNAL_LEASE_US
        if region.signal is not None and fresh and signal.timestamp_ms < region.signal.timestamp_ms:
            return False
        self._grade(signal.region, region, now)  # what was said before may have lapsed since
        region.signal = Signal(signal.latency_ms, signal.error_rate_ppm, signal.capacity_pct, signal.timestamp_ms)
        region.signal_received = now
        return True

    def reported(self, attempt: Attempt, saturation_ppm: int, now: Micros) -> None:
        """An endpoint's word about its own load."""
        region = self._regions.get(attempt.region)
        if region is not None and attempt.endpoint in region.graders:
            region.loads[attempt.endpoint] = saturation_ppm, now

    def _observe(self, region: str, endpoint: Endpoint, sample: Sample, now: Micros) -> None:
        known = self._regions.get(region)
        grader = known.graders.get(endpoint) if known else None
        if grader is not None:  # else the policy changed while the request was under way
            grader.observe(sample, now)

    # --- conclusions out

    def knows(self, region: str) -> bool:
        return region in self._regions

    def observations(self, now: Micros) -> tuple[Observation, ...]:
        """What to tell the lattice, by region."""
        return tuple(self._grade(name, self._regions[name], now) for name in sorted(self._regions))

    def level(self, region: str, now: Micros) -> Level:
        known = self._regions.get(region)
        return self._grade(region, known, now).level if known else Level.UNKNOWN

    def reasons(self, now: Micros) -> dict[str, str]:
        """Why each region's level here is what it is, in a few words; by region."""
        return {name: self._reason(name, self._regions[name], now) for name in sorted(self._regions)}

    def _reason(self, name: str, region: _Region, now: Micros) -> str:
        level = self._grade(name, region, now).level
        graders = [grader for grader in region.graders.values() if grader.level(now) is level]
        if graders:
            return graders[0].reason
        return "no evidence" if level is Level.UNKNOWN else "by its own word"

    def snapshot(self, now: Micros) -> tuple[RegionSnapshot, ...]:
        """Each region's metrics: its own fresh word where there is one, else what was measured from here."""
        return tuple(self._shown(name, self._regions[name], now) for name in sorted(self._regions))

    def _shown(self, name: str, region: _Region, now: Micros) -> RegionSnapshot:
        seen = self._grade(name, region, now)
        signal = region.signal if now - region.signal_received < SIGNAL_LEASE_US else None
        if signal is not None:
            return RegionSnapshot(
                name, signal.latency_ms, signal.error_rate_ppm, signal.capacity_pct, signal.timestamp_ms, seen.level
            )
        if seen.level is Level.UNKNOWN:
            return RegionSnapshot(name, None, None, None, None, seen.level)
        return RegionSnapshot(name, seen.latency_us // 1_000, seen.errors_ppm, None, now // 1_000, seen.level)

    @staticmethod
    def _grade(name: str, region: _Region, now: Micros) -> Observation:
        signal, received = _word_of(region, now)
        if signal is None or now - received >= SIGNAL_LEASE_US:
            region.said = Level.UNKNOWN
        else:
            region.said = signal_level(signal, region.health, region.said)
        return grade_region(name, region.health, region.graders.values(), signal, received, now, region.said)


def _word_of(region: _Region, now: Micros) -> tuple[Signal | None, Micros]:
    """What a region says of itself: its last signal, or else the mean load of those endpoints that said theirs."""
    if region.signal is not None and now - region.signal_received < SIGNAL_LEASE_US:
        return region.signal, region.signal_received
    fresh = [said for said in region.loads.values() if now - said[1] < SIGNAL_LEASE_US]
    if not fresh:
        return region.signal, region.signal_received
    mean_ppm = sum(ppm for ppm, _ in fresh) // len(fresh)
    received = max(at for _, at in fresh)
    return Signal(0, 0, mean_ppm // 10_000, received // 1_000), received
