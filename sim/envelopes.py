"""The envelopes of a run: the cheap stand-in, or the real one with its keys.

With `protocol.seal = "sealed"` every process seals with AES-256-GCM under the ring of keys that its host's key file
holds, and keeps real replay windows; so keys can rotate (`sim.keys`). A process of another version speaks another
envelope, which nobody of this one opens.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from lattice.key_ring import KeyRing
from lattice.seal import VERSION, Seal, Sealed
from lattice.types import Micros, NodeId
from sim.signing import CLUSTER, TaggedSeal

FRAMES_KEPT: Final = 4_096
"""More than any one step seals."""


def cluster_secret(name: str) -> bytes:
    """A cluster key, by name."""
    return blake2b(name.encode(), digest_size=32, person=b"sim cluster key").digest()


class SpokenSeal(Sealed):
    """The real envelope, and which kind of message each frame holds: the simulation counts them, and cannot read."""

    def __init__(self, cluster: str, ring: KeyRing, version: int, kinds: dict[bytes, int]) -> None:
        super().__init__(cluster, ring)
        self._prefix = bytes([self._prefix[0] - VERSION + version]) + self._prefix[1:]
        self._kinds = kinds

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        frame = super().close(sender, body, now)
        if len(self._kinds) >= FRAMES_KEPT:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[frame] = body[1] if len(body) > 1 else 0
        return frame


class Seals:
    """Makes every process's envelope, and remembers what each host's key file and version are."""

    def __init__(self, sealed: bool = False) -> None:
        self.sealed = sealed
        self.rings: dict[int, KeyRing] = {}
        self.versions: dict[int, int] = {}
        self.mixed: list[Callable[[], object]] = []
        """Told when the first process is about to speak another version than ours."""
        self.first = KeyRing.of(cluster_secret("first"))
        self._kinds: dict[bytes, int] = {}
        self._made: dict[int, Sealed] = {}

    def __call__(self, index: int) -> Seal:
        version = self.versions.get(index, VERSION)
        if not self.sealed:
            return TaggedSeal(CLUSTER, version)
        self._made[index] = SpokenSeal(CLUSTER, self.ring_of(index), version, self._kinds)
        return self._made[index]

    def speak(self, index: int, version: int) -> None:
        """A host's next process speaks this version."""
        if not self.versions:
            for tell in self.mixed:
                tell()
        self.versions[index] = version

    def rekey(self, index: int, ring: KeyRing) -> None:
        """A host's key file is another: a running process takes it up at once, one that is down when it starts."""
        self.rings[index] = ring
        if index in self._made:  # where another process has it, that one does so
            self._made[index].rekey(ring)

    def ring_of(self, index: int) -> KeyRing:
        """What a host's key file holds."""
        return self.rings.get(index, self.first)

    def sent(self, frame: bytes) -> int:
        """A sealed frame is on its way, maybe to the next of several: the number of the message in it, 0 when it is
        none of those that were sealed last."""
        return self._kinds.get(frame, 0)
