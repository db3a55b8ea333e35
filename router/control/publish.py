"""Publishing from the operator's machine: ask a node where the author's chain stands, sign here, hand the ops over."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from lattice.authoring import compose
from lattice.identity import Ed25519Signer, author_id_of, public_key_of
from lattice.policy_content import head_key
from router.control.author_chain import AuthorChain
from router.control.body import PublishedBody, head_of
from router.control.client import ControlClient, ControlError
from router.policy.parser import blocks


def publish(
    client: ControlClient,
    private_key: bytes,
    policy: str,
    text: str,
    message: str,
    now_ms: int,
    memory: AuthorChain | None = None,
) -> tuple[PublishedBody, str]:
    """Make `text` the version of `policy` that serves; what the node accepted, and the cluster's name.

    The private key never leaves this process. Without a `memory` the node's word on the chain is taken. Raises
    `PolicyError`, ValueError (a limit, a damaged memory), OSError (the memory), or `ControlError`. A refused publish
    has changed nothing; after one without an answer, publishing again is safe and finishes it.
    """
    with memory.alone() if memory else nullcontext():
        return _publish(client, private_key, policy, text, message, now_ms, memory)


def _publish(
    client: ControlClient,
    private_key: bytes,
    policy: str,
    text: str,
    message: str,
    now_ms: int,
    memory: AuthorChain | None,
) -> tuple[PublishedBody, str]:
    statements = blocks(text)
    author = author_id_of(public_key_of(private_key))
    try:
        head = head_of(client.head(policy, author))
    except ValueError as error:
        raise ControlError(f"{client.url} answered with a malformed id: {error}") from None
    last = memory.last(head.cluster) if memory else None
    resent: list[bytes] = []
    if last is not None and last.seq > head.chain.seq:
        resent = last.ops
        chain = replace(last.chain, hlc=max(last.hlc, head.chain.hlc))
        head = replace(head, chain=chain, supersedes=(*head.supersedes, last.head))
    publication = compose(
        Ed25519Signer(private_key, head.cluster),
        head.chain,
        policy,
        statements,
        message=message,
        now_ms=now_ms,
        parent=head.parent,
        supersedes=head.supersedes,
        blocks_known=head.blocks_known,
    )
    if memory is not None:
        memory.remember(head.cluster, publication, head_key(policy, author, publication.ops[-1].op.seq))
    try:
        published = client.submit_ops(policy, [*resent, *(op.data for op in publication.ops)])
    except ControlError as error:
        if memory is not None and 400 <= error.status < 500 and error.status != 409:
            memory.put_back(head.cluster, last)  # refused, for certain; 409 means that the node keeps them for later
        raise
    return published, head.cluster
