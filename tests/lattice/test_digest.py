"""The filter: never forgets an item, rarely invents one, and can not be made to."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.digest import BLOCK_BYTES, BLOCKS_MAX, Bloom
from lattice.errors import MalformedError
from lattice.types import CellId
from tests.lattice.strategies import cell_ids

salts = st.integers(min_value=0, max_value=2**63 - 1)


def cells(count: int, name: str = "cell") -> list[CellId]:
    return [CellId(blake2b(f"{name} {number}".encode(), digest_size=16).digest()) for number in range(count)]


def false_ppm(held: list[CellId], others: list[CellId], salt: int) -> int:
    absent = Bloom.of(held, len(held), salt).missing(others, salt)
    return (len(others) - len(absent)) * 1_000_000 // len(others)


@given(st.lists(cell_ids, max_size=200), salts)
def test_what_is_held_is_never_missing(held: list[CellId], salt: int) -> None:
    bloom = Bloom.of(held, len(held), salt)
    assert bloom.missing(held, salt) == []
    assert Bloom.from_bytes(bloom.data).missing(held, salt) == []


@given(st.lists(cell_ids, max_size=40, unique=True), st.lists(cell_ids, max_size=40), salts)
def test_what_is_missing_is_not_held_and_keeps_its_order(held: list[CellId], asked: list[CellId], salt: int) -> None:
    missing = Bloom.of(held, len(held), salt).missing(asked, salt)
    assert not set(missing) & set(held)
    assert missing == [cell for cell in asked if cell in set(missing)]


@pytest.mark.parametrize("count", [40, 680, 5_000])
@pytest.mark.parametrize("salt", [1, 2**62 + 1])
def test_false_positives_are_as_rare_as_designed(count: int, salt: int) -> None:
    assert false_ppm(cells(count), cells(20_000, "other"), salt) < 8_000, "designed: 4,600"


def test_ids_made_to_collide_under_one_salt_are_ordinary_under_another() -> None:
    """Whoever does not know the salt that the reader will choose gains nothing by grinding ids."""
    held, guessed, real = cells(680), 1, 2**40 + 3
    bloom = Bloom.of(held, len(held), guessed)
    candidates = cells(60_000, "ground")
    absent = set(bloom.missing(candidates, guessed))
    crafted = [cell for cell in candidates if cell not in absent]
    assert len(crafted) > 100, "under the guessed salt, all of these would stay hidden"
    assert false_ppm(held, crafted, real) < 40_000


def test_another_salt_is_another_filter() -> None:
    held = cells(50)
    assert Bloom.of(held, 50, 1) != Bloom.of(held, 50, 2)
    assert Bloom.of(held, 50, 1) == Bloom.of(reversed(held), 50, 1)
    assert len(Bloom.of(held, 50, 1).missing(held, 2)) > 40, "and reading it under a wrong one shows nothing"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad shape"),
        (bytes(BLOCK_BYTES - 1), "bad shape"),
        (bytes(BLOCK_BYTES + 1), "bad shape"),
        (bytes(BLOCK_BYTES * (BLOCKS_MAX + 1)), "bad shape"),
        (5, "bad shape"),
        (b"\xff" * BLOCK_BYTES, "overfull filter"),
        (b"\xff\xff\xff\x01\x00" * 64, "overfull filter"),
    ],
)
def test_a_filter_of_a_wrong_shape_or_overfull_is_refused(data: object, reason: str) -> None:
    with pytest.raises(MalformedError) as refused:
        Bloom.from_bytes(data)
    assert refused.value.reason == reason


def test_a_filter_at_its_design_load_is_not_overfull() -> None:
    for count in (1, 42, 43, 680, 21_845):
        held = cells(count)
        assert Bloom.from_bytes(Bloom.of(held, count, 7).data).missing(held[:50], 7) == []
