"""History made shorter: what lives stays, what is gone stays gone, and nobody but the author decides over its chain."""

from __future__ import annotations

import os
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import policy_store
from lattice.authoring import compose
from lattice.checkpoint import SLACK_BYTES, chain_after, compose_checkpoint, compose_deletion, is_due
from lattice.errors import MalformedError, OpError
from lattice.identity import Ed25519Verifier, Signer, author_id_of
from lattice.policy_content import head_key, parse_head
from lattice.policy_ops import GENESIS, NAMESPACE, Op, SignedOp, client_id_of, hlc_at, hlc_ms, open_op, sign_op
from lattice.policy_store import ChainHead, PolicyStore
from lattice.prng import Prng
from lattice.types import AuthorId
from lattice.yrs_gate import ROOTS
from tests.lattice.cluster import CLUSTER
from tests.lattice.strategies import AUTHOR_IDS, AUTHORS

NOW_MS = 1_800_000_000_000
VERIFIER = Ed25519Verifier(CLUSTER)


def new_store() -> PolicyStore:
    return PolicyStore(AUTHOR_IDS, VERIFIER)


def state_of(store: PolicyStore) -> tuple[object, ...]:
    chains = [store.chain(author) for author in AUTHOR_IDS]
    return (
        store.policies(),
        store.content_hash(),
        store.forked(),
        sorted(store.ops()),
        [(chain.seq, chain.id, chain.base) for chain in chains],
        [store.live(author) for author in AUTHOR_IDS],
    )


class Desk:
    """Authors at work on one store; every op they ever signed is kept."""

    def __init__(self, store: PolicyStore | None = None) -> None:
        self.store = store or new_store()
        self.signed: list[SignedOp] = []
        self.now_ms = NOW_MS

    def _submit(self, *ops: SignedOp) -> None:
        self.signed += ops
        for op in ops:
            self.store.admit(op.data)
        self.now_ms += 1

    def publish(self, author: int, *blocks: str, policy: str = "p", seen: bool = True) -> None:
        publication = compose(
            AUTHORS[author],
            self.store.chain(AUTHOR_IDS[author]),
            policy,
            blocks,
            message="",
            now_ms=self.now_ms,
            supersedes=self.store.context(policy) if seen else (),
            blocks_known=self.store.blocks_known(AUTHOR_IDS[author]),
        )
        self._submit(*publication.ops)

    def delete(self, author: int, policy: str = "p") -> None:
        chain = self.store.chain(AUTHOR_IDS[author])
        self._submit(compose_deletion(AUTHORS[author], chain, policy, self.store.context(policy), self.now_ms))

    def checkpoint(self, author: int) -> tuple[SignedOp, ...]:
        who = AUTHOR_IDS[author]
        ops = compose_checkpoint(AUTHORS[author], self.store.chain(who), self.store.live(who), self.now_ms)
        self._submit(*ops)
        return ops

    def texts(self) -> dict[str, str]:
        return {policy.policy: "".join(policy.blocks) for policy in self.store.policies()}


# --- the law: whatever is done, in whatever order it arrives

actions = st.lists(
    st.tuples(
        st.sampled_from(("publish", "publish", "blind", "delete", "checkpoint")),
        st.integers(0, 2),
        st.sampled_from(("p", "q")),
        st.sampled_from(("a\n", "b\n", "c\n")),
    ),
    max_size=12,
)


def _act(desk: Desk, steps: list[tuple[str, int, str, str]]) -> None:
    for what, author, policy, text in steps:
        match what:
            case "publish" | "blind":
                desk.publish(author, text, "shared\n", policy=policy, seen=what == "publish")
            case "delete":
                desk.delete(author, policy)
            case "checkpoint" if desk.store.chain(AUTHOR_IDS[author]).seq:
                desk.checkpoint(author)


