"""Named deadlines, due in (deadline, name) order: what lets trio and the simulator agree on what happens first."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from lattice.types import Micros

NEVER_COMES: Final = Micros(2**63 - 1)


class TimerQueue:
    """At most one deadline a name; setting it again replaces it.

    A replaced deadline stays in the heap until it would be the first: lazy deletion.
    """

    __slots__ = ("_deadlines", "_heap", "first")

    def __init__(self) -> None:
        self.first = NEVER_COMES
        """The earliest deadline, `NEVER_COMES` when there is none."""
        self._deadlines: dict[str, Micros] = {}
        self._heap: list[tuple[Micros, str]] = []

    def set(self, name: str, deadline: Micros) -> None:
        if self._deadlines.get(name) != deadline:
            self._deadlines[name] = deadline
            heappush(self._heap, (deadline, name))
            self._settle()

    def set_earlier(self, name: str, deadline: Micros) -> None:
        """As `set`, but never moves a deadline later."""
        known = self._deadlines.get(name)
        if known is None or deadline < known:
            self.set(name, deadline)

    def cancel(self, name: str) -> None:
        if self._deadlines.pop(name, None) is not None:
            self._settle()

    def __contains__(self, name: str) -> bool:
        return name in self._deadlines

    def pop(self) -> str:
        """The name whose deadline is `first`, disarmed. There must be one."""
        _, name = heappop(self._heap)
        del self._deadlines[name]
        self._settle()
        return name

    def _settle(self) -> None:
        heap, deadlines = self._heap, self._deadlines
        while heap:
            deadline, name = heap[0]
            if deadlines.get(name) == deadline:
                self.first = deadline
                return
            heappop(heap)  # replaced
        self.first = NEVER_COMES
