"""One differential test: every form of a policy gives the judge's bytes, over random policies and worlds.

Forms: the reference interpreter on the policy as written; generated Python and the table, on the policy as compiled;
the same on the policy read back from its JSON form; the WebAssembly engine, under wasmtime. A million cases:
`make nightly`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import Attempt, Decision, decide
from router.decision.decision_bytes import decision_bytes
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.reference import interpret
from router.decision.wasm.abi import request_bytes, view_bytes
from router.policy.json_form import from_json, to_json
from router.policy.parser import parse
from router.policy.printer import print_policy
from router.policy.settings import Retry, Settings, Timeouts
from router.policy.syntax import Policy
from tests.router.decision.wasm.rig import Rig
from tests.router.policy.policy_strategies import all_levels, endpoints_of, sites
from tests.router.policy.rule_strategies import (
    moments,
    round_trips,
    saturations,
    shares_away,
    some_requests,
    whole_policies,
)

REQUESTS = int(os.environ.get("EDGELATTICE_REQUESTS", "100"))
"""For each policy and world."""
CASES: list[int] = []
"""How many each example decided."""
EXAMPLES = max(200, profile().max_examples) if os.environ.get("CI") else profile().max_examples
"""20,000 cases in CI at least, which took 18 s; fewer where somebody waits for them."""


@pytest.fixture(scope="module", autouse=True)
def count() -> Iterator[None]:
    yield
    print(f"\n{sum(CASES):,} cases over {len(CASES):,} policies and worlds, each in four forms")


@profile(max_examples=int(os.environ.get("EDGELATTICE_DIFFERENTIAL", EXAMPLES)))
@given(
    whole_policies(), all_levels, sites, st.booleans(), moments, saturations, round_trips, shares_away,
    st.integers(0, 1 << 32),
)  # fmt: skip
def test_every_form_decides_alike(
    policy: Policy,
    levels: dict[str, Level],
    site: SitePlace,
    placed: bool,
    now: int,
    saturation: dict[str, int],
    rtt_us: dict[str, int],
    away: dict[str, int],
    seed: int,
) -> None:
    site = replace(site, placed=placed)
    again = from_json(to_json(policy))
    assert again == policy
    programs = [compile_policy(each) for each in (policy, again)]
    forms = [plan(program, levels, site, now, saturation, rtt_us, away) for program in programs]
    wasm = Rig(programs[1])
    assert wasm.plan(view_bytes(programs[1], levels, site, now, saturation, rtt_us, away)) == forms[1].valid_until
    endpoints, random = endpoints_of(policy), Random(seed)
    said: dict[bytes, Decision] = {}
    for request in some_requests(random, REQUESTS):
        ejected = {endpoint for endpoint in endpoints if random.random() < 0.15}
        judged = interpret(policy, levels, site, now, saturation, request, ejected, rtt_us, away)
        expected = decision_bytes(judged)
        for table in forms:
            assert decision_bytes(decide(table, request, ejected)) == expected
        assert wasm.decide(request_bytes(request, ejected)) == expected
        assert said.setdefault(expected, judged) == judged, "two decisions, the same bytes"
    CASES.append(REQUESTS)


def test_the_bytes_of_a_decision_are_these() -> None:
    """A golden case: other runtimes are written against it, so it changes with an announcement only."""
    attempt = Attempt("fra", "secondary", Level.DEGRADED, ("::1", 8443))
    settings = Settings(retry=Retry(2), timeouts=Timeouts(connect_us=50_000))
    decision = Decision(
        "shop", "eu", "ams", "fra", "secondary", "secondary: ams DOWN", 0, (attempt,), "canary", settings
    )
    assert decision_bytes(decision) == (
        b'{"route":"shop","zone":"eu","rule":"canary","proposed":"ams","region":"fra","tier":"secondary",'
        b'"reason":"secondary: ams DOWN","status":0,"attempts":[["fra","secondary","DEGRADED","::1",8443]],'
        b'"settings":{"is":"Settings","retry":{"is":"Retry","count":2},'
        b'"timeouts":{"is":"Timeouts","connect_us":50000}}}'
    )


@profile(max_examples=min(25, profile().max_examples))
@given(whole_policies())
def test_what_is_printed_parses_back_to_the_same(policy: Policy) -> None:
    text = print_policy(policy)
    assert parse(text) == policy
    assert print_policy(parse(text)) == text


@profile(max_examples=min(25, profile().max_examples))
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
