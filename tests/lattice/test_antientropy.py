"""Two nodes with unequal roots become equal by digests and deltas alone."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import antientropy
from lattice.antientropy import SALT_LIFE_US, Reconciler, most_urgent_first
from lattice.cells import Cell, CellIndex, CellKind, Urgency
from lattice.errors import WireError
from lattice.prng import Prng
from lattice.types import CellId, Micros, NodeId
from lattice.wire import Compare, Digest, decode, encode

NOW = Micros(1_000_000)
A, B, C = (NodeId(name * 16) for name in (b"a", b"b", b"c"))


def cell(number: int) -> Cell:
    identity = CellId(blake2b(b"cell %d" % number, digest_size=16).digest())
    return Cell(identity, CellKind.OP, b"%d" % number, Urgency(number % 3), (b"w", number))


class Side:
    def __init__(self, name: str, numbers: set[int]) -> None:
        self.index = CellIndex()
        for number in sorted(numbers):
            self.index.add(cell(number))
        self.reconciler = Reconciler(self.index, Prng.seeded(name))


def one_round(left: Side, right: Side, now: Micros = NOW) -> int:
    """A asks, B answers, both deliver; how many cells travelled."""
    compare = left.reconciler.open(B, now)
    digest = right.reconciler.compared(A, compare, now)
    if digest is None:
        return 0
    digest = decode(encode(digest), 1 << 20)  # type: ignore[assignment]
    assert isinstance(digest, Digest)
    to_right, answer = left.reconciler.digested(B, digest, now)
    assert answer is not None
    to_left, nothing = right.reconciler.digested(A, answer, now)
    assert nothing is None
    for found in to_right:
        right.index.add(found)
    for found in to_left:
        left.index.add(found)
    return len(to_right) + len(to_left)


@given(st.sets(st.integers(0, 60), max_size=40), st.sets(st.integers(0, 60), max_size=40), st.integers(0, 9))
def test_two_nodes_become_equal(one: set[int], two: set[int], seed: int) -> None:
    left, right = Side(f"left {seed}", one), Side(f"right {seed}", two)
    travelled = 0
    for _ in range(10):
        if left.index.root == right.index.root:
            break
        travelled += one_round(left, right)
    assert left.index.root == right.index.root
    assert len(left.index) == len(one | two)
    assert travelled == len(one ^ two), "and nothing travelled that was known"


def test_large_differences_take_a_few_rounds_of_one_datagram_each() -> None:
    left, right = Side("left", set(range(6_000))), Side("right", set(range(3_000, 6_100)))
    rounds = 0
    while left.index.root != right.index.root:
        one_round(left, right)
        rounds += 1
        assert rounds <= 40
    assert len(left.index) == 6_100


def test_equal_nodes_have_nothing_to_say() -> None:
    left, right = Side("left", {1, 2}), Side("right", {1, 2})
    assert right.reconciler.compared(A, left.reconciler.open(B, NOW), NOW) is None


def test_a_salt_is_for_one_peer_once_and_for_a_while() -> None:
    left, right = Side("left", {1, 2}), Side("right", {2, 3})
    digest = right.reconciler.compared(A, left.reconciler.open(B, NOW), NOW)
    assert digest is not None
    with pytest.raises(WireError, match="unknown salt"):
        left.reconciler.digested(C, digest, NOW)
    with pytest.raises(WireError, match="unknown salt"):
        left.reconciler.digested(B, digest, Micros(NOW + SALT_LIFE_US + 1))
    with pytest.raises(WireError, match="unknown salt"):
        right.reconciler.digested(A, digest, NOW)
    assert left.reconciler.digested(B, digest, Micros(NOW + SALT_LIFE_US))[0]
    with pytest.raises(WireError, match="unknown salt"):
        left.reconciler.digested(B, digest, NOW)


def test_salts_are_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antientropy, "SALTS_MAX", 3)
    left, right = Side("left", {1}), Side("right", {2})
    asked = [left.reconciler.open(B, NOW) for _ in range(5)]
    assert len({compare.salt for compare in asked}) == 5
    answers = [right.reconciler.compared(A, compare, NOW) for compare in asked]
    for index, answer in enumerate(answers):
        assert answer is not None
        if index < 2:
            with pytest.raises(WireError):
                left.reconciler.digested(B, answer, NOW)
        else:
            assert left.reconciler.digested(B, answer, NOW)
    assert len(left.reconciler._salts) <= 3


def test_a_false_positive_costs_a_round_and_nothing_else() -> None:
    """Over many pairs some cell hides behind the filter; under the next salt it does not."""
    late = 0
    for seed in range(30):
        left, right = Side(f"l{seed}", set(range(seed * 1_000, seed * 1_000 + 300))), Side(f"r{seed}", set())
        for number in range(150):
            right.index.add(cell(seed * 1_000 + number))
        rounds = 0
        while left.index.root != right.index.root:
            one_round(left, right)
            rounds += 1
        late += rounds > 1
        assert rounds <= 4
    assert late > 0, "otherwise this test shows nothing"


def test_the_urgent_goes_first_then_each_writer_in_order() -> None:
    shuffled = [cell(number) for number in (5, 3, 4, 1, 0, 2)]
    assert [found.place[1] for found in most_urgent_first(shuffled)] == [0, 3, 1, 4, 2, 5]


def test_a_compare_of_nonsense_is_answered_with_what_differs() -> None:
    right = Side("right", {1, 2, 3})
    digest = right.reconciler.compared(A, Compare(0, (bytes(4),) * 16), NOW)
    assert digest is not None
    assert len(digest.shards.chosen) == 16, "no sum has that hash, not even that of nothing"


@pytest.mark.parametrize(("differing", "bytes_max", "exchanges_max"), [(1, 1_600, 1), (10, 3_100, 2), (20, 6_000, 3)])
def test_few_differences_in_a_large_store_cost_little(differing: int, bytes_max: int, exchanges_max: int) -> None:
    """Each costs the filters over its shard, not over a sixteenth of the store."""
    shared = set(range(10_000 - differing))
    left = Side("left", shared | set(range(20_000, 20_000 + differing // 2)))
    right = Side("right", shared | set(range(30_000, 30_000 + differing - differing // 2)))
    sent, exchanges = 0, 0
    while left.index.root != right.index.root:
        compare = left.reconciler.open(B, NOW)
        digest = right.reconciler.compared(A, compare, NOW)
        assert digest is not None
        to_right, answer = left.reconciler.digested(B, digest, NOW)
        assert answer is not None
        to_left, _ = right.reconciler.digested(A, answer, NOW)
        for found in to_right:
            right.index.add(found)
        for found in to_left:
            left.index.add(found)
        sent += sum(len(encode(message)) for message in (compare, digest, answer))
        exchanges += 1
    assert sent <= bytes_max
    assert exchanges <= exchanges_max


def test_what_hides_behind_an_equal_fingerprint_is_found_in_the_next_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice.cells.FINGERPRINT_BYTES", 1)  # so that one in 256 hides
    hidden = 0
    for seed in range(300):
        left, right = Side(f"l{seed}", {seed}), Side(f"r{seed}", {seed, 1_000 + seed})
        exchanges = 1
        while one_round(left, right) == 0:
            exchanges += 1
        hidden += exchanges > 1
        assert left.index.root == right.index.root
        assert exchanges <= 3
    assert hidden > 0, "otherwise this test shows nothing"
