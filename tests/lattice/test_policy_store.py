"""The apply pipeline, step by step, and that the order in which ops arrive cannot matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pycrdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import policy_chains, policy_content, policy_store
from lattice.authoring import Publication, compose, encode_update
from lattice.errors import LatticeError, MalformedError, OpError, UntrustedError
from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of
from lattice.policy_content import Head, Manifest, block_write, head_key, head_write, version_write
from lattice.policy_ops import GENESIS, NAMESPACE, OP_BYTES_MAX, Op, OpId, SignedOp, client_id_of, hlc_at, sign_op
from lattice.policy_store import ChainHead, PolicyStore
from lattice.types import AuthorId, VersionId
from lattice.yrs_gate import ROOTS, UPDATE_BYTES_MAX, Write
from tests.lattice.cluster import CLUSTER, OPERATOR, signer_of
from tests.lattice.strategies import AUTHOR_IDS, histories
from tests.lattice.yrs_bytes import HAZARDS

SECOND_OPERATOR = signer_of("second operator")
WHO = author_id_of(OPERATOR.public_key)
NOW_MS = 1_800_000_000_000
VERIFIER = Ed25519Verifier(CLUSTER)
FIRST = ChainHead(0, GENESIS, 0)

State: TypeAlias = "tuple[object, ...]"


def new_store(*authors: AuthorId) -> PolicyStore:
    return PolicyStore(authors or [WHO, author_id_of(SECOND_OPERATOR.public_key)], VERIFIER)


def state_of(store: PolicyStore) -> State:
    return (store.policies(), store.content_hash(), store.forked(), store.waiting(), store.chain(WHO))


def filled() -> PolicyStore:
    store = new_store()
    publish(store, OPERATOR, "route a {}\n")
    return store


def publish(
    store: PolicyStore,
    signer: Ed25519Signer,
    *blocks: str,
    policy: str = "default",
    now_ms: int = NOW_MS,
    seen: Iterable[str] | None = None,
) -> Publication:
    """Compose on what the store knows, and admit."""
    publication = compose(
        signer,
        store.chain(author_id_of(signer.public_key)),
        policy,
        blocks,
        message="",
        now_ms=now_ms,
        supersedes=store.context(policy) if seen is None else seen,
        blocks_known=store.blocks_known(author_id_of(signer.public_key)),
    )
    admit(store, (op.data for op in publication.ops))
    return publication


def admit(store: PolicyStore, ops: Iterable[bytes]) -> None:
    for op in ops:
        store.admit(op)


def op_of(update: bytes, signer: Ed25519Signer = OPERATOR, chain: ChainHead = FIRST, **changed: Any) -> SignedOp:
    fields: dict[str, Any] = {
        "public_key": signer.public_key,
        "seq": chain.seq + 1,
        "previous": chain.id,
        "hlc": hlc_at(NOW_MS, chain.hlc),
        "namespace": NAMESPACE,
        "update": update,
    }
    return sign_op(Op(**(fields | changed)), signer)


def op_writing(*writes: Write, signer: Ed25519Signer = OPERATOR, **changed: Any) -> SignedOp:
    author = author_id_of(signer.public_key)
    return op_of(encode_update(writes, client_id_of(author, changed.get("seq", 1))), signer, **changed)


# --- order cannot matter


@given(histories(), st.data())
def test_ops_in_any_order_and_number_give_the_same_policies(ops: list[bytes], data: st.DataObject) -> None:
    one, two = new_store(*AUTHOR_IDS), new_store(*AUTHOR_IDS)
    admit(one, ops)
    admit(two, data.draw(st.permutations(ops + ops[:3])))
    assert one.policies() == two.policies()
    assert one.content_hash() == two.content_hash()
    assert one.forked() == two.forked()
    assert [one.chain(author) for author in AUTHOR_IDS] == [two.chain(author) for author in AUTHOR_IDS]
    assert one.waiting() == two.waiting() == 0
    for root in ROOTS:
        assert policy_store._read(two._doc, root) == two._contents[root], "the Doc, and what is kept beside it"


@given(histories(forks=False), st.data())
def test_what_arrived_in_part_serves_only_what_is_complete(ops: list[bytes], data: st.DataObject) -> None:
    store = new_store(*AUTHOR_IDS)
    for op in data.draw(st.permutations(ops)):
        store.admit(op)
        for policy in store.policies():
            assert policy.blocks, "a version serves with all of its statements or not at all"
            assert policy.version not in policy.rivals


@given(histories(), st.data())
def test_equal_hashes_mean_equal_policies(ops: list[bytes], data: st.DataObject) -> None:
    one, two = new_store(*AUTHOR_IDS), new_store(*AUTHOR_IDS)
    admit(one, ops)
    admit(two, ops[: data.draw(st.integers(min_value=0, max_value=len(ops)))])
    if one.content_hash() == two.content_hash():
        assert one.policies() == two.policies()


# --- the steps of the pipeline


def no_such_signature() -> bytes:
    good = op_writing(block_write("x"))
    return good.data[:-1] + bytes([good.data[-1] ^ 1])


def signed_in_another_cluster() -> bytes:
    elsewhere = Ed25519Signer(b"\x07" * 32, "elsewhere")
    return op_of(encode_update([block_write("x")], 1), elsewhere).data


def by_a_stranger() -> bytes:
    return op_writing(block_write("x"), signer=signer_of("stranger")).data


def a_manifest(author: AuthorId = WHO) -> Manifest:
    return Manifest("default", (bytes.fromhex(block_write("x").key),), b"", author, "", NOW_MS)


def a_head(seq: int = 1, author: AuthorId = WHO, hlc: int = hlc_at(NOW_MS, 0)) -> Write:
    return head_write(Head(head_key("default", author, seq), "default", a_manifest().version, hlc, ()))


REFUSED: dict[str, tuple[type[LatticeError], str, Callable[[], bytes]]] = {
    "empty": (MalformedError, "truncated", lambda: b""),
    "signature alone": (MalformedError, "truncated", lambda: bytes(64)),
    "random": (MalformedError, "not msgpack", lambda: b"\xc1" * 200),
    "too large": (MalformedError, "oversized", lambda: bytes(OP_BYTES_MAX + 65)),
    "update too large": (MalformedError, "bad shape", lambda: op_of(bytes(UPDATE_BYTES_MAX + 1)).data),
    "seq 0": (MalformedError, "bad shape", lambda: op_of(b"", seq=0).data),
    "signature altered": (UntrustedError, "bad op signature", no_such_signature),
    "another cluster's": (UntrustedError, "bad op signature", signed_in_another_cluster),
    "author without capability": (UntrustedError, "author without capability", by_a_stranger),
    "another namespace": (OpError, "unknown namespace", lambda: op_writing(block_write("x"), namespace="sites").data),
    "seq 2 without predecessor": (OpError, "broken chain", lambda: op_writing(block_write("x"), seq=2).data),
    "wrong client id": (OpError, "foreign client id", lambda: op_of(encode_update([block_write("x")], 1)).data),
    "block under another hash": (OpError, "bad content", lambda: op_writing(Write("blocks", "00" * 16, b"x")).data),
    "block not UTF-8": (OpError, "bad content", lambda: op_writing(hashed("blocks", b"\xff")).data),
    "manifest of junk": (OpError, "bad content", lambda: op_writing(hashed("versions", b"junk")).data),
    "manifest by another": (
        OpError,
        "bad content",
        lambda: op_writing(version_write(a_manifest(author_id_of(SECOND_OPERATOR.public_key)))).data,
    ),
    "head of another op": (OpError, "bad content", lambda: op_writing(a_head(seq=2)).data),
    "head of another author": (
        OpError,
        "bad content",
        lambda: op_writing(a_head(author=author_id_of(SECOND_OPERATOR.public_key))).data,
    ),
    "head of another time": (OpError, "bad content", lambda: op_writing(a_head(hlc=5)).data),
    "head of junk": (
        OpError,
        "bad content",
        lambda: op_writing(Write("heads", head_key("default", WHO, 1), b"x")).data,
    ),
    "head of a bad name": (OpError, "bad content", lambda: op_writing(Write("heads", f"A b/{WHO.hex()}/1", b"x")).data),
}


def hashed(root: str, value: bytes) -> Write:
    return Write(root, policy_content._hash(value).hex(), value)


@pytest.mark.parametrize(("error", "reason", "make"), REFUSED.values(), ids=REFUSED)
def test_each_step_refuses_with_its_reason_and_changes_nothing(
    error: type[LatticeError], reason: str, make: Callable[[], bytes]
) -> None:
    store = filled()
    before = state_of(store)
    with pytest.raises(error) as refused:
        store.admit(make())
    assert refused.value.reason == reason
    assert state_of(store) == before


@pytest.mark.parametrize("name", [name for name, (_, update) in HAZARDS.items() if len(update) <= UPDATE_BYTES_MAX])
def test_no_hazard_reaches_pycrdt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, update = HAZARDS[name]
    store = filled()
    before = state_of(store)
    made: list[str] = []
    monkeypatch.setattr(pycrdt, "Doc", lambda **_: made.append(name))
    monkeypatch.setattr(policy_store, "client_id_of", lambda author, seq: client)
    with pytest.raises(OpError):
        store.admit(op_of(update).data)
    assert made == []
    assert state_of(store) == before


def test_the_check_above_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the walk taken away, the bytes do reach the library."""
    store = filled()
    made: list[str] = []
    monkeypatch.setattr(pycrdt, "Doc", lambda **_: made.append("made"))
    monkeypatch.setattr(policy_store, "walk", lambda update, client_id: ())
    with pytest.raises(OpError, match="does not apply"):
        store.admit(op_of(HAZARDS["text for a value"][1]).data)
    assert made == ["made"]