@given(actions, st.data())
def test_ops_and_checkpoints_in_any_order_and_number_give_the_same_state(
    steps: list[tuple[str, int, str, str]], data: st.DataObject
) -> None:
    desk = Desk()
    _act(desk, steps)
    late = new_store()
    for op in data.draw(st.permutations(desk.signed + desk.signed[:3])):
        try:
            late.admit(op.data)
        except OpError as error:
            # Whether it is refused depends on the order.
            assert error.reason in {"below the checkpoint", "follows a refused op"}  # noqa: PT017
    assert state_of(late) == state_of(desk.store)
    assert late.waiting() == 0
    for root in ROOTS:
        assert policy_store._read(late._doc, root) == late._contents[root], "the Doc, and what is kept beside it"
    fresh = new_store()
    for data_of in desk.store.ops():
        fresh.admit(data_of)
    assert state_of(fresh) == state_of(desk.store), "what is held is enough for a newcomer"


@given(actions, st.integers(0, 2))
def test_a_checkpoint_changes_nothing_that_anybody_sees(steps: list[tuple[str, int, str, str]], author: int) -> None:
    desk = Desk()
    _act(desk, steps)
    if not desk.store.chain(AUTHOR_IDS[author]).seq:
        return
    before = desk.store.policies()
    live = desk.store.live(AUTHOR_IDS[author])
    desk.checkpoint(author)
    assert desk.store.policies() == before
    assert desk.store.live(AUTHOR_IDS[author]) == live
    assert all(open_op(op, VERIFIER).op.base > 1 for op in desk.store.ops() if _author(op) == AUTHOR_IDS[author])


def _author(data: bytes) -> AuthorId:
    return open_op(data, VERIFIER).op.author


# --- deletion, and that nothing comes back


def test_a_deleted_policy_is_gone_and_stays_gone_after_every_checkpoint() -> None:
    desk = Desk()
    desk.publish(0, "a\n")
    desk.publish(1, "b\n")
    desk.publish(0, "other\n", policy="q")
    old = list(desk.signed)
    desk.delete(0)
    assert desk.texts() == {"q": "other\n"}
    desk.checkpoint(0)
    assert desk.texts() == {"q": "other\n"}, "the deletion still holds down what another author said"
    desk.checkpoint(1)
    assert desk.store.live(AUTHOR_IDS[1]) == ()
    desk.checkpoint(0)
    assert [write.root for write in desk.store.live(AUTHOR_IDS[0])] == ["blocks", "versions", "heads"], "q, and no more"
    for op in old:
        with pytest.raises(OpError, match="below the checkpoint"):
            desk.store.admit(op.data)
    assert desk.texts() == {"q": "other\n"}


def test_a_replica_that_was_away_for_ever_brings_nothing_back_and_catches_up() -> None:
    """Row 14 of the matrix: there is no tombstone whose life a partition could outlast."""
    desk, away = Desk(), new_store()
    for number in range(30):
        desk.publish(number % 2, f"version {number}\n", policy=("p", "q")[number % 3 == 0])
    for op in desk.signed:
        away.admit(op.data)
    desk.delete(0, "q")
    desk.publish(1, "final\n")
    desk.checkpoint(0)
    desk.checkpoint(1)
    stale = away.ops()
    for data in desk.store.ops():
        away.admit(data)
    assert state_of(away) == state_of(desk.store)
    before = state_of(desk.store)
    for op_bytes in stale:
        with pytest.raises(OpError, match="below the checkpoint"):
            desk.store.admit(op_bytes)
    assert state_of(desk.store) == before
    assert desk.texts() == {"p": "final\n"}


def test_a_stale_writer_can_not_bring_back_what_its_key_gave_up() -> None:
    """Row 18: an old process of the same author goes on with the chain it remembers."""
    desk = Desk()
    desk.publish(0, "old\n")
    chain = desk.store.chain(AUTHOR_IDS[0])
    stale = compose(AUTHORS[0], chain, "p", ["old\n", "older\n"], message="", now_ms=NOW_MS + 10**6)
    desk.publish(0, "new\n")
    desk.checkpoint(0)
    for op in stale.ops:
        with pytest.raises(OpError, match="below the checkpoint"):
            desk.store.admit(op.data)
    assert desk.texts() == {"p": "new\n"}
    assert desk.store.forked() == ()


