"""Where peers reach us, when nobody told us: as most of them say that they see us.

A node that listens on a wildcard has no address of its own to write into its row. Every ack says where the ping seemed
to come from (as STUN does, RFC 8489), and the first word is taken. An address may change afterwards, by a lease that
ended or a link that was lost, so the last word of each of the last few peers is kept, and the address changes when more
than half say another *and* no more than one still says the old. So no single liar can move us, and none can keep us
from moving; where different peers see us differently for good (an address translator), the address stays what it was.
"""

from __future__ import annotations

from lattice.types import SECOND, Micros, NodeId

VOICES_MAX = 8
"""Peers who are asked: with a probe every 400 ms, what was heard in the last seconds."""
LINK_LOCAL = "fe80:"
"""An address that begins so means something on one link only, and only with the name that the hearer's machine gives to
it: it stands in no row, and each peer takes it from our frames."""
VOICE_US = 60 * SECOND
"""A word older than this counts no more: its speaker may be gone."""


class OwnAddress:
    """Our host, and what peers say of it. `host` is empty as long as nobody has said anything."""

    __slots__ = ("_voices", "host", "told")

    def __init__(self, host: str) -> None:
        """A `host` that was configured stays."""
        self.host = host
        self.told = bool(host)
        self._voices: dict[NodeId, tuple[str, Micros]] = {}

    def heard(self, peer: NodeId, host: str, now: Micros) -> bool:
        """A peer sees us at `host`; whether our address is another from now on."""
        if self.told or not host or host.startswith(LINK_LOCAL):
            return False
        self._voices.pop(peer, None)
        self._voices[peer] = (host, now)
        self._voices = {peer: voice for peer, voice in self._voices.items() if now - voice[1] < VOICE_US}
        if len(self._voices) > VOICES_MAX:
            del self._voices[next(iter(self._voices))]
        said = [voice for voice, _ in self._voices.values()]
        if host == self.host or (self.host and (2 * said.count(host) <= len(said) or said.count(self.host) > 1)):
            return False
        self.host = host
        return True
