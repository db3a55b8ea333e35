"""Generated choosers against the reference's reading of the same conditions: the first rule that a request passes."""

from __future__ import annotations

from random import Random

from hypothesis import event, given
from hypothesis import strategies as st

from router.decision.predicates import LOOK_UPS_MIN, NO_RULE, SPLIT_MIN, chooser, share_salt
from router.decision.reference import condition_holds
from router.decision.request import Request, in_share, key_bytes
from router.policy.conditions import Condition, Match
from router.policy.paths import PathPattern
from router.policy.settings import Share
from router.policy.syntax import Route, Rule
from router.policy.zones import read_client
from tests.router.policy.rule_strategies import conditions, field_tests, keys, shares_ppm, some_requests

ZONES = ("", "north", "south")
TENANTS = ("eu", "us", "")
some_segments = st.lists(st.sampled_from(("a", "b", "*", "c")), min_size=1, max_size=4)
patterns = st.builds(
    lambda segments, rest: "/" + "/".join([*segments, *rest]), some_segments, st.sampled_from(((), ("**",)))
)
paths = st.lists(st.sampled_from(("", "a", "b", "c")), max_size=6).map("/".join)
value_tests = st.one_of(
    st.builds(Match, st.just("header"), st.just("x-tenant"), st.lists(st.sampled_from(TENANTS), min_size=1).map(tuple)),
    field_tests(("north", "south")),
)
rules = st.lists(
    st.tuples(
        st.one_of(value_tests, value_tests, conditions(("north", "south")), st.none()),
        st.one_of(st.none(), st.none(), st.builds(Share, shares_ppm, keys)),
    ),
    max_size=12,
)


def route_of(drawn: list[tuple[Condition | None, Share | None]]) -> Route:
    made = [Rule(f"rule-{number}", condition, share=share) for number, (condition, share) in enumerate(drawn)]
    return Route("r", ("*",), "/**", (), rules=tuple(made))


def first_passed(route: Route, active: tuple[int, ...], request: Request, zone: str) -> int:
    for number in active:
        rule = route.rules[number]
        if rule.condition is not None and not condition_holds(rule.condition, request, zone):
            continue
        key = key_bytes(rule.share.by, request, read_client(request.client)) if rule.share else None
        if rule.share is None or in_share(share_salt(route, rule), rule.share.ppm, key):
            return number
    return NO_RULE


@given(rules, st.randoms(use_true_random=False), st.data())
def test_the_first_rule_that_a_request_passes_is_chosen(
    drawn: list[tuple[Condition | None, Share | None]], random: Random, data: st.DataObject
) -> None:
    route = route_of(drawn)
    active = tuple(number for number in range(len(drawn)) if data.draw(st.integers(0, 9)))
    choose = chooser(route, active)
    for request in some_requests(random, 20):
        zone = random.choice(ZONES)
        found = choose(request, request.path.partition("?")[0], zone, read_client(request.client))
        assert found == first_passed(route, active, request, zone)
        event("no rule" if found == NO_RULE else "a rule")


@given(st.lists(patterns, min_size=1, max_size=3), st.lists(paths, min_size=1, max_size=10))
def test_a_path_is_compared_as_its_pattern_compares_it(written: list[str], asked: list[str]) -> None:
    choose = chooser(route_of([(Match("path", "", tuple(written)), None)]), (0,))
    for path in asked:
        held = any(PathPattern.compiled(pattern).matches(path) for pattern in written)
        assert choose(Request("", "h", f"{path}?q"), path, "", None) == (0 if held else NO_RULE), path


@given(st.lists(patterns, min_size=SPLIT_MIN, max_size=6), paths)
def test_a_path_that_begins_with_no_slash_passes_no_pattern(written: list[str], asked: str) -> None:
    """`OPTIONS *` for one, and what a program makes: its first segment is not a pattern's."""
    choose = chooser(
        route_of([(Match("path", "", (pattern,)), None) for pattern in written]), tuple(range(len(written)))
    )
    path = asked.lstrip("/")
    assert choose(Request("", "h", path), path, "", None) == NO_RULE
    inside = "/" + path
    held = [number for number, pattern in enumerate(written) if PathPattern.compiled(pattern).matches(inside)]
    assert choose(Request("", "h", inside), inside, "", None) == min(held, default=NO_RULE)


def test_of_many_rules_that_ask_for_values_the_first_wins() -> None:
    """Whichever of their look-ups finds it, and however many rules there are."""
    tenants = [(Match("header", "x-tenant", (f"t{number}", "shared")), None) for number in range(1_000)]
    ports = [(Match("port", "", ("443",)), None), (Match("method", "", ("GET",)), None)]
    assert len(tenants) > LOOK_UPS_MIN
    choose = chooser(route_of([*tenants[:500], *ports, *tenants[500:]]), tuple(range(1_002)))

    def chosen(tenant: str, port: int = 0, method: str = "PUT") -> int:
        headers = (("x-tenant", tenant), ("x-tenant", "t1"))
        return choose(Request("", "h", "/", method, headers, port=port), "/", "", None)

    assert [chosen("shared"), chosen("t499"), chosen("t500"), chosen("t999"), chosen("t1000")] == [
        0,
        499,
        502,
        1_001,
        -1,
    ]
    assert [chosen("t999", 443), chosen("t999", method="GET"), chosen("t1", 443)] == [500, 501, 1]