def test_a_bad_author_can_drop_nothing_of_another() -> None:
    """It seals an empty generation: its own words are gone, what others built with the same statements stands."""
    desk = Desk()
    desk.publish(0, "shared\n", "mine\n")
    desk.publish(1, "shared\n", "theirs\n", policy="q")
    bad = compose_checkpoint(AUTHORS[0], desk.store.chain(AUTHOR_IDS[0]), (), desk.now_ms)
    for op in bad:
        desk.store.admit(op.data)
    assert desk.texts() == {"q": "shared\ntheirs\n"}
    foreign = sign_op(
        Op(AUTHORS[2].public_key, 9, bad[-1].id, bad[-1].op.hlc + 1, NAMESPACE, b"", 9, seals=True), AUTHORS[2]
    )
    desk.store.admit(foreign.data)
    assert desk.texts() == {"q": "shared\ntheirs\n"}, "an author's seal reaches its own chain only"


def test_a_head_in_another_authors_name_can_not_be_stated_anew() -> None:
    desk = Desk()
    desk.publish(0, "a\n")
    desk.publish(1, "b\n", policy="q")
    theirs = desk.store.live(AUTHOR_IDS[1])
    for op in compose_checkpoint(AUTHORS[0], desk.store.chain(AUTHOR_IDS[0]), theirs, desk.now_ms)[:1]:
        with pytest.raises(OpError, match="bad content"):
            desk.store.admit(op.data)


# --- the shape of generations


def test_a_checkpoint_takes_force_whole_or_not_at_all() -> None:
    desk = Desk()
    desk.publish(0, *(f"{number} {'x' * 300}\n" for number in range(12)))
    before = desk.texts(), desk.store.content_hash()
    who = AUTHOR_IDS[0]
    ops = compose_checkpoint(AUTHORS[0], desk.store.chain(who), desk.store.live(who), desk.now_ms)
    assert len(ops) > 3
    for op in ops[:-1]:
        desk.store.admit(op.data)
        assert (desk.texts(), desk.store.content_hash()) == before
        assert desk.store.take_void() == []
    desk.store.admit(ops[-1].data)
    assert (desk.texts(), desk.store.content_hash()) == before
    assert len(desk.store.take_void()) == len(desk.signed)
    assert desk.store.ops() == [op.data for op in ops]
    desk.publish(0, "after\n")
    assert desk.texts() == {"p": "after\n"}


def test_two_checkpoints_made_at_once_by_one_key_end_in_one_of_them_everywhere() -> None:
    desk, other = Desk(), Desk()
    desk.publish(0, "a\n")
    for op in desk.signed:
        other.store.admit(op.data)
    other.now_ms += 5
    ours, theirs = desk.checkpoint(0), other.checkpoint(0)
    for op in theirs:
        try:
            desk.store.admit(op.data)
        except OpError as error:  # it depends on the hashes which side refuses
            assert error.reason in {"below the checkpoint", "follows a refused op"}  # noqa: PT017
    for op in ours:
        try:
            other.store.admit(op.data)
        except OpError as error:
            assert error.reason in {"below the checkpoint", "follows a refused op"}  # noqa: PT017
    assert state_of(desk.store) == state_of(other.store)
    assert desk.texts() == {"p": "a\n"}
    assert desk.store.forked() == ()


def test_a_checkpoint_ends_a_fork() -> None:
    """The author says itself what it means: from there on it counts again."""
    desk = Desk()
    desk.publish(0, "before\n")
    chain = desk.store.chain(AUTHOR_IDS[0])
    for text in ("one\n", "two\n"):
        for op in compose(AUTHORS[0], chain, "p", [text], message="", now_ms=desk.now_ms).ops:
            desk.store.admit(op.data)
    assert desk.store.forked() == (AUTHOR_IDS[0],)
    assert desk.texts() == {"p": "before\n"}
    desk.checkpoint(0)
    assert desk.store.forked() == ()
    assert desk.texts() == {"p": "before\n"}
    desk.publish(0, "after\n")
    assert desk.texts() == {"p": "after\n"}


