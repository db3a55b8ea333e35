"""News of members that rides on pings and acks, each piece a bounded number of times."""

from __future__ import annotations

from lattice.membership import MemberUpdate
from lattice.types import NodeId


def retransmits(mult: int, members: int) -> int:
    """How often one piece of news is sent by each node: ``mult × ceil(log10(members + 1))``, as memberlist does."""
    return mult * len(str(members))


class Piggyback:
    """The queue: at most one piece of news for a member and whoever says it, the least-sent first."""

    def __init__(self) -> None:
        self._sent: dict[tuple[NodeId, NodeId], tuple[int, MemberUpdate]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def is_empty(self) -> bool:
        """As ``not self``, which asks `__len__` by a longer way: most pings and acks carry no news."""
        return not self._sent

    def __contains__(self, node: NodeId) -> bool:
        return any(about == node for about, _ in self._sent)

    def add(self, update: MemberUpdate) -> None:
        """The newest claim replaces an older one of the same voice."""
        self._sent[update.node, update.by] = (0, update)

    def drop(self, node: NodeId) -> None:
        """What is said of this member is old, whoever said it."""
        for key in [key for key in self._sent if key[0] == node]:
            del self._sent[key]

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame; a piece sent `limit` times is old."""
        chosen = sorted(self._sent.items(), key=lambda item: (item[1][0], item[0]))[:count]
        for key, (sent, update) in chosen:
            if sent + 1 >= limit:
                del self._sent[key]
            else:
                self._sent[key] = (sent + 1, update)
        return tuple(update for _, (_, update) in chosen)
