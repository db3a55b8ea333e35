"""The decision's laws, and its agreement with an interpreter that reads the policy slowly and literally."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from ipaddress import ip_address

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lattice.types import Endpoint, Level
from router.decision.decide import ATTEMPTS_MAX, REGION_ATTEMPTS_MAX, Decision, Request, decide
from router.decision.distance import distance_m
from router.decision.layout import SitePlace
from router.decision.nearby import LOCATION_MAX, chord_squared, point_of, point_of_region
from router.decision.plan import CLASSES, RouteTable, plan
from router.decision.program import compile_policy
from router.policy import parse
from router.policy.syntax import AnyLeft, Deny, Named, Nearest, Policy, ServePrimary, is_to_client
from tests.router.policy.policy_strategies import (
    CLIENTS,
    HOSTS,
    all_levels,
    endpoints_of,
    levels,
    policies,
    requests,
    sites,
)
from tests.router.policy.test_policy_matching import slow_host_matches, slow_path_matches, slow_zone_of

ejections = st.sets(st.integers(0, 15))


def ejected_of(policy: Policy, numbers: AbstractSet[int]) -> frozenset[Endpoint]:
    endpoints = endpoints_of(policy)
    return frozenset(endpoints[number] for number in numbers if number < len(endpoints))


def severity(policy: Policy, region: str, level: Level) -> int:
    """The class a level puts a region into; what may not serve is worst."""
    owner = next(declared for declared in policy.regions if declared.name == region)
    return CLASSES.get(policy.health_of(owner).unknown_as if level is Level.UNKNOWN else level, len(CLASSES))


def assert_lawful(table: RouteTable, request: Request, ejected: AbstractSet[Endpoint], decision: Decision) -> None:
    """What holds of every decision, whatever the policy."""
    endpoints = [attempt.endpoint for attempt in decision.attempts]
    assert len(set(endpoints)) == len(endpoints) <= ATTEMPTS_MAX
    assert decision.reason
    assert decision.reason.isascii()
    assert decision.reason.isprintable()
    if decision.region is None:
        assert 400 <= decision.status <= 599
        assert decision.attempts == ()
        assert (decision.proposed is None) == (decision.route == "") == (decision.reason == "no route")
        return
    assert decision.status == 0
    assert decision.attempts
    assert decision.attempts[0].region == decision.region
    assert decision.attempts[0].tier == decision.tier
    assert (decision.reason == decision.tier) == (
        decision.region == decision.proposed and not decision.reason.startswith("fail open")
    )
    policy = table.program.policy
    for attempt in decision.attempts:
        region = table.program.regions[attempt.region]
        assert attempt.endpoint in [(endpoint.host, endpoint.port) for endpoint in region.endpoints]
        assert attempt.level is table.levels[attempt.region]
        if not decision.reason.startswith("fail open"):
            assert attempt.endpoint not in ejected
            assert severity(policy, attempt.region, attempt.level) < len(CLASSES)
    regions = [attempt.region for attempt in decision.attempts]
    assert all(regions.count(region) <= REGION_ATTEMPTS_MAX for region in regions)


@given(policies(), all_levels, sites, requests, ejections)
def test_every_request_gets_a_region_or_a_written_denial(
    policy: Policy, known: dict[str, Level], site: SitePlace, request: Request, numbers: set[int]
) -> None:
    ejected = ejected_of(policy, numbers)
    table = plan(compile_policy(policy), known, site)
    decision = decide(table, request, ejected)
    assert_lawful(table, request, ejected, decision)
    assert decide(plan(compile_policy(policy), known, site), Request(*request), set(ejected)) == decision


def slow_decision(
    policy: Policy, known: Mapping[str, Level], site: SitePlace, request: Request, ejected: AbstractSet[Endpoint]
) -> tuple[str, str, str | None, str | None, str, int]:
    """(route, zone, proposed, region, tier, status), by reading the policy from top to bottom for every request."""
    try:
        zone = slow_zone_of(list(policy.zones), str(ip_address(request.client.partition("%")[0])))
    except ValueError:
        zone = ""
    host = request.host.lower()
    host = host if host.startswith("[") and host.endswith("]") else host.rpartition(":")[0] or host
    host = host.removesuffix(".")
    path = request.path.split("?", maxsplit=1)[0]
    for route in policy.routes:
        if any(_literal_host(pattern, host) for pattern in route.hosts) and slow_path_matches(route.path, path):
            break
    else:
        return "", zone, None, None, "", 404
    override = next((override for override in route.overrides if override.zone == zone), None)
    origin = next(
        (
            (declared.latitude_e6, declared.longitude_e6)
            for declared in policy.zones
            if declared.name == zone and declared.latitude_e6 is not None and declared.longitude_e6 is not None
        ),
        (site.latitude_e6, site.longitude_e6),
    )
    near = sorted((distance_m(*origin, r.latitude_e6, r.longitude_e6), r.name) for r in policy.regions)
    around = near
    if 1 <= request.location <= LOCATION_MAX:
        here = point_of(request.location)
        around = sorted((chord_squared(here, point_of_region(region)), region.name) for region in policy.regions)
    listed: list[tuple[str, str]] = []
    for tier in override.tiers if override else route.tiers:
        order = around if is_to_client(tier) else near
        left = [name for _, name in order if name not in [region for region, _ in listed]]
        match tier.choice:
            case Named(regions):
                picked = [region.name for region in regions if region.name in left]
            case Nearest(count):
                picked = left[:count]
            case AnyLeft():
                picked = left
        listed += [(name, tier.name) for name in picked]
    live = {
        region.name: any((endpoint.host, endpoint.port) not in ejected for endpoint in region.endpoints)
        for region in policy.regions
    }
    proposed = listed[0][0]
    for wanted in range(len(CLASSES)):
        for region, name in listed:
            if live[region] and severity(policy, region, known.get(region, Level.UNKNOWN)) == wanted:
                return route.name, zone, proposed, region, name, 0
    otherwise = (override.otherwise if override else None) or route.otherwise
    if isinstance(otherwise, Deny):
        return route.name, zone, proposed, None, "", otherwise.status
    assert isinstance(otherwise, ServePrimary)
    primary = [region for region, name in listed if name == listed[0][1]]
    return route.name, zone, proposed, next(filter(live.get, primary), proposed), "primary", 0


def _literal_host(pattern: str, host: str) -> bool:
    return pattern == host if pattern.startswith("[") else slow_host_matches(pattern, host)


@given(
    policies(),
    all_levels,
    sites,
    st.builds(
        Request,
        client=st.sampled_from(CLIENTS),
        host=st.sampled_from(
            [*(host for host in HOSTS if "*" not in host), "y.x.b.example:8080", "A.Example.", "c.test"]
        ),
        path=st.sampled_from(("/", "/a", "/a/", "/a/b", "/z/b", "/a/b/c", "/a/b/c/d?q=/", "*", "")),
    ),
    ejections,
)
def test_a_decision_is_what_the_policy_says_read_slowly(
    policy: Policy, known: dict[str, Level], site: SitePlace, request: Request, numbers: set[int]
) -> None:
    ejected = ejected_of(policy, numbers)
    found = decide(plan(compile_policy(policy), known, site), request, ejected)
    said = slow_decision(policy, known, site, request, ejected)
    assert (found.route, found.zone, found.proposed, found.region, found.tier, found.status) == said


@given(policies(), all_levels, sites, requests, ejections, st.data())
def test_worse_health_of_a_region_not_chosen_changes_no_choice(
    policy: Policy, known: dict[str, Level], site: SitePlace, request: Request, numbers: set[int], data: st.DataObject
) -> None:
    """If a region other than the chosen one falls to a worse class, region, tier, status and first endpoint stay.

    Only the reason and the standbys may change. If nothing was chosen, nothing is.
    """
    ejected = ejected_of(policy, numbers)
    program = compile_policy(policy)
    decision = decide(plan(program, known, site), request, ejected)
    others = [region.name for region in policy.regions if region.name != decision.region]
    assume(others)
    region, level = data.draw(st.sampled_from(others)), data.draw(levels)
    assume(severity(policy, region, level) >= severity(policy, region, known.get(region, Level.UNKNOWN)))
    after = decide(plan(program, known | {region: level}, site), request, ejected)
    assert (after.region, after.tier, after.status) == (decision.region, decision.tier, decision.status)
    assert after.attempts[:1] == decision.attempts[:1] or after.attempts[0].endpoint == decision.attempts[0].endpoint


@given(policies(), all_levels, sites, requests, ejections, ejections)
def test_ejecting_what_was_not_chosen_changes_no_choice(
    policy: Policy, known: dict[str, Level], site: SitePlace, request: Request, numbers: set[int], more: set[int]
) -> None:
    table = plan(compile_policy(policy), known, site)
    decision = decide(table, request, ejected_of(policy, numbers))
    first = {attempt.endpoint for attempt in decision.attempts[:1]}
    after = decide(table, request, ejected_of(policy, numbers | more) - (first - ejected_of(policy, numbers)))
    assert (after.region, after.tier, after.attempts[:1]) == (decision.region, decision.tier, decision.attempts[:1])


@given(policies(), all_levels, sites, requests, ejections)
def test_an_ejected_endpoint_leaves_and_the_next_attempt_moves_up(
    policy: Policy, known: dict[str, Level], site: SitePlace, request: Request, numbers: set[int]
) -> None:
    """What a request would try second is what the next request tries first, once the first endpoint is ejected."""
    ejected = ejected_of(policy, numbers)
    table = plan(compile_policy(policy), known, site)
    decision = decide(table, request, ejected)
    if len(decision.attempts) > 1 and not decision.reason.startswith("fail open"):
        after = decide(table, request, ejected | {decision.attempts[0].endpoint})
        assert after.attempts[0] == decision.attempts[1]


@given(st.sampled_from(CLIENTS))
@example("::ffff:10.1.2.3")
def test_an_address_has_one_endpoint_however_it_is_written(client: str) -> None:
    table = plan(compile_policy(parse(WIDE)), {}, SitePlace("here", 0, 0))
    spellings = {client, client.upper()}
    if client == "10.1.2.3":
        spellings.add("::ffff:10.1.2.3")
    answers = {decide(table, Request(spelling, "h", "/"), frozenset()).attempts for spelling in spellings}
    assert len(answers) == 1 or client == "not-an-address"  # what is no address has no spellings


WIDE = """
edition 1
region fra {
  at 50 8
  endpoint 192.0.2.1:80 endpoint 192.0.2.2:80 endpoint 192.0.2.3:80 endpoint 192.0.2.4:80 endpoint 192.0.2.5:80
}
region iad { at 38 -77 endpoint 192.0.2.7:80 }
route all for "*" { primary fra secondary iad }
"""


def test_a_large_dead_region_does_not_hide_its_standby() -> None:
    table = plan(compile_policy(parse(WIDE)), {}, SitePlace("here", 0, 0))
    decision = decide(table, Request("192.0.2.77", "h", "/"), frozenset())
    assert [attempt.region for attempt in decision.attempts] == ["fra", "fra", "fra", "iad"]


@pytest.mark.parametrize(
    "tampered",
    [
        {"attempts": ()},
        {"region": "iad"},
        {"region": None},
        {"reason": ""},
        {"reason": "prim\u00e4r"},
        {"reason": "primary\r\nSet-Cookie: a=b"},
        {"tier": "secondary"},
        {"status": 503},
    ],
    ids=str,
)
def test_the_laws_catch_a_planted_bug(tampered: dict[str, object]) -> None:
    table = plan(compile_policy(parse(WIDE)), {}, SitePlace("here", 0, 0))
    request = Request("192.0.2.77", "h", "/")
    decision = decide(table, request, frozenset())
    assert_lawful(table, request, frozenset(), decision)
    with pytest.raises(AssertionError):
        assert_lawful(table, request, frozenset(), decision._replace(**tampered))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(AssertionError):
        assert_lawful(table, request, {decision.attempts[0].endpoint}, decision)


PROGRAM_OF_ANOTHER_PROCESS = """
from router.decision.decide import Request, decide
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.policy import parse
from router.decision.program import compile_policy
import sys
table = plan(compile_policy(parse(sys.argv[1])), {}, SitePlace("here", 0, 0))
for number in range(100):
    print(decide(table, Request(f"10.0.{number}.1", "h", "/"), frozenset()))
"""


def test_another_process_with_another_hash_seed_decides_alike() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM_OF_ANOTHER_PROCESS, WIDE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1
