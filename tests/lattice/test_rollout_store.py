"""Rollouts in the apply pipeline: who may say what, that order does not matter, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.authoring import compose, compose_entry, compose_rollout, encode_update
from lattice.checkpoint import compose_checkpoint
from lattice.errors import OpError, UntrustedError
from lattice.grants import Grants, Role, sign_grant
from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of
from lattice.policy_ops import NAMESPACE, Op, SignedOp, client_id_of, hlc_at, sign_op
from lattice.policy_store import PolicyStore
from lattice.rollout_book import RolloutBook
from lattice.rollouts import ROOT, Rollout, Start
from lattice.types import VersionId
from lattice.yrs_gate import Write
from tests.lattice.cluster import CLUSTER, GRANTED_UNTIL_S, signer_of

CA = signer_of("ca")
NOW_MS = 1_800_000_000_000
VERIFIER = Ed25519Verifier(CLUSTER)


def granted(name: str, role: Role) -> Ed25519Signer:
    return signer_of(name, sign_grant(CA, signer_of(name).public_key, role, name, GRANTED_UNTIL_S))


EVA, MAX, ROBOT = granted("eva", Role.OPERATOR), granted("max", Role.OPERATOR), granted("robot", Role.CONTROLLER)


class Desk:
    """Eva and a controller at one store; every op they ever signed is kept."""

    def __init__(self) -> None:
        self.store = new_store()
        self.signed: list[SignedOp] = []
        self.now_ms = NOW_MS

    def submit(self, *ops: SignedOp) -> None:
        self.signed += ops
        for op in ops:
            self.store.admit(op.data)
        self.now_ms += 1

    def publish(self, *blocks: str, policy: str = "p", author: Ed25519Signer = EVA) -> VersionId:
        chain = self.store.chain(author_id_of(author.public_key))
        context = self.store.context(policy)
        found = compose(author, chain, policy, blocks, message="", now_ms=self.now_ms, supersedes=context)
        self.submit(*found.ops)
        return found.version

    def start(self, *blocks: str, stages: Sequence[int] = (1, 50, 100)) -> Start:
        head = self.store.head("p")
        assert head is not None
        publication, start = compose_rollout(
            EVA, self.store.chain(author_id_of(EVA.public_key)), "p", blocks, base=head.version, stages=stages,
            first=(), sites=["ams", "fra"], message="new", now_ms=self.now_ms,
        )  # fmt: skip
        self.submit(*publication.ops)
        return start

    def say(self, signer: Ed25519Signer, start: Start, stage: int | None) -> None:
        chain = self.store.chain(author_id_of(signer.public_key))
        self.submit(compose_entry(signer, chain, start, stage, "why", self.now_ms))

    def checkpoint(self, signer: Ed25519Signer) -> None:
        who = author_id_of(signer.public_key)
        self.submit(*compose_checkpoint(signer, self.store.chain(who), self.store.live(who), self.now_ms))

    def only(self) -> Rollout:
        (rollout,) = self.store.rollouts("p")
        return rollout


def new_store() -> PolicyStore:
    return PolicyStore((), VERIFIER, Grants(CA.public_key, VERIFIER))


def forged(signer: Ed25519Signer, store: PolicyStore, *writes: Write) -> SignedOp:
    """An op that says whatever its author likes."""
    chain = store.chain(author_id_of(signer.public_key))
    seq = chain.seq + 1
    update = encode_update(writes, client_id_of(author_id_of(signer.public_key), seq))
    return sign_op(
        Op(signer.public_key, seq, chain.id, hlc_at(NOW_MS, chain.hlc), NAMESPACE, update, grant=signer.grant), signer
    )


def test_a_rollout_brings_its_version_and_no_head() -> None:
    desk = Desk()
    desk.publish("old\n")
    before = desk.store.policies()
    start = desk.start("new\n")
    assert desk.store.policies() == before, "the head is what it was"
    assert desk.only() == Rollout(start)
    assert desk.store.text_of(start.version) == "new\n"
    assert start.includes(min(start.first), 0)
    assert desk.store.rollout_named_by(desk.signed[-1].id) == start.id
    desk.say(ROBOT, start, 1)
    assert desk.only().stage == 1
    desk.say(EVA, start, None)
    assert desk.only().abort is not None
    assert desk.store.rollout_named_by(desk.signed[-1].id) == start.id
    desk.publish("old\n", "and more\n")
    assert desk.store.rollouts("p") == (), "a plain publish ends it"


def test_a_rollout_is_of_its_policy_alone() -> None:
    desk = Desk()
    desk.publish("old\n", policy="q")
    desk.publish("old\n")
    start = desk.start("new\n")
    assert [rollout.start for rollout in desk.store.rollouts("p")] == [start]
    assert desk.store.rollouts("q") == ()


def test_a_controller_may_advance_and_abort_and_nothing_else() -> None:
    desk = Desk()
    desk.publish("old\n")
    start = desk.start("new\n")
    held = desk.store.content_hash()
    theirs = compose(
        ROBOT, desk.store.chain(author_id_of(ROBOT.public_key)), "p", ["mine\n"], message="", now_ms=desk.now_ms
    ).ops  # fmt: skip
    begun = Write(ROOT, start.id.hex(), start.packed())
    for op in (*theirs, forged(ROBOT, desk.store, begun)):
        with pytest.raises(OpError, match="controller exceeds its role"):
            desk.store.admit(op.data)
    assert desk.store.content_hash() == held
    with pytest.raises(UntrustedError, match="no more"):
        desk.store.check_operator(ROBOT.public_key, ROBOT.grant, NOW_MS)
    desk.store.check_operator(EVA.public_key, EVA.grant, NOW_MS)


def test_a_viewers_key_says_nothing_of_a_rollout() -> None:
    desk = Desk()
    desk.publish("old\n")
    start = desk.start("new\n")
    viewer = granted("robot", Role.VIEWER)
    with pytest.raises(UntrustedError, match="bad grant"):
        desk.store.admit(compose_entry(viewer, desk.store.chain(author_id_of(b"")), start, 1, "", NOW_MS).data)


def test_a_rollout_counts_once_its_version_is_here_in_full() -> None:
    desk = Desk()
    desk.publish("old\n")
    head = desk.store.head("p")
    assert head is not None
    who = author_id_of(EVA.public_key)
    another_policys, anothers = desk.publish("q\n", policy="q"), desk.publish("max\n", policy="q", author=MAX)
    for version in (VersionId(bytes(15) + b"x"), another_policys, anothers):
        hlc = hlc_at(NOW_MS, desk.store.chain(who).hlc)
        start = Start("p", version, head.version, (100,), (), who, hlc)
        desk.submit(forged(EVA, desk.store, Write(ROOT, start.id.hex(), start.packed())))
        assert desk.store.rollouts("p") == ()


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_ops_arrive_cannot_matter(order: Random) -> None:
    desk = Desk()
    desk.publish("old\n")
    first = desk.start("new\n")
    desk.say(ROBOT, first, 2)
    desk.say(EVA, first, 1)
    second = desk.start("newer\n")
    desk.say(ROBOT, second, None)
    shuffled = list(desk.signed)
    order.shuffle(shuffled)
    other = new_store()
    for op in shuffled:
        other.admit(op.data)
    assert other.rollouts("p") == desk.store.rollouts("p")
    assert [(each.stage, each.abort is None) for each in other.rollouts("p")] == [(2, True), (0, False)]
    assert other.content_hash() == desk.store.content_hash()


def test_a_checkpoint_keeps_what_a_rollout_needs_until_a_publish_has_ended_it() -> None:
    desk = Desk()
    desk.publish("old\n")
    desk.start("forgotten\n")
    desk.publish("old too\n")
    start = desk.start("new\n")
    desk.say(ROBOT, start, 1)
    desk.say(EVA, start, None)
    before = desk.only()
    desk.checkpoint(EVA)
    desk.checkpoint(ROBOT)
    assert desk.only() == before
    assert desk.store.text_of(start.version) == "new\n"
    assert all("forgotten" not in write.value.decode(errors="replace") for write in live(desk.store, EVA))
    fresh = new_store()
    for data in desk.store.ops():
        fresh.admit(data)
    assert fresh.rollouts("p") == (before,)
    assert fresh.content_hash() == desk.store.content_hash()
    desk.publish("newer\n")
    desk.say(ROBOT, start, 2)
    assert {write.root for write in live(desk.store, EVA)} == {"blocks", "heads", "versions"}
    assert live(desk.store, ROBOT) == (), "not what was said of it afterwards either"


def test_rollouts_stand_in_the_order_in_which_they_began_not_in_which_they_came() -> None:
    book, who = RolloutBook(), author_id_of(EVA.public_key)
    old, new = VersionId(bytes(16)), VersionId(bytes(15) + b"x")
    starts = [Start("p", new, old, (100,), (), who, hlc) for hlc in (3, 1, 2)]
    for start in starts:
        book.take(Write(ROOT, start.id.hex(), start.packed()))
    assert [each.start.hlc for each in book.of("p", 0, lambda _: True)] == [1, 2, 3]


def live(store: PolicyStore, signer: Ed25519Signer) -> tuple[Write, ...]:
    return store.live(author_id_of(signer.public_key))
