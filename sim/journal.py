"""What happened, as one digest: two runs are the same history if and only if their digests are equal.

Every input that a host takes goes in, with its time, its host and its bytes. What a host sends shows up as what another
takes, so a difference anywhere comes to light, at the latest with the next input that it changes. Whoever wants to see
where two runs part keeps the lines too.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from struct import Struct, pack
from typing import Final, Protocol

from lattice.events import DatagramReceived, Input, LocalUpdate, Restored, StreamFrameReceived, TimerFired
from sim.signing import message_name

_ACT = Struct("<QiB").pack
_BATCH: Final = 1_024
_FRAMES: Final = (DatagramReceived, StreamFrameReceived)
KINDS: Final[dict[type, int]] = {
    TimerFired: 0,
    DatagramReceived: 1,
    StreamFrameReceived: 2,
    LocalUpdate: 3,
    Restored: 4,
}


class Lines(Protocol):
    """Where lines go: an open file."""

    def write(self, text: str, /) -> object: ...


class Journal:
    """A rolling digest, and lines of JSON for whoever asked for them."""

    def __init__(self, start: int, lines: Lines | None = None) -> None:
        self._start = start
        self._lines = lines
        self._hash = blake2b(digest_size=16, person=b"sim journal")
        self._when: list[int] = []
        self._who: list[int] = []
        self._what: list[Input] = []
        """Inputs that are not in the digest yet: many at a time cost a third."""
        self.events = 0

    def record(self, at: int, host: int, event: Input) -> None:
        """Note one input, before it is handled."""
        self.events += 1
        self._when.append(at)
        self._who.append(host)
        self._what.append(event)
        if len(self._what) >= _BATCH:
            self._flush()
        if self._lines is not None:
            self._lines.write(json.dumps(self._line(at, host, event)) + "\n")

    def note(self, at: int, what: str) -> None:
        """Note an act of the simulation itself: a fault, a change."""
        self._flush()
        self._hash.update(_ACT(at, -1, 5) + what.encode())
        if self._lines is not None:
            self._lines.write(json.dumps({"at_us": at - self._start, "act": what}) + "\n")

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        """When, who, of which kind and how long, for all of them; then what."""
        events = self._what
        said = [event.data if isinstance(event, _FRAMES) else _said(event) for event in events]
        count, kinds = len(events), [KINDS[type(event)] for event in events]
        self._hash.update(pack(f"<{count}Q{count}i{count}B{count}I", *self._when, *self._who, *kinds, *map(len, said)))
        self._hash.update(b"".join(said))
        self._when, self._who, self._what = [], [], []

    def _line(self, at: int, host: int, event: Input) -> dict[str, object]:
        line: dict[str, object] = {"at_us": at - self._start, "host": host}
        match event:
            case DatagramReceived(data, source) | StreamFrameReceived(data, source):
                checksum = blake2b(data, digest_size=8).hexdigest()
                line |= {"in": message_name(data), "from": source[0], "bytes": len(data), "hash": checksum}
            case TimerFired():
                line["in"] = "timer"
            case LocalUpdate(change):
                line |= {"in": type(change).__name__, "change": repr(change)}
            case Restored(records):
                line |= {"in": "Restored", "records": len(records)}
        return line


def _said(event: Input) -> bytes:
    return b"" if isinstance(event, TimerFired) else repr(event).encode()
