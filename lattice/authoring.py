"""Publishing a policy: from statements to signed ops, on the machine of whoever holds the author's key.

A node only ever sees the result. It can neither forge a version nor alter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace

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
from lattice.rollouts import ROOT as ROLLOUTS
from lattice.rollouts import Entry, Start, fault_of, first_sites
from lattice.types import AuthorId, VersionId
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
    manifest, writes = _version(author, policy, blocks, message, now_ms, parent, blocks_known)

    def head(seq: int, hlc: int) -> Write:
        return head_write(Head(head_key(policy, author, seq), policy, manifest.version, hlc, ended))

    return Publication(manifest.version, _sign(signer, chain, writes, head, now_ms))


def compose_rollout(
    signer: Signer,
    chain: ChainHead,
    policy: str,
    blocks: Sequence[str],
    *,
    base: VersionId,
    stages: Sequence[int],
    first: Iterable[str],
    sites: Iterable[str],
    message: str,
    now_ms: int,
    blocks_known: Set[str] = frozenset(),
) -> tuple[Publication, Start]:
    """As `compose`, of a version that comes to the sites by `stages`, in the place of `base`.

    `first` are sites that begin; if the first stage would hold none of the `sites` that there are, one of them does.
    """
    check_policy_name(policy)
    _check_limits(blocks, message)
    author = author_id_of(signer.public_key)
    manifest, writes = _version(author, policy, blocks, message, now_ms, base, blocks_known)
    known, named = sorted(sites), tuple(sorted(set(first)))
    begun: list[Start] = []

    def start(_: int, hlc: int) -> Write:
        bare = Start(policy, manifest.version, base, tuple(stages), named, author, hlc)
        begun.append(replace(bare, first=first_sites(bare, known)))
        return Write(ROLLOUTS, begun[0].id.hex(), begun[0].packed())

    fault = fault_of(Start(policy, manifest.version, base, tuple(stages), named, author, 0))
    if fault is not None:
        raise ValueError(fault)
    ops = _sign(signer, chain, writes, start, now_ms)
    return Publication(manifest.version, ops), begun[0]


def compose_entry(
    signer: Signer, chain: ChainHead, start: Start, stage: int | None, message: str, now_ms: int
) -> SignedOp:
    """Sign that a rollout goes on to a stage, or, if that is None, back. Raises ValueError for a message too long."""
    _check_message(message)
    author = author_id_of(signer.public_key)

    def entry(seq: int, hlc: int) -> Write:
        said = Entry(start.id, stage, author, seq, hlc, start.policy, start.hlc, message)
        return Write(ROLLOUTS, said.key, said.packed())

    return _sign(signer, chain, [], entry, now_ms)[0]


def _version(
    author: AuthorId,
    policy: str,
    blocks: Sequence[str],
    message: str,
    now_ms: int,
    parent: VersionId | None,
    blocks_known: Set[str],
) -> tuple[Manifest, list[Write]]:
    """A version, and the writes that bring it."""
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
    return manifest, [*missing.values(), version_write(manifest)]


def _sign(
    signer: Signer, chain: ChainHead, writes: Sequence[Write], last: Callable[[int, int], Write], now_ms: int
) -> tuple[SignedOp, ...]:
    """The ops that make these writes, and in the last of them what `last` makes of that op's number and timestamp."""
    author = author_id_of(signer.public_key)
    ops: list[SignedOp] = []
    seq, previous, hlc = chain.seq, chain.id, chain.hlc
    cut = batches(writes)
    for index, batch in enumerate(cut):
        seq, hlc = seq + 1, hlc_at(now_ms, hlc)
        if index == len(cut) - 1:
            batch = [*batch, last(seq, hlc)]
        update = encode_update(batch, client_id_of(author, seq))
        op = Op(signer.public_key, seq, previous, hlc, NAMESPACE, update, chain.base, grant=signer.grant)
        signed = sign_op(op, signer)
        ops.append(signed)
        previous = signed.id
    return tuple(ops)


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
    _check_message(message)


def _check_message(message: str) -> None:
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
