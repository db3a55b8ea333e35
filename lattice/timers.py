"""Named deadlines, due in (deadline, name) order: what lets trio and the simulator agree on what happens first."""

from __future__ import annotations

from heapq import heappop, heappush

from lattice.types import Micros


class TimerQueue:
    """At most one deadline a name; setting it again replaces it.

    A replaced deadline stays in the heap until its time and is skipped then: lazy deletion.
    """

    __slots__ = ("_deadlines", "_heap", "moved")

    def __init__(self) -> None:
        self.moved = True
        """Whether `earliest` may be another than when somebody last set this to False."""
        self._deadlines: dict[str, Micros] = {}
        self._heap: list[tuple[Micros, str]] = []

    def set(self, name: str, deadline: Micros) -> None:
        if self._deadlines.get(name) != deadline:
            self._deadlines[name] = deadline
            self.moved = True
            heappush(self._heap, (deadline, name))

    def set_earlier(self, name: str, deadline: Micros) -> None:
        """As `set`, but never moves a deadline later."""
        known = self._deadlines.get(name)
        if known is None or deadline < known:
            self.set(name, deadline)

    def cancel(self, name: str) -> None:
        if self._deadlines.pop(name, None) is not None:
            self.moved = True

    def __contains__(self, name: str) -> bool:
        return name in self._deadlines

    def earliest(self) -> Micros | None:
        heap, deadlines = self._heap, self._deadlines
        while heap:
            deadline, name = heap[0]
            if deadlines.get(name) == deadline:
                return deadline
            heappop(heap)  # replaced
        return None

    def pop_due(self, now: Micros) -> str | None:
        """The next name whose deadline is not after `now`, disarmed."""
        heap, deadlines = self._heap, self._deadlines
        while heap and heap[0][0] <= now:
            deadline, name = heappop(heap)
            if deadlines.get(name) == deadline:  # else replaced
                del deadlines[name]
                self.moved = True
                return name
        return None
