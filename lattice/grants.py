"""Who may speak in a cluster: the CA's word for a key, in few bytes, and its word that takes a key back.

A certificate (`certificates`) is for streams, where both ends show one; at 400 bytes and more it is too much to carry
with every cell. A *grant* is the same word in 75 bytes. The CA signs

    (format, public key, role, name, end)

and of that a row or an op carries only the end and the signature (an op the name, too): the rest it says anyway. So
whatever a node or an author says brings its right to say it along, a newcomer needs nothing else to judge it, and there
is no second kind of thing that could arrive too late. A grant that was checked is remembered with its key, so its
signature costs one verification in each node's life, not one a row.

* A **row** counts if its key has a grant for a *node* of that very site. Its vote ends with the grant.
* An **op** counts if its author has a grant for an *operator* that the op's date is within, or stands in the site's own
  list of authors; one by a *controller*, if it says nothing but how rollouts go on. The op's date and not today's
  decides, or policy would vanish when whoever wrote it moves on.
* A **revocation** takes a key back, for good: one signed statement, replicated like any cell, kept on disk. A revoked
  node's rows are refused and forgotten. Of a revoked author what led up to one op of its chain goes on counting (the CA
  names that op, so the hash chain pins all before it), and nothing else ever will, whatever date it bears.

A cluster without a CA has no grants: whoever holds its keys can speak as a new node. `Grants` without a CA's key lets
every row pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from lattice import canonical
from lattice.errors import MalformedError, UntrustedError
from lattice.identity import SIGNATURE_BYTES, Grant, Signer, Verifier
from lattice.types import SECOND, AuthorId, CellId, Micros, NodeId

REVOKED_MAX: Final = 10_000
"""Keys taken back in a cluster's life; beyond it a new CA is due."""
REMEMBERED_MAX: Final = 20_000
"""Checked grants kept, as many as there may be members."""
NAME_CHARS_MAX: Final = 64
_GRANT, _REVOKE = b"grant", b"revoke"
_FORMAT = 1
_REVOCATION_BYTES = 160


class Role(StrEnum):
    """What a key is for."""

    NODE = "node"
    """May write its own row."""
    OPERATOR = "operator"
    """May write policy."""
    CONTROLLER = "controller"
    """May advance and abort rollouts, and nothing else."""
    VIEWER = "viewer"
    """May look."""
    REGION = "region"
    """May say how full and how well the region of that name is."""


def sign_grant(ca: Signer, public_key: bytes, role: Role, name: str, until_s: int) -> Grant:
    """The CA's word that this key may be that, until then (seconds since the Unix epoch)."""
    return Grant(name, until_s, ca.sign(_GRANT, _granted(public_key, role, name, until_s)))


def _granted(public_key: bytes, role: Role, name: str, until_s: int) -> bytes:
    return canonical.pack((_FORMAT, public_key, role.value, name, until_s))


def read_grant(value: object, name: str | None = None) -> Grant | None:
    """A grant as cells carry it: nothing, or (end, signature) where the `name` is known, else (name, end, signature).

    Raises `MalformedError`.
    """
    if value is None:
        return None
    fields = canonical.array(value, "grant", length=3 if name is None else 2)
    if name is None:
        name, fields = canonical.text(fields[0], "grant's name", NAME_CHARS_MAX), fields[1:]
    return _grant(name, fields[0], fields[1])


@lru_cache(maxsize=8_192, typed=True)  # typed: True is no 1. A node shows the same one in each of its rows
def _grant(name: str, until_s: object, signature: object) -> Grant:
    return Grant(
        name,
        canonical.integer(until_s, "grant's end"),
        canonical.blob(signature, "grant's signature", length=SIGNATURE_BYTES),
    )


@dataclass(frozen=True, slots=True)
class Revocation:
    """The CA's word that a key is not to be listened to any more."""

    key: NodeId | AuthorId
    """The node's or author's id."""
    seq: int
    """Of an author: its last op that counts; 0 when none does."""
    op: bytes
    """That op's id; zeros when none counts."""
    data: bytes
    """The statement as it was signed."""

    @property
    def cell(self) -> CellId:
        return CellId(blake2b(self.data, digest_size=16, person=b"edgelattice revk").digest())

    @property
    def strictness(self) -> tuple[int, bytes]:
        """Of two about one key the lesser holds, on every node alike."""
        return self.seq, self.data


def sign_revocation(ca: Signer, key: NodeId | AuthorId, seq: int = 0, op: bytes = bytes(16)) -> Revocation:
    payload = canonical.pack((_FORMAT, key, seq, op))
    return Revocation(key, seq, op, payload + ca.sign(_REVOKE, payload))


