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
        self._digested = 0
        self.taken: list[tuple[int, int, Input]] = []
        """(when, host, input): whoever takes one appends it here, before it is handled, and calls `flush` now and then.
        Many at a time cost a third of what one at a time does."""

    @property
    def events(self) -> int:
        """How many inputs were taken."""
        return self._digested + len(self.taken)

    def flush(self) -> None:
        """Digest what was taken, in whole batches: how many make one is part of what the digest says."""
        while len(self.taken) >= _BATCH:
            self._put(_BATCH)

    def note(self, at: int, what: str) -> None:
        """Note an act of the simulation itself: a fault, a change."""
        self.finish()
        self._hash.update(_ACT(at, -1, 5) + what.encode())
        if self._lines is not None:
            self._lines.write(json.dumps({"at_us": at - self._start, "act": what}) + "\n")

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything so far."""
        self.finish()
        return self._hash.hexdigest()

    def finish(self) -> None:
        """The same, and what is left."""
        self.flush()
        if self.taken:
            self._put(len(self.taken))

    def _put(self, count: int) -> None:
        """When, who, of which kind and how long, for so many; then what."""
        batch = self.taken[:count]
        del self.taken[:count]
        self._digested += count
        when, who, events = zip(*batch, strict=True)
        said = [event.data if isinstance(event, _FRAMES) else _said(event) for event in events]
        kinds = map(KINDS.__getitem__, map(type, events))
        self._hash.update(pack(f"<{count}Q{count}i{count}B{count}I", *when, *who, *kinds, *map(len, said)))
        self._hash.update(b"".join(said))
        if self._lines is not None:
            for one in batch:
                self._lines.write(json.dumps(self._line(*one)) + "\n")

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
