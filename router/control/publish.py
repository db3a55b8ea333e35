"""Changing policy from the operator's machine: ask a node where the author's chain stands, sign here, hand over.

The private key never leaves this process, and a node's word is taken only for what a node could spoil anyway by keeping
silent: where the chain stands, and which heads there are. What a checkpoint restates is read from ops whose signatures
are checked here, so a node cannot have us sign a policy that we never published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lattice.authoring import compose, compose_entry, compose_rollout
from lattice.checkpoint import checkpoint_bytes, compose_checkpoint, compose_deletion
from lattice.errors import LatticeError
from lattice.identity import Ed25519Signer, Ed25519Verifier, Grant, author_id_of, public_key_of
from lattice.policy_content import head_key
from lattice.policy_ops import SignedOp, open_op
from lattice.policy_store import PolicyStore
from lattice.rollouts import Start
from lattice.types import VersionId
from router.control.answers import head_of
from router.control.author_chain import AuthorChain
from router.control.body import DEFAULT_POLICY, PublishedBody
from router.control.client import ControlClient, ControlError
from router.control.target import PolicyHead
from router.policy.parser import blocks


class UnconfirmedError(ControlError):
    """Signed and sent, and perhaps taken: no answer came, or the node keeps it and can not promise anything yet.

    It stays in the author's memory, and goes along with whatever is published next.
    """


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a checkpoint did, or would do."""

    ops_before: int
    bytes_before: int
    ops: int
    bytes: int
    policies: tuple[str, ...]
    """Of which the author's versions live on, by name."""


def publish(
    client: ControlClient,
    private_key: bytes,
    policy: str,
    text: str,
    message: str,
    now_ms: int,
    memory: AuthorChain | None = None,
    grant: Grant | None = None,
) -> tuple[PublishedBody, str]:
    """Make `text` the version of `policy` that serves; what the node accepted, and the cluster's name.

    Without a `memory` the node's word on the chain is taken. Raises `PolicyError`, ValueError (a limit, a damaged
    memory), OSError (the memory), or `ControlError`. A refused publish has changed nothing; after `UnconfirmedError`
    publishing again is safe and finishes it.
    """
    desk = Desk(client, private_key, memory, grant)
    with desk.alone():
        return desk.publish(policy, text, message, now_ms)


def resolve(
    client: ControlClient,
    private_key: bytes,
    policy: str,
    keep: VersionId,
    text: str | None,
    message: str,
    now_ms: int,
    memory: AuthorChain | None = None,
    grant: Grant | None = None,
) -> tuple[PublishedBody, str]:
    """End a policy's concurrent versions: `text`, which is that of the version to `keep`, supersedes them all.

    Without a text the policy is deleted. Otherwise as `publish`.
    """
    desk = Desk(client, private_key, memory, grant)
    with desk.alone():
        return desk.publish(policy, text, message, now_ms, keep) if text is not None else desk.delete(policy, now_ms)


