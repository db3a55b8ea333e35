"""Choices that anybody with the seed can repeat."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lattice.prng import Prng


@given(st.text(max_size=8), st.lists(st.integers(), max_size=30), st.integers(min_value=0, max_value=40))
def test_a_sample_is_of_different_places_and_repeatable(seed: str, items: list[int], count: int) -> None:
    drawn = Prng.seeded(seed).sample(items, count)
    assert len(drawn) == min(count, len(items))
    assert not Counter(drawn) - Counter(items)
    assert Prng.seeded(seed).sample(items, count) == drawn
    assert sorted(Prng.seeded(seed).shuffled(items)) == sorted(items)


@given(st.text(max_size=8), st.integers(min_value=0, max_value=2**40))
def test_jitter_is_a_quarter_either_way(seed: str, value: int) -> None:
    jittered = Prng.seeded(seed).jitter(value)
    assert value - value // 4 <= jittered <= value + value // 4 + 1


def test_even_the_largest_draw_is_below_the_bound() -> None:
    almost_one = Prng(lambda: 1 - 2**-53)
    assert almost_one.below(2**62) < 2**62
    assert almost_one.below(1) == 0
    assert 0 <= almost_one.token() < 2**62
    assert almost_one.sample([1, 2, 3], 3) == [3, 1, 2]


def test_the_sequence_is_what_it_always_was() -> None:
    """A change here makes every recorded seed another history."""
    prng = Prng.seeded("edgelattice")
    assert [prng.below(1_000) for _ in range(4)] == [938, 765, 995, 226]
    assert prng.shuffled(list(range(5))) == [4, 1, 2, 3, 0]


def test_draws_are_even() -> None:
    prng = Prng.seeded("even")
    seen = Counter(prng.below(4) for _ in range(8_000))
    assert all(1_800 < count < 2_200 for count in seen.values())
    firsts = Counter(prng.sample("abcd", 2)[0] for _ in range(8_000))
    assert all(1_800 < count < 2_200 for count in firsts.values())
