"""To whom a rumour is passed on: one small interface, so that strategies can be compared on the same engine.

A rumour is a fresh cell being pushed. Whoever finds it new passes it on once ("infect and die"); anti-entropy brings it
to whoever the rumour missed. Nobody sends a cell back to where it came from (BP of Enes et al., arXiv:1803.02750).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lattice.prng import Prng
from lattice.types import NodeId


class Strategy(Protocol):
    """Chooses the next hops of a rumour."""

    def next_hops(self, origin: NodeId, came_from: NodeId | None, peers: Sequence[NodeId], prng: Prng) -> list[NodeId]:
        """Which of `peers` (sorted) to send it to. `origin` wrote the cell; `came_from` sent it to us, or is None."""
        ...


class RandomFanout:
    """A few peers at random. With f hops and n nodes a rumour alone reaches about 1 - e^-f of them."""

    def __init__(self, fanout: int) -> None:
        assert fanout >= 1, "a rumour that is passed to nobody is none"
        self._fanout = fanout

    def next_hops(self, origin: NodeId, came_from: NodeId | None, peers: Sequence[NodeId], prng: Prng) -> list[NodeId]:
        if came_from is not None and len(peers) <= self._fanout:
            return []  # so few that the origin has told everybody itself
        drawn = prng.sample(peers, self._fanout + 2)
        return [peer for peer in drawn if peer not in (origin, came_from)][: self._fanout]


class Flood:
    """Everybody, from everybody: the most robust and the most wasteful, n² messages a rumour."""

    def next_hops(self, origin: NodeId, came_from: NodeId | None, peers: Sequence[NodeId], prng: Prng) -> list[NodeId]:
        return [peer for peer in peers if peer not in (origin, came_from)]
