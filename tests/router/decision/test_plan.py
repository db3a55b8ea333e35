"""How levels, tiers and distance rank regions, and what a re-plan shares."""

from __future__ import annotations

import pytest
from hypothesis import given

from lattice.types import Level
from router.decision.layout import SitePlace, lay_out
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.policy import PolicyError, parse
from router.policy.syntax import Policy
from tests.router.policy.policy_strategies import all_levels, policies, sites

TEXT = """
edition 1
region fra { at 50.11 8.68 endpoint 192.0.2.1:80 }
region iad { at 38.94 -77.45 endpoint 192.0.2.2:80 }
region nrt { at 35.76 140.39 endpoint 192.0.2.3:80 }
region gru { at -23.43 -46.47 endpoint 192.0.2.4:80 health careful }
zone asia { at 31.2 121.5 198.51.100.0/25 }
zone office { 198.51.100.128/26 }
zone lab { 198.51.100.192/26 }
health careful { unknown as down }
route all for "*" {
  zone lab { primary gru, iad otherwise serve primary }
  primary nearest 2
  secondary nearest
  tertiary any
  otherwise deny 507
}
"""
PROGRAM = compile_policy(parse(TEXT))
BERLIN = SitePlace("berlin", 52_520_000, 13_405_000)
WELL = dict.fromkeys(("fra", "gru", "iad", "nrt"), Level.HEALTHY)


def ranked(zone: str, **levels: Level) -> list[str]:
    return [f"{option.region}/{option.tier}" for option in plan(PROGRAM, WELL | levels, BERLIN).lane(0, zone).options]


def test_tiers_are_filled_by_distance_from_the_site_or_the_zone() -> None:
    assert ranked("") == ["fra/primary", "iad/primary", "nrt/secondary", "gru/tertiary"]
    assert ranked("asia") == ["nrt/primary", "fra/primary", "iad/secondary", "gru/tertiary"]
    assert ranked("lab") == ["gru/primary", "iad/primary"]


def test_class_of_level_comes_before_tier_and_down_is_left_out() -> None:
    assert ranked("", fra=Level.DEGRADED, iad=Level.FAILING) == [
        "nrt/secondary",
        "gru/tertiary",
        "fra/primary",
        "iad/primary",
    ]
    assert ranked("", fra=Level.DOWN, nrt=Level.DOWN) == ["iad/primary", "gru/tertiary"]


def test_unknown_is_what_the_regions_health_block_says() -> None:
    assert ranked("", fra=Level.UNKNOWN, gru=Level.UNKNOWN) == ["fra/primary", "iad/primary", "nrt/secondary"]
    table = plan(PROGRAM, {}, BERLIN)
    assert table.levels == dict.fromkeys(("fra", "gru", "iad", "nrt"), Level.UNKNOWN)
    assert [option.region for option in table.lane(0, "").options] == ["fra", "iad", "nrt"]


def test_reasons_name_what_was_preferred_and_why_it_was_not_taken() -> None:
    lane = plan(PROGRAM, WELL | {"fra": Level.DOWN, "iad": Level.DEGRADED}, BERLIN).lane(0, "")
    assert [lane.reason(option) for option in lane.options] == [
        "secondary: fra DOWN, iad DEGRADED",
        "tertiary: fra DOWN, iad DEGRADED, nrt ejected",
        "primary: fra DOWN",
    ]
    assert lane.lost("denied") == "denied: fra DOWN, iad ejected, nrt ejected, 1 more"
    assert lane.last_resort == ()
    down = plan(PROGRAM, dict.fromkeys(WELL, Level.DOWN), BERLIN).lane(0, "lab")
    assert [option.region for option in down.last_resort] == ["gru", "iad"]
    assert down.lost("fail open") == "fail open: gru DOWN, iad DOWN"


def test_lanes_that_cannot_differ_are_one() -> None:
    layout = lay_out(PROGRAM, BERLIN)
    (zones,) = layout.lane_of
    assert zones[""] == zones["office"]
    assert len({zones[""], zones["asia"], zones["lab"]}) == len(layout.lanes) == 3
    assert lay_out(PROGRAM, BERLIN) is layout  # a change of health does not lay out anew


@given(policies(), all_levels, all_levels, sites)
def test_planning_is_a_function_of_what_it_is_given(
    policy: Policy, levels: dict[str, Level], before: dict[str, Level], site: SitePlace
) -> None:
    program = compile_policy(policy)
    plan(program, before, site)  # what was planned earlier leaves no trace
    shuffled = dict(reversed(levels.items()))
    assert plan(program, levels, site).lanes == plan(compile_policy(policy), shuffled, site).lanes


@given(policies(), all_levels, sites)
def test_every_region_is_a_candidate_once_and_reasons_are_short(
    policy: Policy, levels: dict[str, Level], site: SitePlace
) -> None:
    table = plan(compile_policy(policy), levels, site)
    for lane in table.lanes:
        assert lane.candidates
        assert len({option.region for option in lane.candidates}) == len(lane.candidates)
        assert set(lane.options) <= set(lane.candidates)
        for text in (lane.lost("denied"), *map(lane.reason, lane.options)):
            assert text.isascii()
            assert text.isprintable()
            assert len(text) < 300


def test_a_policy_made_by_a_program_is_checked_too() -> None:
    with pytest.raises(PolicyError, match="E312"):
        compile_policy(Policy(1, (), (), (), ()))
