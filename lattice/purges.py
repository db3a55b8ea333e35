"""An operator's word that what is cached of some paths is wrong: heard by every site, then forgotten.

A purge is one signed statement, replicated as a cell. It changes nothing that is decided, has no successor and no
chain: who hears it drops what it covers and asks again. So it needs no order and no tombstone, only a lease, long
enough for a site that was cut off to hear it yet. Whoever may write policy may purge, at the date that the purge bears.

The lease runs from that date, by each node's own clock; where clocks differ, one node has dropped a purge that another
still holds, and refuses it for good when it is offered again. What hosts and paths mean is the router's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from lattice import canonical
from lattice.errors import MalformedError, UntrustedError
from lattice.grants import read_grant
from lattice.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Grant, Signer, Verifier, author_id_of
from lattice.types import SECOND, AuthorId, CellId, Micros

PURGE_LEASE_US: Final = 24 * 3_600 * SECOND
"""A site that was cut off for longer does not hear it; a guessed lifetime ends as soon (RFC 9111's heuristics)."""
PURGE_AHEAD_US: Final = 300 * SECOND
"""As for a policy op: a clock that is further ahead is wrong."""
PURGES_MAX: Final = 1_024
"""Held at a time: one a minute and a half, all day. Whoever changes more purges by wider patterns."""
HOST_CHARS_MAX: Final = 256
PATH_CHARS_MAX: Final = 1_024
_PURGE: Final = b"purge"
_FORMAT: Final = 1
_PURGE_BYTES: Final = 2_048


@dataclass(frozen=True, slots=True)
class Purge:
    """What its author signed."""

    public_key: bytes
    at_ms: int
    host: str
    path: str
    grant: Grant | None
    data: bytes
    """The statement as it was signed."""

    @property
    def author(self) -> AuthorId:
        return author_id_of(self.public_key)

    @property
    def cell(self) -> CellId:
        return purge_id_of(self.data)

    @property
    def ends(self) -> Micros:
        """When it is forgotten."""
        return Micros(self.at_ms * 1_000 + PURGE_LEASE_US)


def purge_id_of(data: bytes) -> CellId:
    """The id of a purge as it travels; nothing is checked."""
    return CellId(blake2b(data, digest_size=16, person=b"edgelattice prge").digest())


def sign_purge(signer: Signer, at_ms: int, host: str, path: str) -> Purge:
    """`at_ms` since the Unix epoch; `host` and `path` are patterns, whose meaning is checked by whoever knows it."""
    assert len(host) <= HOST_CHARS_MAX
    assert len(path) <= PATH_CHARS_MAX
    grant = signer.grant
    carried = None if grant is None else (grant.name, grant.until_s, grant.signature)
    payload = canonical.pack((_FORMAT, signer.public_key, at_ms, host, path, carried))
    return Purge(signer.public_key, at_ms, host, path, grant, payload + signer.sign(_PURGE, payload))


def open_purge(data: bytes, verifier: Verifier) -> Purge:
    """Parse and check the signature of one from the network. Raises `MalformedError` or `UntrustedError`."""
    if not SIGNATURE_BYTES < len(data) <= _PURGE_BYTES:
        raise MalformedError("bad shape", f"a purge of {len(data)} bytes")
    payload, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    fields = canonical.array(canonical.unpack_canonical(payload, _PURGE_BYTES), "purge", length=6)
    if canonical.integer(fields[0], "purge format") != _FORMAT:
        raise MalformedError("wrong version", f"purge format {fields[0]!r}, this node reads {_FORMAT}")
    found = Purge(
        public_key=canonical.blob(fields[1], "public key", length=PUBLIC_KEY_BYTES),
        at_ms=canonical.integer(fields[2], "purge's date"),
        host=canonical.text(fields[3], "host", HOST_CHARS_MAX),
        path=canonical.text(fields[4], "path", PATH_CHARS_MAX),
        grant=read_grant(fields[5]),
        data=data,
    )
    if not verifier.verify(found.public_key, _PURGE, payload, signature):
        raise UntrustedError("bad purge signature", f"claims to be by {found.author.hex()}")
    return found


class Purges:
    """Those whose lease runs, on one node."""

    def __init__(self, check_operator: Callable[[bytes, Grant | None, int], None]) -> None:
        """`check_operator(public key, grant, date_ms)` raises `UntrustedError` unless that key might write policy."""
        self._check_operator = check_operator
        self._held: dict[CellId, Purge] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, purge: Purge, now: Micros) -> bool:
        """Whether it is news. Raises `UntrustedError`, with nothing changed."""
        if purge.cell in self._held:
            return False
        self._check_operator(purge.public_key, purge.grant, purge.at_ms)
        if purge.ends <= now:
            raise UntrustedError("purge is over", f"{purge.host} {purge.path}")
        if purge.at_ms * 1_000 > now + PURGE_AHEAD_US:
            raise UntrustedError("purge from the future", f"{purge.host} {purge.path}")
        if len(self._held) >= PURGES_MAX:
            raise UntrustedError("too many purges", f"{PURGES_MAX} are held; purge by a wider pattern")
        self._held[purge.cell] = purge
        return True

    def forget(self, now: Micros) -> list[CellId]:
        """Drop those whose lease is over; their cells, sorted."""
        over = sorted(cell for cell, purge in self._held.items() if purge.ends <= now)
        for cell in over:
            del self._held[cell]
        return over

    def next_end(self) -> Micros | None:
        """When the next lease ends."""
        return min((purge.ends for purge in self._held.values()), default=None)
