"""What the parts of one engine share: the moment, its timers, and the way out.

An engine is made of parts that know their own business (membership, rows, rumours, reconciliation). Each may set
timers, send, persist, notify and count, all of it through here, so that every effect of one input comes out in order.
"""

from __future__ import annotations

from operator import itemgetter
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

_HOST: Final = itemgetter(0)
_KINDS: Final[tuple[type[Message], ...]] = get_args(Message)


class Outbox:
    """One engine's moment and effects."""

    def __init__(self, node: NodeId, config: Config, seal: Seal, prng: Prng, now: Micros) -> None:
        self.node = node
        self.config = config
        self.prng = prng
        self.now = now
        self.timers = TimerQueue()
        self.received: dict[type[Message], int] = dict.fromkeys(_KINDS, 0)
        self._sent: dict[type[Message], int] = dict.fromkeys(_KINDS, 0)
        self._bytes_out = 0
        self._counts: dict[str, int] = {}
        self.stale_view = True
        """Something that the view shows has changed."""
        self._seal = seal
        self._datagram_bytes_max = config.datagram_bytes_max
        self._effects: list[Effect] = []

    def begin(self, now: Micros) -> list[Effect]:
        """The next input's moment; its effects, in order, as they come."""
        assert now >= self.now, f"now went back by {self.now - now} us"
        self.now = now
        self._effects = []
        return self._effects

    def counters(self) -> dict[str, int]:
        """What was sent, received, refused and dropped."""
        counters = {f"in {kind.__name__}": count for kind, count in self.received.items() if count}
        counters |= {f"out {kind.__name__}": count for kind, count in self._sent.items() if count}
        if self._bytes_out:
            counters["bytes out"] = self._bytes_out
        return counters | self._counts

    def after(self, delay_us: int) -> Micros:
        return Micros(self.now + delay_us)

    def send(self, message: Message, *targets: Endpoint) -> None:
        """Seal and send: by datagram if it fits one, else as a stream's frame. Nowhere is no target, but is counted.

        One frame for all of them: it says who sends it, not to whom, so sealing it again would make nothing safer.
        """
        reachable = tuple(filter(_HOST, targets))
        if len(reachable) < len(targets):
            self.count("sends without an address", len(targets) - len(reachable))
        if reachable:
            frame = self._seal.close(self.node, wire.encode(message), self.now)
            send = SendDatagram if len(frame) <= self._datagram_bytes_max else SendStream
            cells = bool(getattr(message, "cells", ()))
            for target in reachable:
                self._effects.append(send(frame, target, cells))
            self._sent[type(message)] += len(reachable)
            self._bytes_out += len(reachable) * len(frame)

    def send_body(self, kind: type[Message], body: bytes, cells: bool, target: Endpoint) -> None:
        """As `send` to one target, of a message that is encoded already: of which kind it is, and whether it carries
        cells."""
        if not target[0]:
            self.count("sends without an address")
            return
        frame = self._seal.close(self.node, body, self.now)
        size = len(frame)
        send = SendDatagram if size <= self._datagram_bytes_max else SendStream
        self._effects.append(send(frame, target, cells))
        self._sent[kind] += 1
        self._bytes_out += size

    def persist(self, table: str, key: bytes, value: bytes | None, holds: Holds = Holds.NOTHING) -> None:
        self._effects.append(Persist(table, key, value, holds))

    def notify(self, notification: Notification) -> None:
        self._effects.append(Notify(notification))

    def reject(self, what: str, error: LatticeError, source: Endpoint | None) -> None:
        """Count a refusal, and say so."""
        self.count(f"{what} rejected: {error.reason}")
        self.notify(Rejected(what, str(error), source))

    def count(self, what: str, times: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + times
