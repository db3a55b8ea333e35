"""News of members that rides on pings and acks, each piece a bounded number of times."""

from __future__ import annotations

from lattice.membership import MemberUpdate
from lattice.types import NodeId


def retransmits(mult: int, members: int) -> int:
    """How often one piece of news is sent by each node: ``mult × ceil(log10(members + 1))``, as memberlist does."""
    return mult * len(str(members))


class Piggyback:
    """The queue: at most one piece of news for a member and whoever says it, the least-sent first."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[tuple[NodeId, NodeId], tuple[int, MemberUpdate]] = {}
        """By member and voice how often it was sent, and the news. Most pings and acks find nothing here."""

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, node: NodeId) -> bool:
        return any(about == node for about, _ in self.waiting)

    def add(self, update: MemberUpdate) -> None:
        """The newest claim replaces an older one of the same voice."""
        self.waiting[update.node, update.by] = (0, update)

    def drop(self, node: NodeId) -> None:
        """What is said of this member is old, whoever said it."""
        for key in [key for key in self.waiting if key[0] == node]:
            del self.waiting[key]

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame; a piece sent `limit` times is old."""
        chosen = sorted(self.waiting.items(), key=lambda item: (item[1][0], item[0]))[:count]
        for key, (sent, update) in chosen:
            if sent + 1 >= limit:
                del self.waiting[key]
            else:
                self.waiting[key] = (sent + 1, update)
        return tuple(update for _, (_, update) in chosen)
