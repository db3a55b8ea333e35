"""One key in two places: a node started twice, or a stolen key.

Nothing a node signs tells its two processes apart, so the conflict is known by its marks:

* A process sees its own key speak: a frame in its name that its seal did not close, or a row of its own, from another
  address, that goes on outrunning it. One such row is an earlier life that a lost disk forgot, and is outgrown once.
  When it outruns us again, somebody alive is writing it.
* Everybody else sees the member at two addresses in turn. Moving once is moving; moving back is a conflict, unless the
  frames are one process's, which speaks on two networks: its counter rises by one a frame, and that of another process
  is where the clock was when it began (`seal`). A frame that was overtaken moves nobody: only its sender's latest says
  where that is (RFC 9000, 9.3).

Each outgrowing takes a new incarnation, and the newest signed row wins, so two processes would outgrow each other for
ever, at the speed of the network. Hence each waits longer each time, up to a minute. No third party follows the member
about while it is contested: only its newest row counts.
"""

from __future__ import annotations

from lattice.replay import WINDOW_COUNTERS
from lattice.types import SECOND, Endpoint, Micros, NodeId

BACKOFF_MAX_US = 64 * SECOND
CONFLICT_US = 120 * SECOND
"""A conflict of which nothing was seen for so long is over."""
BACK_AND_FORTH = 2
"""So many returns to an address that was left: a path that flaps once is no conflict."""
CONTESTED_MAX = 1_024
US_A_FRAME_MIN = 16
"""No node seals 62,500 frames a second: a counter that rises faster is another process's."""


class OwnTwin:
    """What a node knows of another process with its key."""

    def __init__(self) -> None:
        self._outruns = 0
        self._last = Micros(0)
        self._quiet_until = Micros(0)

    def outrun(self, now: Micros) -> bool:
        """A row of ours, written elsewhere, is ahead. Whether to outgrow it now."""
        if now < self._quiet_until:
            return False
        if self._outruns and now - self._last > CONFLICT_US:
            self._outruns = 0
        self._outruns += 1
        self._last = now
        self._quiet_until = Micros(now + min(SECOND << min(self._outruns - 1, 16), BACKOFF_MAX_US))
        return True

    @property
    def alive(self) -> bool:
        """Whether it cannot be an earlier life."""
        return self._outruns > 1


class _Moves:
    __slots__ = ("counted_at", "counter", "left", "returns", "since")

    def __init__(self, since: Micros) -> None:
        self.left: Endpoint = ("", 0)
        self.returns = 0
        self.since = since
        self.counter = 0
        """Of the last frame that came from another address, and when that was."""
        self.counted_at = since

    def goes_on(self, counter: int, now: Micros) -> bool:
        """Whether a frame may be of the process that sent the last one."""
        most = (now - self.counted_at) // US_A_FRAME_MIN + WINDOW_COUNTERS
        return self.counter - WINDOW_COUNTERS < counter <= self.counter + most


class Moves:
    """Which members were seen at which addresses in turn."""

    def __init__(self) -> None:
        self._moves: dict[NodeId, _Moves] = {}

    def is_late(self, node: NodeId, counter: int) -> bool:
        """Whether a frame was sent before one that moved its sender. One that is too old to be late is a twin's."""
        moves = self._moves.get(node)
        return moves is not None and moves.counter - WINDOW_COUNTERS < counter < moves.counter

    def moved(self, node: NodeId, old: Endpoint, new: Endpoint, now: Micros, counter: int = 0) -> bool:
        """Take note of a move, by the frame with this counter or by a row; whether with this one it is a conflict."""
        moves = self._moves.get(node)
        if moves is None or now - moves.since > CONFLICT_US:
            if len(self._moves) >= CONTESTED_MAX:
                self._moves.clear()
            moves = self._moves[node] = _Moves(now)
        if counter:
            goes_on = moves.goes_on(counter, now)
            moves.counter, moves.counted_at = counter, now
            if goes_on:
                return False
        returned = new == moves.left
        if returned:
            moves.returns += 1
            moves.since = now
        moves.left = old
        return returned and moves.returns >= BACK_AND_FORTH

    def contested(self, node: NodeId, now: Micros) -> bool:
        moves = self._moves.get(node)
        return moves is not None and moves.returns >= BACK_AND_FORTH and now - moves.since <= CONFLICT_US

    def forget(self, node: NodeId) -> None:
        self._moves.pop(node, None)
