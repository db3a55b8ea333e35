"""The cluster's keys: several at once, so that they can be changed while every node goes on hearing every other.

::

    add everywhere      every node opens frames under the new key; all still seal with the old one
    use everywhere      one node after the other seals with the new key; all open both
    remove everywhere   nobody opens frames under the old key any more

In each step the nodes may take their turns in any order and at any time: whatever key a node seals with, every other
one has it already, or has it still. The order of the three steps is all that matters.

The id of a key is a hash of it, so that nobody hands ids out, and a ring's tag is a hash of the ids on it. Both travel
in every frame's header: a peer that missed a step gives itself away by what it sends.

As text a ring is a file of one key a line. A file with nothing but one key's digits is a ring of that key::

    # edgelattice cluster keys
    use  7f3a 2026-11 9f86d081…
    hold 01c4 2027-02 60303ae2…
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NewType

KeyId = NewType("KeyId", bytes)
"""2 bytes of a hash of the key: enough for the few keys of one ring, whose ids are checked to differ."""

SECRET_BYTES: Final = 32
KEY_ID_BYTES: Final = 2
RING_TAG_BYTES: Final = 2
KEYS_MAX: Final = 8
"""A rotation needs two; more are rotations that were never finished."""
LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")

_HEADING: Final = "# edgelattice cluster {cluster}: keys, the same on every site. use: seals and opens; hold: opens\n"
_HEADED: Final = re.compile(r"# edgelattice cluster (\S{1,64}): keys,")
_SECRET: Final = re.compile(rf"[0-9A-Fa-f]{{{2 * SECRET_BYTES}}}")


class KeyRingError(Exception):
    """A ring cannot be that. The message says why and never holds key material; nothing was changed."""


@dataclass(frozen=True, slots=True)
class ClusterKey:
    secret: bytes = field(repr=False)
    label: str

    @property
    def id(self) -> KeyId:
        return KeyId(blake2b(self.secret, digest_size=KEY_ID_BYTES, person=b"edgelattice kid").digest())


@dataclass(frozen=True, slots=True)
class KeyRing:
    """At least one key. The first seals; all of them open."""

    keys: tuple[ClusterKey, ...]

    def __post_init__(self) -> None:
        ids = [key.id for key in self.keys]
        if not ids:
            raise KeyRingError("a ring has at least one key")
        if len(ids) > KEYS_MAX:
            raise KeyRingError(f"{len(ids)} keys; a ring has at most {KEYS_MAX}: remove those that nobody uses")
        if len(set(ids)) < len(ids):
            raise KeyRingError("a key is there twice, or two have the same id: take another")

    @classmethod
    def of(cls, secret: bytes, label: str = "first") -> KeyRing:
        """A ring of one key. Raises `KeyRingError` unless `secret` has 32 bytes."""
        return cls((_key(secret, label),))

    @property
    def used(self) -> ClusterKey:
        """The key to seal with."""
        return self.keys[0]

    @property
    def tag(self) -> bytes:
        """2 bytes that two rings share if they have the same keys, whichever each uses."""
        ids = b"".join(sorted(key.id for key in self.keys))
        return blake2b(ids, digest_size=RING_TAG_BYTES, person=b"edgelattice ring").digest()

    def add(self, secret: bytes, label: str) -> KeyRing:
        """With one key more, which opens and does not seal. Raises `KeyRingError`."""
        return KeyRing((*self.keys, _key(secret, label)))

    def use(self, key: KeyId) -> KeyRing:
        """The same keys, sealing with that one. Raises `KeyRingError`."""
        used = self._find(key)
        return KeyRing((used, *(other for other in self.keys if other is not used)))

    def remove(self, key: KeyId) -> KeyRing:
        """Without that key. Raises `KeyRingError` if it is the one that seals."""
        removed = self._find(key)
        if removed is self.used:
            raise KeyRingError(f"key {key.hex()} is the one in use: use another first")
        return KeyRing(tuple(other for other in self.keys if other is not removed))

    def _find(self, key: KeyId) -> ClusterKey:
        for held in self.keys:
            if held.id == key:
                return held
        raise KeyRingError(f"no key {key.hex()} here; there is {', '.join(held.id.hex() for held in self.keys)}")


def ring_text(ring: KeyRing, cluster: str) -> str:
    """The ring as `parse_ring` reads it."""
    lines = [
        f"{'use ' if key is ring.used else 'hold'} {key.id.hex()} {key.label} {key.secret.hex()}\n" for key in ring.keys
    ]
    return _HEADING.format(cluster=cluster) + "".join(lines)


def cluster_named(text: str) -> str | None:
    """Whose keys these are, by the heading of the file; None when it says nothing."""
    found = _HEADED.match(text)
    return None if found is None else found[1]


def parse_ring(text: str) -> KeyRing:
    """The ring in a file's text. Raises `KeyRingError` with the line that is wrong, never what stands there."""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words and not words[0].startswith("#")]
    if len(lines) == 1 and len(lines[0][1]) == 1 and _SECRET.fullmatch(lines[0][1][0]):
        return KeyRing.of(bytes.fromhex(lines[0][1][0]))
    used: list[ClusterKey] = []
    held: list[ClusterKey] = []
    for number, words in lines:
        # The content is never quoted: it may be most of a key.
        if len(words) != 4 or words[0] not in {"use", "hold"} or not _SECRET.fullmatch(words[3]):
            raise KeyRingError(f"line {number}: expected `use` or `hold`, the key's id, its label and 64 hex digits")
        key = _key(bytes.fromhex(words[3]), words[2], f"line {number}: ")
        if words[1].lower() != key.id.hex():
            raise KeyRingError(f"line {number}: the key of this id has other digits: a digit is wrong or missing")
        (used if words[0] == "use" else held).append(key)
    if len(used) != 1:
        raise KeyRingError(f"expected one key to `use`, there are {len(used)}")
    return KeyRing((*used, *held))


def key_id(text: str) -> KeyId:
    """A key id as people write it. Raises `KeyRingError`."""
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * KEY_ID_BYTES}}}", text):
        raise KeyRingError(
            f"{text!r} is no key id: expected {2 * KEY_ID_BYTES} hexadecimal digits, as `keys list` shows"
        )
    return KeyId(bytes.fromhex(text))


def _key(secret: bytes, label: str, place: str = "") -> ClusterKey:
    if len(secret) != SECRET_BYTES:
        raise KeyRingError(f"{place}a key has {SECRET_BYTES} bytes, this one {len(secret)}")
    if not LABEL.fullmatch(label):
        raise KeyRingError(f"{place}{label!r} is no label: expected 1 to 32 of A-Z a-z 0-9 . _ -")
    return ClusterKey(secret, label)