def test_without_the_capability_step_a_stranger_would_write() -> None:
    store = new_store(author_id_of(signer_of("stranger").public_key))
    assert store.admit(by_a_stranger()), "nothing but the list of authors keeps this op out"


def test_without_the_content_step_a_head_could_speak_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_store, "check_write", lambda *_: None)
    assert new_store().admit(REFUSED["head of another author"][2]())


def test_without_the_signature_step_anybody_could_write() -> None:
    class Gullible:
        def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
            return True

    assert PolicyStore([WHO], Gullible()).admit(no_such_signature())


def test_the_trial_refuses_what_reads_otherwise_than_it_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled()
    before = state_of(store)
    good = op_writing(block_write("x"), seq=2, previous=store.chain(WHO).id, hlc=store.chain(WHO).hlc + 1)
    monkeypatch.setattr(policy_store, "_read", lambda doc, name: {})
    with pytest.raises(OpError, match="something else"):
        store.admit(good.data)
    monkeypatch.undo()
    assert state_of(store) == before
    assert [op.id for op in store.admit(good.data)] == [good.id]


def test_a_panic_of_the_library_is_an_op_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As pyo3's PanicException: not an Exception."""

    def panics(update: bytes) -> None:
        raise Panic

    store = filled()
    real = pycrdt.Doc

    def panicking_doc(**options: Any) -> object:
        doc = real(**options)
        return type("Doc", (), {"apply_update": staticmethod(panics), "get": doc.get})()

    good = op_writing(block_write("x"), seq=2, previous=store.chain(WHO).id, hlc=store.chain(WHO).hlc + 1)
    monkeypatch.setattr(pycrdt, "Doc", panicking_doc)
    with pytest.raises(OpError, match="Panic"):
        store.admit(good.data)