def _op(signer: Signer = AUTHORS[0], **changed: object) -> bytes:
    fields: dict[str, object] = {
        "public_key": signer.public_key,
        "seq": 1,
        "previous": GENESIS,
        "hlc": hlc_at(NOW_MS, 0),
        "namespace": NAMESPACE,
        "update": b"",
    }
    return sign_op(Op(**(fields | changed)), signer).data  # type: ignore[arg-type]  # the fields of Op, by name


@pytest.mark.parametrize(
    "changed",
    [
        {"seq": 1, "base": 2},
        {"seq": 1, "base": 0},
        {"seq": 1, "base": 1, "seals": True},
        {"seq": 3, "base": 1, "seals": True},
    ],
)
def test_what_can_be_no_generation_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(MalformedError, match="bad shape"):
        new_store().admit(_op(AUTHORS[0], **changed))


def test_only_a_seal_may_be_empty_and_an_anchor_names_what_was_before() -> None:
    desk = Desk()
    desk.publish(0, "a\n")
    tip = desk.signed[-1]
    hlc = tip.op.hlc + 1
    with pytest.raises(OpError):
        desk.store.admit(_op(seq=9, base=9, previous=tip.id, hlc=hlc))
    with pytest.raises(OpError, match="broken chain"):
        desk.store.admit(_op(seq=9, base=9, seals=True, hlc=hlc))
    with pytest.raises(OpError, match="broken chain"):
        desk.store.admit(_op(seq=tip.op.seq + 2, previous=tip.id, hlc=hlc))


def test_what_waits_below_a_checkpoint_waits_no_longer() -> None:
    desk = Desk()
    desk.publish(0, "a\n")
    chain = desk.store.chain(AUTHOR_IDS[0])
    lost = compose(AUTHORS[0], chain, "p", ["lost\n"], message="", now_ms=NOW_MS + 7).ops
    after = compose(AUTHORS[0], chain_after(lost, chain), "p", ["heir\n"], message="", now_ms=NOW_MS + 8).ops
    for op in after:
        desk.store.admit(op.data)
    assert desk.store.waiting() == len(after)
    desk.checkpoint(0)
    assert desk.store.waiting() == 0


def test_a_full_store_still_takes_the_checkpoint_that_empties_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_store, "OPS_MAX", 10)
    desk = Desk()
    for number in range(10):
        desk.publish(0, f"{number}\n")
    with pytest.raises(OpError, match="too many ops"):
        desk.publish(0, "one more\n")
    desk.signed.pop()
    desk.checkpoint(0)
    desk.publish(0, "one more\n")
    assert desk.texts() == {"p": "one more\n"}


# --- dates


def test_an_op_from_the_future_is_refused_unless_our_own_clock_was_never_set() -> None:
    """Row 65: else one op of a wrong clock would outrank everybody's until its date."""
    ahead_ms = policy_store.AHEAD_MS_MAX + 1
    data = compose(AUTHORS[0], ChainHead(0, GENESIS, 0), "p", ["a\n"], message="", now_ms=NOW_MS + ahead_ms).ops[0].data
    store = new_store()
    with pytest.raises(OpError, match="from the future: 5 minutes ahead"):
        store.admit(data, now_ms=NOW_MS)
    assert store.admit(data, now_ms=NOW_MS + 1)
    assert new_store().admit(data, now_ms=5_000)
    assert new_store().admit(data)


def test_a_clock_that_is_ahead_drags_the_others_by_no_more_than_the_bound() -> None:
    """What one author dates ahead, the next must outdo: by one tick each, never by another five minutes."""
    store, ahead_ms = new_store(), policy_store.AHEAD_MS_MAX
    for number in range(300):
        author = number % 2
        chain = store.chain(AUTHOR_IDS[author])
        dated_ms = NOW_MS + (ahead_ms if author == 0 else 0)
        (op,) = compose(AUTHORS[author], chain, "p", [f"{number}\n"], message="", now_ms=dated_ms).ops
        assert store.admit(op.data, now_ms=NOW_MS)
    assert hlc_ms(store.chain(AUTHOR_IDS[1]).hlc) - NOW_MS == ahead_ms


