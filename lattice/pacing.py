"""How much a peer is sent in answer to one filter, and how soon again.

A delta of 64 KiB is nothing to a link between data centres. Over 64 kbit/s it is eight seconds, of which all but the
first few datagrams are dropped at the link's end; and who asks again finds that most is still missing, and is sent it
once more, by everybody: a congestion collapse (Nagle, RFC 896). The peer's next filter tells what came of the last
delta, so deltas are paced as TCP paces segments (Jacobson, "Congestion avoidance and control", 1988): while less than
half of the last is there, nothing is sent for `delta_wait_us`; then half as much, and the wait doubles. When it is
there, at once and twice as much, up to `delta_bytes_max`, where everybody begins. Who loses most of what it sends to
most peers has a narrow link itself (`loses_to_most`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lattice.answers import Answers
from lattice.cells import Cell, Shards
from lattice.config import Config
from lattice.types import SECOND, CellId, Micros, NodeId

PEERS_MAX = 1_024
"""Of more than so many, who was sent something longest ago begins anew."""
LATELY_US = 5 * SECOND


class _Pace:
    __slots__ = ("at", "bytes_max", "sent", "wait_us")

    def __init__(self, bytes_max: int, wait_us: int) -> None:
        self.bytes_max = bytes_max
        self.wait_us = wait_us
        self.sent: tuple[CellId, ...] = ()
        """The last delta."""
        self.at = Micros(0)


class Pacing:
    """The deltas of one node, by peer."""

    def __init__(self, config: Config, answers: Answers) -> None:
        self._config = config
        self._answers = answers
        self._paces: dict[NodeId, _Pace] = {}

    def lost_until(self, peer: NodeId) -> Micros:
        """Until when there is nothing to gain from asking a peer to whom much was lost; 0 for every other."""
        pace = self._paces.get(peer)
        if pace is None or pace.wait_us <= self._config.delta_wait_us:
            return Micros(0)
        return Micros(pace.at + pace.wait_us)

    def loses_to_most(self, now: Micros) -> bool:
        """Whether of the peers to whom something was sent lately most have lost most of it, and so it is not they."""
        lately = [pace for pace in self._paces.values() if pace.sent and now - pace.at <= LATELY_US]
        losing = sum(1 for pace in lately if pace.wait_us > self._config.delta_wait_us)
        return losing >= 2 and 2 * losing > len(lately)

    def afford(self, peer: NodeId, missing: list[Cell], shards: Shards, now: Micros) -> list[Cell]:
        """The first of these cells, which a filter over these shards lacks, as many as may be sent now."""
        pace = self._paces.pop(peer, None)
        if pace is None:
            pace = _Pace(self._config.delta_bytes_max, self._config.delta_wait_us)
            if len(self._paces) >= PEERS_MAX:
                del self._paces[next(iter(self._paces))]
        self._paces[peer] = pace
        if pace.sent and not self._has_arrived(peer, {cell.id for cell in missing}, shards, now):
            return []
        chosen = self._answers.afford(peer, affordable(missing, pace.bytes_max), now)
        if chosen:
            pace.sent, pace.at = tuple([cell.id for cell in chosen]), now
        return chosen

    def _has_arrived(self, peer: NodeId, missing: Collection[CellId], shards: Shards, now: Micros) -> bool:
        """Whether to go on: enough of the last delta is there, or it was given up."""
        pace = self._paces[peer]
        told = [cell for cell in pace.sent if cell in shards]
        if not told:
            return now >= self.lost_until(peer)
        lost = sum(1 for cell in told if cell in missing)
        if 2 * lost <= len(told):
            if 8 * lost <= len(told):
                pace.bytes_max = min(2 * pace.bytes_max, self._config.delta_bytes_max)
                pace.wait_us = self._config.delta_wait_us
            return True
        if now < pace.at + pace.wait_us:
            return False
        pace.bytes_max = max(pace.bytes_max // 2, self._config.delta_bytes_min)
        pace.wait_us = min(2 * pace.wait_us, self._config.delta_wait_max_us)
        return True


def affordable(cells: Iterable[Cell], bytes_max: int) -> list[Cell]:
    """The first of these, as many as so many bytes hold; one at least."""
    chosen: list[Cell] = []
    for cell in cells:
        bytes_max -= len(cell.data)
        if chosen and bytes_max < 0:
            break
        chosen.append(cell)
    return chosen