class Grants:
    """What the CA has said, as far as one node knows. Grows only."""

    def __init__(self, ca_key: bytes | None, verifier: Verifier) -> None:
        """`ca_key` is the CA's 32-byte public key; None in a cluster without one."""
        self._ca_key = ca_key
        self._verifier = verifier
        self._checked: dict[tuple[bytes, Role], Grant] = {}
        self._revoked: dict[bytes, Revocation] = {}

    @property
    def enforced(self) -> bool:
        return self._ca_key is not None

    def check_node(self, key: NodeId, public_key: bytes, site: str, grant: Grant | None, now: Micros) -> None:
        """Raise `UntrustedError` unless this node may speak for that site now."""
        if self._ca_key is None:
            return
        if key in self._revoked:
            raise UntrustedError("key revoked", f"site {site}")
        if grant is None:
            raise UntrustedError("not granted", f"site {site}: its node has no certificate of this cluster's CA")
        if not self._holds(public_key, Role.NODE, site, grant):
            raise UntrustedError("bad grant", f"site {site}")
        if grant.until_s * SECOND < now:
            raise UntrustedError("grant expired", f"site {site}")

    def check_region(self, public_key: bytes, region: str, grant: Grant, now: Micros) -> None:
        """Raise `UntrustedError` unless this key may speak for that region now."""
        if self._ca_key is None or not self._holds(public_key, Role.REGION, region, grant):
            raise UntrustedError("bad grant", f"region {region}")
        if grant.until_s * SECOND < now:
            raise UntrustedError("grant expired", f"region {region}")

    def author_role(self, author: AuthorId, public_key: bytes, grant: Grant | None, date_ms: int) -> Role:
        """As what this author may write policy at that date: OPERATOR or CONTROLLER. Raises `UntrustedError`. That it
        is not revoked since is for its chain to know."""
        if self._ca_key is None or grant is None:
            raise UntrustedError("author without capability", f"{author.hex()} may not write policy here")
        roles = [Role.OPERATOR, Role.CONTROLLER]
        if (public_key, Role.CONTROLLER) in self._checked:
            roles.reverse()  # that a signature does not hold is not remembered
        role = next((role for role in roles if self._holds(public_key, role, grant.name, grant)), None)
        if role is None:
            raise UntrustedError("bad grant", f"author {author.hex()}")
        if grant.until_s * 1_000 < date_ms:
            raise UntrustedError("grant expired", f"author {author.hex()}, at the date of its op")
        return role

    def _holds(self, public_key: bytes, role: Role, name: str, grant: Grant) -> bool:
        checked = self._checked.get((public_key, role))
        if checked == grant and grant.name == name:
            return True
        assert self._ca_key is not None, "there is no CA whose word it could be"
        statement = _granted(public_key, role, name, grant.until_s)
        if not self._verifier.verify(self._ca_key, _GRANT, statement, grant.signature):
            return False
        if len(self._checked) >= REMEMBERED_MAX:
            del self._checked[next(iter(self._checked))]
        self._checked[public_key, role] = Grant(name, grant.until_s, grant.signature)
        return True

    def open_revocation(self, data: bytes) -> Revocation:
        """Parse and check one from the network. Raises `MalformedError` or `UntrustedError`; state is unchanged."""
        if not SIGNATURE_BYTES < len(data) <= _REVOCATION_BYTES:
            raise MalformedError("bad shape", f"a revocation of {len(data)} bytes")
        payload, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
        fields = canonical.array(canonical.unpack_canonical(payload, _REVOCATION_BYTES), "revocation", length=4)
        if canonical.integer(fields[0], "revocation format") != _FORMAT:
            raise MalformedError("wrong version", f"revocation format {fields[0]!r}, this node reads {_FORMAT}")
        found = Revocation(
            key=NodeId(canonical.blob(fields[1], "key", length=16)),
            seq=canonical.integer(fields[2], "seq"),
            op=canonical.blob(fields[3], "op", length=16),
            data=data,
        )
        if self._ca_key is None:
            raise UntrustedError("revocation without a CA", "this node knows no CA whose word it could be")
        if not self._verifier.verify(self._ca_key, _REVOKE, payload, signature):
            raise UntrustedError("bad revocation signature", found.key.hex())
        return found

    def take(self, revocation: Revocation) -> tuple[bool, Revocation | None]:
        """Join a checked revocation: whether it is news, and the one whose place it takes, if any.

        Raises `UntrustedError` when there is no room.
        """
        held = self._revoked.get(revocation.key)
        if held is not None and held.strictness <= revocation.strictness:
            return False, None
        if held is None and len(self._revoked) >= REVOKED_MAX:
            raise UntrustedError("too many revocations", f"{REVOKED_MAX} are held: a new CA is due")
        self._revoked[revocation.key] = revocation
        return True, held

    def is_revoked(self, key: bytes) -> bool:
        """Whether the CA has taken this node's or author's key back."""
        return key in self._revoked

    def revocation(self, key: bytes) -> Revocation | None:
        """The CA's word that takes this key back, if there is one."""
        return self._revoked.get(key)

    def revocations(self) -> list[Revocation]:
        """By key."""
        return [self._revoked[key] for key in sorted(self._revoked)]