# --- chain: gaps and forks


def test_a_gap_waits_and_closes_in_whatever_order() -> None:
    source, store = new_store(), new_store()
    ops = [op for text in ("a\n", "b\n", "c\n") for op in publish(source, OPERATOR, text).ops]
    for op in reversed(ops[1:]):
        assert store.admit(op.data) == []
    assert store.waiting() == len(ops) - 1
    assert store.policies() == ()
    assert store.admit(ops[-1].data) == [], "twice is once"
    assert store.waiting() == len(ops) - 1
    assert [op.id for op in store.admit(ops[0].data)] == [op.id for op in ops]
    assert store.waiting() == 0
    assert state_of(store) == state_of(source)


def chain_of(signer: Ed25519Signer, count: int) -> list[SignedOp]:
    source = new_store(author_id_of(signer.public_key))
    return [op for number in range(count) for op in publish(source, signer, f"{number}\n").ops]


def test_so_many_of_one_author_may_wait_and_those_nearest_to_the_gap_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_chains, "WAITING_SHARE_MAX", 2)
    store, ops = new_store(), chain_of(OPERATOR, 5)
    store.admit(ops[4].data)
    store.admit(ops[2].data)
    store.admit(ops[1].data)  # takes the place of the farthest
    with pytest.raises(OpError, match="too many ops wait"):
        store.admit(ops[3].data)
    assert store.waiting() == 2
    assert len(store.admit(ops[0].data)) == 3
    assert len(store.admit(ops[3].data)) == 1
    assert len(store.admit(ops[4].data)) == 1


