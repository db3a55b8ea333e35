"""Users go back to a region that is well again a few at a time, each once, and on every node the same."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND, Level, Micros
from router.decision.decide import decide
from router.decision.explanation import explain
from router.decision.failback import RAMP_US, STEPS, Failback, away_ppm
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program, compile_policy
from router.decision.request import Request
from router.policy import parse

POLICY = """edition 1
region ams { at 52 5 endpoint 192.0.2.1:80 }
region fra { at 50 9 endpoint 192.0.2.2:80 }
region iad { at 39 -77 endpoint 192.0.2.3:80 }
route api for "api.example" { primary ams secondary fra tertiary iad stick by cookie("uid") for 1h spill above 80% }
route all for "*" { primary ams secondary fra tertiary iad }
"""
WELL = {"ams": Level.HEALTHY, "fra": Level.HEALTHY, "iad": Level.HEALTHY}
DOWN = WELL | {"ams": Level.DOWN}
USERS = [Request(f"10.{n >> 8}.{n & 255}.1", "h", "/") for n in range(500)]


@cache
def program() -> Program:
    return compile_policy(parse(POLICY))


def table(levels: dict[str, Level], away: dict[str, int], **saturation: int) -> RouteTable:
    return plan(program(), levels, SitePlace("here", 0, 0), 0, saturation, away_ppm=away)


def at_home(away: int, levels: dict[str, Level] = WELL) -> set[int]:
    planned = table(levels, {"ams": away})
    return {n for n, user in enumerate(USERS) if decide(planned, user, frozenset()).region == "ams"}


@given(st.integers(0, 2 * RAMP_US), st.integers(0, 2 * RAMP_US), st.integers(1, 2 * RAMP_US))
def test_the_share_only_falls_and_ends(one: int, other: int, ramp_us: int) -> None:
    first, last = sorted((one, other))
    assert 0 <= away_ppm(last, ramp_us) <= away_ppm(first, ramp_us) <= 1_000_000 - 1_000_000 // STEPS
    assert away_ppm(ramp_us, ramp_us) == 0


@given(
    st.lists(st.integers(0, RAMP_US // 4), min_size=1, max_size=8),
    st.sampled_from(("h", "api.example")),
    st.integers(0, 1 << 32),
)
def test_a_user_goes_back_once_and_stays(pauses_us: list[int], host: str, number: int) -> None:
    failback, now = Failback(), Micros(7)
    failback.returning(DOWN, now)
    user = Request(f"10.0.0.{number & 255}", host, "/", headers=(("cookie", f"uid={number}"),))
    was_home = False
    for pause_us in (*pauses_us, RAMP_US):
        decision = decide(table(WELL, dict(failback.returning(WELL, now).away_ppm)), user, frozenset())
        home = decision.region == "ams"
        assert home or not was_home, "to and fro"
        assert decision.reason == ("primary" if home else "secondary: ams returning")
        assert {attempt.region for attempt in decision.attempts} == set(WELL), "where it was stays a standby"
        was_home, now = home, Micros(now + pause_us)
    assert decide(table(WELL, dict(failback.returning(WELL, now).away_ppm)), user, frozenset()).region == "ams"


def test_the_same_users_are_first_and_each_step_is_a_share() -> None:
    homes = [at_home(away_ppm(step * RAMP_US // STEPS, RAMP_US)) for step in range(STEPS)]
    for step, (fewer, more) in enumerate(pairwise(homes)):
        assert fewer < more
        assert abs(len(fewer) - len(USERS) * (step + 1) / STEPS) < len(USERS) * 0.06
    assert len(homes[-1]) == len(USERS)


@given(st.lists(st.integers(0, RAMP_US), max_size=8), st.integers(0, RAMP_US))
def test_when_a_node_looks_does_not_matter(looks_us: list[int], at_us: int) -> None:
    often, once = Failback(), Failback()
    for failback in (often, once):
        failback.returning(DOWN, Micros(0))
        failback.returning(WELL, Micros(1))
    for look_us in sorted(look for look in looks_us if look <= at_us):
        often.returning(WELL, Micros(1 + look_us))
    assert often.returning(WELL, Micros(1 + at_us)) == once.returning(WELL, Micros(1 + at_us))


@given(st.integers(0, RAMP_US - 1), st.integers(1, RAMP_US))
def test_the_next_change_is_the_next_change(at_us: int, ramp_us: int) -> None:
    failback = Failback(ramp_us)
    failback.returning(DOWN, Micros(0))
    failback.returning(WELL, Micros(0))
    here = failback.returning(WELL, Micros(at_us))
    if here.next_change is None:
        assert not here.away_ppm
        return
    assert here.next_change > at_us
    assert failback.returning(WELL, Micros(here.next_change - 1)) == here
    assert failback.returning(WELL, here.next_change).away_ppm != here.away_ppm


@pytest.mark.parametrize(
    ("steps", "away"),
    [
        ((DOWN, WELL), True),
        ((WELL | {"ams": Level.DEGRADED}, WELL), True),
        ((WELL | {"ams": Level.UNKNOWN}, WELL), False),
        (({}, WELL), False),
        ((dict.fromkeys(WELL, Level.DOWN), WELL), False),
        ((dict.fromkeys(WELL, Level.DEGRADED), WELL), False),
        ((DOWN, WELL, DOWN), False),
        ((DOWN, WELL, WELL | {"ams": Level.UNKNOWN}), False),
    ],
    ids=["well again", "better", "unknown", "new", "all were down", "all were ill", "down again", "unknown again"],
)
def test_who_has_users_to_win_back(steps: tuple[dict[str, Level], ...], away: bool) -> None:
    failback = Failback()
    for second, levels in enumerate(steps):
        returning = failback.returning(levels, Micros(second * SECOND))
    assert ("ams" in returning.away_ppm) is away
    assert "fra" not in returning.away_ppm


def test_a_ramp_is_not_begun_again_by_getting_better_still() -> None:
    failback = Failback()
    failback.returning(DOWN, Micros(0))
    failback.returning(WELL | {"ams": Level.DEGRADED}, Micros(0))
    returning = failback.returning(WELL, Micros(RAMP_US // 2))
    assert returning.away_ppm == {"ams": away_ppm(RAMP_US // 2, RAMP_US)}
    assert not Failback(0).returning(WELL, Micros(0)).away_ppm


def test_without_a_ramp_all_go_back_at_once() -> None:
    failback = Failback(0)
    failback.returning(DOWN, Micros(0))
    returning = failback.returning(WELL, Micros(0))
    assert (returning.away_ppm, returning.next_change) == ({}, None)


def test_nobody_stays_away_for_a_worse_region_or_in_a_panic() -> None:
    worse = WELL | {"fra": Level.DEGRADED, "iad": Level.DOWN}
    assert len(at_home(1_000_000, worse)) == len(USERS)
    only = compile_policy(parse(POLICY.replace("tertiary iad }", "tertiary iad panic below 90% }")))
    planned = plan(only, worse, SitePlace("here", 0, 0), away_ppm={"ams": 1_000_000})
    assert decide(planned, USERS[0], frozenset()).reason == "panic: primary"


def test_explain_says_so() -> None:
    away = next(user for n, user in enumerate(USERS) if n not in at_home(500_000))
    explained = explain(table(WELL, {"ams": 500_000}), away, frozenset())
    assert explained.decision.reason == "secondary: ams returning"
    kept = {kept.region: kept.why for _, tier in explained.tiers for kept in tier}
    assert kept == {"ams": "returning", "fra": "", "iad": "standby"}


@pytest.mark.parametrize("threshold", ["80%", "100%"])
def test_a_region_that_never_spills_has_its_users_back_no_sooner(threshold: str) -> None:
    policy = POLICY.replace("spill above 80%", f"spill above {threshold}")
    planned = plan(
        compile_policy(parse(policy)), WELL, SitePlace("here", 0, 0), 0, {"ams": 1_000_000}, away_ppm={"ams": 950_000}
    )
    users = [Request("192.0.2.9", "api.example", "/", headers=(("cookie", f"uid={n}"),)) for n in range(200)]
    home = sum(decide(planned, user, frozenset()).region == "ams" for user in users)
    assert home == 0 if threshold == "80%" else 0 < home < 30
