"""Who says what: Ed25519 keys (RFC 8032), ids made from them, and signatures bound to a cluster and a purpose.

A node id or author id is the hash of a public key, so nobody hands ids out and nobody can take another's. What is
signed is ``purpose ‖ cluster ‖ payload``: a row is no op, and one cluster's row is nothing in another.

The only module that imports the signature library. Verification is injected as a `Verifier`, so that a simulation of
thousands of nodes may trade Ed25519 (about 6,000 verifications a second and core) for a keyed hash.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lattice.types import AuthorId, NodeId

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
VERIFIED_CACHE_MAX = 16_384

_P = 2**255 - 19
_Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER = frozenset(y.to_bytes(32, "little") for y in (0, 1, _P - 1, _P, _P + 1, _Y8, _P - _Y8))
"""The points of order 1, 2, 4 and 8 (sign bit cleared): under such a "key" a signature of zeros holds for one message
in eight or better, so nobody's word would be bound to it. OpenSSL accepts them; libsodium keeps the same list."""


@lru_cache(maxsize=4_096)
def node_id_of(public_key: bytes) -> NodeId:
    """The id of the node that holds the private half of `public_key` (32 bytes)."""
    return NodeId(blake2b(public_key, digest_size=16, person=b"edgelattice id").digest())


def author_id_of(public_key: bytes) -> AuthorId:
    """The id of the author that holds the private half of `public_key` (32 bytes)."""
    return AuthorId(node_id_of(public_key))


@dataclass(frozen=True, slots=True)
class Grant:
    """A CA's word for a key, as it travels: for which key and role, whoever shows it says (`grants`)."""

    name: str
    """Whose key it is: a node's site, or a person."""
    until_s: int
    """Seconds since the Unix epoch; it holds up to this one."""
    signature: bytes


class Signer(Protocol):
    """Signs as one identity."""

    @property
    def public_key(self) -> bytes: ...

    @property
    def grant(self) -> Grant | None:
        """What this identity has to show for itself; None in a cluster without a CA."""
        ...

    def sign(self, purpose: bytes, payload: bytes) -> bytes: ...


class Verifier(Protocol):
    """Says whether a signature holds."""

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool: ...


def _statement(purpose: bytes, cluster: str, payload: bytes) -> bytes:
    return b"edgelattice %s v1\0%s\0%s" % (purpose, cluster.encode(), payload)


class Ed25519Signer:
    """A private key in memory, for one cluster."""

    def __init__(self, private_key: bytes, cluster: str, grant: Grant | None = None) -> None:
        """`private_key` is the 32-byte seed of RFC 8032. Raises ValueError if it has another length."""
        self.grant = grant
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self._cluster = cluster
        self._public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def public_key(self) -> bytes:
        return self._public

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        return self._key.sign(_statement(purpose, self._cluster, payload))


class Ed25519Verifier:
    """Checks signatures, and remembers those that held: a cell heard from many peers is verified once."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._held: OrderedDict[bytes, None] = OrderedDict()

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        statement = _statement(purpose, self._cluster, payload)
        known = blake2b(public_key + signature + statement, digest_size=16).digest()
        if known in self._held:
            self._held.move_to_end(known)
            return True
        if len(public_key) != PUBLIC_KEY_BYTES or public_key[:31] + bytes([public_key[31] & 0x7F]) in _SMALL_ORDER:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
        except (InvalidSignature, ValueError):
            return False
        self._held[known] = None
        if len(self._held) > VERIFIED_CACHE_MAX:
            self._held.popitem(last=False)
        return True


def private_key_from(entropy: bytes) -> bytes:
    """A 32-byte Ed25519 seed out of at least 32 bytes of entropy, which the caller draws (the core draws none)."""
    assert len(entropy) >= 32, "a key wants at least 256 bits of entropy"
    seed = blake2b(entropy, digest_size=32, person=b"edgelattice key").digest()
    return Ed25519PrivateKey.from_private_bytes(seed).private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def public_key_of(private_key: bytes) -> bytes:
    """The 32-byte public half of a 32-byte seed. Raises ValueError if the seed has another length."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
