"""What the parts of one engine share: the moment, its timers, and the way out.

An engine is made of parts that know their own business (membership, rows, rumours, reconciliation). Each may set
timers, send, persist, notify and count, all of it through here, so that every effect of one input comes out in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, get_args

from lattice import wire
from lattice.config import Config
from lattice.errors import LatticeError
from lattice.events import Effect, Holds, Notification, Notify, Persist, Rejected, SendDatagram, SendStream
from lattice.prng import Prng
from lattice.seal import Seal
from lattice.timers import TimerQueue
from lattice.types import Endpoint, Micros, NodeId
from lattice.wire import Message

RECEIVED: Final[Mapping[type, str]] = {kind: f"in {kind.__name__}" for kind in get_args(Message)}
SENT: Final[Mapping[type, str]] = {kind: f"out {kind.__name__}" for kind in get_args(Message)}
"""What messages of each type are counted under, made once: two are counted for every datagram."""


class Outbox:
    """One engine's moment and effects."""

    def __init__(self, node: NodeId, config: Config, seal: Seal, prng: Prng, now: Micros) -> None:
        self.node = node
        self.config = config
        self.prng = prng
        self.now = now
        self.timers = TimerQueue()
        self.counters: Counter[str] = Counter()
        self.stale_view = True
        """Something that the view shows has changed."""
        self._seal = seal
        self._effects: list[Effect] = []

    def begin(self, now: Micros) -> None:
        """The next input's moment."""
        assert now >= self.now, f"now went back by {self.now - now} us"
        self.now = now
        self._effects = []

    def effects(self) -> list[Effect]:
        """Those of the present input, in order."""
        return self._effects

    def after(self, delay_us: int) -> Micros:
        return Micros(self.now + delay_us)

    def send(self, message: Message, target: Endpoint) -> None:
        """Seal and send: by datagram if it fits one, else as a stream's frame. Nowhere is no target, but is counted."""
        if not target[0]:
            self.count("sends without an address")
            return
        frame = self._seal.close(self.node, wire.encode(message), self.now)
        counters = self.counters
        sent = SENT[type(message)]
        counters[sent] = counters.get(sent, 0) + 1
        counters["bytes out"] = counters.get("bytes out", 0) + len(frame)
        cells = bool(getattr(message, "cells", ()))
        if len(frame) <= self.config.datagram_bytes_max:
            self._effects.append(SendDatagram(frame, target, cells))
        else:
            self._effects.append(SendStream(frame, target, cells))

    def persist(self, table: str, key: bytes, value: bytes | None, holds: Holds = Holds.NOTHING) -> None:
        self._effects.append(Persist(table, key, value, holds))

    def notify(self, notification: Notification) -> None:
        self._effects.append(Notify(notification))

    def reject(self, what: str, error: LatticeError, source: Endpoint | None) -> None:
        """Count a refusal, and say so."""
        self.count(f"{what} rejected: {error.reason}")
        self.notify(Rejected(what, str(error), source))

    def count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1  # what a Counter makes of += costs twice as much
