"""How many requests a region may have in flight at once: as many as it bears. Pure.

Additive increase, multiplicative decrease, as TCP finds its window (Jacobson, 1988): good answers to requests that used
the window widen it a little, a timeout, refusal or gateway error narrows it by a tenth, at most once in a tenth of a
second, for what fails together fails for one reason. A region at its limit gets no more; the next region gets the
request (a spill), or the client an early 503, which costs nobody a timeout.
"""

from __future__ import annotations

from typing import Final

from lattice.types import MILLISECOND, Micros

LIMIT_MIN: Final = 16
LIMIT_START: Final = 512
LIMIT_MAX: Final = 8_192
NARROW_PERCENT: Final = 90
NARROW_INTERVAL_US: Final = 100 * MILLISECOND


class Concurrency:
    """The window of one region. Owns no clock: `now` never decreases."""

    __slots__ = ("_credit", "_narrowed_at", "in_flight", "limit")

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = LIMIT_START
        self._credit = 0
        self._narrowed_at: Micros | None = None

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit

    def enter(self) -> None:
        """A request goes there. Call `leave` once when it has ended."""
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def went_well(self) -> None:
        """An answer came. Call before `leave`."""
        if self.in_flight * 2 < self.limit or self.limit >= LIMIT_MAX:
            return  # an empty window proves nothing
        self._credit += 1
        if self._credit >= self.limit:
            self._credit = 0
            self.limit += max(1, self.limit // 16)
            self.limit = min(self.limit, LIMIT_MAX)

    def went_badly(self, now: Micros) -> None:
        """A timeout, a refusal, or a gateway error."""
        if self._narrowed_at is not None and now - self._narrowed_at < NARROW_INTERVAL_US:
            return
        self._narrowed_at = now
        self._credit = 0
        self.limit = max(LIMIT_MIN, min(self.limit, max(2 * self.in_flight, LIMIT_MIN)) * NARROW_PERCENT // 100)
