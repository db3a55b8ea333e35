"""Do the checks check? Each bug here is planted, and the law or case that stands guard over it must fail.

A check that no bug can make fail shows nothing (DeMillo, Lipton, Sayward, 1978). Every entry names one mistake that
somebody could make, where it would sit, and which test sees it; without the bug that test passes in its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmh3
import pytest
import trio
from hypothesis import Phase, find, is_hypothesis_test, settings
from hypothesis import strategies as st
from msgspec import structs

from lattice import (
    admission,
    canonical,
    digest,
    equivocation,
    grants,
    health_table,
    policy_content,
    policy_store,
    store,
    verdict,
)
from lattice.antientropy import Reconciler
from lattice.digest import Bloom
from lattice.engine import Engine
from lattice.errors import MalformedError
from lattice.health import SignedRow
from lattice.health_table import HealthTable, HeldRow, Offer
from lattice.membership import Membership
from lattice.policy_chains import Chains
from lattice.policy_content import Head
from lattice.policy_ops import SignedOp
from lattice.policy_store import PolicyStore
from lattice.types import CellId, Micros
from lattice.writer import Writer
from lattice.yrs_gate import Write
from tests.lattice import (
    test_antientropy,
    test_checkpoint,
    test_digest,
    test_driver,
    test_engine_grants,
    test_equivocation,
    test_grants,
    test_health_table,
    test_laws,
    test_policy_content,
    test_policy_store,
    test_store,
    test_verdict,
)
from tests.lattice.cluster import reliable
from tests.lattice.strategies import signed_rows

Patch = pytest.MonkeyPatch
pytestmark = pytest.mark.slow  # Hypothesis shrinks what it finds


@dataclass(frozen=True)
class Planted:
    plant: Callable[[Patch], None]
    seen_by: Callable[[], object]


def _drops_a_field(patch: Patch) -> None:
    """The tally keeps the voices of regions that the newer row is silent about."""
    revoice = HealthTable._revoice

    def plant(self: HealthTable, observer: Any, row: Any, before: Any) -> set[str]:
        return revoice(self, observer, row, None)

    patch.setattr(HealthTable, "_revoice", plant)


def _takes_stale_rows(patch: Patch) -> None:
    offer = HealthTable.offer

    def plant(self: HealthTable, signed: SignedRow, age_us: int, now: Micros) -> Offer:
        self._floors.pop(signed.observer, None)
        return offer(self, signed, age_us, now)

    patch.setattr(HealthTable, "offer", plant)


def _keeps_the_lesser_twin(patch: Patch) -> None:
    """Of two rows of one version the first that came is kept, not the greater."""
    patch.setattr(SignedRow, "order", property(lambda self: (self.row.incarnation, self.row.seq, b"")))


def _lease_off_by_one(patch: Patch) -> None:
    offer = HealthTable.offer
    patch.setattr(HealthTable, "offer", lambda self, signed, age_us, now: offer(self, signed, age_us - 1, now))


def _hears_older_claims(patch: Patch) -> None:
    def plant(self: Membership, update: Any, now: Micros) -> bool:
        known = self._members.get(update.node)
        if known is None or update.incarnation != known.incarnation or update.state == known.state:
            return False
        self._put(structs.replace(known, state=update.state, changed=now))
        return True

    patch.setattr(Membership, "hear", plant)


def _no_salt(patch: Patch) -> None:
    probes = digest._probes
    patch.setattr(digest, "_probes", lambda cell, salt, blocks: probes(cell, 0, blocks))


def _unkeyed_hash(patch: Patch) -> None:
    """The salt is only xored over mmh3's output, so ids that collide under one collide under all."""

    def plant(cell: CellId, salt: int, blocks: int) -> tuple[int, int]:
        first, second = mmh3.hash64(cell, signed=False, x64arch=True)
        mask = 0
        for _ in range(digest.PROBES):
            mask |= 1 << (second & 511)
            second >>= 9
        return (first ^ salt) % blocks, mask

    patch.setattr(digest, "_probes", plant)


def _digest_trusted_alone(patch: Patch) -> None:
    """What a filter shows is dropped here: the peer surely has it, and we have it from there."""
    digested = Reconciler.digested

    def plant(self: Reconciler, peer: Any, filled: Any, now: Micros) -> Any:
        missing, answer = digested(self, peer, filled, now)
        shown = set(self._cells.ids_in(filled.shards)) - {cell.id for cell in missing}
        for cell in sorted(shown)[:1]:
            self._cells.discard(cell)
        return missing, answer

    patch.setattr(Reconciler, "digested", plant)


