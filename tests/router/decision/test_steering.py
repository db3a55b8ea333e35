"""Affinity, weights, spill, shares, panic and windows: who moves, how many, and that nobody else does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import Decision, decide
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import compile_policy
from router.decision.reference import interpret
from router.decision.request import Request
from router.policy import parse
from router.policy.syntax import Policy
from router.policy.windows import read_moment
from tests.router.policy import policy_strategies
from tests.router.policy.rule_strategies import round_trips, some_requests, whole_policies

NAMES = ("ams", "bom", "fra", "gru", "iad")
REGIONS = "edition 1\n" + "".join(
    f"region {name} {{ at 10 {10 * place} endpoint 192.0.2.{place + 1}:80 }}\n" for place, name in enumerate(NAMES)
)
HERE = SitePlace("here", 10_000_000, 0)
USERS = 4_000
WELL = dict.fromkeys(NAMES, Level.HEALTHY)


def table_of(
    route: str,
    levels: dict[str, Level] | None = None,
    now: int = 0,
    away_ppm: dict[str, int] | None = None,
    **saturation_ppm: int,
) -> RouteTable:
    program = compile_policy(parse(f'{REGIONS}\ngroup east {{ bom, fra }}\nroute all for "*" {{ {route} }}'))
    return plan(program, WELL | (levels or {}), HERE, now, saturation_ppm, away_ppm=away_ppm or {})


def asked(table: RouteTable, user: int, path: str = "/", client: str = "10.0.0.1") -> Decision:
    headers = (("cookie", f"uid={user}"),)
    return decide(table, Request(client, "h", path, headers=headers), frozenset())


def regions_of(table: RouteTable, count: int = USERS) -> list[str | None]:
    return [asked(table, user).region for user in range(count)]


STICKY = 'primary nearest 5 stick by cookie("uid") for 1h'


@pytest.mark.parametrize("lost", NAMES)
def test_losing_one_of_n_moves_its_users_and_nobody_else(lost: str) -> None:
    before = regions_of(table_of(STICKY))
    after = regions_of(table_of(STICKY, {lost: Level.DOWN}))
    moved = [was for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {lost}
    assert len(moved) <= USERS * (1 / len(NAMES) + 0.02)
    spread = Counter(now for was, now in zip(before, after, strict=True) if was != now)
    assert len(spread) == len(NAMES) - 1


def test_a_user_has_one_region_on_every_node_and_path() -> None:
    program = table_of(STICKY).program
    elsewhere = plan(program, WELL, SitePlace("there", -40_000_000, 100_000_000))
    for user in range(200):
        assert asked(table_of(STICKY), user).region == asked(elsewhere, user, "/other", "192.0.2.77").region


def test_keys_are_tried_in_order_and_the_address_is_the_last() -> None:
    table = table_of('primary nearest 5 stick by jwt("sub"), cookie("uid"), ip(24) for 1h')
    assert len({asked(table, 7, client=f"10.0.{n}.1").region for n in range(50)}) == 1
    without = [decide(table, Request(f"10.0.1.{n}", "h", "/"), frozenset()).region for n in range(50)]
    assert len(set(without)) == 1
    assert len({decide(table, Request(f"2001:db8:{n}::1", "h", "/"), frozenset()).region for n in range(50)}) > 1


def test_weights_are_shares_and_renormalize_over_what_is_well() -> None:
    rule = 'primary ams weight 60, fra weight 30, gru weight 10 stick by cookie("uid") for 1h'
    counts = Counter(regions_of(table_of(rule)))
    assert abs(counts["ams"] - USERS * 0.6) < USERS * 0.03
    assert abs(counts["gru"] - USERS * 0.1) < USERS * 0.03
    after = Counter(regions_of(table_of(rule, {"ams": Level.DOWN})))
    assert abs(after["fra"] - USERS * 0.75) < USERS * 0.03


def test_raising_one_weight_moves_users_to_it_only() -> None:
    before = regions_of(table_of('primary ams weight 50, fra weight 50 stick by cookie("uid") for 1h'))
    after = regions_of(table_of('primary ams weight 50, fra weight 75 stick by cookie("uid") for 1h'))
    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"fra"}
    assert abs(len(moved) - USERS * 0.1) < USERS * 0.03


def test_spill_grows_with_saturation_and_the_same_users_go_first() -> None:
    route = "primary ams secondary fra spill above 80%"
    left: list[set[int]] = []
    for ppm in (800_000, 850_000, 900_000, 1_000_000):
        table = table_of(route, ams=ppm)
        decisions = [decide(table, Request(f"10.0.{n >> 8}.{n & 255}", "h", "/"), frozenset()) for n in range(2_000)]
        left.append({n for n, decision in enumerate(decisions) if decision.region == "fra"})
    assert [round(len(each) / 2_000 + 0.01, 1) for each in left] == [0, 0.3, 0.5, 1]
    assert left[1] < left[2] < left[3]
    assert decisions[0].reason == "secondary: ams spilled"


def test_a_share_only_grows() -> None:
    def inside(percent: int) -> set[int]:
        table = table_of(f'rule canary {{ share {percent}% by cookie("uid") primary gru }} primary ams')
        return {user for user in range(USERS) if asked(table, user).rule == "canary"}

    five, ten = inside(5), inside(10)
    assert five < ten
    assert abs(len(five) - USERS * 0.05) < USERS * 0.015
    table = table_of('rule canary { share 100% by cookie("uid") primary gru } primary ams')
    assert decide(table, Request("10.0.0.1", "h", "/"), frozenset()).region == "ams", "who cannot be told apart"


def test_panic_is_written_and_said() -> None:
    mostly = dict.fromkeys(("ams", "bom", "fra", "gru"), Level.DOWN)
    assert asked(table_of("primary any panic below 30%", mostly), 1).reason == "panic: primary"
    assert asked(table_of("primary any panic below 20%", mostly), 1).region == "iad"


def test_groups_and_numbered_tiers() -> None:
    table = table_of("primary nearest 2 of east secondary nearest tier 3 gru tier 4 any")
    lane = table.lane(0, "")
    assert [(option.region, option.tier) for option in lane.candidates] == [
        ("bom", "primary"), ("fra", "primary"), ("ams", "secondary"), ("gru", "tertiary"), ("iad", "tier 4"),
    ]  # fmt: skip


def test_rules_are_tried_in_order_and_can_refuse() -> None:
    table = table_of(
        'rule no { when method in TRACE deny 405 "not here" } '
        'rule api { when path in "/api/**" primary fra } primary ams'
    )
    refused = decide(table, Request("10.0.0.1", "h", "/api/x", "TRACE"), frozenset())
    assert (refused.status, refused.reason, refused.rule) == (405, "denied: not here", "no")
    assert asked(table, 1, "/api/x").rule == "api"
    assert asked(table, 1, "/").region == "ams"


def test_a_window_changes_the_table_at_its_edge() -> None:
    route = 'rule night { during "22:00-06:00 Europe/Berlin" primary gru } primary ams'
    evening = read_moment("2027-01-05T21:00:00+01:00")
    table = table_of(route, now=evening)
    assert asked(table, 1).region == "ams"
    assert table.valid_until == read_moment("2027-01-05T22:00:00+01:00")
    assert asked(table_of(route, now=table.valid_until), 1).region == "gru"


def test_measured_round_trips_come_before_distance() -> None:
    program = table_of("primary nearest secondary any").program
    detours = dict.fromkeys(NAMES, 400_000)
    table = plan(program, WELL, HERE, rtt_us=detours | {"iad": 120_000})
    assert table.lane(0, "").candidates[0].region == "iad"
    wobble = plan(program, WELL, HERE, rtt_us=detours | {"iad": 121_000})
    assert wobble.layout is table.layout, "noise turns no tables"
    usual = plan(program, WELL, HERE).lane(0, "").candidates
    faster_than_light = plan(program, WELL, HERE, rtt_us=dict.fromkeys(NAMES, 90))
    assert faster_than_light.lane(0, "").candidates == usual, "whoever answers from next door is not the region"
    nowhere = plan(program, WELL, SitePlace("here", 0, 0, placed=False), rtt_us=detours | {"iad": 300})
    assert nowhere.lane(0, "").candidates[0].region == "iad", "a site that knows no place has only its measurements"


@given(whole_policies(), policy_strategies.sites, st.booleans(), round_trips, st.integers(0, 1 << 32))
def test_the_judge_measures_as_the_plan_does(
    policy: Policy, site: SitePlace, placed: bool, rtt_us: dict[str, int], seed: int
) -> None:
    site = replace(site, placed=placed)
    table = plan(compile_policy(policy), {}, site, rtt_us=rtt_us)
    for request in some_requests(Random(seed), 20):
        judged = interpret(policy, {}, site, 0, {}, request, set(), rtt_us)
        assert decide(table, request, set()) == judged
