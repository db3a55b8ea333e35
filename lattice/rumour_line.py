"""Rumours stand in line: what a node passes on is bounded in bytes a second, and the most urgent goes first.

Whoever starts a rumour sends it many times, so a publish of hundreds of ops would leave its node as megabytes in one
instant: more than sockets and links hold, and what they drop has to be asked for. Hence a token bucket of bytes for
all that a node pushes. What finds it empty waits, for a second or two at most in practice, and goes as tokens come.

What nobody finds out for himself does not wait: a revocation, a drain, a region that is down. Such cells are small, and
bounded for each of their writers (`spreading`). But several who lie may say more of them than the bucket gets, so they
take what there is in it and leave no debt, or nothing that waits would ever go.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from lattice.cells import Cell, Urgency
from lattice.types import MILLISECOND, SECOND, CellId, Micros, NodeId

PATIENT: Final = Urgency.POLICY
"""The first that waits."""
PACE_US = 10 * MILLISECOND
"""Whoever waits, waits so long at least: a few datagrams leave together, and are worth a timer."""


class RumourLine:
    """Of one node."""

    def __init__(self, bytes_per_s: int, burst_bytes: int, cells_max: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._full = burst_bytes * SECOND
        self._cells_max = cells_max
        self._tokens = self._full
        """In millionths of a byte; below zero after a cell that cost more than there was."""
        self._since = Micros(0)
        self._waiting: list[tuple[Urgency, int, Cell, NodeId | None]] = []
        self._ids: set[CellId] = set()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, cell: CellId) -> bool:
        return cell in self._ids

    def put(self, cell: Cell, came_from: NodeId | None) -> bool:
        """Whether there was room at the end of its urgency's line."""
        if len(self._waiting) >= self._cells_max:
            return False
        self._arrivals += 1
        heappush(self._waiting, (cell.urgency, self._arrivals, cell, came_from))
        self._ids.add(cell.id)
        return True

    def take(self, now: Micros) -> tuple[Cell, NodeId | None] | None:
        """Who may go now, and where it came from; `spend` says what it cost."""
        if not self._waiting:
            return None
        urgency, _, cell, came_from = self._waiting[0]
        if urgency >= PATIENT and self._level(now) <= 0:
            return None
        heappop(self._waiting)
        self._ids.discard(cell.id)
        return cell, came_from

    def spend(self, sent_bytes: int, now: Micros) -> None:
        self._tokens, self._since = self._level(now) - sent_bytes * SECOND, now

    def take_along(self, sent_bytes: int, now: Micros) -> None:
        """What went without waiting takes what there is and leaves no debt: else whoever has us send enough of it keeps
        all that waits in line from ever going."""
        level = self._level(now)
        self._tokens, self._since = min(level, max(0, level - sent_bytes * SECOND)), now

    def due(self, now: Micros) -> Micros | None:
        """When to look again; None while nobody waits."""
        if not self._waiting:
            return None
        return Micros(now + max(PACE_US, -self._level(now) // self._bytes_per_s + 1))

    def _level(self, now: Micros) -> int:
        return min(self._full, self._tokens + (now - self._since) * self._bytes_per_s)
