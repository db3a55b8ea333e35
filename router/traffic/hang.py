"""The hang rule: who keeps users waiting without a byte, seen while they wait. Pure.

A crash announces itself; a hang says nothing, and whoever waits for a timeout has lost. So silence is judged against
what an endpoint usually needs: *k requests wait, and no byte has come from the region for max(50 ms, 3 x its p99)*
makes it suspect (DESIGN part 6). The same is asked of each endpoint alone, for one of several may hang while its
neighbours answer. On a network that is cut nobody refuses a connect: one that is not answered for so long is given up,
and after k in turn so is the endpoint. A single request that waits longer than twice the p99 is merely late: it may be
hedged.

A request is evidence once. Whoever has been told of and still waits says nothing new, of an endpoint on trial least of
all: three stuck requests would keep it out for as long as they are stuck. It is told once more each term, as late: who
could not be rescued then may be now.

Latencies lie in a histogram of quarter octaves that forgets: when it is full, all counts are halved. A p99 is the upper
edge of its bucket, so at most a fifth too great; it is trusted from twenty samples on, and before that only a second of
silence counts.

`now` is the time that we could listen in: whoever owns the clock takes out the time in which this process was itself
kept from running, for then a silence says nothing of anybody else, and asks only once all that arrived before is heard.

Requests that are expected to be silent (event streams, long polls) must not be entered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from lattice.types import MILLISECOND, SECOND, Endpoint, Micros

WAITING_MIN: Final = 3
"""k: two may be slow by themselves."""
SILENCE_US_MIN: Final = 50 * MILLISECOND
SILENCE_P99_FACTOR: Final = 3
LATE_US_MIN: Final = 30 * MILLISECOND
LATE_P99_FACTOR: Final = 2
UNKNOWN_US: Final = SECOND
"""The limit of both rules before there are enough samples."""
SAMPLES_MIN: Final = 20
SAMPLES_MAX: Final = 1_024
REFRESH_SAMPLES: Final = 16
"""A p99 is worked out anew after so many: it costs microseconds and moves slowly."""
HISTORY_MASK: Final = (1 << 16) - 1
UNAVAILABLE_MIN: Final = 5
"""Of the last 16 answers. Envoy ejects after 5 gateway errors in a row; that misses every second one."""

_BITS: Final = 40  # up to 2^40 us: twelve days
_BUCKETS: Final = 4 * _BITS

FlightT = TypeVar("FlightT")


class Latencies:
    """Recent latencies of one region, in microseconds."""

    __slots__ = ("_counts", "_p99", "_refresh_at", "_total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0
        self._p99: int | None = None
        self._refresh_at = 0  # the total from which on the p99 is worked out anew

    def add(self, latency_us: int) -> None:
        bits = latency_us.bit_length()
        if bits < 3:
            self._counts[4 * bits] += 1
        elif bits < _BITS:  # the octave, and the two bits below its own
            self._counts[4 * bits + (latency_us >> bits - 3 & 3)] += 1
        else:
            self._counts[-1] += 1
        self._total += 1
        if self._total >= SAMPLES_MAX:
            self._counts = [count >> 1 for count in self._counts]
            self._refresh_at -= self._total
            self._total = sum(self._counts)
            self._refresh_at += self._total

    def p99_us(self) -> int | None:
        """None while there are too few samples."""
        if self._total < SAMPLES_MIN:
            return None
        if self._p99 is None or self._total >= self._refresh_at:
            self._refresh_at = self._total + REFRESH_SAMPLES
            beyond = self._total // 100
            bucket = _BUCKETS
            while beyond >= 0:
                bucket -= 1
                beyond -= self._counts[bucket]
            bits, quarter = divmod(bucket, 4)
            self._p99 = (5 + quarter << bits) >> 3 if bits >= 3 else (1 << bits) - 1
        return self._p99


class Watched(Generic[FlightT]):
    """One endpoint, and who waits for its first byte: oldest first, since when."""

    __slots__ = (
        "_given_up",
        "_given_up_since",
        "asked_at",
        "endpoint",
        "flights",
        "history",
        "last_byte_at",
        "late_asked",
        "latencies",
        "region",
        "told_of",
    )

    def __init__(self, region: str, endpoint: Endpoint, latencies: Latencies) -> None:
        self.region = region
        self.endpoint = endpoint
        self.flights: dict[FlightT, Micros] = {}
        self.latencies = latencies  # its region's: an endpoint that was hardly used yet is judged by its neighbours
        self.last_byte_at = Micros(0)
        self.late_asked: set[FlightT] = set()
        self.told_of: set[FlightT] = set()
        """Those of `late_asked` that were told of. By name, for others may be sent in the same microsecond."""
        self.asked_at = Micros(0)
        """When they were told of, or told once more."""
        self.history = 0
        """A bit for each of the last answers, the newest the lowest: whether it was a 502, 503 or 504."""
        self._given_up = 0
        self._given_up_since = Micros(0)

    def sent(self, flight: FlightT, now: Micros) -> None:
        """A whole request went out and its answer is awaited."""
        self.flights[flight] = now

    def heard(self, flight: FlightT, now: Micros) -> None:
        """Its first byte came."""
        sent_at = self.flights.pop(flight, None)
        if sent_at is not None:
            self.latencies.add(now - sent_at)
            self.last_byte_at = now
            if self.late_asked:
                self.late_asked.discard(flight)
                self.told_of.discard(flight)

    def dropped(self, flight: FlightT) -> None:
        """Nobody waits for it any more; that says nothing of its latency."""
        self.flights.pop(flight, None)
        self.late_asked.discard(flight)
        self.told_of.discard(flight)

    def rewind(self, now: Micros) -> None:
        """Nothing that was noted is ahead of `now`."""
        self.last_byte_at = min(self.last_byte_at, now)
        self.asked_at = min(self.asked_at, now)
        self._given_up_since = min(self._given_up_since, now)
        for flight, sent_at in self.flights.items():
            if sent_at > now:
                self.flights[flight] = now

    def given_up(self, since: Micros) -> bool:
        """A connect that began then was not answered for `silence_us_max`. True when so many were in turn, and no byte
        came meanwhile, that it is to be left."""
        if not self._given_up or self.last_byte_at > self._given_up_since:
            self._given_up, self._given_up_since = 0, since
        self._given_up += 1
        return self._given_up >= WAITING_MIN

    def answered(self, *, available: bool) -> bool:
        """Its answer was, or was not, a 502, 503 or 504. True when so many of the last were that it is to be left."""
        self.history = (self.history << 1 | (not available)) & HISTORY_MASK
        return not available and self.history.bit_count() >= UNAVAILABLE_MIN

    def late_us(self) -> int:
        p99 = self.latencies.p99_us()
        return UNKNOWN_US if p99 is None else max(LATE_US_MIN, LATE_P99_FACTOR * p99)

    def silence_us_max(self) -> int:
        p99 = self.latencies.p99_us()
        return UNKNOWN_US if p99 is None else max(SILENCE_US_MIN, SILENCE_P99_FACTOR * p99)

    def evidence(self) -> Collection[Micros]:
        """When those were sent that were not told of, oldest first."""
        told_of = self.told_of
        if not told_of:
            return self.flights.values()
        return [sent_at for flight, sent_at in self.flights.items() if flight not in told_of]

    def told(self, now: Micros) -> None:
        """All who wait have been told of."""
        self.asked_at = now
        self.told_of.update(self.flights)
        self.late_asked.update(self.flights)

    def ask_again_at(self) -> Micros | None:
        """When those who were told of are to be told once more; None if nobody of them waits."""
        return Micros(self.asked_at + self.silence_us_max()) if self.told_of else None


@dataclass(frozen=True, slots=True)
class Suspicion(Generic[FlightT]):
    """A region, or one endpoint of it, keeps everybody waiting."""

    region: str
    endpoint: Endpoint | None
    """None for the region as a whole."""
    silence_us: int
    flights: tuple[FlightT, ...]
    """Who waits there, oldest first."""


class HangWatch(Generic[FlightT]):
    """All endpoints that were sent to; `forget_idle` bounds them. Owns no clock: `now` never decreases."""

    def __init__(self) -> None:
        self._regions: dict[str, dict[Endpoint, Watched[FlightT]]] = {}
        self._latencies: dict[str, Latencies] = {}

    def endpoint(self, region: str, endpoint: Endpoint) -> Watched[FlightT]:
        of_region = self._regions.get(region)
        if of_region is None:
            of_region = self._regions[region] = {}
            self._latencies[region] = Latencies()
        watched = of_region.get(endpoint)
        if watched is None:
            watched = of_region[endpoint] = Watched(region, endpoint, self._latencies[region])
        return watched

    def forget_idle(self, before: Micros) -> None:
        """Forget endpoints that nobody waits for and that have said nothing since `before`: policies change."""
        for region in list(self._regions):
            of_region = self._regions[region]
            for endpoint in [e for e, w in of_region.items() if not w.flights and w.last_byte_at < before]:
                del of_region[endpoint]
            if not of_region:
                del self._regions[region], self._latencies[region]

    def rewind(self, now: Micros) -> None:
        """Time that nobody could listen in has just been taken out, and it is `now` once more: what was noted before
        that, and behind it, would hide all that follows for as long."""
        for of_region in self._regions.values():
            for watched in of_region.values():
                watched.rewind(now)

    def suspects(self, now: Micros) -> tuple[Suspicion[FlightT], ...]:
        """Who must be given up now."""
        found: list[Suspicion[FlightT]] = []
        for region, waited_on in self._waited_on():
            silence_us_max = waited_on[0].silence_us_max()
            evidence = [(watched, watched.evidence()) for watched in waited_on]
            since = self._silent_since(region, [sent for _, sent in evidence])
            if since is not None and (silence_us := now - since) >= silence_us_max:
                flights = tuple(flight for watched in waited_on for flight in watched.flights)
                found.append(Suspicion(region, None, silence_us, flights))
                for watched in waited_on:
                    watched.told(now)
                continue
            for watched, sent in evidence:
                since = _silent_since(watched.last_byte_at, [sent])
                if since is not None and (silence_us := now - since) >= silence_us_max:
                    found.append(Suspicion(region, watched.endpoint, silence_us, tuple(watched.flights)))
                    watched.told(now)
        return tuple(found)

    def late(self, now: Micros) -> Iterator[FlightT]:
        """Each request that is late, once; those that `suspects` told of, each term."""
        for _, waited_on in self._waited_on():
            for watched in waited_on:
                again_at = watched.ask_again_at()
                if again_at is not None and again_at <= now:
                    watched.asked_at = now
                    yield from [flight for flight in watched.flights if flight in watched.told_of]
                before = now - watched.late_us()
                for flight, sent_at in watched.flights.items():
                    if flight in watched.late_asked:
                        continue
                    if sent_at > before:
                        break
                    watched.late_asked.add(flight)
                    yield flight

    def oldest(self, now: Micros) -> dict[tuple[str, Endpoint], int]:
        """For how long the oldest of those who wait has waited, by region and endpoint; not there where nobody does."""
        waited_on = [watched for _, waited_on in self._waited_on() for watched in waited_on]
        return {(one.region, one.endpoint): now - next(iter(one.flights.values())) for one in waited_on}

    def next_due(self) -> Micros | None:
        """When `suspects` or `late` may have something to say, if nothing happens meanwhile."""
        due: list[int] = []
        for region, waited_on in self._waited_on():
            silence_us_max = waited_on[0].silence_us_max()
            evidence = [(watched, watched.evidence()) for watched in waited_on]
            for watched, sent in evidence:
                pending = (at for flight, at in watched.flights.items() if flight not in watched.late_asked)
                sent_at = next(pending, None)
                if sent_at is not None:
                    due.append(sent_at + watched.late_us())
                again_at = watched.ask_again_at()
                if again_at is not None:
                    due.append(again_at)
                since = _silent_since(watched.last_byte_at, [sent])
                if since is not None:
                    due.append(since + silence_us_max)
            since = self._silent_since(region, [sent for _, sent in evidence])
            if since is not None:
                due.append(since + silence_us_max)
        return Micros(min(due)) if due else None

    def _waited_on(self) -> Iterator[tuple[str, list[Watched[FlightT]]]]:
        """The regions that somebody waits for, and their endpoints that somebody does, sorted."""
        for region in sorted(self._regions):
            of_region = self._regions[region]
            waited_on = [of_region[endpoint] for endpoint in sorted(of_region) if of_region[endpoint].flights]
            if waited_on:
                yield region, waited_on

    def _silent_since(self, region: str, evidence: list[Collection[Micros]]) -> Micros | None:
        return _silent_since(max(watched.last_byte_at for watched in self._regions[region].values()), evidence)


def _silent_since(last_byte_at: Micros, evidence: list[Collection[Micros]]) -> Micros | None:
    """The later of the last byte and the oldest wait; None if too few wait to prove anything."""
    if sum(map(len, evidence)) < WAITING_MIN:
        return None
    return max(last_byte_at, min(next(iter(sent)) for sent in evidence if sent))
