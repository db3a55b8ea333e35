"""What happened, as one digest: two runs are the same history if and only if their digests are equal.

Every input that a host takes goes in, with its time, its host and its bytes. What a host sends shows up as what another
takes, so a difference anywhere comes to light, at the latest with the next input that it changes. Each shard of hosts
(`sim.shards`) has a digest of its own, and so have the acts of the simulation: the run's is made of these, and does not
depend on how the shards took turns. Whoever wants to see where two runs part keeps the lines too. Nobody makes up
histories to deceive us, so what was taken is summed up by MurmurHash3, for a tenth of what BLAKE2b takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from struct import Struct
from typing import Any, Final, Protocol

from mmh3 import mmh3_x64_128_digest

from lattice.canonical import Value, pack
from lattice.events import DatagramReceived, Input, LocalUpdate, Restored, StreamFrameReceived, TimerFired
from sim.signing import message_name

_ACT = Struct("<QI").pack
_BATCH: Final = 64
"""Inputs that are digested at a time. With sixteen times as many, what is kept until then fills the processor's caches
(121.6 misses an event instead of 115.8, 1,000 nodes), and an event costs no less."""
_EACH: Final = 3
"""When, host, what is said of the input."""


class Lines(Protocol):
    """Where lines go: an open file."""

    def write(self, text: str, /) -> object: ...


class Part:
    """What the hosts of one shard took."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16, person=b"sim journal")
        self._elsewhere: bytes | None = None
        self._digested = 0
        self.taken: list[Any] = []
        """When, host, what is `said`; when, host, what is said; and so on: many at a time cost a fifth of what one at a
        time does."""

    @property
    def events(self) -> int:
        return self._digested + len(self.taken) // _EACH

    def flush(self) -> None:
        """Digest whole batches: how many make one is part of what the digest says."""
        while len(self.taken) >= _BATCH * _EACH:
            self._put(_BATCH)

    @property
    def digest(self) -> bytes:
        """16 bytes over everything so far."""
        if self._elsewhere is not None:
            return self._elsewhere
        self.flush()
        if self.taken:
            self._put(len(self.taken) // _EACH)
        return self._hash.digest()

    def is_elsewhere(self, digest: bytes, events: int) -> None:
        """Another process kept it: that is what it came to."""
        self.taken.clear()
        self._elsewhere, self._digested = digest, events

    def _put(self, count: int) -> None:
        """When so many were taken, by whom, and what they were."""
        batch = self.taken[: count * _EACH]
        del self.taken[: count * _EACH]
        self._digested += count
        self._hash.update(mmh3_x64_128_digest(pack((batch[0::_EACH], batch[1::_EACH], batch[2::_EACH]))))


class Journal:
    """A digest of what each shard took and one of the simulation's acts, and lines of JSON for whoever asked."""

    def __init__(self, start: int, lines: Lines | None = None) -> None:
        self._start = start
        self._lines = lines
        self._acts = blake2b(digest_size=16, person=b"sim journal")
        self.parts: list[Part] = []
        """By shard."""

    def taking(self, shard: int) -> Callable[[tuple[int, int, Value]], object]:
        """Where the hosts of a shard put (when, host, what is `said`) of what they take, before it is handled. Whoever
        makes time pass calls `flush` now and then."""
        while len(self.parts) <= shard:
            self.parts.append(Part())
        return self.parts[shard].taken.extend

    @property
    def has_lines(self) -> bool:
        """Whether `write` is to be told of every input, too."""
        return self._lines is not None

    def write(self, at: int, host: int, event: Input) -> None:
        self._write(self._line(at, host, event))

    @property
    def events(self) -> int:
        """How many inputs were taken."""
        return sum(part.events for part in self.parts)

    def flush(self) -> None:
        """Digest what was taken, as far as it fills whole batches."""
        for part in self.parts:
            part.flush()

    def note(self, at: int, what: str) -> None:
        """Note an act of the simulation itself: a fault, a change."""
        self._acts.update(_ACT(at, len(what.encode())) + what.encode())
        self._write({"at_us": at - self._start, "act": what})

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything so far: over the digests of the acts and of each shard, in order."""
        said = [self._acts.digest(), *(part.digest for part in self.parts)]
        return blake2b(b"".join(said), digest_size=16, person=b"sim journal").hexdigest()

    def _write(self, line: Mapping[str, object]) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(line) + "\n")

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


def said(event: Input) -> Value:
    """What stands for an input, the bytes of a datagram for that: no two inputs look alike."""
    match event:
        case TimerFired():
            return None
        case DatagramReceived(data):
            return data
        case StreamFrameReceived(data):
            return (data,)
    return repr(event)
