"""A key that says two things: proven by its own two signatures, on every node, and only against whoever signed both."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lattice import canonical, wire
from lattice.cells import CellKind
from lattice.equivocation import SPENT, STRIKES, Bench, Equivocation, contradict, open_proof, prove
from lattice.errors import LatticeError, MalformedError, UntrustedError
from lattice.events import DatagramReceived, EquivocationProven, LocalUpdate, PeerDiscovered
from lattice.health import Report, Row, SignedRow, sign_row
from lattice.identity import Ed25519Signer, Ed25519Verifier
from lattice.seal import Plain
from lattice.types import MILLISECOND, SECOND, Level, NodeId
from lattice.wire import Rumour, WireCell
from tests.lattice.cluster import CLUSTER, Cluster, Judge, lossy, reliable, signer_of
from tests.lattice.strategies import OBSERVERS, signed_row, signed_rows

VERIFIER = Ed25519Verifier(CLUSTER)
STRANGER = NodeId(b"\x99" * 16)


def proof_of(observer: int = 0, incarnation: int = 1, seq: int = 1, variants: tuple[int, int] = (0, 1)) -> Equivocation:
    one, two = (signed_row(observer, incarnation, seq, variant) for variant in variants)
    return prove(one, two)


# --- the proof itself


@given(signed_rows(), signed_rows())
def test_two_rows_prove_something_exactly_if_they_are_one_version_of_one_observer(
    one: SignedRow, two: SignedRow
) -> None:
    same_version = (one.observer, one.row.incarnation, one.row.seq) == (two.observer, two.row.incarnation, two.row.seq)
    assert contradict(one, two) == (same_version and one.data != two.data)
    if contradict(one, two):
        assert prove(one, two) == prove(two, one) == open_proof(prove(one, two).data, VERIFIER)


def _packed(*rows: bytes) -> bytes:
    return canonical.pack((1, *rows))


ONE, TWO = sorted((signed_row(0, 1, 1, variant) for variant in (0, 1)), key=lambda signed: signed.order)
FORGED = {
    "the same row twice": _packed(ONE.data, ONE.data),
    "two versions": _packed(*sorted((ONE.data, signed_row(0, 1, 2, 0).data))),
    "two incarnations": _packed(ONE.data, signed_row(0, 2, 1, 0).data),
    "two observers": _packed(ONE.data, signed_row(1, 1, 1, 1).data),
    "in the wrong order": _packed(TWO.data, ONE.data),
    "one row alone": _packed(ONE.data),
    "three rows": _packed(ONE.data, TWO.data, TWO.data),
    "another format": canonical.pack((2, ONE.data, TWO.data)),
    "an altered row": _packed(ONE.data, TWO.data[:-70] + bytes([TWO.data[-70] ^ 1]) + TWO.data[-69:]),
    "an altered signature": _packed(ONE.data, TWO.data[:-1] + bytes([TWO.data[-1] ^ 1])),
    "signatures exchanged": _packed(ONE.data[:-64] + TWO.data[-64:], TWO.data[:-64] + ONE.data[-64:]),
    "one spelled otherwise": _packed(ONE.data, TWO.data)[:1] + b"\xd0\x01" + _packed(ONE.data, TWO.data)[2:],
    "nothing": b"",
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_nothing_but_two_contradicting_signed_rows_is_a_proof(data: bytes) -> None:
    with pytest.raises((MalformedError, UntrustedError)):
        open_proof(data, VERIFIER)


def test_rows_signed_for_another_cluster_or_by_another_key_prove_nothing() -> None:
    victim = OBSERVERS[0]
    elsewhere = Ed25519Signer(b"\x07" * 32, "elsewhere")
    for forger in (elsewhere, OBSERVERS[1]):
        rows = [replace(signed_row(0, 1, 1, variant).row, public_key=forger.public_key) for variant in (0, 1)]
        signed = sorted((sign_row(row, forger) for row in rows), key=lambda one: one.order)
        data = _packed(*(one.data for one in signed))
        if forger is elsewhere:
            with pytest.raises(UntrustedError):
                open_proof(data, VERIFIER)
        else:
            assert open_proof(data, VERIFIER).observer == signed[0].observer, "it proves what the forger did"
        # the same bytes under the victim's name carry no signature of the victim's
        renamed = data.replace(forger.public_key, victim.public_key)
        with pytest.raises(LatticeError):
            open_proof(renamed, VERIFIER)


def test_which_pair_proves_it_does_not_matter() -> None:
    pairs = [proof_of(variants=(0, 1)), proof_of(variants=(1, 2)), proof_of(seq=2)]
    assert len({proof.id for proof in pairs}) == 1
    assert len({proof.data for proof in pairs}) == 3


# --- what a node holds: a join


proofs = st.builds(proof_of, observer=st.integers(0, 2), incarnation=st.integers(1, 6), seq=st.integers(1, 2))


def _state(bench: Bench) -> list[tuple[NodeId, int]]:
    return [(proof.observer, proof.incarnation) for proof in bench.proofs()]


@given(st.lists(proofs, max_size=12), st.data())
def test_the_bench_is_a_bounded_join(heard: list[Equivocation], data: st.DataObject) -> None:
    one, two = Bench(), Bench()
    for proof in heard:
        one.take(proof)
    for proof in data.draw(st.permutations(heard + heard[:3])):
        before = _state(two)
        taken, put_out = two.take(proof)
        assert taken == (_state(two) != before)
        assert put_out is None or put_out.incarnation > proof.incarnation
    assert _state(one) == _state(two)
    for observer in {proof.observer for proof in heard}:
        incarnations = sorted({proof.incarnation for proof in heard if proof.observer == observer})
        assert [proof.incarnation for proof in one.against(observer)] == incarnations[:STRIKES]
        assert one.barred(observer) == (SPENT if len(incarnations) >= STRIKES else incarnations[-1])


@given(st.lists(proofs, max_size=12))
def test_what_is_barred_only_grows(heard: list[Equivocation]) -> None:
    bench = Bench()
    seen = [0]
    observer = proof_of().observer
    for proof in heard:
        bench.take(proof)
        seen.append(bench.barred(observer))
    assert all(before <= after for before, after in pairwise(seen))


# --- among nodes


class Liar:
    """Node 0's key in hands that tell each peer something else."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.signer = signer_of("node 0")
        self.wire = Plain(CLUSTER)

    def row(self, **changed: object) -> Row:
        held = self.cluster.engines[1]._health.table.get(self.cluster.engines[0].node)
        assert held is not None
        return replace(held.signed.row, **changed)

    def tell(self, index: int, row: Row, signer: Ed25519Signer | None = None) -> None:
        self.send(index, WireCell(CellKind.ROW, sign_row(row, signer or self.signer).data))

    def send(self, index: int, *cells: WireCell) -> None:
        frame = self.wire.close(STRANGER, wire.encode(Rumour(cells)), self.cluster.now)
        self.cluster.give(index, DatagramReceived(frame, ("10.0.0.1", 99)))

    def words(self, incarnation: int, seq: int = 1_000) -> list[Row]:
        """Two of one version: fra is down, and it is well."""
        said = ((Report("fra", level),) for level in (Level.DOWN, Level.HEALTHY))
        return [self.row(incarnation=incarnation, seq=seq, reports=reports, isolated=False) for reports in said]

    def say_two_things(self, incarnation: int, seq: int = 1_000) -> None:
        """One to node 1, the other to node 2."""
        for index, word in enumerate(self.words(incarnation, seq), 1):
            self.tell(index, word)