def compact(
    client: ControlClient,
    private_key: bytes,
    now_ms: int,
    memory: AuthorChain | None = None,
    grant: Grant | None = None,
    *,
    if_due: bool = False,
    dry_run: bool = False,
) -> Compacted | None:
    """Make the author's chain as short as what lives of it; None when there is nothing to do, or it is not due.

    Raises as `publish`, and `ControlError` when the node's ops are not what it says, or not all.
    """
    desk = Desk(client, private_key, memory, grant)
    with desk.alone():
        return desk.compact(now_ms, if_due=if_due, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How a version is to come to the sites."""

    stages: tuple[int, ...]
    """Percent of all sites, rising to 100."""
    first: tuple[str, ...]
    """Who begins; if nobody is named and the first stage would hold no site, one does."""
    sites: tuple[str, ...]
    """Those that there are."""
    message: str


class Desk:
    """One author at one node."""

    def __init__(
        self, client: ControlClient, private_key: bytes, memory: AuthorChain | None, grant: Grant | None
    ) -> None:
        """`grant` is the CA's word for the key; None where the sites' own list of authors has it."""
        self._client = client
        self._grant = grant
        self._private_key = private_key
        self._author = author_id_of(public_key_of(private_key))
        self._memory = memory

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes that use this key and memory waiting."""
        if self._memory is None:
            yield
        else:
            with self._memory.alone():
                yield

    def publish(
        self, policy: str, text: str, message: str, now_ms: int, parent: VersionId | None = None
    ) -> tuple[PublishedBody, str]:
        statements = blocks(text)
        head, resent = self._start(policy)
        publication = compose(
            self._signer(head),
            head.chain,
            policy,
            statements,
            message=message,
            now_ms=now_ms,
            parent=parent or head.parent,
            supersedes=head.supersedes,
            blocks_known=head.blocks_known,
        )
        return self._submit(policy, head, resent, publication.ops, sets_head=True), head.cluster

    def roll_out(self, policy: str, text: str, plan: RolloutPlan, now_ms: int) -> tuple[Start, str]:
        """Begin to bring a text to the sites, by stages; the rollout, and the cluster's name."""
        statements = blocks(text)
        head, resent = self._start(policy)
        if head.parent is None:
            raise ValueError(f"there is no policy {policy} yet that sites could go back to: publish it")
        publication, start = compose_rollout(
            self._signer(head),
            head.chain,
            policy,
            statements,
            base=head.parent,
            stages=plan.stages,
            first=plan.first,
            sites=plan.sites,
            message=plan.message,
            now_ms=now_ms,
            blocks_known=head.blocks_known,
        )
        self._submit(policy, head, resent, publication.ops, sets_head=False)
        return start, head.cluster

    def say(self, start: Start, stage: int | None, message: str, now_ms: int) -> str:
        """Sign that a rollout goes on to that stage, or (None) back; the cluster's name."""
        head, resent = self._start(start.policy)
        op = compose_entry(self._signer(head), head.chain, start, stage, message, now_ms)
        self._submit(start.policy, head, resent, (op,), sets_head=False, door=self._client.submit_rollout_ops)
        return head.cluster

    def delete(self, policy: str, now_ms: int) -> tuple[PublishedBody, str]:
        head, resent = self._start(policy)
        op = compose_deletion(self._signer(head), head.chain, policy, head.supersedes, now_ms)
        return self._submit(policy, head, resent, (op,), sets_head=True), head.cluster

    def compact(self, now_ms: int, *, if_due: bool, dry_run: bool) -> Compacted | None:
        head, resent = self._start(DEFAULT_POLICY)
        if if_due and not head.checkpoint_due:
            return None
        store = self._checked_store(head, resent)
        chain, live = store.chain(self._author), store.live(self._author)
        held, weight = store.held(self._author), store.weight(self._author)
        if checkpoint_bytes(live) >= weight:
            return None
        chain = replace(chain, hlc=max(chain.hlc, head.chain.hlc))
        ops = compose_checkpoint(self._signer(head), chain, live, now_ms)
        if not dry_run:
            self._submit(DEFAULT_POLICY, head, resent, ops, sets_head=False)
        policies = tuple(sorted({write.key.split("/")[0] for write in live if write.root == "heads"}))
        return Compacted(held, weight, len(ops), sum(len(op.data) for op in ops), policies)

    # --- steps

    def _start(self, policy: str) -> tuple[PolicyHead, list[bytes]]:
        """Where the chain stands, by the node's word or our memory, whichever is further; and what the node lacks."""
        try:
            head = head_of(self._client.head(policy, self._author))
        except ValueError as error:
            raise ControlError(f"{self._client.url} answered with a malformed id: {error}") from None
        last = self._memory.last(head.cluster) if self._memory else None
        if last is None or last.seq <= head.chain.seq:
            return head, []
        chain = replace(last.chain, hlc=max(last.hlc, head.chain.hlc))
        supersedes = (*head.supersedes, last.head) if last.head.startswith(f"{policy}/") else head.supersedes
        return replace(head, chain=chain, supersedes=supersedes), last.ops

    def _submit(
        self,
        policy: str,
        head: PolicyHead,
        resent: list[bytes],
        ops: Sequence[SignedOp],
        *,
        sets_head: bool,
        door: Callable[[str, list[bytes]], PublishedBody] | None = None,
    ) -> PublishedBody:
        """Write down, then send; only a definite refusal is forgotten again."""
        memory = self._memory
        before = memory.last(head.cluster) if memory else None
        if memory is not None:
            last = head_key(policy, self._author, ops[-1].op.seq) if sets_head else ""
            memory.remember(head.cluster, ops, last, resent)
        try:
            return (door or self._client.submit_ops)(policy, [*resent, *(op.data for op in ops)])
        except ControlError as error:
            if not 400 <= error.status < 500 or error.status == 409:  # then the node keeps them for later
                raise UnconfirmedError(str(error), error.status, error.body) from None
            if memory is not None:
                memory.put_back(head.cluster, before)
            raise

    def _checked_store(self, head: PolicyHead, resent: list[bytes]) -> PolicyStore:
        """The node's ops, each checked, in a store of our own that ends where our chain ends."""
        ops = [*self._client.policy_ops(), *resent]
        verifier = Ed25519Verifier(head.cluster)
        try:
            store = PolicyStore({open_op(op, verifier).op.author for op in ops}, verifier)
            for op in store.in_chain_order(ops):
                store.admit(op)
        except LatticeError as error:
            raise ControlError(f"{self._client.url} answered with an op that does not hold: {error}") from None
        if store.chain(self._author).id != head.chain.id:
            raise ControlError(f"{self._client.url} did not send all ops of this author; ask another node")
        return store

    def _signer(self, head: PolicyHead) -> Ed25519Signer:
        return Ed25519Signer(self._private_key, head.cluster, self._grant)
