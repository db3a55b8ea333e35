"""Samples in, a level out, with hysteresis: how well one endpoint is, by what was seen of it here.

Getting worse is quick, getting better is slow, and the two have different thresholds, or traffic would swing to and fro
at the edge of one. Four kinds of evidence, each with its own memory:

* *Failures in a row*: `fail_after` of them are DOWN. One success ends the row, so that failures scattered among
  successes never condemn an endpoint this way.
* *The share of errors* over a sliding window (`errors_over_us`, ten seconds unless written) with `errors_samples_min`
  samples: above `errors_ppm_max` is FAILING.
* *Latency*, smoothed as TCP smooths round trips (RFC 6298: an eighth of each new sample), successes only: above
  `latency_us_max` is DEGRADED.
* *The oldest request in flight*: unanswered for longer than `oldest_us_max` is DEGRADED, before anything has failed.

What has fallen back, but not yet under the lower band (`..._back`, else 80 % of the threshold), is still as it was.

A level may only improve after a *clean run*: for `recover_after`, every sample found the endpoint better than its
level (from DOWN: every sample was a success), and the run holds at least two successes; and never within `cooldown`
of its becoming worse. It then takes the worst level
that the run saw. Improvements happen on a success only: silence proves nothing. Evidence older than its lease is no
evidence, and the level is UNKNOWN again.

When an endpoint goes DOWN its window and latency start anew: they describe what it was before it fell, and would hold
it back after it is well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lattice.health import Observation
from lattice.types import MILLISECOND, SECOND, Level, Micros
from router.policy.syntax import Health

WINDOW_US = Health().errors_over_us
"""Envoy's outlier detection sweeps every 10 s by default; ours slides, a second at a time."""
_BUCKET_US = SECOND
WINDOW_SAMPLES_MIN = Health().errors_samples_min
"""Below this a share says nothing: one error in two is 50 %."""
LATENCY_SAMPLES_MIN = 4
"""One slow first answer (a cold cache, a handshake) must not degrade an endpoint."""
EXIT_BAND_PCT = 80
"""What is worse than HEALTHY is better only under this share of the threshold that condemned it."""
RECOVERY_SUCCESSES_MIN = 2
EVIDENCE_LEASE_US = 30 * SECOND
"""Without a sample for so long, or for three probe intervals when that is longer, nothing is known any more."""
SIGNAL_LEASE_US = 30 * SECOND
SIGNAL_CAPACITY_PCT_MAX = Health().saturation_ppm_max // 10_000
"""A region that says it is fuller than this is DEGRADED: it has no room for anyone else's users."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer, or the lack of one, from a probe or from live traffic."""

    ok: bool
    latency_us: int
    """Until the first byte of the answer; meaningless unless `ok`."""
    connect_failed: bool = False
    conclusive: bool = True
    """Whether a failure speaks of the endpoint alone. A 5xx in answer to a user may be that request's fault: it counts
    in the share of errors, but not in the row of failures, or one user's bad URL could take an endpoint down."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What a region says of itself (`POST /update`)."""

    latency_ms: int
    error_rate_ppm: int
    capacity_pct: int
    """Share of its capacity in use."""
    timestamp_ms: int
    """By the region's clock: orders signals of one region, and is compared with no other clock."""


