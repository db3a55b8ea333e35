"""Endpoints where somebody may be: discovered, configured, or where a member was before it vanished.

Each is pinged, at first soon and then ever more rarely, until a member is known to be there. This is how nodes meet,
and how the two halves of a long partition find each other again without anybody's help.
"""

from __future__ import annotations

from dataclasses import dataclass

from lattice.prng import Prng
from lattice.types import Endpoint, Micros


@dataclass(slots=True)
class _Dial:
    due: Micros
    wait_us: int
    since: Micros


class DialBook:
    """Which endpoints to try, and when next."""

    def __init__(self, wait_us: int, wait_max_us: int, dials_max: int, forget_us: int) -> None:
        self._wait_us = wait_us
        self._wait_max_us = wait_max_us
        self._dials_max = dials_max
        self._forget_us = forget_us
        self._dials: dict[Endpoint, _Dial] = {}

    def __len__(self) -> int:
        return len(self._dials)

    def add(self, endpoint: Endpoint, now: Micros, wait_us: int = 0) -> bool:
        """Try this endpoint, at once or after `wait_us`. False when the book is full; one in it keeps its turn."""
        known = self._dials.get(endpoint)
        if known is not None:
            known.since = now
            return True
        if len(self._dials) >= self._dials_max:
            return False
        self._dials[endpoint] = _Dial(Micros(now + wait_us), self._wait_us, now)
        return True

    def drop(self, endpoint: Endpoint) -> None:
        """Somebody is there, or it is our own."""
        self._dials.pop(endpoint, None)

    def earliest(self) -> Micros | None:
        return min((dial.due for dial in self._dials.values()), default=None)

    def due(self, now: Micros, prng: Prng) -> list[Endpoint]:
        """The endpoints to ping now, sorted; each waits twice as long for its next turn, give or take a quarter."""
        self._dials = {at: dial for at, dial in self._dials.items() if now - dial.since < self._forget_us}
        ready = sorted(endpoint for endpoint, dial in self._dials.items() if dial.due <= now)
        for endpoint in ready:
            dial = self._dials[endpoint]
            dial.due = Micros(now + prng.jitter(dial.wait_us))
            dial.wait_us = min(dial.wait_us * 2, self._wait_max_us)
        return ready
