"""What a change moves: made-up traffic shows it wherever it is; recorded traffic is decided at its own time."""

from __future__ import annotations

import pytest

from lattice.types import SECOND, Level
from router.decision.access_log import Recorded
from router.decision.decide import decide
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program, compile_policy
from router.decision.proofs import kinds_of_requests
from router.decision.request import Request
from router.decision.traffic_study import STRETCHES_MAX, Timeline, compare, compare_synthetic, simulate
from router.policy import parse
from router.policy.windows import read_moment

POLICY = """edition 1
region fra { at 50.11 8.68  endpoint 192.0.2.10:443 }
region ams { at 52.37 4.90  endpoint 192.0.2.20:443 }
zone eu { at 50 9  country DE, FR }
zone office { 10.0.0.0/8 }
zone lab { 10.0.0.0/16  asn 64500 }
route api for "api.example" path "/v1/**" {
  rule cart  { when path in "/v1/cart/**" and header("x-a") in "b" and cookie("c") in "d"  primary fra }
  rule query { when query("q&") in "ü =" or sni in "*.tls.example"  primary fra }
  rule live  { when upgrade in websocket and port in 443 and method in PUT  primary fra }
  rule night { during "22:00-06:00 Europe/Berlin"  primary fra  secondary any }
  primary fra
  secondary any
}
route shop for "shop.example" "*.shop.example" {
  zone office { primary fra }
  zone lab { primary fra }
  zone eu { primary fra }
  primary fra
}
"""


def program(text: str = POLICY) -> Program:
    return compile_policy(parse(text))


def table(text: str, now_us: int = 0) -> RouteTable:
    made = program(text)
    return plan(made, dict.fromkeys(made.regions, Level.HEALTHY), SitePlace("here", 0, 0), now_us)


def test_every_rule_and_zone_has_a_request_that_it_decides() -> None:
    noon = read_moment("2027-01-05T12:00:00+00:00")
    decided = [decide(table(POLICY, noon), kind, frozenset()) for kind in kinds_of_requests(program())]
    assert {decision.rule for decision in decided if decision.route == "api"} == {"cart", "query", "live", ""}
    assert {decision.zone for decision in decided if decision.route == "shop"} == {"office", "lab", "eu", ""}
    hosts = {kind.host for kind in kinds_of_requests(program())}
    assert {"shop.example", "x.shop.example"} <= hosts


@pytest.mark.parametrize("line", [number for number, text in enumerate(POLICY.splitlines()) if "primary fra" in text])
def test_a_change_of_any_line_shows(line: int) -> None:
    lines = POLICY.splitlines()
    lines[line] = lines[line].replace("primary fra", "primary ams")
    night = read_moment("2027-01-05T23:00:00+00:00") if "night" in lines[line] else read_moment("2027-01-05T12:00:00Z")
    study = compare_synthetic(table(POLICY, night), table("\n".join(lines), night), users=10)
    assert set(study.moves) == {("fra", "ams")}
    assert 0 < len(study.users_moved) < len(study.users)


def test_users_who_live_elsewhere_are_seen_to_go_there() -> None:
    ours = POLICY[: POLICY.index("zone eu")] + 'route all for "*" { primary nearest  secondary any }\n'
    study = compare_synthetic(table(ours), table(ours.replace("nearest", "nearest to client")), users=10)
    assert set(study.moves) == {("fra", "ams")}
    assert len(study.users_moved) == len(study.users) // 2


def test_what_only_the_old_policy_serves_is_seen_to_go() -> None:
    shop = POLICY.index("route shop")
    study = compare_synthetic(table(POLICY), table(POLICY[:shop]), users=10)
    assert set(study.moves) == {("fra", "deny 404")}


def test_a_recorded_request_is_decided_at_its_time() -> None:
    planned = []

    def planning(now_us: int) -> RouteTable:
        planned.append(now_us)
        return table(POLICY, now_us)

    made = Request("203.0.113.9", "api.example", "/v1")
    times = [f"2027-01-{day:02}T{hour:02}:30:00+01:00" for day in (5, 4, 6) for hour in (1, 12, 13, 14, 23)]
    log = [Recorded(made, read_moment(time)) for time in times]
    study = simulate(Timeline(planning, 0), log)
    assert study.rules == {"api night": 6, "api": 9}
    assert len(planned) < len(times)
    fixed = simulate(Timeline(planning, log[0].at_us or 0, fixed=True), log)
    assert fixed.rules == {"api night": 15}
    nowhere = simulate(Timeline(planning, log[0].at_us or 0), [Recorded(made, None)])
    assert nowhere.rules == {"api night": 1}


def test_a_log_of_many_years_keeps_few_tables() -> None:
    tables = Timeline(lambda now_us: table(POLICY.replace("22:00-06:00", "00:00-00:01"), now_us), 0)
    made = Request("203.0.113.9", "api.example", "/v1")
    log = [Recorded(made, day * 86_400 * SECOND) for day in range(0, 400, 7)]
    assert compare(tables, tables, log).moved == 0
    assert len(tables._starts) <= min(STRETCHES_MAX, len(log))
