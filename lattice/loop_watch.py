"""How late the loop is: the difference between when an input was there and when the engine takes it.

A loop that lags is a node that hears late. It must be told so, for otherwise it takes its own deafness for the death of
its peers (`awareness`).
"""

from __future__ import annotations

from collections import Counter

from lattice.types import MILLISECOND, SECOND, Micros

LAG_US = 250 * MILLISECOND
"""From here on it is a lag: a quarter of a probe's time. Ordinary batches are handled in a few milliseconds."""
TOLD_EVERY_US = SECOND


class LoopWatch:
    """Counts lags, and says when the engine should hear of one."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._told: Micros | None = None

    def late(self, due: Micros, now: Micros) -> int | None:
        """An input that was due then is taken now. The lag in microseconds, if the engine should hear of it."""
        lag_us = now - due
        if lag_us < LAG_US:
            return None
        self.counters["loop lags"] += 1
        self.counters["loop lag max us"] = max(self.counters["loop lag max us"], lag_us)
        if self._told is not None and now - self._told < TOLD_EVERY_US:
            return None
        self._told = now
        return lag_us
