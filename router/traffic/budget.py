"""How much extra work may be made of a share of the ordinary: retries and hedges that end by themselves in an outage.

Whoever repeats requests because they fail makes an overload worse. So repeats are a share of the requests of the last
five to ten seconds, and a small number on top, without which a quiet service could not rescue anybody (Finagle's
RetryBudget: 20 % and ten a second). Pure.
"""

from __future__ import annotations

from typing import Final

from lattice.types import SECOND, Micros

WINDOW_US: Final = 5 * SECOND


class Budget:
    """`now` never decreases."""

    def __init__(self, share_pct: int, spare: int) -> None:
        """`spare` may be spent in a window even without any requests."""
        self._share_pct = share_pct
        self._spare = spare
        self._window = 0
        self._requests = [0, 0]  # in this window, and in the one before
        self._spent = [0, 0]

    def earn(self, now: Micros) -> None:
        """A request came."""
        if now // WINDOW_US != self._window:
            self._turn(now)
        self._requests[0] += 1

    def has(self, now: Micros) -> bool:
        """Whether one more may be sent."""
        if now // WINDOW_US != self._window:
            self._turn(now)
        return sum(self._spent) < self._spare + sum(self._requests) * self._share_pct // 100

    def spend(self, now: Micros) -> bool:
        """Whether one more may be sent; if so it counts."""
        if not self.has(now):
            return False
        self._spent[0] += 1
        return True

    def _turn(self, now: Micros) -> None:
        window = now // WINDOW_US
        following = window == self._window + 1
        self._requests = [0, self._requests[0] if following else 0]
        self._spent = [0, self._spent[0] if following else 0]
        self._window = window
