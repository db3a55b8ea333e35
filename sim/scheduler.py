"""What happens next: a heap of (when, in which order, to whom, what), in virtual microseconds.

Two things due in the same microsecond happen in the order in which they were scheduled, so a run has one history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappush
from typing import Final, TypeAlias

from lattice.events import Input
from lattice.types import SECOND, Micros

EPOCH: Final = Micros(1_800_000_000 * SECOND)
"""When every run begins: a date (2027-01-15), because policies carry one."""

NOBODY: Final = -1
"""The host of an act of the simulation itself."""
ANY_LIFE: Final = -1
"""The life of an input that whatever process is there then takes: a datagram."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that the simulation itself does."""

    do: Callable[[], object]


Entry: TypeAlias = tuple[int, int, int, int, Input | Act]
"""(at, seq, host, life, what): `life` tells an input for a process that is no more."""


class Scheduler:
    """The queue and the clock."""

    def __init__(self, start: Micros = EPOCH) -> None:
        self.now: int = start
        self.queue: list[Entry] = []
        """A heap; whoever takes out its first moves `now` to when that is due. Nothing in it is in the past: `give` and
        `call` see to that."""
        self._seq = 0

    def give(self, at: int, host: int, life: int, event: Input) -> None:
        """Hand `event` to a host at that time."""
        assert at >= self.now, f"an event {self.now - at} us in the past"
        self._seq += 1
        heappush(self.queue, (at, self._seq, host, life, event))

    def call(self, at: int, do: Callable[[], object]) -> None:
        """Have the simulation itself do something at that time; never earlier than now."""
        self._seq += 1
        heappush(self.queue, (max(at, self.now), self._seq, NOBODY, ANY_LIFE, Act(do)))

    def __len__(self) -> int:
        return len(self.queue)
