"""A share for each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.token_bucket import TokenBuckets
from lattice.types import SECOND, Micros

RATE, BURST = 5, 10


@given(st.lists(st.integers(0, SECOND), max_size=60))
def test_nobody_gets_more_than_burst_and_rate_allow_and_nobody_less(gaps_us: list[int]) -> None:
    buckets, now, taken = TokenBuckets[str](RATE, BURST, 4), 0, 0
    for gap in gaps_us:
        now += gap
        allowed = buckets.take("one", Micros(now))
        taken += allowed
        assert taken <= BURST + RATE * now / SECOND
        assert allowed or taken + 1 > min(BURST, RATE * now // SECOND)


def test_who_floods_starves_nobody_else() -> None:
    buckets = TokenBuckets[str](RATE, BURST, 4)
    assert sum(buckets.take("flood", Micros(0)) for _ in range(1_000)) == BURST
    assert all(buckets.take("quiet", Micros(0)) for _ in range(BURST))


def test_a_large_piece_costs_more() -> None:
    buckets = TokenBuckets[str](RATE, BURST, 4)
    assert buckets.take("one", Micros(0), BURST)
    assert not buckets.take("one", Micros(0))
    assert not buckets.take("one", Micros(SECOND - 1), RATE)
    assert buckets.take("one", Micros(SECOND), RATE)


def test_strangers_beyond_the_table_share_one_bucket_until_others_are_idle() -> None:
    buckets = TokenBuckets[int](RATE, BURST, 4)
    for key in range(4):
        buckets.take(key, Micros(0))
    assert sum(buckets.take(key, Micros(1)) for key in range(10, 1_000)) == BURST
    assert len(buckets) == 4
    assert all(buckets.take(key, Micros(1)) for key in range(4)), "those who were known keep their share"
    assert buckets.take(10, Micros(SECOND))
    assert len(buckets) <= 4
