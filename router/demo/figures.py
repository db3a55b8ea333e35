"""From what was recorded to the figures that the demo prints: pure functions, judged by tables and laws.

Definitions (times in milliseconds, all clocks are one machine's):

* `requests`, `errors`: what was sent; what got no answer, or one that is neither 2xx nor 3xx.
* `p50_ms`, `p99_ms`: from the time a request was *scheduled* to its last byte or its failure, nearest rank, errors
  included. Because load is open-loop, a stall lengthens every request behind it instead of hiding it
  (coordinated omission: G. Tene, "How NOT to Measure Latency").
* `failover_ms`: kill to the first answer from another region to users whose nearest living region was the killed one.
* `health_converged_ms`: kill to the last site's verdict DOWN, by the sites' own event times. (A lone site's verdict is
  never DOWN, by the quorum rule: there, what it acts on.)
* `policy_converged_ms`: publication at one site to in force at the last.
* `nearest_share`: of all requests, those answered by the region that was the nearest living one, by the conductor's
  own knowledge of which processes live, at some moment between schedule and answer. The time that a returned region
  is held back by `recover after` counts against it: nobody is told about a hold.
* `failback_ms`: the region listening again to its first answer to users; `failed_back`: and at the end it answers
  all users to whom it is nearest.

With several kills a figure is the worst of them. A figure that cannot be had is None, with a reason.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from lattice.types import MILLISECOND


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of one request. Times are microseconds since the Unix epoch."""

    scheduled_us: int
    done_us: int
    zone: str
    status: int
    """0: there was no answer."""
    region: str
    """The region that says it answered, "" for none."""
    error: str
    """"" for a 2xx or 3xx; otherwise what went wrong."""


class SiteEvent(msgspec.Struct, frozen=True):
    """One notable event, as a site tells it in `/v1/view`."""

    at_ms: int
    kind: str
    text: str = ""
    region: str = ""
    old: str = ""
    new: str = ""


