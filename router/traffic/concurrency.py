"""How many requests a region may have in flight at once: as many as it bears. Pure.

Additive increase, multiplicative decrease, as TCP finds its window (Jacobson, 1988): good answers to requests that used
the window widen it a little, a timeout, refusal or gateway error narrows it by a tenth, at most once in a tenth of a
second, for what fails together fails for one reason. A region at its limit gets no more; the next region gets the
request (a spill), or the client an early 503, which costs nobody a timeout.

Routes share a region's window by *dynamic thresholds* (Choudhury and Hahne, 1998, for the buffers of a switch): each
may have in flight `SHARE_FACTOR` times what is free. So one that floods leaves a ninth of the window free, enough for
others to begin at once; the more they take, the less it may have, and routes that all want more than there is get the
same. What a route does not want the others have. One route alone has the whole window.
"""

from __future__ import annotations

from typing import Final

from lattice.types import MILLISECOND, Micros

LIMIT_MIN: Final = 16
LIMIT_START: Final = 512
LIMIT_MAX: Final = 8_192
NARROW_PERCENT: Final = 90
NARROW_INTERVAL_US: Final = 100 * MILLISECOND
SHARE_FACTOR: Final = 8
"""Switches take 1 to 8: the greater, the less stands idle beside a single flood."""
SHARES_MAX: Final = 1_024
_ALONE: Final = 1 << 30


class Concurrency:
    """The window of one region. Owns no clock: `now` never decreases."""

    __slots__ = ("_credit", "_narrowed_at", "_shares", "factor", "in_flight", "limit")

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = LIMIT_START
        self.factor = _ALONE
        """How many times what is free a route may have."""
        self._credit = 0
        self._narrowed_at: Micros | None = None
        self._shares: dict[str, Share] = {}

    def share(self, route: str) -> Share:
        """A route's share. Up to `SHARES_MAX` are remembered; then those with nothing in flight are forgotten, for
        policies change and routes with them."""
        found = self._shares.get(route)
        if found is None:
            if len(self._shares) >= SHARES_MAX:
                self._shares = {name: share for name, share in self._shares.items() if share.in_flight}
            found = self._shares[route] = Share(self)
            self.factor = _ALONE if len(self._shares) == 1 else SHARE_FACTOR
        return found

    def went_well(self) -> None:
        """An answer came. Call before the request leaves."""
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


class Share:
    """What one route has of a region's window."""

    __slots__ = ("in_flight", "window")

    def __init__(self, window: Concurrency) -> None:
        self.window = window
        self.in_flight = 0

    @property
    def full(self) -> bool:
        """No more of this route's requests should go there now."""
        window = self.window
        return self.in_flight >= (window.limit - window.in_flight) * window.factor

    def enter_if_room(self) -> bool:
        """One more request goes there, unless the share is full."""
        window = self.window
        if self.in_flight >= (window.limit - window.in_flight) * window.factor:
            return False
        self.in_flight += 1
        window.in_flight += 1
        return True

    def enter(self, count: int = 1) -> None:
        """So many requests go there."""
        self.in_flight += count
        self.window.in_flight += count

    def leave(self, count: int = 1) -> None:
        """So many of them have ended."""
        self.in_flight -= count
        self.window.in_flight -= count
