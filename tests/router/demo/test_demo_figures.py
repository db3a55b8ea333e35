"""The demo's figures: pure functions over a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.demo.figures import Answer, Death, Recording, SiteEvent, Timeline, figures, percentile

KEYS = [
    "requests",
    "errors",
    "p50_ms",
    "p99_ms",
    "failover_ms",
    "health_converged_ms",
    "policy_converged_ms",
    "nearest_share",
    "sites",
    "regions",
    "failed_back",
    "failback_ms",
]
RANKING = {"europe": ("fra", "iad", "nrt"), "america": ("iad", "fra", "nrt")}
T0 = 1_700_000_000_000_000
"""When everything begins, microseconds; the tables below count milliseconds from it."""


def answer(at_ms: float, zone: str, region: str, latency_ms: float = 2, error: str = "") -> Answer:
    done = T0 + round(at_ms * 1_000)
    return Answer(done - round(latency_ms * 1_000), done, zone, 200 if region else 0, region, error)


def death(region: str, killed_ms: int, returned_ms: int | None) -> Death:
    return Death(region, T0 + killed_ms * 1_000, None if returned_ms is None else T0 + returned_ms * 1_000)


def down(at_ms: int, region: str = "fra", new: str = "DOWN") -> SiteEvent:
    return SiteEvent(T0 // 1_000 + at_ms, "verdict", f"{region} {new}", region, "HEALTHY", new)


STORY = Recording(
    ranking=RANKING,
    sites=("ams", "nyc"),
    answers=(
        answer(100, "europe", "fra"),
        answer(105, "america", "iad"),
        answer(995, "europe", "fra"),
        answer(1_004, "america", "iad"),
        answer(1_009, "europe", "iad", latency_ms=5),
        answer(2_500, "europe", "iad"),  # fra listens again, but is held back
        answer(3_100, "europe", "fra"),
        answer(3_105, "america", "iad"),
    ),
    deaths=(death("fra", 1_000, 2_000),),
    published_us=T0 - 5_000_000,
    applied_ms={"ams": T0 // 1_000 - 4_990, "nyc": T0 // 1_000 - 4_960},
    events={
        "ams": [down(50, new="DEGRADED"), down(1_010), down(1_200)],
        "nyc": [down(900, region="iad"), down(1_300), down(3_000, new="HEALTHY")],
    },
)


def test_a_whole_story() -> None:
    result = figures(STORY)

    assert dict(result.values) == {
        "requests": 8,
        "errors": 0,
        "p50_ms": 2.0,
        "p99_ms": 5.0,
        "failover_ms": 9.0,
        "health_converged_ms": 300,
        "policy_converged_ms": 40,
        "nearest_share": 0.875,
        "sites": 2,
        "regions": 3,
        "failed_back": True,
        "failback_ms": 1100.0,
    }
    assert list(result.values) == KEYS
    assert result.missing == {}
    assert result.complete


def test_an_empty_recording_has_every_key_and_every_reason() -> None:
    result = figures(Recording(ranking=RANKING, sites=("ams",)))

    assert list(result.values) == KEYS
    assert result.values["requests"] == 0
    assert set(result.missing) == set(KEYS) - {"requests", "errors", "sites", "regions"}
    assert all(result.values[key] is None for key in result.missing)
    assert not result.complete


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"deaths": ()}, "failover_ms", "no region was killed"),
        ({"deaths": (death("nrt", 1_000, 2_000),)}, "failover_ms", "nrt was nobody's nearest region"),
        ({"answers": (answer(100, "europe", "fra"),)}, "failover_ms", "no other region answered for fra"),
        ({"events": {"ams": [down(1_010)], "nyc": []}}, "health_converged_ms", "nyc never said that fra was DOWN"),
        ({"events": {"ams": [down(1_010)], "nyc": [down(999)]}}, "health_converged_ms", "nyc never said"),
        ({"events": {"ams": [down(1_010)], "nyc": [down(2_001)]}}, "health_converged_ms", "nyc never said"),
        ({"applied_ms": {"ams": 1, "nyc": None}}, "policy_converged_ms", "never in force at nyc"),
        ({"applied_ms": {"ams": 1}}, "policy_converged_ms", "never in force at nyc"),
        ({"answers": ()}, "nearest_share", "no request was sent"),
        ({"deaths": (death("fra", 1_000, None),)}, "failback_ms", "fra did not return"),
        ({"answers": (answer(2_500, "europe", "iad"),)}, "failback_ms", "fra answered no user"),
    ],
)
def test_a_figure_that_cannot_be_had_says_why(change: dict[str, object], key: str, reason: str) -> None:
    result = figures(replace(STORY, **change))  # type: ignore[arg-type]

    assert result.values[key] is None
    assert reason in result.missing[key]
    assert not result.complete


def test_an_error_is_counted_and_timed_and_fails_the_run() -> None:
    failed = answer(1_002, "europe", "", latency_ms=700, error="reset")
    result = figures(replace(STORY, answers=(*STORY.answers, failed)))

    assert (result.values["errors"], result.values["requests"]) == (1, 9)
    assert result.values["p99_ms"] == 700.0
    assert not result.missing
    assert not result.complete


def test_an_error_from_a_standby_is_no_failover() -> None:
    denied = answer(1_002, "europe", "iad", error="status 503")
    assert figures(replace(STORY, answers=(*STORY.answers, denied))).values["failover_ms"] == 9.0


def test_traffic_that_leaves_again_has_not_failed_back() -> None:
    left = answer(3_200, "europe", "iad")
    result = figures(replace(STORY, answers=(*STORY.answers, left)))

    assert result.values["failed_back"] is False
    assert result.values["failback_ms"] == 1100.0


def test_of_two_kills_the_worse_counts() -> None:
    second = replace(
        STORY,
        answers=(*STORY.answers, answer(4_030, "america", "fra"), answer(6_000, "america", "iad")),
        deaths=(*STORY.deaths, death("iad", 4_000, 5_500)),
        events={
            site: [*events, down(4_000 + delay, "iad")]
            for delay, (site, events) in enumerate(STORY.events.items(), start=400)
        },
    )
    result = figures(second)

    assert result.values["failover_ms"] == 30.0
    assert result.values["health_converged_ms"] == 401
    assert result.values["failed_back"] is True
    assert result.values["failback_ms"] == 1100.0


def test_a_request_in_flight_at_the_kill_may_be_answered_by_either() -> None:
    across = [
        answer(1_001, "europe", "fra", latency_ms=3),  # left fra just before it died
        answer(1_001, "europe", "iad", latency_ms=3),  # tried again on the standby
        answer(1_001, "europe", "nrt", latency_ms=3),  # the nearest at no moment
    ]
    assert figures(replace(STORY, answers=across)).values["nearest_share"] == round(2 / 3, 4)


moments = st.integers(0, 5_000)
regions = st.sampled_from(["fra", "iad", "nrt", ""])
answers = st.lists(
    st.builds(
        lambda at_ms, zone, region, latency: answer(at_ms, zone, region, latency, "" if region else "reset"),
        moments,
        st.sampled_from(["europe", "america"]),
        regions,
        st.integers(0, 100),
    ),
    max_size=40,
)
deaths = st.lists(
    st.builds(
        lambda region, at, length: death(region, at, at + length if length else None),
        st.sampled_from(["fra", "iad"]),
        moments,
        st.integers(0, 3_000),
    ),
    max_size=3,
    unique_by=lambda one: one.region,
)


@given(answers, deaths)
def test_any_recording_has_figures_within_bounds(given_answers: list[Answer], given_deaths: list[Death]) -> None:
    result = figures(replace(STORY, answers=given_answers, deaths=given_deaths))

    assert list(result.values) == KEYS
    assert {key for key, value in result.values.items() if value is None} == set(result.missing)
    share = result.values["nearest_share"]
    assert share is None or 0 <= share <= 1
    for key in ("failover_ms", "health_converged_ms", "failback_ms"):
        value = result.values[key]
        assert value is None or value >= 0
    p50, p99 = result.values["p50_ms"], result.values["p99_ms"]
    assert (p50 is None) == (p99 is None) == (not given_answers)
    assert p50 is None or p99 is None or p50 <= p99


@given(answers, deaths, st.randoms(use_true_random=False))
def test_the_order_in_which_answers_were_recorded_does_not_matter(
    given_answers: list[Answer], given_deaths: list[Death], random: Random
) -> None:
    # Equal completion times are told apart, as two answers of one microsecond have no order to keep.
    spread = [
        Answer(one.scheduled_us + index, one.done_us + index, one.zone, one.status, one.region, one.error)
        for index, one in enumerate(given_answers)
    ]
    shuffled = list(spread)
    random.shuffle(shuffled)
    story = replace(STORY, deaths=given_deaths)
    assert figures(replace(story, answers=shuffled)) == figures(replace(story, answers=spread))


@given(st.lists(st.integers(0, 10**9), min_size=1), st.integers(1, 100))
def test_percentile_is_a_member_with_enough_at_or_below(values: list[int], percent: int) -> None:
    ordered = sorted(values)
    value = percentile(ordered, percent)

    assert value in ordered
    assert sum(one <= value for one in ordered) * 100 >= len(ordered) * percent
    assert sum(one < value for one in ordered) * 100 < len(ordered) * percent


@given(deaths, moments)
def test_the_nearest_living_region_is_the_first_that_lives(given_deaths: Sequence[Death], at_ms: int) -> None:
    at_us = T0 + at_ms * 1_000
    timeline = Timeline(RANKING, given_deaths)
    dead = {
        one.region
        for one in given_deaths
        if one.killed_us <= at_us and (one.returned_us is None or at_us < one.returned_us)
    }
    for zone, order in RANKING.items():
        expected = next((region for region in order if region not in dead), "")
        assert timeline.nearest(zone, at_us) == expected
        assert expected in timeline.nearest_between(zone, at_us - 1, at_us + 1)
