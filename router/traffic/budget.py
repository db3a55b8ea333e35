"""How much extra work may be made of a share of the ordinary: retries and hedges that end by themselves in an outage.

Whoever repeats requests because they fail makes an overload worse. So repeats are a share of the requests of the last
five to ten seconds, and a small number on top, without which a quiet service could not rescue anybody (Finagle's
RetryBudget: 20 % and ten a second). Pure.
"""

from __future__ import annotations

from typing import Final

from lattice.types import SECOND, Micros

WINDOW_US: Final = 5 * SECOND


class Window:
    """A count over the last one to two windows. `now` never decreases."""

    __slots__ = ("_before", "_ends", "_here")

    def __init__(self) -> None:
        self._here = 0
        self._before = 0
        self._ends = 0

    def add(self, now: Micros) -> None:
        if now >= self._ends:
            self._turn(now)
        self._here += 1

    def count(self, now: Micros) -> int:
        if now >= self._ends:
            self._turn(now)
        return self._here + self._before

    def _turn(self, now: Micros) -> None:
        self._before = self._here if now < self._ends + WINDOW_US else 0
        self._here = 0
        self._ends = (now // WINDOW_US + 1) * WINDOW_US


class Budget:
    """`now` never decreases."""

    def __init__(self, requests: Window, share_ppm: int, spare: int) -> None:
        """So many millionths of `requests`, which whoever has them counts; `spare` may be spent even without any."""
        self._requests = requests
        self._spent = Window()
        self._share_ppm = share_ppm
        self._spare = spare

    def has(self, now: Micros) -> bool:
        """Whether one more may be sent."""
        return self._spent.count(now) < self._spare + self._requests.count(now) * self._share_ppm // 1_000_000

    def spend(self, now: Micros) -> bool:
        """Whether one more may be sent; if so it counts."""
        if not self.has(now):
            return False
        self._spent.add(now)
        return True
