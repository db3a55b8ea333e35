"""Publishing a policy: from statements to signed ops, on the machine of whoever holds the author's key.

A node only ever sees the result. It can neither forge a version nor alter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import pycrdt

from lattice.identity import Signer, author_id_of
from lattice.policy_content import (
    BLOCK_BYTES_MAX,
    BLOCKS_MAX,
    MESSAGE_LENGTH_MAX,
    SUPERSEDES_MAX,
    Head,
    Manifest,
    block_write,
    check_policy_name,
    head_key,
    head_write,
    version_write,
)
from lattice.policy_ops import NAMESPACE, Op, SignedOp, client_id_of, hlc_at, sign_op
from lattice.policy_store import ChainHead
from lattice.types import VersionId
from lattice.yrs_gate import WRITES_MAX, Write

UPDATE_BYTES_TARGET = 800
"""An op with an update of this size, and a grant, travels in one datagram; a larger statement takes a stream."""
_WRITE_OVERHEAD_BYTES = 24


@dataclass(frozen=True, slots=True)
class Publication:
    """The ops of one publish, in chain order, and the version they establish."""

    version: VersionId
    ops: tuple[SignedOp, ...]


def compose(
    signer: Signer,
    chain: ChainHead,
    policy: str,
    blocks: Sequence[str],
    *,
    message: str,
    now_ms: int,
    parent: VersionId | None = None,
    supersedes: Iterable[str] = (),
    blocks_known: Set[str] = frozenset(),
) -> Publication:
    """Sign what makes `blocks` the version of `policy` that serves.

    `chain` is the author's last op as a node knows it; `supersedes` are the keys of the heads this one ends;
    `blocks_known` are hashes of statements that are there already, which are not sent again. Raises ValueError, naming
    the value and the limit, if the policy cannot be published. Pure: nothing is sent.
    """
    check_policy_name(policy)
    _check_limits(blocks, message)
    ended = tuple(sorted(supersedes))
    if len(ended) > SUPERSEDES_MAX:
        raise ValueError(f"{len(ended)} heads to supersede: one publish can end {SUPERSEDES_MAX}, end the others after")
    author = author_id_of(signer.public_key)
    statements = [block_write(text) for text in blocks]
    manifest = Manifest(
        policy=policy,
        blocks=tuple(bytes.fromhex(write.key) for write in statements),
        parent=parent or b"",
        author=author,
        message=message,
        published_ms=now_ms,
    )
    missing = {write.key: write for write in statements if write.key not in blocks_known}
    writes = [*missing.values(), version_write(manifest)]
    ops: list[SignedOp] = []
    seq, previous, hlc = chain.seq, chain.id, chain.hlc
    cut = batches(writes)
    for index, batch in enumerate(cut):
        seq, hlc = seq + 1, hlc_at(now_ms, hlc)
        if index == len(cut) - 1:
            head = Head(head_key(policy, author, seq), policy, manifest.version, hlc, ended)
            batch = [*batch, head_write(head)]
        update = encode_update(batch, client_id_of(author, seq))
        op = Op(signer.public_key, seq, previous, hlc, NAMESPACE, update, chain.base, grant=signer.grant)
        signed = sign_op(op, signer)
        ops.append(signed)
        previous = signed.id
    return Publication(manifest.version, tuple(ops))


def _check_limits(blocks: Sequence[str], message: str) -> None:
    if not 1 <= len(blocks) <= BLOCKS_MAX:
        raise ValueError(f"a policy of {len(blocks)} statements: 1 to {BLOCKS_MAX} can be published")
    for text in blocks:
        if len(text.encode()) > BLOCK_BYTES_MAX:
            first = text.strip().partition("\n")[0][:60]
            raise ValueError(
                f"the statement that begins {first!r} has {len(text.encode())} bytes, at most {BLOCK_BYTES_MAX} can be "
                "published as one: cut it in two"
            )
    if len(message) > MESSAGE_LENGTH_MAX or not (message.isprintable() or not message):
        raise ValueError(f"the message must be one printable line of at most {MESSAGE_LENGTH_MAX} characters")


def batches(writes: Sequence[Write]) -> list[list[Write]]:
    """Cut the writes, in order, into ops that fit a datagram; a single larger write stands alone."""
    batches: list[list[Write]] = [[]]
    room = UPDATE_BYTES_TARGET
    for write in writes:
        size = write_bytes(write)
        if batches[-1] and (size > room or len(batches[-1]) >= WRITES_MAX - 1):
            batches.append([])
            room = UPDATE_BYTES_TARGET
        batches[-1].append(write)
        room -= size
    return batches


def write_bytes(write: Write) -> int:
    """About what a write adds to an update."""
    return len(write.value) + len(write.key) + len(write.root) + _WRITE_OVERHEAD_BYTES


def encode_update(writes: Iterable[Write], client_id: int) -> bytes:
    """The Yrs update that sets each key, from an empty Doc, under `client_id`."""
    doc: pycrdt.Doc[pycrdt.Map[bytes]] = pycrdt.Doc(client_id=client_id)
    with doc.transaction():
        for write in writes:
            doc.get(write.root, type=pycrdt.Map)[write.key] = write.value
    return doc.get_update()