def settled(count: int = 5, judge: Judge = reliable) -> Cluster:
    cluster = Cluster(count, judge=reliable)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 5 * SECOND)
    for index in range(count):
        cluster.observe(index, fra=Level.HEALTHY)
    cluster.run_until(lambda: cluster.equal() and set(cluster.verdicts("fra")) == {Level.HEALTHY}, 10 * SECOND)
    cluster.judge = judge
    return cluster


def benches(cluster: Cluster) -> list[list[tuple[NodeId, int]]]:
    return [_state(engine._health._bench) for engine in cluster.living()]


def voices(cluster: Cluster) -> list[set[NodeId]]:
    return [
        {witness.node for seen in engine.view().regions if seen.region == "fra" for witness in seen.witnesses}
        for engine in cluster.living()
    ]


@pytest.mark.parametrize("judge", [reliable, lossy], ids=["reliable", "lossy"])
def test_two_words_of_one_version_silence_their_observer_on_every_node(judge: Judge) -> None:
    cluster = settled(judge=judge)
    cluster.crash(0)
    accused = cluster.engines[0].node
    incarnation = cluster.engines[0]._swim.incarnation
    Liar(cluster).say_two_things(incarnation)
    took = cluster.run_until(lambda: benches(cluster) == [[(accused, incarnation)]] * 4 and cluster.equal(), 5 * SECOND)
    assert took <= 5 * SECOND
    assert all(accused not in heard for heard in voices(cluster))
    for engine in cluster.living():
        (seen,) = engine.view().quarantined
        assert all(cell in engine._cells for cell in seen.evidence)
        assert len(seen.evidence) == len(seen.incarnations)
        assert (seen.node, seen.site, seen.incarnations, seen.spent) == (accused, "site-0", (incarnation,), False)
        assert engine.counters()["equivocations proven"] == 1
    told = [index for _, index, note in cluster.notified if isinstance(note, EquivocationProven)]
    assert sorted(told) == [1, 2, 3, 4]


