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
        self.waiting: dict[NodeId, dict[NodeId, tuple[int, MemberUpdate]]] = {}
        """By member, then by voice, how often it was sent, and the news. Most pings and acks find nothing here."""

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def __contains__(self, node: NodeId) -> bool:
        return node in self.waiting

    def add(self, update: MemberUpdate) -> None:
        """The newest claim replaces an older one of the same voice."""
        self.waiting.setdefault(update.node, {})[update.by] = (0, update)

    def drop(self, node: NodeId) -> None:
        """What is said of this member is old, whoever said it."""
        self.waiting.pop(node, None)

    def take(self, count: int, limit: int) -> tuple[MemberUpdate, ...]:
        """Up to `count` pieces for one frame; a piece sent `limit` times is old."""
        pieces = [
            (sent, node, by, update) for node, voices in self.waiting.items() for by, (sent, update) in voices.items()
        ]
        chosen = sorted(pieces)[:count]  # no two are of the same member and voice, so no updates are compared
        for sent, node, by, update in chosen:
            voices = self.waiting[node]
            if sent + 1 < limit:
                voices[by] = (sent + 1, update)
                continue
            del voices[by]
            if not voices:
                del self.waiting[node]
        return tuple([update for _, _, _, update in chosen])
