"""The index: sums that tell whether two nodes hold the same."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from lattice.cells import FINGERPRINT_BYTES, SHARDS, Cell, CellIndex, CellKind, shard_of
from lattice.types import CellId
from tests.lattice.strategies import cell_ids

few_ids = st.one_of(cell_ids, st.integers(min_value=0, max_value=30).map(lambda n: CellId(bytes([n * 8] * 16))))
hashed_ids = st.integers(0, 60).map(lambda n: CellId(blake2b(bytes([n]), digest_size=16).digest()))
"""As all true ones are: sums tell sets of hashes apart, and not {56} from {48, 8}."""
moves = st.lists(st.tuples(st.booleans(), few_ids), max_size=40)


def cell(identity: CellId) -> Cell:
    return Cell(identity, CellKind.ROW, identity * 2, 1, (identity, 1))


def index_of(identities: list[CellId]) -> CellIndex:
    index = CellIndex()
    for identity in identities:
        index.add(cell(identity))
    return index


@given(moves)
def test_an_index_is_the_set_of_what_came_and_did_not_go(moved: list[tuple[bool, CellId]]) -> None:
    index, held = CellIndex(), set[CellId]()
    for came, identity in moved:
        if came:
            index.add(cell(identity))
            held.add(identity)
        else:
            index.discard(identity)
            held.discard(identity)
        assert len(index) == len(held)
        assert (identity in index) == (identity in held)
    fresh = index_of(sorted(held, reverse=True))
    assert index.root() == fresh.root()
    assert index.fingerprints() == fresh.fingerprints()
    assert index.ids_in(range(SHARDS)) == sorted(held)
    assert [index.count_in(shard) for shard in range(SHARDS)] == [fresh.count_in(shard) for shard in range(SHARDS)]
    assert all(index.get(identity) == cell(identity) for identity in held)


@given(st.sets(hashed_ids, max_size=20), st.sets(hashed_ids, max_size=20))
def test_roots_are_equal_exactly_if_the_sets_are(one: set[CellId], two: set[CellId]) -> None:
    left, right = index_of(sorted(one)), index_of(sorted(two))
    assert (left.root() == right.root()) == (one == two)
    for shard in range(SHARDS):
        same = {i for i in one if shard_of(i) == shard} == {i for i in two if shard_of(i) == shard}
        assert (left.fingerprints()[shard] == right.fingerprints()[shard]) == same


@given(few_ids)
def test_a_shard_is_the_first_four_bits(identity: CellId) -> None:
    assert shard_of(identity) == identity[0] >> 4
    assert len(index_of([identity]).root()) == 16
    assert {len(part) for part in index_of([identity]).fingerprints()} == {FINGERPRINT_BYTES}
