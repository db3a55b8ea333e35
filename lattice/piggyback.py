"""News of members that rides on pings and acks, each piece a bounded number of times."""

from __future__ import annotations

from lattice.membership import MemberUpdate
from lattice.types import NodeId


def retransmits(mult: int, members: int) -> int:
    """How often one piece of news is sent by each node: ``mult × ceil(log10(members + 1))``, as memberlist does."""
    return mult * len(str(members))


class Piggyback:
    """The queue: at most one piece of news a member, the least-sent first."""

    def __init__(self) -> None:
        self._sent: dict[NodeId, tuple[int, MemberUpdate]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, update: MemberUpdate) -> None:
        """The newest claim about a member replaces an older one."""
        self._sent[update.node] = (0, update)

    def drop(self, node: NodeId) -> None:
        self._sent.pop(node, None)

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame; a piece sent `limit` times is old."""
        chosen = sorted(self._sent.items(), key=lambda item: (item[1][0], item[0]))[:count]
        for node, (sent, update) in chosen:
            if sent + 1 >= limit:
                del self._sent[node]
            else:
                self._sent[node] = (sent + 1, update)
        return tuple(update for _, (_, update) in chosen)