class Grader:
    """The level of one endpoint. Owns no clock: `now` never decreases."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._level = Level.UNKNOWN
        self._since = Micros(0)
        self._reason = "no evidence"
        self._failures = 0
        self._refused = False
        self._window: deque[_Bucket] = deque()
        self._latency_x8 = 0
        self._latency_samples = 0
        self._last_sample: Micros | None = None
        self._run: _CleanRun | None = None
        self._oldest_us = 0
        self._plain_until = Micros(0)

    @property
    def since(self) -> Micros:
        """When the level became what it is; 0 before the first change."""
        return self._since

    @property
    def reason(self) -> str:
        """Why the level is what it is, in a few words."""
        return self._reason

    @property
    def latency_us(self) -> int:
        """Smoothed; 0 without a success."""
        return self._latency_x8 >> 3

    @property
    def error_ppm(self) -> int:
        """The share of errors in the window as of the last call, in millionths; 0 when it is empty."""
        total = self.samples
        return self._errors() * 1_000_000 // total if total else 0

    def _errors(self) -> int:
        return sum(bucket.errors for bucket in self._window)

    @property
    def samples(self) -> int:
        """How many samples are in the window as of the last call."""
        return sum(bucket.total for bucket in self._window)

    def level(self, now: Micros) -> Level:
        """The level at `now`."""
        self.tick(now)
        return self._level

    def tick(self, now: Micros) -> None:
        """Let time pass: old samples leave the window, and evidence past its lease is forgotten."""
        self._slide(now)
        if self._last_sample is not None and now - self._last_sample >= self._lease_us():
            self._forget()
            self._last_sample = None
            self._failures = 0
            self._become(Level.UNKNOWN, "evidence expired", now)

    def observe_usual(self, latency_us: int, now: Micros) -> bool:
        """Take a success into account if it can only confirm what is so; else nothing changes, and `observe` is due.

        That is most of what a busy endpoint gives, and `observe` would do the same at ten times the cost: the endpoint
        is HEALTHY, the window holds no error and the same seconds as at the last sample, and latency stays in its band.
        """
        if now >= self._plain_until:
            return False
        latency_x8 = self._latency_x8 + latency_us - (self._latency_x8 >> 3)
        if latency_x8 >> 3 > self._health.latency_us_max:
            return False
        self._latency_x8 = latency_x8
        self._latency_samples += 1
        self._window[-1].total += 1
        self._last_sample = now
        return True

    def _plain(self, now: Micros) -> Micros:
        """Until when successes are usual ones: not at all, or until the window's seconds change."""
        if self._level is not Level.HEALTHY or self._run is not None or self._oldest_us or not self._latency_samples:
            return Micros(0)
        if self._failures or not self._window or self._errors():
            return Micros(0)
        return Micros(min(now - now % _BUCKET_US + _BUCKET_US, self._window[0].start + self._health.errors_over_us))

    def observe(self, sample: Sample, now: Micros) -> None:
        """Take one sample into account."""
        self._observe(sample, now)
        self._plain_until = self._plain(now)

    def _observe(self, sample: Sample, now: Micros) -> None:
        self.tick(now)
        self._last_sample = now
        self._failures = 0 if sample.ok else self._failures + sample.conclusive
        self._refused = sample.connect_failed
        if self._level is not Level.DOWN or sample.ok:  # while DOWN, more failures say nothing new
            self._count(sample, now)
        found, reason = self._judge(sample)
        if self._level is Level.UNKNOWN and found is Level.HEALTHY and not sample.ok:
            return  # a first failure proves neither
        if found > self._level:
            self._become(found, reason, now)
            if found is Level.DOWN:
                self._forget()
        elif found >= self._level:
            self._run = None
        else:
            self._improve(found, reason, sample, now)

    def outstanding(self, oldest_us: int, now: Micros) -> None:
        """How long the oldest request in flight has been without an answer; 0 when none is."""
        if not self.says_something(oldest_us):
            oldest_us = 0
        if oldest_us == self._oldest_us == 0:
            return
        self._oldest_us = oldest_us
        self._plain_until = Micros(0)
        self.tick(now)
        if self._too_old() and self._level < Level.DEGRADED:
            self._last_sample = now
            self._become(Level.DEGRADED, f"a request unanswered for {oldest_us // MILLISECOND} ms", now)

    def says_something(self, oldest_us: int) -> bool:
        """Whether a wait so long is above the lower edge of the band."""
        health = self._health
        return health.oldest_us_max is not None and oldest_us > _lower(health.oldest_us_max, health.oldest_us_back)

    def _too_old(self) -> bool:
        health = self._health
        if health.oldest_us_max is None:
            return False
        threshold = health.oldest_us_max
        if self._level >= Level.DEGRADED:
            threshold = _lower(threshold, health.oldest_us_back)
        return self._oldest_us > threshold

    def _judge(self, sample: Sample) -> tuple[Level, str]:
        """What the evidence says now, whatever the level has been; bands are wider when it has been worse."""
        health = self._health
        if self._failures >= health.fail_after or (self._level is Level.DOWN and not sample.ok):
            how = ", refused" if self._refused else ""
            return Level.DOWN, f"{self._failures} failures in a row{how}"
        errors_max = health.errors_ppm_max
        if self._level >= Level.FAILING:
            errors_max = _lower(errors_max, health.errors_ppm_back)
        total = self.samples
        if total >= health.errors_samples_min and self._errors() * 1_000_000 > errors_max * total:
            return Level.FAILING, f"errors {self.error_ppm // 10_000} %"
        latency_max = health.latency_us_max
        if self._level >= Level.DEGRADED:
            latency_max = _lower(latency_max, health.latency_us_back)
        if self._latency_samples >= LATENCY_SAMPLES_MIN and self.latency_us > latency_max:
            return Level.DEGRADED, f"latency {self.latency_us // MILLISECOND} ms"
        if self._too_old():
            return Level.DEGRADED, f"a request unanswered for {self._oldest_us // MILLISECOND} ms"
        return Level.HEALTHY, "well"

    def _improve(self, found: Level, reason: str, sample: Sample, now: Micros) -> None:
        """Extend the clean run by a sample that found the endpoint better than its level."""
        if self._run is None:
            self._run = _CleanRun(now, found)
        run = self._run
        run.worst = max(run.worst, found)
        run.successes += sample.ok
        if now - self._since < self._health.cooldown_us:
            return
        if sample.ok and now - run.since >= self._health.recover_after_us and run.successes >= RECOVERY_SUCCESSES_MIN:
            self._become(run.worst, reason if run.worst is found else f"recovering: {reason}", now)

    def _become(self, level: Level, reason: str, now: Micros) -> None:
        self._reason = reason
        self._run = None
        if level is not self._level:
            self._level, self._since = level, now

    def _count(self, sample: Sample, now: Micros) -> None:
        start = now - now % _BUCKET_US
        if not self._window or self._window[-1].start != start:
            self._window.append(_Bucket(start))
        self._window[-1].total += 1
        self._window[-1].errors += not sample.ok
        if sample.ok:
            self._latency_samples += 1
            if self._latency_samples == 1:
                self._latency_x8 = sample.latency_us << 3
            else:
                self._latency_x8 += sample.latency_us - (self._latency_x8 >> 3)

    def _slide(self, now: Micros) -> None:
        while self._window and self._window[0].start <= now - self._health.errors_over_us:
            self._window.popleft()

    def _forget(self) -> None:
        self._window.clear()
        self._latency_x8 = self._latency_samples = 0

    def _lease_us(self) -> int:
        return max(EVIDENCE_LEASE_US, 3 * self._health.probe_interval_us)