def test_one_authors_gaps_keep_nobody_elses_ops_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_chains, "WAITING_MAX", 4)
    store = new_store()
    greedy, modest = chain_of(OPERATOR, 8), chain_of(SECOND_OPERATOR, 3)
    for op in greedy[1:5]:
        store.admit(op.data)
    store.admit(modest[1].data)
    store.admit(modest[2].data)
    assert store.waiting() == 4
    assert len(store.admit(modest[0].data)) == 3
    assert len(store.admit(greedy[0].data)) == 3, "two of its four gave way"


def test_what_follows_a_refused_op_is_refused_as_well_whenever_it_comes() -> None:
    """Else it would wait for ever, in a place that an honest op needs."""
    store = new_store()
    bad = op_of(b"bad")
    heirs = [op_of(b"x", chain=ChainHead(1, bad.id, bad.op.hlc))]
    for _ in range(3):
        heirs.append(op_of(b"x", chain=ChainHead(heirs[-1].op.seq, heirs[-1].id, heirs[-1].op.hlc)))
    store.admit(heirs[0].data)
    with pytest.raises(OpError):
        store.admit(bad.data)
    for heir in heirs:
        with pytest.raises(OpError, match="follows a refused op"):
            store.admit(heir.data)
    assert store.waiting() == 0
    for number in range(2 * policy_chains.REFUSED_MAX):
        with pytest.raises(OpError):
            store.admit(op_of(b"bad %d" % number).data)
    assert len(store._chains._refused) == policy_chains.REFUSED_MAX


def test_a_head_that_names_another_policys_version_counts_for_nothing() -> None:
    """Each write is what its op may say, and yet the pair is not: the manifest speaks of another policy."""
    store = filled()
    before = store.policies()
    publish(store, OPERATOR, "for the other\n", policy="other")
    (other,) = [policy.version for policy in store.policies() if policy.policy == "other"]
    chain = store.chain(WHO)
    hlc = hlc_at(NOW_MS + 1, chain.hlc)
    crossed = Head(head_key("default", WHO, chain.seq + 1), "default", other, hlc, store.context("default"))
    update = encode_update([head_write(crossed)], client_id_of(WHO, chain.seq + 1))
    assert store.admit(op_of(update, chain=chain, hlc=hlc).data)
    assert [policy for policy in store.policies() if policy.policy == "default"] == list(before)
    publish(store, OPERATOR, "and the chain goes on\n")
    assert "".join(store.policies()[0].blocks) == "and the chain goes on\n"


def test_the_heirs_of_a_bad_op_go_with_it_however_many() -> None:
    store = new_store()
    chain = ChainHead(0, GENESIS, 0)
    ops: list[SignedOp] = []
    for _ in range(policy_chains.WAITING_SHARE_MAX):
        update = b"bad" if ops else encode_update([block_write("x")], client_id_of(WHO, 1))
        ops.append(op_of(update, chain=chain))
        chain = ChainHead(ops[-1].op.seq, ops[-1].id, ops[-1].op.hlc)
    for op in ops[1:]:
        store.admit(op.data)
    assert store.waiting() == len(ops) - 1
    assert [op.id for op in store.admit(ops[0].data)] == [ops[0].id]
    assert store.waiting() == 0


