"""A client that was seen gets what anybody would: whatever changed since."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from lattice.types import Endpoint, Level
from router.decision import seen as module
from router.decision.decide import decide, warm
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.request import Request
from router.decision.seen import SeenClients
from router.policy import parse
from router.policy.syntax import Policy
from tests.router.policy.policy_strategies import all_levels, endpoints_of, sites
from tests.router.policy.rule_strategies import moments, saturations, shares_away, some_requests, whole_policies


@profile(max_examples=min(20, profile().max_examples))
@given(
    whole_policies(), whole_policies(), st.lists(all_levels, min_size=2, max_size=2), sites, moments, saturations,
    shares_away, st.integers(0, 1 << 32),
)  # fmt: skip
def test_remembering_changes_no_answer(
    policy: Policy,
    other: Policy,
    levels: list[dict[str, Level]],
    site: SitePlace,
    now: int,
    saturation: dict[str, int],
    away: dict[str, int],
    seed: int,
) -> None:
    """The same few requests again and again, under other tables, policies and ejections each time."""
    programs = [compile_policy(policy), compile_policy(other)]
    tables = [plan(program, state, site, now, saturation, {}, away) for program in programs for state in levels]
    random = Random(seed)
    requests = list(some_requests(random, 5))
    endpoints = sorted({*endpoints_of(policy), *endpoints_of(other)})
    seen, table = SeenClients(), tables[0]
    ejected: set[Endpoint] = set()
    for _ in range(80):
        change = random.random()
        if change < 0.1:
            table = random.choice(tables)
        elif change < 0.4:
            ejected ^= {random.choice(endpoints)}
        elif change < 0.5:
            ejected = set()
        request = random.choice(requests)
        request = Request(*request) if random.random() < 0.5 else request
        fresh = plan(table.program, table.levels, site, now, saturation, {}, away)
        assert seen.decide(table, request, ejected) == decide(fresh, request, set(ejected))


TEXT = """edition 1
region fra { at 50 8 endpoint 192.0.2.1:80 }
region iad { at 38 -77 endpoint 192.0.2.2:80 }
region nrt { at 35 140 endpoint 192.0.2.3:80 }
route all for "*" { primary fra secondary iad tertiary nrt }
"""


def test_the_same_decision_is_the_same_object_and_its_stand_in_is_ready() -> None:
    table = plan(compile_policy(parse(TEXT)), {}, SitePlace("here", 0, 0))
    seen = SeenClients()
    request = Request("198.51.100.7", "shop.test", "/cart")
    first = seen.decide(table, request, set())
    assert seen.decide(table, Request(*request), set()) is first
    ejected = {("192.0.2.1", 80)}
    after = seen.decide(table, request, ejected)
    assert (after.region, after.reason) == ("iad", "secondary: fra ejected")
    assert seen.decide(table, request, ejected) is after, "worked out beforehand"
    assert seen.decide(table, request, {("192.0.2.2", 80)}).attempts == first.attempts[:1] + first.attempts[2:]


@profile(max_examples=min(20, profile().max_examples))
@given(whole_policies(), all_levels, sites, moments, st.integers(0, 1 << 32))
def test_a_warm_table_gives_the_same_answers(
    policy: Policy, levels: dict[str, Level], site: SitePlace, now: int, seed: int
) -> None:
    warmed, fresh = (plan(compile_policy(policy), levels, site, now) for _ in range(2))
    assert sum(1 for _ in warm(warmed)) == sum(len(known) for rules in warmed.usual for known in rules)
    random, endpoints = Random(seed), endpoints_of(policy)
    for request in some_requests(random, 20):
        ejected = {endpoint for endpoint in endpoints if random.random() < 0.1}
        assert decide(warmed, request, ejected) == decide(fresh, request, ejected)


def test_memory_is_bounded() -> None:
    table = plan(compile_policy(parse(TEXT)), {}, SitePlace("here", 0, 0))
    seen = SeenClients()
    for number in range(module.CLIENTS_MAX + 10):
        seen.decide(table, Request(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "h", "/"), set())
    assert 0 < len(seen._seen) <= module.CLIENTS_MAX
