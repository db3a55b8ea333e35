"""Which frames of each sender were heard already: a sliding window over the frame counter (RFC 4303, 3.4.3).

::

         highest - 8,191                        highest
    refused │ a bit each: heard or not             │ taken, and the window moves up to it
    ────────┴──────────────────────────────────────┴────────────────────▶ counter

The bits are kept as RFC 6479 has it, in a ring of bytes: to move the window is to clear what it comes to cover, and
nothing is shifted.

A sealed frame that somebody recorded is still a good frame an hour later; what shows that it is old is its counter. A
sender's counter rises by one a frame, across all whom it speaks to, so a window of w counters forgives a frame that is
overtaken by w others. Between lives of a receiver the highest counter of each sender is remembered, not the bits: after
a restart only what lies beyond it is taken.

What this does not do: whoever has the cluster's key can speak as any sender, and so could use up its counters. Words
that matter (rows, policy) are signed by those who say them; the seal keeps strangers out, not members honest.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from lattice.errors import WireError
from lattice.types import NodeId

WINDOW_COUNTERS: Final = 8_192
"""As WireGuard's. At 25,000 frames a second from one sender it forgives a third of a second of reordering."""
SENDERS_MAX: Final = 20_000
"""As `Config.members_max`. Beyond it the sender heard from longest ago is forgotten."""

_RING_BYTES: Final = WINDOW_COUNTERS // 8 + 1
"""One more than whole bytes would need: a window may begin within one and end within another."""
_RING_COUNTERS: Final = _RING_BYTES * 8


class _Window:
    __slots__ = ("heard", "highest")

    def __init__(self, highest: int, heard: bytearray) -> None:
        self.highest = highest
        self.heard = heard
        """Bit ``counter % 8`` of byte ``counter // 8 % _RING_BYTES``, for each counter of the window."""

    @classmethod
    def at(cls, counter: int) -> _Window:
        """One that has heard this counter and no other."""
        window = cls(counter, bytearray(_RING_BYTES))
        window.heard[(counter >> 3) % _RING_BYTES] = 1 << (counter & 7)
        return window

    @classmethod
    def shut(cls, highest: int) -> _Window:
        """One that has heard all up to this counter, and none beyond: not even those that share its byte."""
        window = cls(highest, bytearray(b"\xff" * _RING_BYTES))
        window.heard[(highest >> 3) % _RING_BYTES] = (2 << (highest & 7)) - 1
        return window


class ReplayWindows:
    """One window for each sender."""

    def __init__(self, senders_max: int = SENDERS_MAX) -> None:
        self._senders_max = senders_max
        self._windows: OrderedDict[NodeId, _Window] = OrderedDict()
        self._unsaved: dict[NodeId, None] = {}
        """Whose highest counter has changed since `unsaved` last named it, or was forgotten; oldest change first."""

    def __len__(self) -> int:
        return len(self._windows)

    def admit(self, sender: NodeId, counter: int) -> None:
        """Take note of an authentic frame. Raises `WireError`, with nothing changed, if it was or may have been heard.

        Call it for frames that the seal opened and for no others: a forged counter would shut the sender out.
        """
        window = self._windows.get(sender)
        if window is None:
            self._windows[sender] = _Window.at(counter)
            self._unsaved[sender] = None
            if len(self._windows) > self._senders_max:
                forgotten, _ = self._windows.popitem(last=False)
                self._unsaved[forgotten] = None
            return
        ahead = counter - window.highest
        at = counter % _RING_COUNTERS
        heard = window.heard
        if ahead > 0:
            if ahead < _RING_COUNTERS:
                for byte in range((at - ahead >> 3) + 1, (at >> 3) + 1):
                    heard[byte] = 0  # below zero, too: a ring is what Python's indices make of it
            else:
                heard[:] = bytes(_RING_BYTES)
            window.highest = counter
            self._unsaved[sender] = None
        elif ahead <= -WINDOW_COUNTERS:
            raise WireError("replayed", f"counter {counter} is {-ahead} behind, the window has {WINDOW_COUNTERS}")
        byte, bit = at >> 3, 1 << (at & 7)
        if heard[byte] & bit:
            raise WireError("replayed", f"counter {counter} was heard before")
        heard[byte] |= bit
        self._windows.move_to_end(sender)

    def restore(self, sender: NodeId, highest: int) -> None:
        """What an earlier life had heard: nothing of `sender` is taken any more up to `highest`."""
        window = self._windows.get(sender)
        if window is None or window.highest < highest:
            self._windows[sender] = _Window.shut(highest)
        while len(self._windows) > self._senders_max:
            self._windows.popitem(last=False)

    def forget_saved(self) -> None:
        """Whatever was written down is gone: all of it is to be saved again."""
        self._unsaved = {**dict.fromkeys(self._windows), **self._unsaved}

    def unsaved(self, count_max: int) -> list[tuple[NodeId, int | None]]:
        """(sender, highest counter) to write down, at most so many, those that wait longest first; None: strike out."""
        taken = list(self._unsaved)[:count_max]
        for sender in taken:
            del self._unsaved[sender]
        return [(sender, window.highest if (window := self._windows.get(sender)) else None) for sender in taken]
