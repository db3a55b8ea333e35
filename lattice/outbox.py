"""What the parts of one engine share: the moment, its timers, and the way out.

An engine is made of parts that know their own business (membership, rows, rumours, reconciliation). Each may set
timers, send, persist, notify and count, all of it through here, so that every effect of one input comes out in order.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

from lattice import wire
from lattice.config import Config
from lattice.errors import LatticeError
from lattice.events import Effect, Holds, Notification, Notify, Persist, Rejected, SendDatagram, SendStream
from lattice.prng import Prng
from lattice.seal import Seal
from lattice.timers import TimerQueue
from lattice.types import Endpoint, Micros, NodeId
from lattice.wire import Message

_HOST: Final = itemgetter(0)
NO_INPUT: Final[Any] = ()
"""Takes no effect: between two inputs nobody performs any. And what was performed is let go of at once, while it is in
the processor's caches: kept until the next input of one of a thousand engines it would not be any more."""


class Outbox:
    """One engine's moment and effects."""

    __slots__ = (
        "_bytes_out", "_counts", "_datagram_bytes_max", "_seal", "_sent", "config", "effects", "node", "now", "prng",
        "received", "stale_view", "timers",
    )  # fmt: skip

    def __init__(self, node: NodeId, config: Config, seal: Seal, prng: Prng, now: Micros) -> None:
        self.node = node
        self.config = config
        self.prng = prng
        self.now = now
        self.timers = TimerQueue()
        self.received, self._sent = [0] * (1 + len(wire.KINDS)), [0] * (1 + len(wire.KINDS))
        """By the message's number on the wire: a place in a list is found at once, and every frame is counted."""
        self._bytes_out = 0
        self._counts: dict[str, int] = {}
        self.stale_view = True
        """Something that the view shows has changed."""
        self._seal = seal
        self._datagram_bytes_max = config.datagram_bytes_max
        self.effects: list[Effect] = NO_INPUT
        """Of the input that is being handled, in order, as they come."""

    def counters(self) -> dict[str, int]:
        """What was sent, received, refused and dropped."""
        counters = {f"in {kind.__name__}": self.received[number] for kind, number in wire.NUMBERS.items()}
        counters |= {f"out {kind.__name__}": self._sent[number] for kind, number in wire.NUMBERS.items()}
        counters = {what: count for what, count in counters.items() if count}
        if self._bytes_out:
            counters["bytes out"] = self._bytes_out
        return counters | self._counts

    def asked_and_answered(self) -> tuple[int, int]:
        """How many pings were sent, and how many answers to any were received: acks, and challenges of who does not
        know us here."""
        return self._sent[wire.PING], self.received[wire.ACK] + self.received[wire.NUMBERS[wire.Challenge]]

    def after(self, delay_us: int) -> Micros:
        return self.now + delay_us

    def send(self, message: Message, *targets: Endpoint) -> None:
        """Seal and send: by datagram if it fits one, else as a stream's frame. Nowhere is no target, but is counted.

        One frame for all of them: it says who sends it, not to whom, so sealing it again would make nothing safer.
        """
        reachable = tuple(filter(_HOST, targets))
        if len(reachable) < len(targets):
            self.count("sends without an address", len(targets) - len(reachable))
        if reachable:
            body = wire.encode(message)
            frame = self._seal.close(self.node, body, self.now)
            send = SendDatagram if len(frame) <= self._datagram_bytes_max else SendStream
            cells = bool(getattr(message, "cells", ()))
            for target in reachable:
                self.effects.append(send(frame, target, cells))
            self._sent[body[1]] += len(reachable)
            self._bytes_out += len(reachable) * len(frame)

    def send_body(self, body: bytes, cells: bool, target: Endpoint) -> None:
        """As `send` to one target, of a message that is encoded already, and whether it carries cells."""
        if not target[0]:
            self.count("sends without an address")
            return
        frame = self._seal.close(self.node, body, self.now)
        size = len(frame)
        send = SendDatagram if size <= self._datagram_bytes_max else SendStream
        self.effects.append(send(frame, target, cells))
        self._sent[body[1]] += 1
        self._bytes_out += size

    def persist(self, table: str, key: bytes, value: bytes | None, holds: Holds = Holds.NOTHING) -> None:
        self.effects.append(Persist(table, key, value, holds))

    def notify(self, notification: Notification) -> None:
        self.effects.append(Notify(notification))

    def reject(self, what: str, error: LatticeError, source: Endpoint | None) -> None:
        """Count a refusal, and say so."""
        self.count(f"{what} rejected: {error.reason}")
        self.notify(Rejected(what, str(error), source))

    def count(self, what: str, times: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + times