def test_what_waits_for_an_op_that_is_refused_waits_no_longer() -> None:
    store = new_store()
    bad = op_of(b"bad")
    heir = op_of(b"", chain=ChainHead(1, bad.id, bad.op.hlc))
    store.admit(heir.data)
    assert store.waiting() == 1
    with pytest.raises(OpError):
        store.admit(bad.data)
    assert store.waiting() == 0


def test_a_fork_is_set_aside_on_every_node_and_what_was_before_goes_on_serving() -> None:
    store = filled()
    before = store.policies()
    chain = store.chain(WHO)
    twins = [
        compose(OPERATOR, chain, "default", [text], message="", now_ms=NOW_MS + 5, supersedes=())
        for text in ("one\n", "two\n")
    ]
    admit(store, (op.data for op in twins[0].ops))
    assert store.policies()[0].blocks == ("one\n",)
    admit(store, (op.data for op in twins[1].ops))
    assert store.forked() == (WHO,)
    (fork,) = store.forks()
    assert fork.seq == chain.seq + 1
    assert fork.evidence == tuple(sorted(twin.ops[0].id for twin in twins)), "the same two ops on every node"
    assert store.policies() == before
    publish(store, SECOND_OPERATOR, "three\n")
    assert store.policies()[0].blocks == ("three\n",), "other authors go on"


# --- what serves


def test_of_two_concurrent_publishes_the_later_serves_and_the_other_shows_until_superseded() -> None:
    store = filled()
    seen = [head.key for head in store.heads("default")]
    early = publish(store, OPERATOR, "early\n", now_ms=NOW_MS + 10, seen=seen)
    late = publish(store, SECOND_OPERATOR, "late\n", now_ms=NOW_MS + 20, seen=seen)
    (policy,) = store.policies()
    assert (policy.version, policy.rivals) == (late.version, (early.version,))
    final = publish(store, OPERATOR, "final\n", now_ms=NOW_MS + 30)
    (policy,) = store.policies()
    assert (policy.version, policy.rivals) == (final.version, ())


def test_a_version_serves_only_when_all_of_it_is_here() -> None:
    source = new_store()
    long = [f"route r{index} {{ {'x' * 700} }}\n" for index in range(4)]
    publication = publish(source, OPERATOR, *long)
    assert len(publication.ops) > 3
    store = new_store()
    for op in publication.ops[:-1]:
        store.admit(op.data)
        assert store.policies() == ()
    store.admit(publication.ops[-1].data)
    assert store.policies() == source.policies()
    assert "".join(store.policies()[0].blocks) == "".join(long)


def test_a_head_whose_version_is_missing_does_not_stop_the_one_before() -> None:
    store = filled()
    before = store.policies()
    chain = store.chain(WHO)
    ended = tuple(head.key for head in store.heads("default"))
    head = Head(head_key("default", WHO, chain.seq + 1), "default", VersionId(b"\x01" * 16), chain.hlc + 1, ended)
    update = encode_update([head_write(head)], client_id_of(WHO, chain.seq + 1))
    assert store.admit(op_of(update, chain=chain, hlc=head.hlc).data)
    assert store.policies() == before


def test_one_changed_statement_ships_one_block() -> None:
    store = new_store()
    publish(store, OPERATOR, "a\n", "b\n", "c\n")
    second = publish(store, OPERATOR, "a\n", "B\n", "c\n", now_ms=NOW_MS + 1)
    assert sum(len(op.op.update) for op in second.ops) < 600
    assert store.policies()[0].blocks == ("a\n", "B\n", "c\n")


def test_the_content_hash_sees_every_value() -> None:
    one, two = filled(), filled()
    assert one.content_hash() == two.content_hash()
    publish(two, OPERATOR, "route b {}\n", now_ms=NOW_MS + 1)
    assert one.content_hash() != two.content_hash()


def test_op_ids_are_hashes_of_what_was_signed() -> None:
    one = op_writing(block_write("x"))
    two = op_writing(block_write("y"))
    assert one.id != two.id
    assert one.id == OpId(one.cell)