def _salt_serves_twice(patch: Patch) -> None:
    digested = Reconciler.digested

    def plant(self: Reconciler, peer: Any, filled: Any, now: Micros) -> Any:
        given = dict(self._salts)
        try:
            return digested(self, peer, filled, now)
        finally:
            self._salts = given

    patch.setattr(Reconciler, "digested", plant)


def _overfull_filters_pass(patch: Patch) -> None:
    patch.setattr(digest, "FILL_PPM_MAX", 1_000_001)


def _urgency_is_lost(patch: Patch) -> None:
    patch.setattr(test_antientropy, "most_urgent_first", lambda cells: sorted(cells, key=lambda cell: cell.id))


def _chain_is_not_checked(patch: Patch) -> None:
    patch.setattr(Chains, "follows", lambda self, signed: True)


def _forks_pass(patch: Patch) -> None:
    add = Chains.add

    def plant(self: Chains, signed: SignedOp) -> tuple[bool, list[SignedOp]]:
        outcome = add(self, signed)
        for held in self._held[signed.op.author].values():
            held.fork = None
        return outcome

    patch.setattr(Chains, "add", plant)


def _anybody_may_write(patch: Patch) -> None:
    class Everybody(frozenset[Any]):
        def __contains__(self, item: object) -> bool:
            return True

    init = PolicyStore.__init__

    def plant(self: PolicyStore, authors: Iterable[Any], verifier: Any) -> None:
        init(self, authors, verifier)
        self._authors = Everybody()

    patch.setattr(PolicyStore, "__init__", plant)


def _content_is_not_checked(patch: Patch) -> None:
    patch.setattr(policy_store, "check_write", lambda *_: None)


def _void_ops_stay(patch: Patch) -> None:
    patch.setattr(Chains, "_put_out", lambda self, author, limit: [])


def _below_the_checkpoint_passes(patch: Patch) -> None:
    patch.setattr(Chains, "_is_below", lambda self, signed: False)


def _unsealed_counts(patch: Patch) -> None:
    add = Chains.add

    def plant(self: Chains, signed: SignedOp) -> tuple[bool, list[SignedOp]]:
        op = replace(signed.op, seals=signed.op.base > 1)
        return add(self, replace(signed, op=op))

    patch.setattr(Chains, "add", plant)


def _blocks_are_anybodys(patch: Patch) -> None:
    """A version counts with blocks that only another author's chain carries; so that author's checkpoint ends it."""

    def plant(self: PolicyStore, author: Any) -> frozenset[str]:
        return frozenset(self._contents["blocks"])

    patch.setattr(PolicyStore, "blocks_known", plant)


def _the_last_head_alone_ends(patch: Patch) -> None:
    """A head names only what it names, not what came before: what is in between may not go, or the first comes back."""
    patch.setattr(Head, "ends", lambda self, other: other.key in self.supersedes and other.hlc < self.hlc)


def _the_hash_is_blind_to_values(patch: Patch) -> None:
    patch.setattr(PolicyStore, "content_hash", lambda self: bytes(32))


def _the_greatest_author_wins(patch: Patch) -> None:
    """As Yrs would: the greatest writer's id decides, not the date."""

    def plant(heads: Iterable[Head], complete: Callable[[Head], bool]) -> Any:
        standing = sorted((head for head in heads if complete(head)), key=lambda head: head.key)
        return (standing[-1], tuple(standing[:-1])) if standing else None

    patch.setattr(test_policy_content, "elect", plant)


def _restated_heads_get_a_new_date(patch: Patch) -> None:
    live = PolicyStore.live
    patch.setattr(PolicyStore, "live", lambda self, author: [_without(write) for write in live(self, author)])


def _without(write: Write) -> Write:
    if write.root != "heads":
        return write
    head = policy_content.parse_head(write.key, write.value)
    return policy_content.head_write(replace(head, supersedes=(), hlc=head.hlc - 1))