def test_a_greater_incarnation_votes_again_and_three_proofs_spend_the_key() -> None:
    cluster = settled()
    cluster.crash(0)
    accused, liar = cluster.engines[0].node, Liar(cluster)
    first = cluster.engines[0]._swim.incarnation
    for strike in range(1, STRIKES + 1):
        incarnation = first + strike
        liar.say_two_things(incarnation)
        cluster.run(2 * SECOND)
        assert all(accused not in heard for heard in voices(cluster)), f"after strike {strike}"
        liar.tell(1, liar.row(incarnation=incarnation, seq=1_001, reports=(Report("fra", Level.DOWN),)))
        cluster.run(SECOND)
        assert all(accused not in heard for heard in voices(cluster)), "a later row of the same incarnation is no cure"
        liar.tell(1, liar.row(incarnation=incarnation + 1, seq=1, reports=(Report("fra", Level.DOWN),)))
        cluster.run(SECOND)
        spent = strike == STRIKES
        assert all((accused in heard) != spent for heard in voices(cluster))
        assert [engine.view().quarantined[0].spent for engine in cluster.living()] == [spent] * 4
    liar.say_two_things(first + 50)
    cluster.run(2 * SECOND)
    assert all(len(state) == STRIKES for state in benches(cluster)), "more proofs say nothing more"
    assert cluster.equal()


def test_an_accused_node_that_is_honest_takes_a_greater_incarnation_by_itself() -> None:
    """A cloned disk, a restored snapshot: two machines with one key, neither of which means harm."""
    cluster = settled()
    accused = cluster.engines[0].node
    incarnation = cluster.engines[0]._swim.incarnation
    liar = Liar(cluster)
    liar.say_two_things(incarnation)
    for word in liar.words(incarnation):
        liar.tell(3, word)  # where both come together
    cluster.run_until(
        lambda: all(accused in heard for heard in voices(cluster)) and all(benches(cluster)) and cluster.equal(),
        20 * SECOND,
    )
    assert cluster.engines[0]._swim.incarnation > incarnation
    assert benches(cluster) == [[(accused, incarnation)]] * 5, "and the proof stays, for whoever looks into it"
    assert cluster.engines[0].view().quarantined, "the accused sees it too"


