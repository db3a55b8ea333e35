"""What operators hand to a node, for all: policy as text or as signed ops, keys taken back, caches purged (edge).

Each is judged by the node's own engine first: what it refuses is refused to whoever handed it in, with the reason, and
goes nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from lattice.authoring import compose
from lattice.checkpoint import compose_checkpoint, is_due
from lattice.driver import Answer, Driver
from lattice.errors import LatticeError, OpError
from lattice.events import OpsSubmitted, PurgesSubmitted, Rejected, RevocationsSubmitted
from lattice.identity import Ed25519Signer, author_id_of
from lattice.policy_content import NOTHING
from lattice.policy_ops import op_id_of
from lattice.types import short
from router.compiling import compile_text
from router.control.target import Published, RefusalError, head_at
from router.decision.program import Program

log = logging.getLogger("edgelattice")


class Submissions:
    """Use on the trio thread that runs the driver."""

    def __init__(self, driver: Driver, cluster: str, author_key: bytes | None, now_ms: Callable[[], int]) -> None:
        """`author_key` is the private key with which this node signs policy itself; None: it signs none."""
        self._driver = driver
        self._cluster = cluster
        self._author_key = author_key
        self._now_ms = now_ms
        self._one_by_one = trio.Lock()

    async def revocations(self, revocations: tuple[bytes, ...]) -> None:
        """Hand on the CA's word on keys that it takes back. Raises `LatticeError` for what is none."""
        answer = await self._hand_in(RevocationsSubmitted(revocations))
        if not answer.durable:
            raise self._not_on_disk("the revocation")

    async def purges(self, purges: tuple[bytes, ...]) -> None:
        """Hand on what an operator wants dropped from caches. Raises `LatticeError` for what no author signed."""
        await self._hand_in(PurgesSubmitted(purges))

    async def _hand_in(self, change: RevocationsSubmitted | PurgesSubmitted) -> Answer:
        answer = await self._driver.call(change)
        refused = [note for note in answer.notifications if isinstance(note, Rejected)]
        if refused:
            raise LatticeError("refused", refused[0].reason)
        return answer

    def _not_on_disk(self, what: str) -> RefusalError:
        """It was taken, and may yet be lost here."""
        why = self._driver.trouble() or "its disk did not take it at first"
        return RefusalError(
            503,
            f"{what} was taken and goes to the other nodes, but this node may lose it if it stops now: {why}",
            "`edgelattice status` warns of it until it is written",
        )

    async def publish(self, policy: str, text: str, message: str) -> Published:
        """Check a text, sign it with the node's own author key, and hand it in: see `ControlTarget.publish_text`."""
        if self._author_key is None:
            raise RefusalError(
                403,
                "this node holds no author key, so it cannot sign a policy",
                "publish signed ops with `edgelattice policy publish FILE --key KEY`, or set policy.author_key",
            )
        signer = Ed25519Signer(self._author_key, self._cluster)
        program = await trio.to_thread.run_sync(partial(compile_text, text, policy))
        async with self._one_by_one:  # two at once would read one chain, and fork it
            return await self._sign_and_submit(signer, policy, program, message)

    async def _sign_and_submit(self, signer: Ed25519Signer, policy: str, program: Program, message: str) -> Published:
        author = author_id_of(signer.public_key)
        head = head_at(self._driver.policy, self._cluster, policy, author, self._driver.view().standing(policy))
        try:
            publication = compose(
                signer,
                head.chain,
                policy,
                program.policy.blocks,
                message=message,
                now_ms=self._now_ms(),
                parent=head.parent,
                supersedes=head.supersedes,
                blocks_known=head.blocks_known,
            )
        except ValueError as error:
            raise RefusalError(422, str(error)) from None
        published = await self.ops(policy, tuple(op.data for op in publication.ops))
        await self._shorten(signer, policy)
        return published

    async def _shorten(self, signer: Ed25519Signer, policy: str) -> None:
        """Make the checkpoint that is due of our own author's chain; one that is refused now is due again next time."""
        store, author = self._driver.policy, author_id_of(signer.public_key)
        if is_due(store, author):
            ops = compose_checkpoint(signer, store.chain(author), store.live(author), self._now_ms())
            try:
                await self.ops(policy, tuple(op.data for op in ops))
            except (LatticeError, RefusalError) as error:
                log.warning("the checkpoint of our author's chain is not confirmed, and is due again: %s", error)

    async def ops(self, policy: str, ops: tuple[bytes, ...]) -> Published:
        """Hand in what was signed elsewhere: see `ControlTarget.submit_ops`."""
        store = self._driver.policy
        for name, text in store.preview(ops):  # what no node could use, none should carry
            await trio.to_thread.run_sync(compile_text, text, name)
        trouble = self._driver.trouble()
        if trouble is not None:
            raise RefusalError(503, f"this node takes no policy now: {trouble}", "or publish at another node")
        answer = await self._driver.call(OpsSubmitted(ops))
        refused = [note for note in answer.notifications if isinstance(note, Rejected)]
        if refused:
            raise OpError("refused", refused[0].reason)
        if not answer.durable:
            raise self._not_on_disk("the policy")
        if any(op_id_of(op) not in store for op in ops):
            raise RefusalError(
                409,
                "these ops follow others of their author that this node has not seen; it keeps them until it has",
                "publish at a node that has them, or wait until this one does",
            )
        elected = next((seen for seen in self._driver.view().policies if seen.policy == policy), None)
        if store.seals(op_id_of(ops[-1])):  # a checkpoint, which changes no policy
            return Published(policy, elected.version if elected else NOTHING, len(ops))
        rollout = store.rollout_named_by(op_id_of(ops[-1]))
        if rollout is not None:
            begun = next((each for each in self._driver.view().rollouts if each.id == rollout), None)
            if begun is None:
                raise RefusalError(409, f"rollout {short(rollout)} is over, or not here", "see `policy rollout status`")
            return Published(policy, begun.start.version, len(ops))
        version = store.version_set_by(op_id_of(ops[-1]))
        if version is None:
            raise RefusalError(422, "the last op sets no version of a policy", "send all ops of a publish, in order")
        if (elected.version if elected else NOTHING) != version:
            raise RefusalError(
                409,
                f"version {short(version)} is kept, but {short(elected.version) if elected else 'none'} serves",
                "the author's key may have forked, or a later publish won: see `edgelattice status`",
            )
        return Published(policy, version, len(ops))
