"""Endpoints where somebody may be: configured, where a member once was, or merely heard of.

Each is pinged, at first soon and then ever more rarely, until a member is known to be there. This is how nodes meet,
and how the two halves of a long partition find each other again without anybody's help.

Who vouches for an endpoint decides what may push it out of the book. A *seed* stands in the site file: it has a place
of its own and is never forgotten, however long nobody answers. Where a *known* member proved itself (by a row it
signed) somebody is likely to be again. A *hint* is anybody's word, as an mDNS record is: hints get a quarter of the
book, and of those the one that was called most often in vain makes room for a fresh one. So a neighbour that announces
ten thousand nodes costs one ping each, and takes no seed's and no peer's place (an eclipse by a full table: Heilman et
al., 2015, whose remedy is the same: room that strangers cannot have, and trial before eviction).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from lattice.prng import Prng
from lattice.types import Endpoint, Micros

HINTS_SHARE = 4
"""Hints may have one place in so many; the others are for where members were."""
SEEDS_MAX = 1_024


class Standing(IntEnum):
    """Who vouches for an endpoint, the weightier the greater."""

    HINT = 0
    KNOWN = 1
    SEED = 2


@dataclass(slots=True)
class _Dial:
    due: Micros
    wait_us: int
    since: Micros
    standing: Standing
    calls: int = 0
    resting: bool = False
    """A seed where somebody is: it keeps its place, and is not called before it is heard of again."""


class DialBook:
    """Which endpoints to try, and when next."""

    def __init__(self, wait_us: int, wait_max_us: int, dials_max: int, forget_us: int) -> None:
        """At most `dials_max` endpoints, and `SEEDS_MAX` seeds beside them."""
        self._wait_us = wait_us
        self._wait_max_us = wait_max_us
        self._dials_max = dials_max
        self._forget_us = forget_us
        self._dials: dict[Endpoint, _Dial] = {}

    def __len__(self) -> int:
        return len(self._dials)

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint in self._dials

    def count(self, standing: Standing) -> int:
        return sum(1 for dial in self._dials.values() if dial.standing is standing)

    def add(self, endpoint: Endpoint, now: Micros, wait_us: int = 0, standing: Standing = Standing.HINT) -> bool:
        """Try this endpoint, at once or after `wait_us`; one in the book keeps its turn, unless it rests.

        False when there is no room: of its standing, every place is taken by one that was not tried yet.
        """
        known = self._dials.get(endpoint)
        if known is not None:
            known.since = now
            known.standing = max(known.standing, standing)
            if known.resting:
                known.resting, known.due, known.wait_us = False, Micros(now + wait_us), self._wait_us
            return True
        if not self._make_room(standing):
            return False
        self._dials[endpoint] = _Dial(Micros(now + wait_us), self._wait_us, now, standing)
        return True

    def seed(self, endpoints: Iterable[Endpoint], now: Micros) -> None:
        """These are the seeds from now on. One that is none any more stays as a hint: somebody may be there still."""
        seeds = sorted(set(endpoints))[:SEEDS_MAX]
        for endpoint, dial in self._dials.items():
            if dial.standing is Standing.SEED and endpoint not in seeds:
                dial.standing, dial.since = Standing.HINT, now
        for endpoint in seeds:
            self.add(endpoint, now, standing=Standing.SEED)

    def drop(self, endpoint: Endpoint) -> None:
        """Somebody is there, or it is our own. A seed rests."""
        dial = self._dials.get(endpoint)
        if dial is None:
            return
        if dial.standing is Standing.SEED:
            dial.resting = True
        else:
            del self._dials[endpoint]

    def earliest(self) -> Micros | None:
        return min((dial.due for dial in self._dials.values() if not dial.resting), default=None)

    def due(self, now: Micros, prng: Prng) -> list[Endpoint]:
        """The endpoints to ping now, sorted; each waits twice as long for its next turn, give or take a quarter."""
        self._dials = {
            at: dial
            for at, dial in self._dials.items()
            if dial.standing is Standing.SEED or now - dial.since < self._forget_us
        }
        ready = sorted(endpoint for endpoint, dial in self._dials.items() if dial.due <= now and not dial.resting)
        for endpoint in ready:
            dial = self._dials[endpoint]
            dial.due = Micros(now + prng.jitter(dial.wait_us))
            dial.wait_us = min(dial.wait_us * 2, self._wait_max_us)
            dial.calls += 1
        return ready

    def _make_room(self, standing: Standing) -> bool:
        """Whether one more of that standing fits, after the least promising of them was put out if need be."""
        if standing is Standing.SEED:
            return True
        hints_max = max(1, self._dials_max // HINTS_SHARE)
        places = hints_max if standing is Standing.HINT else self._dials_max - hints_max
        peers = [(dial, endpoint) for endpoint, dial in self._dials.items() if dial.standing is standing]
        if len(peers) < places:
            return True
        dial, endpoint = min(peers, key=lambda peer: (-peer[0].calls, peer[0].since, peer[1]))
        if not dial.calls:
            return False
        del self._dials[endpoint]
        return True