def test_who_starts_again_and_again_within_a_second_without_its_disk_says_nothing_twice() -> None:
    """A container that fails at once, and has no volume: the date in seconds is the same for each of its lives."""
    cluster = settled()
    cluster.run(SECOND - cluster.now % SECOND)
    second = cluster.now // SECOND
    for level in (Level.DOWN, Level.FAILING, Level.HEALTHY):
        cluster.crash(0)
        cluster.run(250 * MILLISECOND)
        cluster.restart(0, disk_lost=True)
        cluster.give(0, LocalUpdate(PeerDiscovered(cluster.endpoint(1))))
        cluster.observe(0, fra=level)
        cluster.run(50 * MILLISECOND)
    assert cluster.now // SECOND == second
    accused = cluster.engines[0].node
    cluster.run_until(lambda: cluster.equal() and all(accused in heard for heard in voices(cluster)), 5 * SECOND)
    assert benches(cluster) == [[]] * 5
    assert all(not engine.counters().get("equivocations proven", 0) for engine in cluster.living())


@pytest.mark.parametrize("words", list(permutations(range(3))))
def test_two_words_that_were_outgrown_before_they_met_are_proof_all_the_same(words: tuple[int, ...]) -> None:
    """The accused hears of one lie and takes a greater incarnation; that overtakes the other lie. In any order."""
    cluster = settled(3)
    cluster.judge = lambda source, target, prng: []
    accused, liar = cluster.engines[0].node, Liar(cluster)
    incarnation = cluster.engines[0]._swim.incarnation
    said = [*liar.words(incarnation), liar.row(incarnation=incarnation + 1, seq=1_001)]
    for word in words:
        liar.tell(1, said[word])
    assert benches(cluster)[1] == [(accused, incarnation)]


@pytest.mark.parametrize("rows_between", [0, 1, 2])
def test_the_accused_itself_is_where_two_words_may_meet(rows_between: int) -> None:
    """It has signed neither, and outgrows the first before the second comes; so may rows of its own."""
    cluster = settled(2)
    accused, liar = cluster.engines[0].node, Liar(cluster)
    incarnation = cluster.engines[0]._swim.incarnation
    one, two = liar.words(incarnation)
    liar.tell(0, one)
    assert cluster.engines[0]._swim.incarnation > incarnation
    before = cluster.engines[0]._health.our_row()
    for level in (Level.DOWN, Level.HEALTHY)[:rows_between]:
        cluster.observe(0, fra=level)
        cluster.run(2 * SECOND)  # a row is issued
    assert cluster.engines[0]._health.our_row() != before or not rows_between
    assert benches(cluster)[0] == []
    liar.tell(0, two)
    assert benches(cluster)[0] == [(accused, incarnation)]


def test_evidence_about_strangers_is_refused_and_forgotten_members_take_theirs_along() -> None:
    cluster = settled(3)
    liar = Liar(cluster)
    stranger = signer_of("nobody we met")
    rows = [liar.row(public_key=stranger.public_key, seq=7, issued_ms=variant) for variant in (0, 1)]
    proof = prove(*(sign_row(row, stranger) for row in rows))
    liar.send(1, WireCell(CellKind.EVIDENCE, proof.data))
    assert cluster.engines[1].counters()["evidence rejected: evidence about a stranger"] == 1
    assert benches(cluster) == [[]] * 3

    cluster.crash(0)
    liar.say_two_things(cluster.engines[0]._swim.incarnation)
    cluster.run(2 * SECOND)
    held = len(cluster.engines[1]._cells)
    cluster.engines[1]._health.forget(cluster.engines[0].node)
    assert benches(cluster)[0] == []
    assert len(cluster.engines[1]._cells) == held - 2, "the row and the proof"


def test_the_quarantined_word_moves_no_verdict() -> None:
    """Two of four liars, each caught: the two honest sites decide alone."""
    cluster = settled(4)
    cluster.crash(0)
    liar = Liar(cluster)
    liar.say_two_things(cluster.engines[0]._swim.incarnation)
    cluster.run(2 * SECOND)
    cluster.observe(1, fra=Level.DOWN)
    cluster.observe(2, fra=Level.DOWN)
    cluster.run(5 * SECOND)
    assert cluster.verdicts("fra") == [Level.DOWN] * 3
    assert [len(heard) for heard in voices(cluster)] == [3] * 3
