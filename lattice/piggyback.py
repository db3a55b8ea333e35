"""News of members that rides on pings and acks, each piece a bounded number of times.

Where hundreds go at once there are a thousand pieces, so a frame does not look at all of them.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TypeAlias

from lattice.membership import MemberUpdate
from lattice.types import NodeId

TURNS_LEAST = 64
"""Before so many more than there are pieces the heap of turns is not cleared of those that are none any more."""


def retransmits(mult: int, members: int) -> int:
    """How often one piece of news is sent by each node: ``mult × ceil(log10(members + 1))``, as memberlist does."""
    return mult * len(str(members))


_Turn: TypeAlias = tuple[int, NodeId, NodeId]
"""How often a piece was sent, of whom it is and by whom: the order in which they ride."""


class Piggyback:
    """The queue: at most one piece of news for a member and whoever says it, the least-sent first."""

    __slots__ = ("_turns", "_turns_max", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[NodeId, dict[NodeId, tuple[_Turn, MemberUpdate]]] = {}
        """By member, then by voice, its turn and the news. Most pings and acks find nothing here."""
        self._turns: list[_Turn] = []
        """A heap. The turn of what was dropped or said anew stays until it comes; it is known by being another one."""
        self._turns_max = TURNS_LEAST

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def __contains__(self, node: NodeId) -> bool:
        return node in self.waiting

    def add(self, update: MemberUpdate) -> None:
        """The newest claim replaces an older one of the same voice."""
        turn = (0, update.node, update.by)
        self.waiting.setdefault(update.node, {})[update.by] = (turn, update)
        if len(self._turns) >= self._turns_max:
            self._turns = [turn for voices in self.waiting.values() for turn, _ in voices.values()]
            heapify(self._turns)
            self._turns_max = 2 * len(self._turns) + TURNS_LEAST
        else:
            heappush(self._turns, turn)

    def drop(self, node: NodeId) -> None:
        """What is said of this member is old, whoever said it."""
        self.waiting.pop(node, None)

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame, in order; a piece sent `limit` times is old."""
        taken: list[MemberUpdate] = []
        again: list[_Turn] = []
        while self._turns and len(taken) < count:
            turn = heappop(self._turns)
            sent, node, by = turn
            voices = self.waiting.get(node)
            piece = voices.get(by) if voices is not None else None
            if voices is None or piece is None or piece[0] is not turn:
                continue  # dropped, or said anew
            update = piece[1]
            taken.append(update)
            if sent + 1 < limit:
                following = (sent + 1, node, by)
                voices[by] = (following, update)
                again.append(following)
                continue
            del voices[by]
            if not voices:
                del self.waiting[node]
        for turn in again:
            heappush(self._turns, turn)
        return tuple(taken)
