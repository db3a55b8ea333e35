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
from heapq import heappop, heappush

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
        self._turns: list[tuple[Micros, Endpoint]] = []
        """A heap: when whose turn is. Of those that were dropped, rest or got another turn one stays until its time."""
        self._forget_at = Micros(0)
        """Nobody is forgotten before."""

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
                known.resting, known.wait_us = False, self._wait_us
                self._set_turn(endpoint, known, now + wait_us)
            return True
        if not self._make_room(standing):
            return False
        dial = self._dials[endpoint] = _Dial(Micros(0), self._wait_us, now, standing)
        self._set_turn(endpoint, dial, now + wait_us)
        return True

    def _set_turn(self, endpoint: Endpoint, dial: _Dial, due: int) -> None:
        dial.due = Micros(due)
        heappush(self._turns, (dial.due, endpoint))

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
        while self._turns:
            due, endpoint = self._turns[0]
            dial = self._dials.get(endpoint)
            if dial is not None and dial.due == due and not dial.resting:
                return due
            heappop(self._turns)
        return None

    def due(self, now: Micros, prng: Prng) -> list[Endpoint]:
        """The endpoints to ping now, sorted; each waits twice as long for its next turn, give or take a quarter."""
        if now >= self._forget_at:
            self._forget(now)
        due = set[Endpoint]()
        while (earliest := self.earliest()) is not None and earliest <= now:
            due.add(heappop(self._turns)[1])
        ready = sorted(due)
        for endpoint in ready:
            dial = self._dials[endpoint]
            self._set_turn(endpoint, dial, now + prng.jitter(dial.wait_us))
            dial.wait_us = min(dial.wait_us * 2, self._wait_max_us)
            dial.calls += 1
        return ready

    def _forget(self, now: Micros) -> None:
        """Those of whom nothing was heard for too long."""
        self._dials = {
            at: dial
            for at, dial in self._dials.items()
            if dial.standing is Standing.SEED or now - dial.since < self._forget_us
        }
        heard = [dial.since for dial in self._dials.values() if dial.standing is not Standing.SEED]
        self._forget_at = Micros(min([now, *heard]) + self._forget_us)

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
