"""The CA's word: what it allows, what it takes back, and that nothing else does either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice import canonical
from lattice.authoring import compose
from lattice.checkpoint import chain_after, compose_checkpoint
from lattice.errors import LatticeError, MalformedError, OpError, UntrustedError
from lattice.grants import Grants, Revocation, Role, read_grant, sign_grant, sign_revocation
from lattice.identity import Ed25519Verifier, Grant, author_id_of, node_id_of
from lattice.policy_ops import GENESIS, OpId, SignedOp
from lattice.policy_store import ChainHead, PolicyStore
from lattice.types import SECOND, AuthorId, Micros, NodeId
from tests.lattice.cluster import CLUSTER, EPOCH, GRANTED_UNTIL_S, OPERATOR, signer_of

VERIFIER = Ed25519Verifier(CLUSTER)
CA, OTHER_CA = signer_of("ca"), signer_of("another ca")
NODE = signer_of("node 0")
WHO = node_id_of(NODE.public_key)
END = Micros(GRANTED_UNTIL_S * SECOND)
NOW_MS = EPOCH // 1_000


def granted(role: Role = Role.NODE, site: str = "ams", until_s: int = GRANTED_UNTIL_S, ca: object = CA) -> Grant:
    return sign_grant(ca, NODE.public_key, role, site, until_s)  # type: ignore[arg-type]


def judged(grant: Grant | None, site: str = "ams", now: Micros = EPOCH, grants: Grants | None = None) -> str:
    try:
        (grants or Grants(CA.public_key, VERIFIER)).check_node(WHO, NODE.public_key, site, grant, now)
    except UntrustedError as error:
        return error.reason
    return "taken"


def test_a_node_speaks_for_the_site_of_its_grant_until_its_end() -> None:
    assert judged(granted()) == "taken"
    assert judged(granted(), now=END) == "taken"
    assert judged(granted(), now=Micros(END + 1)) == "grant expired"
    assert judged(None) == "not granted"
    assert judged(granted(site="fra")) == "bad grant", "it says ams, and so it must be granted for ams"
    assert judged(granted(role=Role.OPERATOR)) == "bad grant"
    assert judged(granted(ca=OTHER_CA)) == "bad grant"
    assert judged(replace(granted(), until_s=GRANTED_UNTIL_S + 1)) == "bad grant"
    assert judged(granted(), site="fra") == "bad grant"


def test_without_a_ca_every_node_may_speak_and_no_unlisted_author() -> None:
    grants = Grants(None, VERIFIER)
    assert judged(None, grants=grants) == "taken"
    with pytest.raises(UntrustedError, match="author without capability"):
        grants.author_role(AuthorId(WHO), NODE.public_key, granted(Role.OPERATOR), NOW_MS)
    with pytest.raises(UntrustedError, match="knows no CA"):
        grants.open_revocation(sign_revocation(CA, WHO).data)


class CountingVerifier(Ed25519Verifier):
    def __init__(self) -> None:
        super().__init__(CLUSTER)
        self.asked = 0

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        self.asked += 1
        return super().verify(public_key, purpose, payload, signature)


def test_a_grant_is_verified_once_and_a_bad_one_spoils_nothing() -> None:
    verifier = CountingVerifier()
    grants = Grants(CA.public_key, verifier)
    for _ in range(10):
        assert judged(granted(), grants=grants) == "taken"
    assert verifier.asked == 1
    assert judged(replace(granted(), signature=bytes(64)), grants=grants) == "bad grant"
    assert judged(granted(), grants=grants) == "taken"
    assert verifier.asked == 2
    assert judged(granted(until_s=GRANTED_UNTIL_S + 5), grants=grants) == "taken", "a renewed one is another"
    assert verifier.asked == 3


def test_what_a_cell_carries_of_a_grant_is_small() -> None:
    grant = granted()
    assert len(canonical.pack((grant.until_s, grant.signature))) <= 75
    assert read_grant((grant.until_s, grant.signature), "ams") == grant
    assert read_grant((grant.name, grant.until_s, grant.signature)) == grant
    assert read_grant(None) is None
    for bad in (5, (), (1,), ("ams", 1), (b"ams", 1, bytes(64)), ("ams", -1, bytes(64)), ("ams", 1, bytes(63))):
        with pytest.raises(MalformedError):
            read_grant(bad)
    with pytest.raises(MalformedError):
        read_grant(("ams", 1, bytes(64)), "ams")
    assert read_grant(("ams", 1, bytes(64))) == Grant("ams", 1, bytes(64))
    with pytest.raises(MalformedError):
        read_grant(("ams", True, bytes(64)))  # no 1, though 1 has been read and is remembered


# --- taking back

REVOCATIONS = [
    sign_revocation(CA, NodeId(bytes([key]) * 16), seq, OpId(bytes([seq]) * 16)) for key in range(3) for seq in range(3)
]


@given(st.lists(st.sampled_from(REVOCATIONS), max_size=20))
def test_what_is_revoked_is_a_join_and_grows_only(heard: list[Revocation]) -> None:
    grants, held = Grants(CA.public_key, VERIFIER), set[bytes]()
    for revocation in heard:
        news, replaced = grants.take(grants.open_revocation(revocation.data))
        held = (held - ({replaced.data} if replaced else set())) | ({revocation.data} if news else set())
        assert {one.data for one in grants.revocations()} == held
    strictest = {one.key: min((two for two in heard if two.key == one.key), key=lambda two: two.seq) for one in heard}
    assert {one.key: one for one in grants.revocations()} == strictest
    assert all(grants.is_revoked(one.key) for one in heard)


def test_only_the_ca_takes_back() -> None:
    grants = Grants(CA.public_key, VERIFIER)
    good = sign_revocation(CA, WHO)
    assert grants.open_revocation(good.data) == good
    with pytest.raises(UntrustedError, match="bad revocation signature"):
        grants.open_revocation(sign_revocation(OTHER_CA, WHO).data)
    for at in range(len(good.data)):
        with pytest.raises(LatticeError):
            grants.open_revocation(good.data[:at] + bytes([good.data[at] ^ 1]) + good.data[at + 1 :])
        with pytest.raises(LatticeError):
            grants.open_revocation(good.data[:at])
    for hostile in (b"", bytes(64), bytes(65), good.data * 2, canonical.pack((1, bytes(16), 0)) + bytes(64)):
        with pytest.raises(LatticeError):
            grants.open_revocation(hostile)
    assert not grants.is_revoked(WHO)
    grants.take(good)
    assert judged(granted(), grants=grants) == "key revoked"


def test_revocations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice.grants.REVOKED_MAX", 2)
    grants = Grants(CA.public_key, VERIFIER)
    for revocation in REVOCATIONS[2], REVOCATIONS[5]:
        assert grants.take(revocation) == (True, None)
    with pytest.raises(UntrustedError, match="a new CA is due"):
        grants.take(REVOCATIONS[8])
    assert grants.take(REVOCATIONS[1]) == (True, REVOCATIONS[2]), "what is known already may become stricter"


# --- operators

EVA = signer_of("eva")
EVA_ID = author_id_of(EVA.public_key)
EVA_GRANTED = signer_of("eva", sign_grant(CA, EVA.public_key, Role.OPERATOR, "eva", GRANTED_UNTIL_S))


def store_of(*authors: AuthorId) -> PolicyStore:
    return PolicyStore(authors, VERIFIER, Grants(CA.public_key, VERIFIER))


def published(
    store: PolicyStore, text: str, signer: object = EVA_GRANTED, now_ms: int = NOW_MS, chain: ChainHead | None = None
) -> tuple[SignedOp, ...]:
    chain = chain or store.chain(author_id_of(signer.public_key))  # type: ignore[attr-defined]
    return compose(
        signer,  # type: ignore[arg-type]
        chain, "default", [text], message="", now_ms=now_ms, supersedes=store.context("default"),
    ).ops  # fmt: skip


def test_an_operator_needs_no_list_and_nobody_else_may() -> None:
    store = store_of()
    for op in published(store, "by eva\n"):
        assert store.admit(op.data)
    assert [policy.blocks for policy in store.policies()] == [("by eva\n",)]
    for role in (Role.NODE, Role.REGION, Role.VIEWER):
        other = signer_of("max", sign_grant(CA, signer_of("max").public_key, role, "max", GRANTED_UNTIL_S))
        with pytest.raises(UntrustedError, match="bad grant"):
            store.admit(published(store, "by max\n", other)[0].data)
    with pytest.raises(UntrustedError, match="author without capability"):
        store.admit(published(store, "by eva\n", EVA)[0].data)
    with pytest.raises(UntrustedError, match="author without capability"):
        PolicyStore([], VERIFIER).admit(published(store, "no ca\n")[0].data)


def test_an_op_is_judged_by_its_own_date_so_policy_outlives_whoever_wrote_it() -> None:
    store = store_of()
    late = published(store, "late\n", now_ms=GRANTED_UNTIL_S * 1_000 + 1)
    with pytest.raises(UntrustedError, match="grant expired"):
        store.admit(late[0].data)
    for op in published(store, "in time\n", now_ms=GRANTED_UNTIL_S * 1_000):
        assert store.admit(op.data, now_ms=GRANTED_UNTIL_S * 1_000 + 10**9), "a year later, at a newcomer"


def test_a_listed_author_needs_no_grant() -> None:
    store = store_of(author_id_of(OPERATOR.public_key))
    for op in published(store, "by the list\n", OPERATOR):
        assert store.admit(op.data)


def history() -> tuple[list[SignedOp], list[SignedOp], SignedOp]:
    """Eva's chain up to the last op that counts; what whoever stole her key made of it; and Max's policy."""
    store = store_of()
    honest: list[SignedOp] = []
    for text in ("one\n", "two\n", "three\n"):
        ops = published(store, text)
        honest += ops
        for op in ops:
            store.admit(op.data)
    chain = store.chain(EVA_ID)
    stolen = list(published(store, "theft\n"))
    stolen += published(store, "backdated\n", now_ms=0, chain=replace(chain, hlc=honest[-1].op.hlc))
    fork_at = ChainHead(honest[0].op.seq, honest[0].id, honest[0].op.hlc)
    stolen += published(store, "fork\n", chain=fork_at)
    stolen += compose_checkpoint(EVA_GRANTED, chain, (), NOW_MS)
    stolen += published(store, "after\n", chain=chain_after(stolen[-1:], chain))
    return honest, stolen, honest[-1]


HONEST, STOLEN, LAST = history()
TAKEN_BACK = sign_revocation(CA, EVA_ID, LAST.op.seq, LAST.id)


def deliver(store: PolicyStore, what: Sequence[SignedOp | None]) -> None:
    """Each op, or the revocation (None), as it comes; then all of it once more, as anti-entropy would."""
    for item in (*what, None, *HONEST, *STOLEN):
        try:
            if item is None:
                store.revoke(EVA_ID, TAKEN_BACK.seq, OpId(TAKEN_BACK.op))
            else:
                store.admit(item.data)
        except OpError:
            pass
        store.take_void()


@given(st.permutations([*HONEST, *STOLEN, None]))
@settings(max_examples=80, deadline=None)
def test_a_revoked_author_s_chain_counts_up_to_the_op_that_the_ca_names_in_any_order(
    order: list[SignedOp | None],
) -> None:
    """Whatever the thief signed, whenever it comes: later ops, backdated ones, forks of what stands, checkpoints."""
    store, plain = store_of(), store_of()
    deliver(store, order)
    for op in HONEST:
        plain.admit(op.data)
    assert [policy.blocks for policy in store.policies()] == [("three\n",)]
    assert store.content_hash() == plain.content_hash()
    assert store.chain(EVA_ID).id == LAST.id
    assert store.forked() == ()
    reference = store_of()
    deliver(reference, [])
    assert set(store.ops()) == set(reference.ops()) >= {op.data for op in HONEST}
    assert store.waiting() == 0


def test_the_thief_would_have_won_without_the_revocation() -> None:
    store = store_of()
    for op in (*HONEST, *STOLEN):
        try:
            store.admit(op.data)
        except OpError:
            continue
    assert [policy.blocks for policy in store.policies()] != [("three\n",)]


def test_a_policy_of_which_all_is_withdrawn_has_no_head() -> None:
    store = store_of()
    for op in HONEST:
        store.admit(op.data)
    assert store.head("default") is not None
    store.revoke(EVA_ID, 0, GENESIS)
    assert store.policies() == ()
    assert store.head("default") is None, "nor do rollouts count from one"
    assert store.heads("default") == ()


def test_a_key_withdrawn_from_the_start_leaves_nothing_and_the_others_stay() -> None:
    store = store_of(author_id_of(OPERATOR.public_key))
    for op in (*published(store, "by the list\n", OPERATOR), *HONEST):
        store.admit(op.data)
    assert [policy.blocks for policy in store.policies()] == [("three\n",)]
    store.revoke(EVA_ID, 0, GENESIS)
    assert [policy.blocks for policy in store.policies()] == [("by the list\n",)]
    assert {signed.id for signed in store.take_void()} == {op.id for op in HONEST}
    with pytest.raises(OpError, match="author revoked"):
        store.admit(HONEST[0].data)
    store.revoke(EVA_ID, TAKEN_BACK.seq, OpId(TAKEN_BACK.op))
    with pytest.raises(OpError, match="author revoked"):
        store.admit(HONEST[0].data)
