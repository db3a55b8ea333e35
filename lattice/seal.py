"""The envelope of every datagram and stream frame: which cluster, which sender, and unreadable to anybody else.

::

     0        1            5         21                 29
     ├ version ┼ cluster tag ┼ sender id ┼ counter (nonce) ┼ body, then a 16-byte tag when sealed
        1           4            16            8

The whole header is authenticated. The body is sealed with AES-256-GCM under a key of the *sender's* own, derived from
the cluster's secret by keyed BLAKE2b, with the sender's counter as nonce: two nodes never share a (key, nonce) pair.
The counter starts at the boot time in microseconds and rises by at least one a frame, so a restarted node does not
reuse one either. Its order is also what a replay window will need.

`Plain` is the same envelope with nothing sealed: for a simulator, and for `insecure = true`, which is loud.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lattice.errors import WireError
from lattice.types import Micros, NodeId

VERSION: Final = 1
_SEALED: Final = 0x80
"""The version byte's top bit: a sealed cluster never reads a plain frame, nor the other way round."""

HEADER_BYTES: Final = 1 + 4 + 16 + 8
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
SENDERS_CACHED_MAX: Final = 20_000


class Seal(Protocol):
    """Puts bodies into envelopes and takes them out again."""

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes: ...

    def open(self, frame: bytes) -> tuple[NodeId, int, bytes]:
        """(sender, counter, body) of a frame. Raises `WireError`; state is unchanged."""
        ...


def cluster_tag(cluster: str) -> bytes:
    """Four bytes that tell our cluster's frames from another's before any key is tried."""
    return blake2b(cluster.encode(), digest_size=4, person=b"edgelattice clus").digest()


class Plain:
    """The envelope without secrecy or proof: whoever can send to the port can speak as anybody."""

    def __init__(self, cluster: str) -> None:
        self._prefix = bytes([VERSION]) + cluster_tag(cluster)
        self._counter = 0

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        return self._header(sender, now) + body

    def open(self, frame: bytes) -> tuple[NodeId, int, bytes]:
        self._check(frame, HEADER_BYTES)
        return NodeId(frame[5:21]), int.from_bytes(frame[21:29], "big"), frame[HEADER_BYTES:]

    def _header(self, sender: NodeId, now: Micros) -> bytes:
        self._counter = max(self._counter + 1, now)
        return self._prefix + sender + self._counter.to_bytes(8, "big")

    def _check(self, frame: bytes, least: int) -> None:
        if len(frame) < least:
            raise WireError("truncated", f"{len(frame)} bytes, at least {least}")
        if frame[0] != self._prefix[0]:
            ours, theirs = self._prefix[0], frame[0]
            if (ours ^ theirs) == _SEALED:
                raise WireError("plain frame" if ours & _SEALED else "sealed frame", "one side has insecure = true")
            raise WireError("wrong version", f"{theirs & 0x7F}, this node speaks {VERSION}")
        if frame[1:5] != self._prefix[1:5]:
            raise WireError("wrong cluster", frame[1:5].hex())


class Sealed(Plain):
    """The envelope sealed with the cluster's 32-byte secret."""

    def __init__(self, cluster: str, secret: bytes) -> None:
        assert len(secret) == 32, "a cluster secret has 32 bytes"
        super().__init__(cluster)
        self._prefix = bytes([VERSION | _SEALED]) + self._prefix[1:]
        self._secret = secret
        self._senders: dict[NodeId, AESGCM] = {}

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        header = self._header(sender, now)
        return header + self._cipher(sender).encrypt(b"\0\0\0\0" + header[21:29], body, header)

    def open(self, frame: bytes) -> tuple[NodeId, int, bytes]:
        self._check(frame, OVERHEAD_BYTES)
        sender, counter = NodeId(frame[5:21]), frame[21:29]
        try:
            body = self._cipher(sender).decrypt(b"\0\0\0\0" + counter, frame[HEADER_BYTES:], frame[:HEADER_BYTES])
        except InvalidTag:
            raise WireError("wrong key", "sealed with another secret, or altered on the way") from None
        return sender, int.from_bytes(counter, "big"), body

    def _cipher(self, sender: NodeId) -> AESGCM:
        cipher = self._senders.get(sender)
        if cipher is None:
            key = blake2b(sender, key=self._secret, digest_size=32, person=b"edgelattice seal").digest()
            if len(self._senders) >= SENDERS_CACHED_MAX:
                self._senders.clear()  # forged sender ids may fill it; deriving again costs a microsecond
            cipher = self._senders[sender] = AESGCM(key)
        return cipher
