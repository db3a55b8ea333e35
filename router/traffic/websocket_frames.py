"""Where a WebSocket's frames end (RFC 6455 5.2), and the frame by which a server leaves (5.5.1). Pure.

::

    FIN RSV RSV RSV opcode/4 | MASK length/7 | length/16 or length/64 | masking key/32 | payload

A relay needs to know no more to say something of its own: a control frame may stand between any two frames, also
within a fragmented message (5.4).
"""

from __future__ import annotations

from typing import Final

GOING_AWAY: Final = b"\x88\x02\x03\xe9"
"""Close, with status 1001: a server that is going down (7.4.1). Servers do not mask."""

_MASKED: Final = 0x80
_KEY_BYTES: Final = 4


class FrameWalk:
    """Follows one direction of a connection."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a frame, as long as that does not say its length
        self._left = 0  # bytes of the frame that is under way

    @property
    def between(self) -> bool:
        """All that came ends with a frame."""
        return not (self._head or self._left)

    def walk(self, data: bytes) -> int:
        """Take what comes next. At which place in it the last of the frames that end there ends, which may be before
        its first byte; -1 if none does."""
        held = len(self._head)
        data, self._head = self._head + data, b""
        at, last = self._left, -1
        while at <= len(data):
            last = at
            size = _frame_bytes(data, at)
            if size is None:
                self._head, self._left = data[at:], 0
                break
            at += size
        else:
            self._left = at - len(data)
        return max(last - held, -1)


def _frame_bytes(data: bytes, at: int) -> int | None:
    """How long the frame is that begins there; None while that is not said."""
    if len(data) - at < 2:
        return None
    mark = data[at + 1]
    length, more = mark & 0x7F, 0
    if length > 125:
        more = 2 if length == 126 else 8
        if len(data) - at < 2 + more:
            return None
        length = int.from_bytes(data[at + 2 : at + 2 + more], "big")
    return 2 + more + (_KEY_BYTES if mark & _MASKED else 0) + length
