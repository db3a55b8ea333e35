"""The sequential test, and what a site concludes from its users' requests."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.rollouts import RolloutId
from lattice.types import Level
from router.decision.decide import Request, decide, route_at
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.policy import parse
from router.sequential_test import (
    ALPHA_PPM,
    BETA_PPM,
    CONDEMN_AT,
    FAILED,
    P0_PPM,
    P1_PPM,
    PASS_AT,
    WELL,
    Judgement,
    SequentialTest,
)
from router.traffic.ending import RELAYED
from router.trial import FAILURES, SUCCESSES, Trial, failed
from tests.bench.trials import CASES, measure

ROLLOUT = RolloutId(b"8 bytes.")


def by_reference(outcomes: list[bool]) -> Judgement:
    """Wald's test, in floating point, as it is written in books."""
    p0, p1, alpha, beta = (ppm / 1e6 for ppm in (P0_PPM, P1_PPM, ALPHA_PPM, BETA_PPM))
    ratio = 0.0
    for bad in outcomes:
        ratio += log(p1 / p0) if bad else log((1 - p1) / (1 - p0))
        if ratio >= log((1 - beta) / alpha):
            return Judgement.CONDEMNED
        if ratio <= log(beta / (1 - alpha)):
            return Judgement.PASSED
    return Judgement.UNDECIDED


@given(st.lists(st.sampled_from([True, *[False] * 12]), max_size=300))
def test_the_test_is_walds(outcomes: list[bool]) -> None:
    test = SequentialTest()
    for bad in outcomes:
        test.hear(failed=bad)
    assert test.judgement is by_reference(outcomes)


def test_the_weights_are_the_formulas() -> None:
    p0, p1, alpha, beta = (ppm / 1e6 for ppm in (P0_PPM, P1_PPM, ALPHA_PPM, BETA_PPM))
    formulas = [log(p1 / p0), log((1 - p1) / (1 - p0)), log((1 - beta) / alpha), log(beta / (1 - alpha))]
    assert [round(each * 1e6) for each in formulas] == [FAILED, WELL, CONDEMN_AT, PASS_AT]


def decided_after(*outcomes: bool) -> tuple[int, Judgement]:
    test = SequentialTest()
    for count, bad in enumerate(outcomes, 1):
        if test.hear(failed=bad) is not Judgement.UNDECIDED:
            return count, test.judgement
    return len(outcomes), test.judgement


def test_the_boundaries_on_both_sides() -> None:
    assert decided_after(True, True) == (2, Judgement.CONDEMNED), "a dead route"
    assert decided_after(*[False] * 18, True, True) == (20, Judgement.CONDEMNED)
    assert decided_after(*[False] * 19, True, True) == (21, Judgement.UNDECIDED)
    assert decided_after(*[False] * 91) == (91, Judgement.UNDECIDED)
    assert decided_after(*[False] * 92) == (92, Judgement.PASSED)
    assert decided_after(True, *[False] * 168) == (169, Judgement.UNDECIDED)
    assert decided_after(True, *[False] * 170) == (171, Judgement.PASSED)


def trial(*heard: tuple[str, bool]) -> tuple[Trial, list[Judgement]]:
    said: list[Judgement] = []
    subject = Trial(ROLLOUT, 0, lambda each: said.append(each.judgement))
    for route, bad in heard:
        subject.hear(route, failed=bad)
    return subject, said


def test_a_test_ends_with_its_first_decision() -> None:
    test = SequentialTest()
    assert [test.hear(failed=False) for _ in range(92)][-1] is Judgement.PASSED
    assert {test.hear(failed=True) for _ in range(20)} == {Judgement.PASSED}


def test_a_dead_route_condemns_however_well_the_others_do() -> None:
    subject, said = trial(*[("app", False)] * 200, ("shop", True), *[("app", False)] * 200, ("shop", True))
    assert said == [Judgement.PASSED, Judgement.CONDEMNED]
    assert (subject.condemned_by, subject.requests, subject.failures) == ("shop", 402, 2)


