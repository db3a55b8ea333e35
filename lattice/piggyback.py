"""News of members that rides on pings and acks, each piece a bounded number of times.

Where hundreds go at once there are a thousand pieces, so a frame does not look at all of them.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from lattice.membership import MemberUpdate
from lattice.types import NodeId

TURNS_LEAST = 64
"""Before so many more than there are pieces the heap of turns is not cleared of those that are none any more."""


def retransmits(mult: int, members: int) -> int:
    """How often one piece of news is sent by each node: ``mult × ceil(log10(members + 1))``, as memberlist does."""
    return mult * len(str(members))


class Piggyback:
    """The queue: at most one piece of news for a member and whoever says it, the least-sent first."""

    __slots__ = ("_turns", "_turns_max", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[NodeId, dict[NodeId, tuple[int, MemberUpdate]]] = {}
        """By member, then by voice, how often it was sent, and the news. Most pings and acks find nothing here."""
        self._turns: list[tuple[int, NodeId, NodeId]] = []
        """A heap: how often it was sent, of whom and by whom. What was dropped or said anew stays until its turn."""
        self._turns_max = TURNS_LEAST

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def __contains__(self, node: NodeId) -> bool:
        return node in self.waiting

    def add(self, update: MemberUpdate) -> None:
        """The newest claim replaces an older one of the same voice."""
        self.waiting.setdefault(update.node, {})[update.by] = (0, update)
        if len(self._turns) >= self._turns_max:
            self._turns = [
                (sent, node, by) for node, voices in self.waiting.items() for by, (sent, _) in voices.items()
            ]
            heapify(self._turns)
            self._turns_max = 2 * len(self._turns) + TURNS_LEAST
        else:
            heappush(self._turns, (0, update.node, update.by))

    def drop(self, node: NodeId) -> None:
        """What is said of this member is old, whoever said it."""
        self.waiting.pop(node, None)

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame, in order; a piece sent `limit` times is old."""
        taken: list[MemberUpdate] = []
        again: list[tuple[int, NodeId, NodeId]] = []
        while self._turns and len(taken) < count:
            sent, node, by = heappop(self._turns)
            voices = self.waiting.get(node, _SILENCE)
            now_sent, update = voices.get(by, _NOTHING)
            if update is None or now_sent != sent:
                continue  # dropped, or said anew
            taken.append(update)
            if sent + 1 < limit:
                voices[by] = (sent + 1, update)
                again.append((sent + 1, node, by))
                continue
            del voices[by]
            if not voices:
                del self.waiting[node]
        for turn in again:
            heappush(self._turns, turn)
        return tuple(taken)


_SILENCE: Final[dict[NodeId, tuple[int, MemberUpdate]]] = {}
_NOTHING: Final[tuple[int, None]] = (0, None)
