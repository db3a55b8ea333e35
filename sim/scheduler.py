"""What happens next: a heap of (when, in which order, to whom, what), in virtual microseconds.

Of things due in the same microsecond, acts of the simulation come first, in the order in which they were scheduled, and
then what hosts brought about, host by host, each host's in the order in which it did. So a run has one history; and the
place of each thing in it is known to whoever knows its host alone, so processes that run some hosts each agree on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappush
from typing import Any, Final, TypeAlias

from lattice.events import Input, LocalUpdate, Restored, StreamFrameReceived, TimerFired
from lattice.types import SECOND, Micros

EPOCH: Final = Micros(1_800_000_000 * SECOND)
"""When every run begins: a date (2027-01-15), because policies carry one."""

ORDER_BITS: Final = 40
"""More than any host brings about."""
NOBODY: Final = -1
"""The host of an act of the simulation itself."""
STOP: Final = -2
"""The host of an entry behind which `Cluster.run_until` does not go."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that the simulation itself does."""

    do: Callable[[], object]


Entry: TypeAlias = tuple[int, int, int, Any]
"""(at, order, host, what): an input, for whatever process is there then, or an act where the host is `NOBODY`."""


OnItsWay: TypeAlias = tuple[int, int, int, bool, bytes]
"""(at, order, host, whether by stream, bytes): a frame to a host that is run by another process."""


def first_order(host: int) -> int:
    """Where the order of what this host brings about begins: behind all acts of the simulation, which begin at 0."""
    return (host + 1) << ORDER_BITS


class Scheduler:
    """The queue and the clock."""

    def __init__(self, start: Micros = EPOCH) -> None:
        self.now: int = start
        self.queue: list[Entry] = []
        """A heap; whoever takes out its first moves `now` to when that is due. Nothing in it is in the past: `give` and
        `call` see to that."""
        self.elsewhere: dict[int, Callable[[OnItsWay], object]] = {}
        """By host of which another process has the engine: where what is on its way to it goes."""
        self._acts = 0

    def give(self, at: int, order: int, host: int, event: Input) -> None:
        """Hand `event` to a host at that time. `order`: the next of the host that brought it about."""
        assert at >= self.now, f"an event {self.now - at} us in the past"
        if self.elsewhere and host in self.elsewhere:
            assert not isinstance(event, TimerFired | LocalUpdate | Restored), "only frames go from one host to another"
            self.elsewhere[host]((at, order, host, isinstance(event, StreamFrameReceived), event.data))
        else:
            heappush(self.queue, (at, order, host, event))

    def call(self, at: int, do: Callable[[], object], order: int | None = None) -> None:
        """Have the simulation do something at that time; never earlier than now. `order`: the next of the host that
        brought it about, None when it was the simulation itself."""
        if order is None:
            self._acts = order = self._acts + 1
        heappush(self.queue, (max(at, self.now), order, NOBODY, Act(do)))

    def __len__(self) -> int:
        return len(self.queue)