def test_all_routes_together_condemn_what_none_does_alone() -> None:
    subject, said = trial(("app", True), ("shop", True))
    assert said == [Judgement.CONDEMNED]
    assert subject.condemned_by == ""


def test_what_is_condemned_stays_so_and_no_data_is_no_verdict() -> None:
    subject, said = trial(("app", True), ("app", True), *[("app", False)] * 500)
    assert said == [Judgement.CONDEMNED]
    assert (subject.requests, subject.failures) == (502, 2), "what still ends under it is counted"
    assert Trial(ROLLOUT, 0).judgement is Judgement.UNDECIDED


@pytest.mark.parametrize(
    ("ending", "status", "expected"),
    [
        ("relayed_2xx", 0, False), ("relayed_4xx", 0, False), ("relayed_5xx", 0, True), ("failed_502", 0, True),
        ("failed_504", 0, True), ("shed_503", 0, True), ("truncated", 0, True), ("internal_error", 0, True),
        ("looped", 0, True), ("denied", 503, True), ("denied", 403, None), ("denied", 404, None),
        ("rejected_400", 0, None), ("client_gone", 0, None), ("abandoned", 0, None), ("cached", 0, None),
        ("uncached", 0, None),
    ],
)  # fmt: skip
def test_a_failure_is_what_the_user_got(ending: str, status: int, expected: bool | None) -> None:
    assert failed(ending, status) is expected


def test_every_way_to_relay_says_something() -> None:
    assert {each.kind for pair in RELAYED for each in pair} <= SUCCESSES | FAILURES


def test_what_says_nothing_is_not_counted() -> None:
    subject, _ = trial()
    subject.ended("app", "client_gone", 0)
    subject.ended("app", "relayed_2xx", 0)
    subject.ended("app", "denied", 503)
    assert (subject.requests, subject.failures) == (2, 1)


def test_a_route_that_the_version_lost_is_a_failure_and_one_that_never_was_is_none() -> None:
    before = {("shop.test", "/cart"): "cart"}
    subject = Trial(ROLLOUT, 0, route_before=lambda host, path: before.get((host, path), ""))
    for _ in range(9):
        subject.found_no_route("scanned.test", "/wp-admin")
    assert (subject.requests, subject.failures) == (0, 0)
    subject.found_no_route("shop.test", "/cart")
    subject.found_no_route("shop.test", "/cart")
    assert (subject.judgement, subject.condemned_by) == (Judgement.CONDEMNED, "cart")


def test_the_route_of_a_host_and_path_is_the_one_that_decides() -> None:
    program = compile_policy(
        parse(
            "edition 1\nregion fra { at 50 8 endpoint 127.0.0.1:1 }\n"
            'route cart for "shop.test" path "/cart/**" { primary fra }\n'
            'route shop for "shop.test" "*.shop.test" path "/*" { primary fra }\n'
        )
    )
    table = plan(program, {"fra": Level.HEALTHY}, SitePlace("ams", 0, 0), 0)
    for host in ("shop.test", "a.shop.test", "SHOP.test", "b.test", ""):
        for path in ("/cart/a", "/cart/a?b=/c", "/cart", "/a", "/a/b", "*"):
            assert route_at(program, host, path) == decide(table, Request("", host, path), frozenset()).route
    assert route_at(program, "shop.test", "/cart/a?b=/c") == "cart"


def test_a_good_version_is_rolled_back_less_than_once_in_two_hundred_trials() -> None:
    found = measure(CASES["A/A, one route"], 1_000, "a test")
    assert int(str(found["condemned"])) <= 5


def test_a_dead_route_is_found_in_a_hundredth_of_the_traffic() -> None:
    found = measure(CASES["one route of ten is dead, with 1 % of all requests"], 200, "a test")
    assert (found["condemned"], found["failures_max"]) == (200, 2)