class _Bucket:
    """The samples of one second."""

    __slots__ = ("errors", "start", "total")

    def __init__(self, start: int) -> None:
        self.start, self.total, self.errors = start, 0, 0


class _CleanRun:
    """Samples in a row that found the endpoint better than its level."""

    __slots__ = ("since", "successes", "worst")

    def __init__(self, since: Micros, worst: Level) -> None:
        self.since, self.worst, self.successes = since, worst, 0


def _lower(threshold: int, back: int | None) -> int:
    """Where the band ends below which what was condemned is well again."""
    return threshold * EXIT_BAND_PCT // 100 if back is None else back


def signal_level(signal: Signal, health: Health, was: Level = Level.UNKNOWN) -> Level:
    """What a region's word about itself amounts to. It cannot say DOWN: who is down says nothing.

    `was` is what its word amounted to before: the bands are wider for what was worse than HEALTHY.
    """
    errors_max, latency_max, full = health.errors_ppm_max, health.latency_us_max, health.saturation_ppm_max
    if was >= Level.FAILING:
        errors_max = _lower(errors_max, health.errors_ppm_back)
    if was >= Level.DEGRADED:
        latency_max = _lower(latency_max, health.latency_us_back)
        full = _lower(full, health.saturation_ppm_back)
    if signal.error_rate_ppm > errors_max:
        return Level.FAILING
    if signal.latency_ms * MILLISECOND > latency_max or signal.capacity_pct * 10_000 > full:
        return Level.DEGRADED
    return Level.HEALTHY


def grade_region(
    region: str,
    health: Health,
    graders: Iterable[Grader],
    signal: Signal | None,
    signal_received: Micros,
    now: Micros,
    signal_was: Level = Level.UNKNOWN,
) -> Observation:
    """One observation of a region: its best endpoint, or worse by its own fresh word (at most `SIGNAL_LEASE_US` old).

    DOWN needs every endpoint to be DOWN. An endpoint without evidence is neither well nor DOWN: with no better word,
    the region is UNKNOWN. A signal only worsens what was seen from here: that a region feels well does not mean that
    it can be reached.
    """
    graded = [(grader.level(now), place, grader) for place, grader in enumerate(graders)]
    known = [entry for entry in graded if entry[0] is not Level.UNKNOWN]
    best = min(known, default=None, key=lambda entry: entry[:2])
    if best is not None and best[0] is Level.DOWN and len(known) < len(graded):
        best = None
    level = best[0] if best else Level.UNKNOWN
    latency_us = best[2].latency_us if best else 0
    errors_ppm = best[2].error_ppm if best else 0
    since = best[2].since if best else Micros(0)
    saturation_ppm = 0
    if signal is not None and now - signal_received < SIGNAL_LEASE_US:
        saturation_ppm = min(signal.capacity_pct, 100) * 10_000
        said = signal_level(signal, health, signal_was)
        if said > max(level, Level.HEALTHY):
            level, since = said, signal_received
            latency_us = max(latency_us, signal.latency_ms * MILLISECOND)
            errors_ppm = max(errors_ppm, signal.error_rate_ppm)
    return Observation(
        region=region,
        level=level,
        latency_us=latency_us,
        errors_ppm=errors_ppm,
        saturation_ppm=saturation_ppm,
        since_ms=since // MILLISECOND,
        evidence=sum(entry[2].samples for entry in graded),
    )
