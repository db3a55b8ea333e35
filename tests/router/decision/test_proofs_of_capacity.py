"""What is proved of capacity is so: no mixture of requests, tried at random, brings a region more than it can take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from lattice.types import SECOND, Level
from router.decision import proofs_of_capacity
from router.decision.decide import decide
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.policy import parse
from router.policy.settings import NO_SETTINGS
from router.policy.syntax import Named, Policy, RegionName, Tier
from tests.router.policy.rule_strategies import some_requests, whole_policies

CAPACITY = """edition 1
region fra { at 50.11 8.68  endpoint 192.0.2.10:443  capacity 5000rps }
region ams { at 52.37 4.90  endpoint 192.0.2.20:443  capacity 1000rps }
region iad { at 38.94 -77.45  endpoint 192.0.2.30:443  capacity 6000rps }
zone eu { at 50 9  country DE  demand 1500rps }
zone us { at 39 -77  country US  demand 2600rps }
route api for "*" {
  rule residency { when RULE  primary ams  secondary fra }
  primary fra
  secondary iad
}
"""


def found(text: str) -> list[str]:
    return [each.message for each in prove(compile_policy(parse(text)))]


def without_shares(policy: Policy) -> Policy:
    """Where a lane's first region takes everything, so that what one request gets all others of its kind get."""

    def plain(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        return tuple(
            replace(tier, choice=Named(tuple(RegionName(each.name) for each in tier.choice.regions)))
            if isinstance(tier.choice, Named)
            else tier
            for tier in tiers
        )

    routes = [
        replace(
            route,
            tiers=plain(route.tiers),
            overrides=tuple(replace(each, tiers=plain(each.tiers)) for each in route.overrides),
            rules=tuple(replace(rule, tiers=plain(rule.tiers), settings=NO_SETTINGS) for rule in route.rules),
            settings=NO_SETTINGS,
        )
        for route in policy.routes
    ]
    regions = tuple(replace(region, avoid=()) for region in policy.regions)
    return replace(policy, routes=tuple(routes), regions=regions)


@given(whole_policies().map(without_shares), st.integers(0, 1 << 32))
def test_no_mixture_overloads_what_is_proved(policy: Policy, seed: int) -> None:
    random = Random(seed)
    policy = replace(
        policy,
        regions=tuple(replace(region, capacity_rps=random.choice((250, 500, 900))) for region in policy.regions),
        zones=tuple(replace(zone, demand_rps=random.choice((100, 200, 400))) for zone in policy.zones),
    )
    program = compile_policy(policy)
    proved = not any(each.code in ("E403", "E406") for each in prove(program))
    demand = {zone.name: zone.demand_rps or 0 for zone in policy.zones}
    capacity = {region.name: region.capacity_rps or 0 for region in policy.regions}
    worst = Counter[str]()
    for _ in range(2):
        now = random.randint(1_806_000_000, 1_806_900_000) * SECOND  # the weeks around a change of clocks
        levels = dict.fromkeys(capacity, Level.HEALTHY) | {random.choice(sorted(capacity)): Level.DOWN}
        by_zone: dict[str, list[str | None]] = {name: [] for name in demand}
        for _ in range(2):
            site = SitePlace("s", random.randint(-60, 60) * 1_000_000, random.randint(-170, 170) * 1_000_000)
            table = plan(program, levels, site, now)
            for request in some_requests(random, 80):
                decision = decide(table, request, frozenset())
                if decision.zone in by_zone and not decision.reason.startswith("fail open"):
                    by_zone[decision.zone].append(decision.region)
        for region in capacity:
            load = sum(demand[zone] for zone, seen in by_zone.items() if region in seen)
            worst[region] = max(worst[region], load)
    event("proved" if proved else "refused")
    if proved:
        assert all(worst[region] <= capacity[region] for region in capacity)


def test_rules_send_their_share_elsewhere() -> None:
    assert found(CAPACITY.replace("RULE", "zone in eu and not zone in us")) == [
        "by rule residency ams gets 1500rps and is built for 1000rps"
    ]
    roomy = CAPACITY.replace("1000rps", "3000rps")
    some = found(roomy.replace("RULE", 'path in "/a/**" or header("x") present'))
    assert some == ["by rule residency ams gets 4100rps and is built for 3000rps"]
    assert found(roomy.replace("RULE", "zone in eu")) == []
    assert found(roomy.replace("RULE", "zone in eu").replace("primary ams  secondary fra", "deny 403")) == []


SPARE = CAPACITY.replace("capacity 1000rps", "capacity 3000rps")
TWO_RULES = (
    SPARE[: SPARE.index("  rule")]
    + """  rule a { when zone in eu and path in "/a"  primary ams  secondary fra }
  rule b { when zone in us and path in "/b"  primary ams  secondary iad }
  primary fra
  secondary iad
}
"""
)


def test_zones_that_go_by_different_rules_meet() -> None:
    assert found(TWO_RULES) == ["by rule a and rule b ams gets 4100rps and is built for 3000rps"]
    assert found(TWO_RULES.replace("zone in us and path", "zone in eu and path")) == []


def test_routes_meet_too() -> None:
    text = (
        SPARE[: SPARE.index("route")]
        + """route a for "a.example" { rule r { when zone in us  deny 403 }  primary ams  secondary fra }
route b for "b.example" { rule r { when zone in eu  deny 403 }  primary ams  secondary iad }
"""
    )
    assert found(text) == ["ams gets 4100rps and is built for 3000rps"]


def test_rules_meet_only_while_both_their_windows_are_open() -> None:
    def at(one: str, other: str) -> list[str]:
        text = TWO_RULES.replace("rule a {", f'rule a {{ during "{one}"').replace(
            "rule b {", f'rule b {{ during "{other}"'
        )
        return found(text)

    both = ["by rule a and rule b ams gets 4100rps and is built for 3000rps"]
    assert at("08:00-20:00 UTC", "20:00-08:00 UTC") == []
    assert at("08:00-20:00 UTC", "19:59-08:00 UTC") == both
    assert at("08:00-20:00 Europe/Berlin", "14:00-20:00 America/New_York") == both, "for some weeks of March"
    assert at("08:00-19:00 Europe/Berlin", "14:00-20:00 America/New_York") == []
    assert at("08:00-20:00 UTC", "2027-03-28 01:00 to 2027-03-28 05:00 UTC") == both, "a date may be any day"


def test_where_windows_leave_no_gap_a_routes_own_tiers_get_nothing() -> None:
    text = (
        SPARE[: SPARE.index("route")]
        + """route all for "*" {
  rule day { during "08:00-20:00 UTC"  primary iad  secondary fra, ams }
  rule night { during "20:00-08:00 UTC"  primary iad  secondary fra, ams }
  primary ams
  secondary fra
}
"""
    )
    assert found(text) == []
    assert found(text.replace("20:00-08:00", "20:00-07:00")) == ["ams gets 4100rps and is built for 3000rps"]


def test_a_zone_without_a_place_may_be_next_to_any_region() -> None:
    text = (
        SPARE[: SPARE.index("zone")]
        + """zone eu { country DE  demand 2000rps }
zone us { country US  demand 2000rps }
route all for "*" { primary nearest  secondary any }
"""
    )
    assert found(text) == [
        "ams gets 4000rps and is built for 3000rps",
    ]
    ruled = text.replace(
        "primary nearest  secondary any }",
        "rule read { when method in GET  primary nearest }  primary fra  secondary iad }",
    )
    assert found(ruled)[-1:] == ["by rule read ams gets 4000rps and is built for 3000rps"]
    placed = text.replace("eu {", "eu { at 50 9").replace("us {", "us { at 39 -77")
    assert found(placed) == [], "2000 to fra and iad each; without fra, 2000 to ams"
    to_client = placed.replace("primary nearest", "primary nearest to client")
    assert found(to_client) == found(text), "clients may be elsewhere than their zone"


def test_what_spills_finds_room_or_does_not() -> None:
    text = (
        SPARE[: SPARE.index("route")]
        + 'route all for "*" { primary ams  secondary fra  tertiary iad  spill above 80% }\n'
    )
    assert found(text) == [], "2400 stay, 1700 go to fra; without fra, to iad"
    assert found(text.replace("capacity 6000rps", "capacity 1900rps")) == [], "1520 go to iad, 2580 stay"
    assert found(text.replace("capacity 6000rps", "capacity 500rps")) == [
        "without region fra, ams gets 3700rps and is built for 3000rps"
    ]


def test_it_says_when_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs_of_capacity, "SUMS_MAX", 3)
    (message,) = found(CAPACITY.replace("RULE", "zone in eu"))
    assert "could not be proved in" in message
