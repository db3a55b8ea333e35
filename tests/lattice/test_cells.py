"""The index: sums that tell whether two nodes hold the same."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from lattice.cells import (
    CELLS_PER_SHARD,
    FINGERPRINT_BYTES,
    SHARDS_MAX,
    SHARDS_MIN,
    Cell,
    CellIndex,
    CellKind,
    Shards,
    Urgency,
    shard_of,
    shards_for,
)
from lattice.types import CellId
from tests.lattice.strategies import cell_ids

few_ids = st.one_of(cell_ids, st.integers(min_value=0, max_value=30).map(lambda n: CellId(bytes([n * 8] * 16))))
hashed_ids = st.integers(0, 60).map(lambda n: CellId(blake2b(bytes([n]), digest_size=16).digest()))
"""As all true ones are: sums tell sets of hashes apart, and not {56} from {48, 8}."""
DIVISIONS = (16, 32, 64, 128, 256)
divisions = st.sampled_from(DIVISIONS)
moves = st.lists(st.tuples(st.booleans(), few_ids), max_size=40)


def cell(identity: CellId) -> Cell:
    return Cell(identity, CellKind.ROW, identity * 2, Urgency.UP, (identity, 1))


def index_of(identities: list[CellId]) -> CellIndex:
    index = CellIndex()
    for identity in identities:
        index.add(cell(identity))
    return index


@given(moves, divisions)
def test_an_index_is_the_set_of_what_came_and_did_not_go(moved: list[tuple[bool, CellId]], of: int) -> None:
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
    assert index.root == fresh.root
    assert index.fingerprints(of, 5) == fresh.fingerprints(of, 5)
    assert index.ids_in(Shards(of, tuple(range(of)))) == sorted(held)
    for shard in range(of):
        inside = [identity for identity in sorted(held) if shard_of(identity, of) == shard]
        assert index.count_in(shard, of) == len(inside)
        assert not inside or index.ids_in(Shards(of, (shard,))) == inside
    assert all(index.get(identity) == cell(identity) for identity in held)


@given(st.sets(hashed_ids, max_size=20), st.sets(hashed_ids, max_size=20), divisions)
def test_roots_are_equal_exactly_if_the_sets_are(one: set[CellId], two: set[CellId], of: int) -> None:
    left, right = index_of(sorted(one)), index_of(sorted(two))
    assert (left.root == right.root) == (one == two)
    for shard, prints in enumerate(zip(left.fingerprints(of, 5), right.fingerprints(of, 5), strict=True)):
        same = {i for i in one if shard_of(i, of) == shard} == {i for i in two if shard_of(i, of) == shard}
        assert (prints[0] == prints[1]) == same


@given(few_ids)
def test_a_shard_is_the_first_bits(identity: CellId) -> None:
    assert [shard_of(identity, of) for of in DIVISIONS] == [identity[0] >> bits for bits in (4, 3, 2, 1, 0)]
    assert len(index_of([identity]).root) == 16
    for of in DIVISIONS:
        assert [len(part) for part in index_of([identity]).fingerprints(of, 0)] == [FINGERPRINT_BYTES] * of
        assert [identity in Shards(of, (shard,)) for shard in range(of)].count(True) == 1


def test_a_fingerprint_hides_nothing_under_the_next_salt() -> None:
    """Four bytes of one hash would hide two sets behind each other for good, and whoever wants could look for such."""
    index = index_of([CellId(b"a" * 16)])
    assert not set(index.fingerprints(16, 1)) & set(index.fingerprints(16, 2))


@given(st.integers(0, 200_000))
def test_a_store_is_divided_into_shards_of_some_forty(cells: int) -> None:
    of = shards_for(cells)
    assert of in DIVISIONS
    assert of == SHARDS_MIN or cells >= of * CELLS_PER_SHARD // 2
    assert of == SHARDS_MAX or cells < of * CELLS_PER_SHARD