def _half_is_a_quorum(patch: Patch) -> None:
    patch.setattr(verdict, "quorum", lambda voters: max(voters // 2, verdict.SITES_MIN))


def _any_two_rows_are_evidence(patch: Patch) -> None:
    patch.setattr(equivocation, "contradict", lambda one, two: one.observer == two.observer)


def _proofs_without_limit(patch: Patch) -> None:
    patch.setattr(equivocation, "STRIKES", 1_000)


def _quarantine_is_not_enforced(patch: Patch) -> None:
    patch.setattr(HealthTable, "is_barred", lambda self, observer, incarnation: False)


def _evidence_is_the_pair(patch: Patch) -> None:
    """A proof is known by its bytes, so a liar may fill the memory with variants."""
    patch.setattr(equivocation.Equivocation, "id", property(lambda self: CellId(self.data[-16:])))


def _outgrown_words_are_forgotten(patch: Patch) -> None:
    patch.setattr(HeldRow, "remember", lambda self, word: None)


def _a_grant_for_any_site(patch: Patch) -> None:
    """What the CA signs does not say for which site it is."""
    patch.setattr(grants, "_granted", lambda key, role, name, until_s: canonical.pack((key, role.value, until_s)))


def _a_grant_has_no_end(patch: Patch) -> None:
    patch.setattr(health_table, "_ends", lambda row, born: Micros(born + row.lease_ms * 1_000))


def _a_pin_counts_places_only(patch: Patch) -> None:
    """A revoked author's ops are told by their place, not by what leads up to the op that the CA names."""
    patch.setattr(Chains, "pin", _pin_without_hashes)


def _pin_without_hashes(self: Chains, author: Any, pin: Any) -> list[SignedOp]:
    self._pins[author] = (pin[0], bytes(16))  # type: ignore[assignment]
    return []


def _revocations_are_not_kept(patch: Patch) -> None:
    patch.setattr(admission, "REVOKED_TABLE", "elsewhere")
    patch.setattr(Engine, "_on_restored", _restored_without("elsewhere"))


def _restored_without(table: str) -> Callable[[Engine, Any], None]:
    restored = Engine._on_restored
    return lambda self, records: restored(self, [record for record in records if record[0] != table])


def _disk_is_not_waited_for(patch: Patch) -> None:
    patch.setattr(Writer, "holds", lambda self, ticket: False)


def _a_lost_record_is_not_missed(patch: Patch) -> None:
    patch.setattr(store, "_total", lambda database: 0)
    patch.setattr(store, "_MODULUS", 1)


def _slow_disk() -> None:
    trio.run(test_driver.test_a_slow_disk_delays_what_depends_on_it_and_nothing_else)


def _stale_records() -> None:
    with TemporaryDirectory() as folder:
        test_store.test_a_record_that_is_gone_or_older_than_the_others_is_missed(Path(folder))


def _forged_evidence() -> None:
    for data in test_equivocation.FORGED.values():
        test_equivocation.test_nothing_but_two_contradicting_signed_rows_is_a_proof(data)


def _leases() -> None:
    for age_us, taken in ((0, True), (test_health_table.LEASE_US, False)):
        test_health_table.test_a_row_stands_until_the_moment_that_its_lease_ends_and_not_after(age_us, taken)


def _refusals() -> None:
    for error, reason, make in test_policy_store.REFUSED.values():
        with pytest.raises(error) as caught:
            test_policy_store.new_store().admit(make())
        assert caught.value.reason == reason


def _silenced() -> None:
    test_equivocation.test_two_words_of_one_version_silence_their_observer_on_every_node(reliable)


def _shapes() -> None:
    for data in (bytes([255]) * 64, bytes(63)):
        with pytest.raises(MalformedError):
            Bloom.from_bytes(data)


BUGS = {
    "a merge drops a field": Planted(_drops_a_field, test_laws.test_a_health_table_is_the_join_of_what_it_was_offered),
    "stale rows are taken": Planted(
        _takes_stale_rows, test_laws.test_a_health_table_is_the_join_of_what_it_was_offered
    ),
    "of two twins the first is kept": Planted(
        _keeps_the_lesser_twin, test_laws.test_whoever_signs_two_rows_of_one_version_is_noticed_in_either_order
    ),
    "a lease is off by one": Planted(_lease_off_by_one, _leases),
    "an older claim overrides": Planted(
        _hears_older_claims, test_laws.test_claims_in_any_order_make_the_same_membership
    ),
    "no salt": Planted(_no_salt, test_digest.test_another_salt_is_another_filter),
    "an unkeyed hash": Planted(
        _unkeyed_hash, test_digest.test_ids_made_to_collide_under_one_salt_are_ordinary_under_another
    ),
    "a digest trusted alone": Planted(_digest_trusted_alone, test_antientropy.test_two_nodes_become_equal),
    "a salt serves twice": Planted(
        _salt_serves_twice, test_antientropy.test_a_salt_is_for_one_peer_once_and_for_a_while
    ),
    "overfull filters pass": Planted(_overfull_filters_pass, _shapes),
    "urgency is lost": Planted(_urgency_is_lost, test_antientropy.test_the_urgent_goes_first_then_each_writer_in_order),
    "the author's chain is skipped": Planted(_chain_is_not_checked, _refusals),
    "forks pass": Planted(_forks_pass, test_policy_store.test_ops_in_any_order_and_number_give_the_same_policies),
    "anybody may write": Planted(_anybody_may_write, _refusals),
    "content is not checked": Planted(_content_is_not_checked, _refusals),
    "void ops stay": Planted(
        _void_ops_stay, test_checkpoint.test_ops_and_checkpoints_in_any_order_and_number_give_the_same_state
    ),
    "what is below a checkpoint passes": Planted(
        _below_the_checkpoint_passes, test_checkpoint.test_a_stale_writer_can_not_bring_back_what_its_key_gave_up
    ),
    "a checkpoint counts before its seal": Planted(
        _unsealed_counts, test_checkpoint.test_a_checkpoint_takes_force_whole_or_not_at_all
    ),
    "blocks are anybody's": Planted(
        _blocks_are_anybodys, test_checkpoint.test_a_bad_author_can_drop_nothing_of_another
    ),
    "a head ends only what it names": Planted(
        _the_last_head_alone_ends, test_policy_content.test_a_head_named_ends_the_earlier_ones_of_its_author_too
    ),
    "the content hash is blind": Planted(
        _the_hash_is_blind_to_values, test_policy_store.test_the_content_hash_sees_every_value
    ),
    "the greatest author wins": Planted(
        _the_greatest_author_wins,
        test_policy_content.test_the_election_has_no_order_and_one_complete_head_always_wins,
    ),
    "restated heads are altered": Planted(
        _restated_heads_get_a_new_date, test_checkpoint.test_a_checkpoint_changes_nothing_that_anybody_sees
    ),
    "half is a quorum": Planted(_half_is_a_quorum, test_verdict.test_a_majority_and_two_at_least),
    "any two rows are evidence": Planted(_any_two_rows_are_evidence, _forged_evidence),
    "proofs without limit": Planted(_proofs_without_limit, test_equivocation.test_the_bench_is_a_bounded_join),
    "quarantine is not enforced": Planted(_quarantine_is_not_enforced, _silenced),
    "outgrown words are forgotten": Planted(
        _outgrown_words_are_forgotten, test_laws.test_of_the_three_greatest_words_heard_no_two_contradict_unnoticed
    ),
    "a grant for any site": Planted(_a_grant_for_any_site, test_engine_grants.test_another_s_grant_is_of_no_use),
    "a grant has no end": Planted(
        _a_grant_has_no_end,
        test_engine_grants.test_a_vote_ends_with_the_grant_and_a_new_certificate_brings_it_back,
    ),
    "a pin counts places only": Planted(
        _a_pin_counts_places_only,
        test_grants.test_a_revoked_author_s_chain_counts_up_to_the_op_that_the_ca_names_in_any_order,
    ),
    "revocations are not kept": Planted(
        _revocations_are_not_kept,
        test_engine_grants.test_a_revocation_crosses_a_partition_outlives_a_restart_and_greets_newcomers,
    ),
    "the disk is not waited for": Planted(_disk_is_not_waited_for, _slow_disk),
    "a lost record is not missed": Planted(_a_lost_record_is_not_missed, _stale_records),
    "evidence is the pair, not the fact": Planted(
        _evidence_is_the_pair, test_equivocation.test_which_pair_proves_it_does_not_matter
    ),
}


OUT_OF_DATE = (TypeError, AttributeError, NameError)
"""What comes of a plant that does not fit any more what it replaces: any test sees that, and it shows nothing."""
EXAMPLES = 500
"""Before a law may say that it sees no bug; it stops at the first that it sees."""


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS[name]
    with monkeypatch.context() as patch:
        bug.plant(patch)
        if is_hypothesis_test(bug.seen_by):
            # That it fails is what is asked here; making the example small would take a minute.
            law: Any = bug.seen_by
            found = settings(
                law._hypothesis_internal_use_settings,
                phases=[Phase.explicit, Phase.generate],
                max_examples=EXAMPLES,
            )
            patch.setattr(law, "_hypothesis_internal_use_settings", found)
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - an assertion, or whatever the bug leads to
            bug.seen_by()
    assert not isinstance(caught.value, KeyboardInterrupt | SystemExit)
    assert not isinstance(caught.value, OUT_OF_DATE), f"the plant itself is broken: {caught.value!r}"


def test_what_a_law_finds_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 32: a merge that drops a field is shown by five rows at most."""
    _drops_a_field(monkeypatch)
    law: Any = test_laws.test_a_health_table_is_the_join_of_what_it_was_offered

    def fails(offered: tuple[list[SignedRow], list[SignedRow]]) -> bool:
        rows, heard = offered
        try:
            law.hypothesis.inner_test(rows, _Drawn(heard))
        except AssertionError:
            return True
        return False

    offered = st.lists(signed_rows(), max_size=8).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows)))
    rows, _ = find(offered, fails, settings=settings(max_examples=2_000, derandomize=True, database=None))
    assert 1 <= len(rows) <= 5


class _Drawn:
    """In place of Hypothesis's data: what the law draws itself."""

    def __init__(self, heard: list[SignedRow]) -> None:
        self._heard = heard

    def draw(self, strategy: object) -> list[SignedRow]:
        return self._heard
