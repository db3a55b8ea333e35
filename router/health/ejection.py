"""The ejection mask: the endpoints that nobody is to be sent to, from the next decision on.

One refused connection, one reset, one missing first byte ejects an endpoint here and now, long before the level of its
region changes. It is a local, short suspicion, and it needs no agreement: probes confirm it (then the region's level
says so) or lift it. The life of an endpoint in the mask, as in a circuit breaker (Nygard, "Release It!", 2007):

    in use --eject--> ejected --term over--> half open --admit--> on trial --eject--> ejected, for twice as long
                         ^------------------------ lift: in use again -------------------------'

*Half open* means that the endpoint has left the mask, for one request: `admit` puts it back until that request's fate
is known. That request is at risk: an endpoint that hangs still keeps it waiting. So for a second the trial waits for
one that has no effects, which is asked of another endpoint as soon as it is late; only then is it anybody's (`spared`).

Terms double from a second to eight and are forgotten after a quiet time, so that an endpoint which is lifted and fails
again at once does not start over. Failures of requests that were under way when the endpoint was ejected say nothing
new and change no term.

A probe's success ends an ejection whose cause a probe would see (`RegionalHealth.probed`): a refused connection, or
whatever probes have *confirmed* by finding the endpoint DOWN as well. Were it not so, the terms that failed trials
have doubled during an outage would outlast it, and a site that was cut off from all would deny for seconds more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from lattice.types import SECOND, Endpoint, Micros

TERM_US_MIN = SECOND
TERM_US_MAX = 8 * SECOND
"""As long as an endpoint may be left out after it is well, where only users see what ails it. Envoy's base ejection
time is 30 s, with all traffic as the trial; ours costs one request that is late by a hedge."""
TRIAL_WAIT_US = SECOND
"""How long a trial waits for a request without effects."""
QUIET_US = 60 * SECOND
"""Time without ejection after which the next one is a first one."""


class Stage(Enum):
    EJECTED = "ejected"
    HALF_OPEN = "half open"
    ON_TRIAL = "on trial"
    IN_USE = "in use"
    """Lifted, and only remembered for its strikes."""


@dataclass(slots=True)
class _Entry:
    stage: Stage
    strikes: int
    ejected_at: Micros
    until: Micros
    """The end of its term; of a half-open one, until when it waits for a request without effects."""
    why: str
    confirmed: bool = False
    """Probes have found it DOWN, too."""


class EjectionMask:
    """Owns no clock: `now` never decreases. Bounded by the endpoints of the policy (`retain`)."""

    def __init__(self) -> None:
        self._entries: dict[Endpoint, _Entry] = {}
        self._ejected: set[Endpoint] = set()
        self._half_open = 0
        self.epoch = 0
        """Grows whenever `ejected`, or who is half open, changes."""
        self.counters = {"ejected": 0, "repeated": 0, "lifted": 0, "half_opened": 0, "trials": 0, "trials_failed": 0}

    @property
    def ejected(self) -> AbstractSet[Endpoint]:
        """The live set that `decide` tests: the same object for the mask's whole life. Not to be written to."""
        return self._ejected

    def spared(self, now: Micros) -> AbstractSet[Endpoint]:
        """What a request that could not be rescued from a trial must not be sent to: `ejected`, and what has been half
        open for less than `TRIAL_WAIT_US`. The live set itself where there is nothing else."""
        if not self._half_open:
            return self._ejected
        waiting = {e for e, entry in self._entries.items() if entry.stage is Stage.HALF_OPEN and now < entry.until}
        return self._ejected | waiting if waiting else self._ejected

    def eject(self, endpoint: Endpoint, now: Micros, why: str) -> bool:
        """Take an endpoint out of use. False when it was out already: then nothing but a counter changes."""
        entry = self._entries.get(endpoint)
        if entry is not None and entry.stage is Stage.EJECTED:
            self.counters["repeated"] += 1
            return False
        if entry is not None and entry.stage in (Stage.HALF_OPEN, Stage.ON_TRIAL):
            self.counters["trials_failed"] += 1
        strikes = (
            entry.strikes + 1 if entry is not None and now - entry.ejected_at < QUIET_US + term_us(entry.strikes) else 1
        )
        until = Micros(now + term_us(strikes))
        self._put(endpoint, _Entry(Stage.EJECTED, strikes, now, until, why))
        self.counters["ejected"] += 1
        return True

    def confirm(self, endpoint: Endpoint) -> None:
        """Probes find the endpoint DOWN, too: what is wrong is what they can see, and see the end of."""
        entry = self._entries.get(endpoint)
        if entry is not None:
            entry.confirmed = True

    def confirmed(self, endpoint: Endpoint) -> bool:
        """Whether probes have, since it was last ejected."""
        entry = self._entries.get(endpoint)
        return entry is not None and entry.confirmed

    def lift(self, endpoint: Endpoint) -> bool:
        """Take an endpoint back into use: a probe or a trial succeeded. False when it was in use."""
        entry = self._entries.get(endpoint)
        if entry is None or entry.stage is Stage.IN_USE:
            return False
        self._move(endpoint, entry, Stage.IN_USE)
        self.counters["lifted"] += 1
        return True

    def expire(self, now: Micros) -> tuple[Endpoint, ...]:
        """Half-open every endpoint whose term is over; returns them, sorted. A trial without an end counts as over."""
        due = sorted(
            endpoint
            for endpoint, entry in self._entries.items()
            if entry.stage in (Stage.EJECTED, Stage.ON_TRIAL) and entry.until <= now
        )
        for endpoint in due:
            self._entries[endpoint].until = Micros(now + TRIAL_WAIT_US)
            self._move(endpoint, self._entries[endpoint], Stage.HALF_OPEN)
            self.counters["half_opened"] += 1
        for endpoint in [e for e, entry in self._entries.items() if _forgettable(entry, now)]:
            del self._entries[endpoint]
        return tuple(due)

    def next_expiry(self) -> Micros | None:
        """When `expire` has something to do next; None when nothing is out of use."""
        terms = (e.until for e in self._entries.values() if e.stage in (Stage.EJECTED, Stage.ON_TRIAL))
        return min(terms, default=None)

    def admit(self, endpoint: Endpoint, now: Micros) -> bool:
        """Call for the endpoint a request is about to be sent to. True when this request is a half-open one's trial.

        The endpoint is masked for everyone else until `eject` or `lift` says how the trial went, or until another term.
        """
        if not self._half_open:  # the usual case, once a request
            return False
        entry = self._entries.get(endpoint)
        if entry is None or entry.stage is not Stage.HALF_OPEN:
            return False
        entry.until = Micros(now + term_us(entry.strikes))
        self._move(endpoint, entry, Stage.ON_TRIAL)
        self.counters["trials"] += 1
        return True

    def out_for(self, reasons: Collection[str]) -> AbstractSet[Endpoint]:
        """Those of `ejected` that are so for one of these reasons."""
        return {endpoint for endpoint in self._ejected if self._entries[endpoint].why in reasons}

    def why(self, endpoint: Endpoint) -> str:
        """Why an endpoint is out of use; "" when it is in use."""
        entry = self._entries.get(endpoint)
        return entry.why if entry is not None and entry.stage is not Stage.IN_USE else ""

    def stage(self, endpoint: Endpoint) -> Stage:
        entry = self._entries.get(endpoint)
        return entry.stage if entry is not None else Stage.IN_USE

    @property
    def out_of_use(self) -> frozenset[Endpoint]:
        """Ejected, half open or on trial."""
        return frozenset(endpoint for endpoint, entry in self._entries.items() if entry.stage is not Stage.IN_USE)

    def retain(self, endpoints: Iterable[Endpoint]) -> None:
        """Forget every endpoint but these: the policy has changed. What is known of the others survives."""
        kept = frozenset(endpoints)
        for endpoint in [endpoint for endpoint in self._entries if endpoint not in kept]:
            self._move(endpoint, self._entries[endpoint], Stage.IN_USE)
            del self._entries[endpoint]

    def _put(self, endpoint: Endpoint, entry: _Entry) -> None:
        held = self._entries.get(endpoint)
        if held is not None:
            self._move(endpoint, held, Stage.IN_USE)
        self._entries[endpoint] = entry
        self._ejected.add(endpoint)
        self.epoch += 1

    def _move(self, endpoint: Endpoint, entry: _Entry, stage: Stage) -> None:
        """The one place where a stage changes: set and count follow from it."""
        self.epoch += 1
        self._half_open += (stage is Stage.HALF_OPEN) - (entry.stage is Stage.HALF_OPEN)
        entry.stage = stage
        if stage in (Stage.EJECTED, Stage.ON_TRIAL):
            self._ejected.add(endpoint)
        else:
            self._ejected.discard(endpoint)


def term_us(strikes: int) -> int:
    """How long the `strikes`-th ejection in a row lasts."""
    return min(TERM_US_MIN << min(strikes - 1, 16), TERM_US_MAX)


def _forgettable(entry: _Entry, now: Micros) -> bool:
    return entry.stage is Stage.IN_USE and now - entry.ejected_at >= QUIET_US + term_us(entry.strikes)
