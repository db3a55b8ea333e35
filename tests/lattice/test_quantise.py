"""Buckets: monotonic, invertible, a quarter wide, and deaf to jitter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.quantise import bucket_of, lower_edge, requantise

values = st.integers(min_value=0, max_value=2**62)
buckets = st.integers(min_value=0, max_value=240)


@given(values, values)
def test_a_greater_value_is_in_no_lesser_bucket(one: int, two: int) -> None:
    assert (bucket_of(one) <= bucket_of(two)) or one > two


@given(buckets)
def test_the_lower_edge_is_the_least_value_of_its_bucket(bucket: int) -> None:
    edge = lower_edge(bucket)
    assert bucket_of(edge) == bucket
    assert edge == 0 or bucket_of(edge - 1) == bucket - 1


@given(values)
def test_a_bucket_holds_its_value_and_is_at_most_a_quarter_of_it_wide(value: int) -> None:
    bucket = bucket_of(value)
    low, high = lower_edge(bucket), lower_edge(bucket + 1)
    assert low <= value < high
    assert value < 4 or (high - low) * 4 <= value
    assert bucket <= 255 or value >= 2**65


@given(values, st.one_of(st.none(), buckets))
def test_quantising_again_changes_nothing(value: int, held: int | None) -> None:
    once = requantise(value, held)
    assert requantise(value, once) == once
    assert requantise(value, None) == bucket_of(value)


@given(st.integers(min_value=4, max_value=240), st.lists(st.integers(min_value=-100, max_value=100), max_size=10))
def test_jitter_around_an_edge_is_no_news(bucket: int, jitter: list[int]) -> None:
    """Up to two fifths of a bucket's width either way."""
    edge = lower_edge(bucket)
    width = min(lower_edge(bucket + 1) - edge, edge - lower_edge(bucket - 1))
    held = requantise(edge, None)
    for step in jitter:
        away = abs(step) * width * 2 // 500
        assert requantise(edge + (away if step > 0 else -away), held) == held


@given(values, buckets)
def test_what_leaves_its_bucket_by_a_whole_width_is_news(value: int, held: int) -> None:
    low, high = lower_edge(held), lower_edge(held + 1)
    if value >= high + (high - low) or value < low - (high - low):
        assert requantise(value, held) == bucket_of(value) != held


def test_small_values_are_exact() -> None:
    assert [bucket_of(value) for value in range(10)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [lower_edge(bucket) for bucket in range(10)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
