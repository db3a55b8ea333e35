"""The last notable things that happened to this node, for people and for whoever measures it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lattice.types import Micros
from router.control.target import NodeEvent

EVENTS_MAX = 200


class Journal:
    """A bounded list of events, oldest first."""

    def __init__(self, now: Callable[[], Micros]) -> None:
        self._now = now
        self._events: deque[NodeEvent] = deque(maxlen=EVENTS_MAX)

    def note(self, kind: str, text: str, **detail: str) -> None:
        """Add an event at this moment; `detail` is by kind, as `NodeEvent` says."""
        self._events.append(NodeEvent(self._now() // 1_000, kind, text, tuple(sorted(detail.items()))))

    def events(self) -> tuple[NodeEvent, ...]:
        return tuple(self._events)
