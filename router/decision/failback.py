"""A region that is well again gets its users back a few at a time, and the same users first. Pure.

A region that has just recovered has cold caches and empty pools, and may be well only because nobody was there. All of
its users at once could take it down again (HAProxy's `slowstart` and Envoy's `slow_start_window` are for the same). So
the share of them that stays away falls in equal steps from the moment that the region is better, and each user goes
back when it falls below a hash of the user (see `plan`): once, and not to and fro. Nodes that plan with equal shares
send every user alike.

What counts is the level that decisions are made with, damping included. There is no ramp where there was nobody to win
back: after UNKNOWN, and when no region that is still as well was better than this one had been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lattice.types import SECOND, Level, Micros

RAMP_US: Final = 10 * SECOND
"""Twice what a damped flap lasts, and short beside what it takes to start a machine. Load balancers leave it off by
default, or begin at 30 s."""
FAILBACK_US_MAX: Final = 3_600 * SECOND
STEPS: Final = 20
"""A twentieth of the users at once, and one more in each step. Every step is a new table."""
_ALL_PPM: Final = 1_000_000


def away_ppm(elapsed_us: int, ramp_us: int) -> int:
    """What share of a region's users, in millionths, stays away so long after it became better."""
    if elapsed_us >= ramp_us:
        return 0
    return _ALL_PPM - min(STEPS, 1 + elapsed_us * STEPS // ramp_us) * _ALL_PPM // STEPS


@dataclass(frozen=True, slots=True)
class Returning:
    away_ppm: Mapping[str, int]
    """By region; those that all users may go to are not in it."""
    next_change: Micros | None
    """When to ask again though nothing happened."""


class Failback:
    """Which regions are on their way back, at one node. Owns no clock: `now` never decreases."""

    def __init__(self, ramp_us: int = RAMP_US) -> None:
        """0 gives a region all of its users at once."""
        self.ramp_us = ramp_us
        self._levels: Mapping[str, Level] = {}
        self._since: dict[str, Micros] = {}

    def returning(self, levels: Mapping[str, Level], now: Micros) -> Returning:
        """The levels to plan with are these now; say so whenever they may have changed."""
        before, self._levels = self._levels, dict(levels)
        for region, level in levels.items():
            was = before.get(region, Level.UNKNOWN)
            if Level.UNKNOWN in (was, level) or level > was:
                self._since.pop(region, None)  # nobody is there any more, or nobody knows
            elif level < was and region not in self._since and _had_a_better(region, before, levels):
                self._since[region] = now
        away: dict[str, int] = {}
        changes: list[int] = []
        for region, since in list(self._since.items()):
            share = away_ppm(now - since, self.ramp_us) if region in levels else 0
            if share:
                away[region] = share
                step = (now - since) * STEPS // self.ramp_us + 1
                changes.append(since - (-step * self.ramp_us // STEPS))
            elif now - since >= self.ramp_us or region not in levels:
                del self._since[region]
        return Returning(away, Micros(min(changes)) if changes else None)


def _had_a_better(region: str, before: Mapping[str, Level], levels: Mapping[str, Level]) -> bool:
    """Whether its users were elsewhere: some region is and was better than this one had been."""
    return any(
        Level.UNKNOWN not in (level, known := before.get(other, Level.UNKNOWN)) and max(level, known) < before[region]
        for other, level in levels.items()
    )
