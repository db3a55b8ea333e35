"""The policy plane's cell: one signed change by one author, chained to the author's last.

An op says (author, seq, hash of the previous op, hybrid logical timestamp, namespace, Yrs update). The chain shows a
gap (a later op arrived first: it waits) and a fork (two ops in one place: proof that the author's key said two things).
The timestamp is a hybrid logical clock (Kulkarni et al., 2014): milliseconds in the upper bits, a counter in the lower
sixteen, always above everything the author had seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import NewType

from lattice import canonical
from lattice.errors import MalformedError, UntrustedError
from lattice.grants import read_grant
from lattice.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Grant, Signer, Verifier, author_id_of
from lattice.types import AuthorId, CellId
from lattice.yrs_gate import UPDATE_BYTES_MAX

OpId = NewType("OpId", bytes)
"""16 bytes: the hash of an op's signed payload. It is the op's cell id as well."""

GENESIS = OpId(bytes(16))
"""What the first op of an author names as its predecessor."""

NAMESPACE = "policy"
OP_BYTES_MAX = UPDATE_BYTES_MAX + 1_024
_PURPOSE = b"op"
_FORMAT = 3
"""2 had no grant."""
_COUNTER_BITS = 16


def hlc_at(now_ms: int, seen: int) -> int:
    """The timestamp of an event at `now_ms` by one's own clock, after everything `seen`."""
    return max(now_ms << _COUNTER_BITS, seen + 1)


def hlc_moment(hlc: int) -> tuple[int, int]:
    """(milliseconds since the Unix epoch, how many timestamps before it share them)."""
    return divmod(hlc, 1 << _COUNTER_BITS)


def hlc_ms(hlc: int) -> int:
    """The milliseconds since the Unix epoch in a timestamp."""
    return hlc >> _COUNTER_BITS


def client_id_of(author: AuthorId, seq: int) -> int:
    """The only Yrs client id that op `seq` of `author` may write under: fresh each time, 53 bits, never zero.

    Yrs forks silently for ever when two writers share a client id, and cannot tell who wrote what; so the id is made
    of what the signature covers.
    """
    digest = blake2b(author + seq.to_bytes(8, "big"), digest_size=8, person=b"edgelattice clnt").digest()
    return int.from_bytes(digest, "big") % (2**53 - 1) + 1


@dataclass(frozen=True, slots=True)
class Op:
    """One policy change, not yet judged by the apply pipeline."""

    public_key: bytes
    seq: int
    """1 for an author's first op."""
    previous: OpId
    hlc: int
    namespace: str
    update: bytes
    base: int = 1
    """The place of the op that its generation begins with: 1, or where its author's checkpoint begins."""
    seals: bool = False
    """The checkpoint ends here: from now on the author's earlier generations are void."""
    grant: Grant | None = None
    """The CA's word that its author may write policy, unless sites name the author themselves (`grants`)."""

    @property
    def author(self) -> AuthorId:
        return author_id_of(self.public_key)

    def payload(self) -> bytes:
        return canonical.pack(
            (
                _FORMAT,
                self.public_key,
                self.seq,
                self.previous,
                self.hlc,
                self.namespace,
                self.update,
                self.base,
                self.seals,
                None if self.grant is None else (self.grant.name, self.grant.until_s, self.grant.signature),
            )
        )


@dataclass(frozen=True, slots=True)
class SignedOp:
    """An op whose signature was checked, with the bytes it travels as."""

    op: Op
    id: OpId
    data: bytes

    @property
    def cell(self) -> CellId:
        return CellId(self.id)


def _op_id(payload: bytes) -> OpId:
    return OpId(blake2b(payload, digest_size=16, person=b"edgelattice op").digest())


def op_id_of(data: bytes) -> OpId:
    """The id of an op as it travels; nothing is checked."""
    return _op_id(data[:-SIGNATURE_BYTES])


def sign_op(op: Op, signer: Signer) -> SignedOp:
    """Sign as the op's author; the signer's key must be the op's."""
    assert signer.public_key == op.public_key, "an op is signed by its own author"
    payload = op.payload()
    return SignedOp(op, _op_id(payload), payload + signer.sign(_PURPOSE, payload))


def open_op(data: bytes, verifier: Verifier) -> SignedOp:
    """Parse and verify an op from the network: the first two steps of the apply pipeline.

    Raises `MalformedError` (bytes) or `UntrustedError` (signature); state is unchanged. The update inside is not
    looked at.
    """
    if len(data) <= SIGNATURE_BYTES:
        raise MalformedError("truncated", f"an op of {len(data)} bytes")
    payload, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    fields = canonical.array(canonical.unpack_canonical(payload, OP_BYTES_MAX), "op", length=10)
    if canonical.integer(fields[0], "op format") != _FORMAT:
        raise MalformedError("wrong version", f"op format {fields[0]!r}, this node reads {_FORMAT}")
    op = Op(
        public_key=canonical.blob(fields[1], "public key", length=PUBLIC_KEY_BYTES),
        seq=canonical.integer(fields[2], "seq", 1),
        previous=OpId(canonical.blob(fields[3], "previous", length=16)),
        hlc=canonical.integer(fields[4], "hlc"),
        namespace=canonical.text(fields[5], "namespace", 64),
        update=canonical.blob(fields[6], "update", length_max=UPDATE_BYTES_MAX),
        base=canonical.integer(fields[7], "base", 1),
        seals=canonical.boolean(fields[8], "seals"),
        grant=read_grant(fields[9]),
    )
    if op.base > op.seq or (op.seals and op.base == 1):
        raise MalformedError("bad shape", f"op {op.seq} of a generation that begins at {op.base}, sealed: {op.seals}")
    if not verifier.verify(op.public_key, _PURPOSE, payload, signature):
        raise UntrustedError("bad op signature", f"claims to be by {op.author.hex()}")
    return SignedOp(op, _op_id(payload), data)
