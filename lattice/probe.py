"""One SWIM probe cycle: ping, and if no ack comes, ask others to ping; and if none comes still, suspect.

::

    us ──ping──▶ target                       within ack_timeout: alive
    us ──ping_req──▶ k others ──ping──▶ target  until the interval ends: alive if any ack comes back
    otherwise: suspect

Targets are taken in turn from a shuffled list (the paper's round-robin), so that every member is probed within 2n - 1
intervals for certain and not only in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lattice.prng import Prng
from lattice.types import Endpoint, NodeId

RELAYS_MAX = 256


@dataclass(frozen=True, slots=True)
class Relay:
    """A ping that we sent in somebody else's stead."""

    asked_by: Endpoint
    nonce: int
    subject: NodeId


class ProbeCycle:
    """Which member is being probed, and whose probes we carry."""

    def __init__(self, prng: Prng) -> None:
        self._prng = prng
        self._round: list[NodeId] = []
        self._target: NodeId | None = None
        self._nonce = 0
        self._relays: dict[int, Relay] = {}

    @property
    def nonce(self) -> int:
        """The nonce of the ping in flight; whoever carries it for us gets the same."""
        return self._nonce

    def begin(self, present: Sequence[NodeId]) -> NodeId | None:
        """Start the next cycle: whom to ping, or None when there is nobody."""
        self._target = None
        here = set(present)
        while self._target is None:
            while self._round and self._target is None:
                candidate = self._round.pop()
                if candidate in here:
                    self._target = candidate
            if self._target is None:
                if not present:
                    return None
                self._round = self._prng.shuffled(present)
        self._nonce = self._prng.token()
        return self._target

    def unanswered(self) -> NodeId | None:
        """The member of the current cycle that has not answered yet."""
        return self._target

    def helpers(self, present: Sequence[NodeId], count: int) -> list[NodeId]:
        """Whom to ask to ping the target in our stead."""
        return self._prng.sample([node for node in present if node != self._target], count)

    def carry(self, relay: Relay) -> int | None:
        """Take on somebody's probe: the nonce of the ping to send, or None when too many are carried already."""
        if len(self._relays) >= RELAYS_MAX:
            return None
        nonce = self._prng.token()
        self._relays[nonce] = relay
        return nonce

    def acked(self, nonce: int, subject: NodeId) -> Relay | None:
        """An ack came. It ends our own cycle if it is for it; the relay to pass it on to, if it was carried."""
        if nonce == self._nonce and subject == self._target:
            self._target = None
        relay = self._relays.get(nonce)
        if relay is None or relay.subject != subject:
            return None
        del self._relays[nonce]
        return relay

    def drop_relays(self) -> None:
        """At the end of a cycle: whoever asked has given up by now."""
        self._relays.clear()
