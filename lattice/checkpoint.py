"""Making history shorter: an author states anew what of its own data still lives, and all before that is void.

Who may do so? Every author, of its own chain, and of no other. A chain is whole in itself (`policy_content`: a head
counts with what its own author's chain carries), so a checkpoint, honest or not, can take away nothing but its author's
own words, which that author could also have superseded. Hence there is nothing to vote on, no quorum to wait for in a
partition, and no rule that a receiver would have to trust its own, perhaps partial, state for.

What is stated anew keeps its head's name and timestamp, so no election changes. `PolicyStore.live` says what it is;
`policy_chains` says what a seal does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lattice.authoring import batches, encode_update, write_bytes
from lattice.identity import Signer, author_id_of
from lattice.policy_content import NOTHING, SUPERSEDES_MAX, Head, check_policy_name, head_key, head_write
from lattice.policy_ops import NAMESPACE, Op, SignedOp, client_id_of, hlc_at, sign_op
from lattice.policy_store import ChainHead, PolicyStore
from lattice.types import AuthorId
from lattice.yrs_gate import Write

SLACK_BYTES = 16 * 1024
"""A chain of less is never worth a checkpoint."""
DUE_PERCENT = 130
"""A chain is due when it weighs so much of what a checkpoint of it would. In ops, live data weigh some 1.4 times what
they do bare, so a chain at rest never weighs more than twice the bare data. (Redis rewrites its log at 200.)"""
_OP_BYTES = 180
"""What an op weighs beyond its update: key, links, timestamp, signature."""


def compose_checkpoint(signer: Signer, chain: ChainHead, live: Iterable[Write], now_ms: int) -> tuple[SignedOp, ...]:
    """Sign the ops of a new generation that holds `live` (`PolicyStore.live` of the same author) and nothing else.

    Pure: nothing is sent. They take force together, when the last is accepted.
    """
    author = author_id_of(signer.public_key)
    base, hlc, previous = chain.seq + 1, chain.hlc, chain.id
    assert chain.seq > 0, "whoever wrote nothing has nothing to shorten"
    ops: list[SignedOp] = []
    cut = batches(list(live))
    for index, batch in enumerate(cut):
        seq, hlc = base + index, hlc_at(now_ms, hlc)
        update = encode_update(batch, client_id_of(author, seq)) if batch else b""
        seals = index == len(cut) - 1
        op = Op(signer.public_key, seq, previous, hlc, NAMESPACE, update, base, seals, signer.grant)
        ops.append(sign_op(op, signer))
        previous = ops[-1].id
    return tuple(ops)


def is_due(store: PolicyStore, author: AuthorId) -> bool:
    """Whether an author's chain has grown to where a checkpoint would halve it.

    Whoever signs next as that author makes one along with it: nobody else can, and nobody else's data are in it.
    """
    weight = store.weight(author)
    return weight > SLACK_BYTES and weight * 100 > DUE_PERCENT * checkpoint_bytes(store.live(author))


def checkpoint_bytes(live: Iterable[Write]) -> int:
    """About what the ops of a checkpoint of these writes weigh."""
    return sum(_OP_BYTES + sum(map(write_bytes, batch)) for batch in batches(list(live)))


def compose_deletion(signer: Signer, chain: ChainHead, policy: str, supersedes: Iterable[str], now_ms: int) -> SignedOp:
    """Sign that a policy is no more: a head whose version is nothing, in place of those it names.

    Raises ValueError if the name is none, or too many heads stand.
    """
    check_policy_name(policy)
    ended = tuple(sorted(supersedes))
    if len(ended) > SUPERSEDES_MAX:
        raise ValueError(f"{len(ended)} heads to supersede: one op can end {SUPERSEDES_MAX}")
    author = author_id_of(signer.public_key)
    seq, hlc = chain.seq + 1, hlc_at(now_ms, chain.hlc)
    head = Head(head_key(policy, author, seq), policy, NOTHING, hlc, ended)
    update = encode_update([head_write(head)], client_id_of(author, seq))
    op = Op(signer.public_key, seq, chain.id, hlc, NAMESPACE, update, chain.base, grant=signer.grant)
    return sign_op(op, signer)


def chain_after(ops: Iterable[SignedOp], chain: ChainHead) -> ChainHead:
    """Where the chain stands once these are accepted."""
    for signed in ops:
        chain = replace(chain, seq=signed.op.seq, id=signed.id, hlc=max(chain.hlc, signed.op.hlc), base=signed.op.base)
    return chain
