"""Round trips: the least of the last few, told only when it has clearly changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.health.round_trips import SAMPLES, SAMPLES_MIN, RoundTrips


@given(st.integers(1_000, 500_000), st.lists(st.integers(0, 10**7), max_size=60))
def test_queueing_noise_moves_nothing(way_us: int, noise: list[int]) -> None:
    trips = RoundTrips()
    for _ in range(SAMPLES_MIN):
        trips.measured("fra", way_us)
    told = trips.rtt_us()
    assert way_us * 4 // 5 <= told["fra"] <= way_us
    for extra in noise:
        trips.measured("fra", way_us + extra)
        trips.measured("fra", way_us)
        assert trips.rtt_us() == told


@given(st.integers(1_000, 500_000))
def test_a_longer_way_is_told_once_the_old_one_is_forgotten(way_us: int) -> None:
    trips = RoundTrips()
    for _ in range(SAMPLES):
        trips.measured("fra", way_us)
    before = trips.rtt_us()["fra"]
    for _ in range(SAMPLES - 1):
        trips.measured("fra", way_us * 2)
    assert trips.rtt_us()["fra"] == before
    trips.measured("fra", way_us * 2)
    assert trips.rtt_us()["fra"] > before * 3 // 2


@given(st.integers(1_000, 500_000), st.lists(st.sampled_from((99, 100, 101)), min_size=SAMPLES, max_size=200))
def test_what_wavers_around_an_edge_settles(way_us: int, percents: list[int]) -> None:
    trips = RoundTrips()
    told: list[int] = []
    for percent in percents:
        for _ in range(SAMPLES):
            trips.measured("fra", way_us * percent // 100)
        told.append(trips.rtt_us()["fra"])
    assert len(set(told)) == 1


def test_too_few_say_nothing_and_what_left_is_forgotten() -> None:
    trips = RoundTrips()
    for _ in range(SAMPLES_MIN - 1):
        trips.measured("fra", 10_000)
    assert trips.rtt_us() == {}
    trips.measured("fra", 10_000)
    assert "fra" in trips.rtt_us()
    trips.retain({"iad"})
    assert trips.rtt_us() == {}
