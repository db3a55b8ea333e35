"""One differential test: the fast path answers as the slow and obvious one, over random policies and worlds."""

from __future__ import annotations

import os
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import decide
from router.decision.plan import SitePlace, plan
from router.decision.program import compile_policy
from router.decision.reference import interpret
from router.policy.json_form import from_json, to_json
from router.policy.parser import parse
from router.policy.printer import print_policy
from router.policy.syntax import Policy
from tests.router.policy.policy_strategies import all_levels, endpoints_of, sites
from tests.router.policy.rule_strategies import moments, saturations, some_requests, whole_policies

REQUESTS = 100
"""For each policy and world: 200 examples in CI make 20,000 cases."""


@settings(max_examples=int(os.environ.get("EDGELATTICE_DIFFERENTIAL", settings().max_examples)))
@given(whole_policies(), all_levels, sites, moments, saturations, st.integers(0, 1 << 32))
def test_every_form_decides_alike(
    policy: Policy, levels: dict[str, Level], site: SitePlace, now: int, saturation: dict[str, int], seed: int
) -> None:
    again = from_json(to_json(policy))
    assert again == policy
    table = plan(compile_policy(again), levels, site, now, saturation)
    endpoints, random = endpoints_of(policy), Random(seed)
    for request in some_requests(random, REQUESTS):
        ejected = {endpoint for endpoint in endpoints if random.random() < 0.15}
        slow = interpret(policy, levels, site, now, saturation, request, ejected)
        assert decide(table, request, ejected) == slow


@given(whole_policies())
def test_what_is_printed_parses_back_to_the_same(policy: Policy) -> None:
    text = print_policy(policy)
    assert parse(text) == policy
    assert print_policy(parse(text)) == text


@given(whole_policies(), all_levels, sites, moments, st.integers(1, 10_000_000_000_000))
def test_a_table_holds_until_the_next_window_edge(
    policy: Policy, levels: dict[str, Level], site: SitePlace, now: int, later: int
) -> None:
    program = compile_policy(policy)
    table = plan(program, levels, site, now)
    if table.valid_until is not None:
        later = min(later, table.valid_until - now - 1)
    after = plan(program, levels, site, now + later)
    assert table.valid_until is None or table.valid_until > now
    assert after.lanes == table.lanes
    assert after.choosers == table.choosers
