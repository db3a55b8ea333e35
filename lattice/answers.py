"""What peers may have of us for the asking: a share for each, and so much for all of them together.

A question is small and its answer is not: a Graft or a filter of a hundred bytes may be answered with 64 KiB. Honest
peers ask once for what they lack. A sick one asks for the same in a loop, a lying one claims that it has arrived, and
whoever writes somebody else's address on its datagrams has the answers sent there (amplification: RFC 4732, 3.1). So
each peer has a bucket of bytes, and all of them share one. What is over it is not sent: the peer asks again at its next
ping, or asks somebody else. Only members are answered at all (`Engine`), and a delta goes to where the salt went that
its question was built under (`antientropy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lattice.batching import Load
from lattice.cells import Cell
from lattice.config import Config
from lattice.token_bucket import TokenBuckets
from lattice.types import Micros, NodeId

SHARES = 2
"""One peer may have half of all, so that one who asks too much leaves the others something."""
PEERS_MAX = 4_096


class Answers:
    """Of one node: deltas, and what is asked for by Graft."""

    def __init__(self, config: Config, count: Callable[[str], None]) -> None:
        self._count = count
        self._datagram_bytes_max = config.datagram_bytes_max
        rate, burst = config.answer_bytes_per_s, config.answer_bytes_burst
        self._all: TokenBuckets[None] = TokenBuckets(rate, burst, 1)
        self._each: TokenBuckets[NodeId] = TokenBuckets(rate // SHARES, burst // SHARES, PEERS_MAX)

    def afford(self, peer: NodeId, cells: Iterable[Cell], now: Micros) -> list[Cell]:
        """The first of these, as many as this peer may have now. They are taken for sent."""
        chosen: list[Cell] = []
        load = Load(self._datagram_bytes_max)
        for cell in cells:
            size = load.add(cell)
            if not (self._each.take(peer, now, size) and self._all.take(None, now, size)):
                self._count("answers over the rate")
                break
            chosen.append(cell)
        return chosen