# --- how much is kept


class KeyedVerifier:
    """Signatures as keyed hashes: what is measured here is the store, not Ed25519."""

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        return signature == KeyedSigner(public_key).sign(purpose, payload)


class KeyedSigner:
    def __init__(self, key: bytes) -> None:
        self.public_key = key
        self.grant = None

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        return blake2b(purpose + payload, key=self.public_key, digest_size=64).digest()


OVERWRITES = int(os.environ.get("OVERWRITES", "1000"))
"""1,000,000 is the nightly figure."""


@pytest.mark.parametrize("overwrites", [OVERWRITES])
def test_after_many_overwrites_and_deletes_the_store_holds_no_more_than_twice_what_lives(overwrites: int) -> None:
    signer, prng = KeyedSigner(bytes(32)), Prng.seeded("overwrites")
    who = author_id_of(signer.public_key)
    store = PolicyStore([who], KeyedVerifier())
    statements = [[f"route r{number} of p{policy} {'x' * 160} 0\n" for number in range(5)] for policy in range(10)]
    now_ms, checkpoints, heaviest, heaviest_between, live = NOW_MS, 0, 0.0, 0.0, 0
    sampled = max(1, overwrites // 20_000)
    for number in range(overwrites):
        policy = prng.below(10)
        chain, now_ms = store.chain(who), now_ms + 1
        name = f"p{policy}"
        if prng.below(20) == 0:
            ops: tuple[SignedOp, ...] = (compose_deletion(signer, chain, name, store.context(name), now_ms),)
        else:
            statements[policy][prng.below(5)] = f"route r of {name} {'x' * 160} {number}\n"
            ops = compose(
                signer,
                chain,
                name,
                statements[policy],
                message="",
                now_ms=now_ms,
                supersedes=store.context(name),
                blocks_known=store.blocks_known(who),
            ).ops
        for op in ops:
            store.admit(op.data)
        if is_due(store, who):
            checkpoints += 1
            live = sum(len(write.value) + len(write.key) for write in store.live(who))
            for op in compose_checkpoint(signer, store.chain(who), store.live(who), now_ms):
                store.admit(op.data)
                heaviest = max(heaviest, store.weight(who) / max(live, SLACK_BYTES // 2))
            assert store.take_void()
        if number % sampled == 0:
            live = sum(len(write.value) + len(write.key) for write in store.live(who))
            heaviest_between = max(heaviest_between, store.weight(who) / max(live, SLACK_BYTES // 2))
    for op in compose_checkpoint(signer, store.chain(who), store.live(who), now_ms + 1):
        store.admit(op.data)
    live = sum(len(write.value) + len(write.key) for write in store.live(who))
    print(
        f"{overwrites} overwrites: {store.weight(who)} bytes kept for {live} live; at most {heaviest_between:.2f} "
        f"times that between checkpoints, {heaviest:.2f} while one comes in; {checkpoints} checkpoints"
    )
    assert store.weight(who) <= 2 * live
    assert heaviest_between <= 2, "of bare keys and values: in ops these weigh some 1.4 times that, 1.3 times is due"
    assert heaviest <= 4.5
    assert len(store._doc.get_update()) <= 2 * live
    assert len(store.policies()) >= 5


def test_the_key_of_a_restated_head_is_the_one_it_had() -> None:
    desk = Desk()
    desk.publish(0, "a\n")
    key = desk.store.heads("p")[0].key
    assert key == head_key("p", AUTHOR_IDS[0], desk.signed[-1].op.seq)
    desk.checkpoint(0)
    (head,) = desk.store.heads("p")
    assert head.key == key
    assert parse_head(head.key, head.packed()) == head
    assert client_id_of(AUTHOR_IDS[0], 1) != client_id_of(AUTHOR_IDS[0], 2)
