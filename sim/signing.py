"""Cheap keys and envelopes, so that a run spends its time on the protocol and not on Ed25519 and AES.

A signature is a BLAKE2b keyed with what only the simulation knows about the signer, padded to Ed25519's 64 bytes: who
has no key cannot sign, altered bytes do not verify, and frames are as long as in production. The envelope adds a
16-byte tag, as AES-GCM does, so that a frame that was altered on the way is refused. That tag is zeros: nobody here
forges envelopes (liars hold the cluster's key), and whatever alters a frame on the way spoils its tag (`altered`), so
that nothing need be reckoned over every packet.

What this cannot find: mistakes in the use of the real primitives. `protocol.seal = "sealed"`, which takes the real
envelope, and the tests of the lattice do.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final

from lattice import wire
from lattice.errors import WireError
from lattice.grants import Role, sign_grant
from lattice.identity import SIGNATURE_BYTES, Grant
from lattice.seal import COUNTER_AT, HEADER_BYTES, KEY_AT, OVERHEAD_BYTES, SENDER_AT, TAG_BYTES, VERSION, Plain
from lattice.types import Micros, NodeId

CLUSTER: Final = "sim"
MESSAGES: Final = ("?", *[kind.__name__ for kind in wire.KINDS])
"""Names of the message types by the number that a body begins with."""
KINDS: Final = len(MESSAGES)
KIND_AT: Final = HEADER_BYTES + 1
"""Where that number is in a frame that is not sealed: a body is an array that begins with its type."""
CA: Final = "ca"
FOREVER_S: Final = 2**40
_TAG: Final = bytes(TAG_BYTES)
_BEGINS: Final = Struct(f"{KEY_AT}s{SENDER_AT - KEY_AT}x{COUNTER_AT - SENDER_AT}s")
"""Version and cluster, and the sender."""
_BODY: Final = slice(HEADER_BYTES, -TAG_BYTES)
_HEADER: Final = Struct(f">{COUNTER_AT}sQ")
_DIGEST_BYTES: Final = 16
_PAD: Final = bytes(SIGNATURE_BYTES - _DIGEST_BYTES)


class KeyedSigner:
    """Signs as one identity; the name is the key."""

    def __init__(self, name: str, certified_for: str | None = None) -> None:
        """`certified_for` is the site that the run's CA certifies this node for; None in a cluster without a CA."""
        self._public = blake2b(name.encode(), digest_size=32, person=b"sim public key").digest()
        self._secret = _secret_of(self._public)
        self.grant: Grant | None = None
        if certified_for is not None:
            self.grant = sign_grant(KeyedSigner(CA), self._public, Role.NODE, certified_for, FOREVER_S)
        self.signed_last = b""
        """The last signature: what to look for to see who sends this cell on."""

    @property
    def public_key(self) -> bytes:
        return self._public

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        self.signed_last = _signature(self._secret, purpose, payload)
        return self.signed_last


class KeyedVerifier:
    """Checks what a `KeyedSigner` signed."""

    def __init__(self) -> None:
        self._secrets: dict[bytes, bytes] = {}

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        secret = self._secrets.get(public_key)
        if secret is None:
            secret = self._secrets[public_key] = _secret_of(public_key)
        return _signature(secret, purpose, payload) == signature


def _secret_of(public_key: bytes) -> bytes:
    return blake2b(public_key, digest_size=32, person=b"sim secret key").digest()


def _signature(secret: bytes, purpose: bytes, payload: bytes) -> bytes:
    return blake2b(purpose + b"\0" + payload, digest_size=_DIGEST_BYTES, key=secret).digest() + _PAD


class TaggedSeal(Plain):
    """A plain envelope with a tag, as long as a sealed one."""

    __slots__ = ("_begins", "_speaker")

    def __init__(self, cluster: str, version: int = VERSION) -> None:
        super().__init__(cluster)
        self._prefix = bytes([version]) + self._prefix[1:]
        self._speaker: NodeId | None = None
        self._begins = b""
        """The header up to the counter, of whoever spoke last: nearly always the same."""

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        if sender is not self._speaker:
            self._start(now)
            self._speaker, self._begins = sender, self._prefix + self._keys + sender
        self._counter += 1
        return _HEADER.pack(self._begins, self._counter) + body + _TAG

    def open(self, frame: bytes) -> tuple[NodeId, bytes]:
        if len(frame) < OVERHEAD_BYTES:
            self._check(frame, OVERHEAD_BYTES)
        prefix, sender = _BEGINS.unpack_from(frame)
        if prefix != self._prefix:
            self._check(frame, OVERHEAD_BYTES)
        if frame[-1]:
            raise WireError("wrong key", "altered on the way")
        return sender, frame[_BODY]


def altered(frame: bytes, place: int, bits: int) -> bytes:
    """What arrives when these bits of a byte were turned over on the way."""
    came = bytearray(frame)
    came[place] ^= bits
    if came[-1] == frame[-1]:
        came[-1] ^= 1
    return bytes(came)


def message_name(frame: bytes) -> str:
    """The type of the message in a frame that a `TaggedSeal` or `Plain` closed; "?" when the frame is no such thing."""
    kind = frame[KIND_AT] if len(frame) > KIND_AT and frame[0] < 0x80 else 0
    return MESSAGES[kind] if kind < KINDS else "?"