@dataclass(frozen=True, slots=True)
class Death:
    """A region's process was killed, and perhaps listened again."""

    region: str
    killed_us: int
    returned_us: int | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that a run leaves behind for its figures."""

    ranking: Mapping[str, Sequence[str]]
    """For every zone, all regions, nearest first."""
    sites: Sequence[str]
    answers: Sequence[Answer] = ()
    deaths: Sequence[Death] = ()
    published_us: int = 0
    applied_ms: Mapping[str, int | None] = field(default_factory=dict)
    """For every site, when the policy was in force there."""
    events: Mapping[str, Sequence[SiteEvent]] = field(default_factory=dict)
    """For every site, its events in order."""


@dataclass(frozen=True, slots=True)
class Figures:
    values: Mapping[str, int | float | bool | None]
    """By their JSON keys, in the order in which they are printed."""
    missing: Mapping[str, str]
    """Why a value is None."""

    @property
    def complete(self) -> bool:
        """Every request was answered and every figure was had."""
        return self.values["errors"] == 0 and not self.missing


class _UnavailableError(Exception):
    """This figure cannot be had; the message says why."""


def figures(recording: Recording) -> Figures:
    """All figures of a run. Never raises for what a run can leave behind, an empty recording included."""
    timeline = Timeline(recording.ranking, recording.deaths)
    answers = sorted(recording.answers, key=lambda answer: answer.done_us)
    latencies = sorted(answer.done_us - answer.scheduled_us for answer in answers)
    values: dict[str, int | float | bool | None] = {
        "requests": len(answers),
        "errors": sum(1 for answer in answers if answer.error),
    }
    missing: dict[str, str] = {}

    def note(key: str, figure: Callable[[], int | float | bool]) -> None:
        try:
            values[key] = figure()
        except _UnavailableError as why:
            values[key], missing[key] = None, str(why)

    note("p50_ms", lambda: _ms(percentile(latencies, 50)))
    note("p99_ms", lambda: _ms(percentile(latencies, 99)))
    note("failover_ms", lambda: _ms(max(_each(recording, lambda death: _failover_us(answers, timeline, death)))))
    note("health_converged_ms", lambda: max(_each(recording, lambda death: _health_converged_ms(recording, death))))
    note("policy_converged_ms", lambda: _policy_converged_ms(recording))
    note("nearest_share", lambda: _nearest_share(answers, timeline))
    values["sites"] = len(recording.sites)
    values["regions"] = len(next(iter(recording.ranking.values()), ()))
    note("failed_back", lambda: all(_each(recording, lambda death: _failed_back(answers, timeline, death))))
    note("failback_ms", lambda: _ms(max(_each(recording, lambda death: _failback_us(answers, timeline, death)))))
    return Figures(values, missing)


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that at least `percent` (1 to 100) of a sorted sequence do not exceed: nearest rank."""
    if not ordered:
        raise _UnavailableError("no request was sent")
    return ordered[-(-len(ordered) * percent // 100) - 1]


class Timeline:
    """Who was the nearest living region, zone by zone, from each death or return to the next."""

    def __init__(self, ranking: Mapping[str, Sequence[str]], deaths: Iterable[Death]) -> None:
        changes = [(death.killed_us, death.region, False) for death in deaths]
        changes += [(death.returned_us, death.region, True) for death in deaths if death.returned_us is not None]
        changes.sort()
        dead: set[str] = set()
        self._from_us: list[int] = []
        self._nearest = [{zone: regions[0] if regions else "" for zone, regions in ranking.items()}]
        for at_us, region, returned in changes:
            (dead.discard if returned else dead.add)(region)
            self._from_us.append(at_us)
            self._nearest.append(
                {zone: next((name for name in regions if name not in dead), "") for zone, regions in ranking.items()}
            )

    def nearest(self, zone: str, at_us: int) -> str:
        """The nearest living region at a moment, "" if none lives or the zone is unknown."""
        return self._nearest[bisect_right(self._from_us, at_us)].get(zone, "")

    def nearest_between(self, zone: str, from_us: int, to_us: int) -> set[str]:
        """All regions that were the nearest living one at some moment of a closed interval."""
        first, last = bisect_left(self._from_us, from_us), bisect_right(self._from_us, to_us)
        return {nearest.get(zone, "") for nearest in self._nearest[first : last + 1]} - {""}

    def zones_of(self, region: str, at_us: int) -> set[str]:
        """The zones whose nearest living region this was."""
        return {zone for zone in self._nearest[0] if self.nearest(zone, at_us) == region}


def _each(recording: Recording, figure: Callable[[Death], int]) -> list[int]:
    if not recording.deaths:
        raise _UnavailableError("no region was killed")
    return [figure(death) for death in recording.deaths]


def _ms(us: int) -> float:
    return round(us / MILLISECOND, 1)


def _failover_us(answers: Sequence[Answer], timeline: Timeline, death: Death) -> int:
    zones = timeline.zones_of(death.region, death.killed_us - 1)
    if not zones:
        raise _UnavailableError(
            f"{death.region} was nobody's nearest region when it was killed: nothing had to fail over"
        )
    for answer in answers[bisect_left(answers, death.killed_us, key=lambda answer: answer.done_us) :]:
        if answer.zone in zones and not answer.error and answer.region not in ("", death.region):
            return answer.done_us - death.killed_us
    raise _UnavailableError(f"no other region answered for {death.region} after it was killed")


def _health_converged_ms(recording: Recording, death: Death) -> int:
    killed_ms = death.killed_us // MILLISECOND
    until_ms = None if death.returned_us is None else death.returned_us // MILLISECOND
    last_ms = 0
    kind = "verdict" if len(recording.sites) > 1 else "region"
    for site in recording.sites:
        for event in recording.events.get(site, ()):
            if (
                event.kind == kind
                and (event.region, event.new) == (death.region, "DOWN")
                and event.at_ms >= killed_ms
                and (until_ms is None or event.at_ms <= until_ms)
            ):
                last_ms = max(last_ms, event.at_ms - killed_ms)
                break
        else:
            raise _UnavailableError(f"{site} never said that {death.region} was DOWN while it was dead")
    return last_ms


def _policy_converged_ms(recording: Recording) -> int:
    published_ms = recording.published_us // MILLISECOND
    last_ms = 0
    for site in recording.sites:
        applied_ms = recording.applied_ms.get(site)
        if applied_ms is None:
            raise _UnavailableError(f"the policy was never in force at {site}")
        last_ms = max(last_ms, applied_ms - published_ms)
    return last_ms


def _nearest_share(answers: Sequence[Answer], timeline: Timeline) -> float:
    if not answers:
        raise _UnavailableError("no request was sent")
    near = sum(
        1
        for answer in answers
        if not answer.error
        and answer.region in timeline.nearest_between(answer.zone, answer.scheduled_us, answer.done_us)
    )
    return round(near / len(answers), 4)


def _users_after_return(answers: Sequence[Answer], timeline: Timeline, death: Death) -> tuple[int, list[Answer]]:
    """When a region listened again, and the answers since then, while they last, to those it is nearest to."""
    if death.returned_us is None:
        raise _UnavailableError(f"{death.region} did not return before the end of the run")
    returned_us = death.returned_us
    later = answers[bisect_left(answers, returned_us, key=lambda answer: answer.done_us) :]
    return returned_us, [
        answer for answer in later if not answer.error and timeline.nearest(answer.zone, answer.done_us) == death.region
    ]


def _failback_us(answers: Sequence[Answer], timeline: Timeline, death: Death) -> int:
    returned_us, users = _users_after_return(answers, timeline, death)
    for answer in users:
        if answer.region == death.region:
            return answer.done_us - returned_us
    raise _UnavailableError(f"{death.region} answered no user to whom it is nearest after its return")


def _failed_back(answers: Sequence[Answer], timeline: Timeline, death: Death) -> bool:
    if death.returned_us is None:
        return False
    _, users = _users_after_return(answers, timeline, death)
    last = {answer.zone: answer.region for answer in users}
    return bool(last) and all(region == death.region for region in last.values())
