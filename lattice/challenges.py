"""Whether a node is where its frames seem to come from: where it has not shown that, it gets no more than it sent.

A source address proves nothing. Whoever sits on the path can take a member's frame out of it and send it on from
somebody else's address, without any key; whoever has the cluster's keys can write any. So QUIC's rules hold (RFC 9000,
8.1 and 9.3): a frame from an unproven address is taken for what it says, its answer goes to where its sender is known
to be, and to the new address goes a challenge, a number drawn at random. Who says it from there hears there, is
answered there, and has moved there. ::

    B, from a new address ──Ping──────────▶ A     80 bytes
                          ◀──Challenge(n)── A     60 bytes, and the ack to where A knows B to be
                          ──Response(n)───▶ A     60 bytes: B is there
                          ◀──Ack─────────── A     and has what it asked for

A node is known to be where it proved to be before, and where its own signed row says; so nodes that everybody knows
lose no round trip. An answer goes to whatever address its challenge came from, proven or not: both may have moved, and
neither is larger than the other. What answers our own call, from where we called, is an answer, too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lattice import wire
from lattice.outbox import Outbox
from lattice.types import Endpoint, NodeId
from lattice.wire import Ack, Challenge, Message, Ping, Response

CHALLENGES_MAX: Final = 1_024
"""That wait for their answer; beyond it the oldest is forgotten, and its sender will speak again."""


class Given(NamedTuple):
    """A number that only whoever hears at `source` can know."""

    sender: NodeId | None
    """Who is to answer; None where we called, and whoever is there may."""
    source: Endpoint
    ping: int | None = None
    """The nonce of the ping that waits for its ack until this is answered."""
    introduced: bool = False
    """Whether that ping carried its sender's row, and is to be answered with ours."""


class Challenges:
    """Of one node."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: dict[int, Given] = {}

    def give(self, number: int, given: Given) -> None:
        """This number goes there now."""
        if len(self._given) >= CHALLENGES_MAX:
            del self._given[next(iter(self._given))]
        self._given[number] = given

    def ask(self, out: Outbox, message: Message, sender: NodeId, source: Endpoint, came_bytes: int) -> None:
        """Challenge whoever sent this, whose body was so large; nobody, if that would be more than came."""
        number = out.prng.token()
        body = wire.encode(Challenge(number))
        if len(body) > came_bytes:
            return
        ping, introduced = (message.nonce, bool(message.cells)) if isinstance(message, Ping) else (None, False)
        self.give(number, Given(sender, source, ping, introduced))
        out.send_body(body, False, source)

    def answered(self, message: Message, sender: NodeId, source: Endpoint) -> Given | None:
        """What was given, if this says the number of it: its sender hears there."""
        if isinstance(message, Response):
            return self.met(message.number, sender, source)
        return self.met(message.nonce, sender, source) if isinstance(message, Ack) else None

    def met(self, number: int, sender: NodeId, source: Endpoint) -> Given | None:
        """What was given, if it is said from where it went, by whom it was for. It counts once."""
        given = self._given.get(number)
        if given is None or given.source != source or given.sender not in (None, sender):
            return None
        return self._given.pop(number)
