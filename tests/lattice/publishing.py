"""What the operator of the tests signs on top of a store."""

from __future__ import annotations

from lattice.authoring import compose
from lattice.checkpoint import compose_checkpoint
from lattice.identity import author_id_of
from lattice.policy_ops import SignedOp
from lattice.policy_store import PolicyStore
from tests.lattice.cluster import EPOCH, OPERATOR

WHO = author_id_of(OPERATOR.public_key)


def compose_at(store: PolicyStore, number: int, now_ms: int = EPOCH // 1_000) -> tuple[SignedOp, ...]:
    """The ops of one publish."""
    return compose(
        OPERATOR,
        store.chain(WHO),
        "default",
        [f"version {number} after {store.chain(WHO).seq}\n", "always the same\n"],
        message="",
        now_ms=now_ms,
        supersedes=store.context("default"),
        blocks_known=store.blocks_known(WHO),
    ).ops


def compose_checkpoint_at(store: PolicyStore, number: int, now_ms: int = EPOCH // 1_000) -> tuple[SignedOp, ...]:
    """The ops of a checkpoint."""
    return compose_checkpoint(OPERATOR, store.chain(WHO), store.live(WHO), now_ms)
