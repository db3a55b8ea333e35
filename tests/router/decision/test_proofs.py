"""What is proved is so: no request and no state of health, tried at random, contradicts a proof."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, groupby
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import decide
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.proofs import _Question, prove
from router.decision.reference import condition_holds
from router.decision.representatives import TooHardError
from router.decision.request import Request
from router.decision.scenario_run import run_tests
from router.policy import parse
from router.policy.conditions import Condition
from router.policy.errors import Diagnostic
from router.policy.syntax import Group, Never, Policy, RegionName
from router.policy.windows import read_moment, read_window
from tests.router.policy.rule_strategies import conditions, some_requests, whole_policies

TEXT = """edition 1
region fra { at 50 8 endpoint 192.0.2.1:80 }
region ams { at 52 5 endpoint 192.0.2.2:80 }
region iad { at 39 -77 endpoint 192.0.2.3:80 }
group gdpr { fra, ams }
zone eu { at 50 9 country DE, FR }
health default { damp suppress 2500 cooldown 30s }
route api for "*" {
  rule residency { when country in DE primary nearest of gdpr secondary any of gdpr otherwise deny 503 }
  primary nearest
  secondary any
}
"""


@given(whole_policies(), conditions(()), st.data())
def test_a_never_that_is_proved_is_never_violated(policy: Policy, condition: Condition, data: st.DataObject) -> None:
    names = [region.name for region in policy.regions]
    allowed = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    policy = replace(
        policy,
        groups=(*policy.groups, Group("allowed", tuple(map(RegionName, allowed)))),
        nevers=(Never("never", condition, "allowed"),),
    )
    program = compile_policy(policy)
    if any(found.code in ("E402", "E406") for found in prove(program)):
        return
    random = Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(5):
        levels = {name: random.choice(list(Level)) for name in names}
        site = SitePlace("s", random.randint(-80, 80) * 1_000_000, random.randint(-170, 170) * 1_000_000)
        table = plan(program, levels, site, random.randrange(4_000_000_000) * 1_000_000)
        for request in some_requests(random, 20):
            decision = decide(table, request, frozenset())
            regions = {attempt.region for attempt in decision.attempts}
            if not regions <= set(allowed):
                assert not condition_holds(condition, request, decision.zone), request


def codes(text: str) -> list[str]:
    return [found.code for found in prove(compile_policy(parse(text)))]


def test_residency_is_proved_and_a_hole_is_found() -> None:
    kept = TEXT + "never leaves { when country in DE serves outside gdpr }"
    assert codes(kept) == []
    assert codes(kept.replace("country in DE primary", 'country in DE and path in "/a/**" primary')) == ["E402"]
    assert codes(TEXT + "never leaves { when country in FR serves outside gdpr }") == ["E402"]


def failures(block: str, text: str = TEXT) -> list[str]:
    program = compile_policy(parse(f'{text}\ntest "t" {{ given host "h" site "50 8" {block} }}'))
    return [failed.message for _, failed_ in run_tests(program) for failed in failed_]


def test_test_blocks_say_what_happens() -> None:
    german = "given country DE client 192.0.2.9"
    assert failures(f"{german} expect region fra tier primary rule residency route api") == []
    assert failures(f"{german} set fra down expect region ams tier secondary set ams down expect deny 503") == []
    assert failures(f"{german} set fra down expect region fra") == [
        "expected region fra, found ams (secondary: fra DOWN)"
    ]
    assert failures(f"{german} expect deny 503") == ["expected deny 503, found region fra (primary)"]


def test_flapping_is_damped_on_the_virtual_clock() -> None:
    wave = "repeat 50 { set fra down step 3s set fra up step 3s }"
    assert failures(f"given country DE {wave} expect switches <= 1") == []
    undamped = TEXT.replace("damp suppress 2500 cooldown 30s", "probation 0s")
    slow = wave.replace("3s", "12s")  # as long as everybody needs to go back
    assert failures(f"given country DE {slow} expect switches <= 4", undamped) == ["100 switches, more than 4"]
    proved = TEXT.replace("damp suppress 2500 cooldown 30s", "")
    assert failures(f"given country DE {slow} expect switches <= 1", proved) == [], "probation holds by itself"
    assert failures("given country DE set fra down step 1s set fra up step 29s expect region fra") != []
    assert failures("given country DE set fra down step 1s set fra up step 41s expect region fra") == []


def test_moved_and_load_count_users() -> None:
    sticky = TEXT.replace("  primary nearest\n", '  primary nearest 3 stick by cookie("u") for 1h\n').replace(
        "  secondary any\n}", "}"
    )
    assert failures("given users 3000 set iad down expect moved <= 36% load fra <= 53%", sticky) == []
    assert len(failures("given users 3000 set iad down expect moved <= 30%", sticky)) == 1


@profile(max_examples=min(20, profile().max_examples))
@given(whole_policies(), conditions(()))
def test_a_counterexample_says_nothing_that_it_does_not_need(policy: Policy, condition: Condition) -> None:
    policy = replace(policy, nevers=(Never("never", condition, policy.groups[0].name if policy.groups else None),))
    program = compile_policy(replace(policy, nevers=()))
    program = replace(program, policy=policy)
    for route in program.routes[:2]:
        question = _Question(program, route, {})
        try:
            found = question.request([(condition, True)])
        except TooHardError:
            continue
        for subject in found or {}:
            fewer = {other: value for other, value in (found or {}).items() if other != subject}
            assert question._value(condition, fewer) is None, "with one part less it would still be one"


def test_a_counterexample_happens_as_it_is_told() -> None:
    text = TEXT + 'never admin { when path in "/admin/**" serves iad }'
    (found,) = prove(compile_policy(parse(text)))
    assert "iad may serve a request with path /admin, at a site near iad" in found.message
    program = compile_policy(parse(text))
    table = plan(program, dict.fromkeys(program.regions, Level.HEALTHY), SitePlace("near iad", 39_000_000, -77_000_000))
    assert decide(table, Request("", "h", "/admin"), frozenset()).region == "iad"


clocks = st.integers(0, 287).map(lambda five: f"{five // 12:02}:{five % 12 * 5:02}")
spells = st.tuples(clocks, clocks, st.sampled_from(("", "Mon-Fri ", "Sat ", "Sun ", "Wed-Sun "))).filter(
    lambda spell: spell[0] != spell[1]
)


@profile(max_examples=min(12, profile().max_examples))
@given(spells, spells, st.sampled_from((("UTC", "UTC"), ("Asia/Tokyo", "America/Bogota"), ("Asia/Kathmandu", "UTC"))))
@example(("06:00", "21:55", ""), ("22:00", "06:00", ""), ("UTC", "UTC"))
@example(("22:00", "06:00", "Sun "), ("05:00", "12:00", "Mon-Fri "), ("UTC", "UTC"))
@example(("22:00", "06:00", "Sun "), ("15:00", "19:00", "Sat "), ("Asia/Tokyo", "America/Bogota"))
def test_overlaps_and_gaps_of_windows_are_those_of_the_clock(
    one: tuple[str, str, str], other: tuple[str, str, str], zones: tuple[str, str]
) -> None:
    """Held against the windows themselves, asked every five minutes of a week. Of zones whose clocks do not change."""
    texts = [f"{days}{start}-{end} {zone}" for (start, end, days), zone in zip((one, other), zones, strict=True)]
    rules = " ".join(f'rule r{n} {{ during "{text}" primary ams secondary any }}' for n, text in enumerate(texts))
    found = codes(REGIONS + f'route all for "*" {{ {rules} primary fra secondary any }}')
    windows = [read_window(text) for text in texts]
    monday = read_moment("2027-01-04T00:00:00+00:00")
    week = [[window.open_at(monday + step * 300_000_000) for window in windows] for step in range(2 * 2016)]
    assert ("E408" in found) == any(all(both) for both in week)
    runs = [(who, len(list(run))) for who, run in groupby(tuple(both) for both in week)]
    gap = any(
        who == (False, False) and steps <= 3 and before != after
        for (before, _), (who, steps), (after, _) in zip(runs, runs[1:], runs[2:], strict=False)
    )
    if "E408" not in found:
        assert ("E409" in found) == gap
    different = REGIONS + 'route all for "*" { ' + rules.replace("rule r1 {", "rule r1 { when method in GET")
    assert not {"E408", "E409"} & set(codes(different + " primary fra secondary any }"))


def test_rules_that_test_more_fields_than_a_stack_is_deep_are_proved() -> None:
    rules = ""
    for rule in range(220):
        headers = " or ".join(f'header("h{rule}-{number}") in "1"' for number in range(5))
        rules += f"rule r{rule} {{ when {headers} deny 403 }}\n"
    program = compile_policy(parse(f'{REGIONS}route all for "*" {{ {rules} primary fra }}'))
    question = _Question(program, program.routes[0], {})
    assert len(question.request(question.reaching(220)) or ()) == 1_100, "all of them are none that a rule names"


def test_of_many_rules_each_is_found_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.decision.proofs.STEPS_MAX", 2_000)  # the last took 30,672
    rules = "".join(
        f'rule r{number} {{ when path in "/{number}/*" and header("a{number % 20}") in "{number}" primary any }}\n'
        for number in range(100)
    )
    assert codes(REGIONS + f'route all for "*" {{ {rules} primary fra secondary any }}') == []


def test_a_rule_that_is_hard_to_pass_is_told_to_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.decision.proofs.STEPS_MAX", 1_000)
    once = [" or ".join(f'header("h{name}") in "{value}"' for value in range(6)) for name in range(7)]
    twice = " or ".join(
        f'header("h{one}") in "{value}" and header("h{other}") in "{value}"'
        for one, other in combinations(range(7), 2)
        for value in range(6)
    )
    hard = f"{' and '.join(f'({each})' for each in once)} and not ({twice})"  # seven pigeons in six holes
    rules = f'rule a {{ when method in "GET" deny 403 }} rule b {{ when method in "GET" and {hard} deny 403 }}'
    (found,) = prove(compile_policy(parse(f'{REGIONS}route all for "*" {{ {rules} primary fra }}')))
    assert (found.code, found.hint) == ("E401", "move it up, or mend its `when`")


def test_a_rule_without_when_has_none_to_mend() -> None:
    rules = 'rule a { when path in "/**" deny 403 } rule b { during "10:00-12:00 UTC" deny 404 }'
    (found,) = prove(compile_policy(parse(f'{REGIONS}route all for "*" {{ {rules} primary fra }}')))
    assert found.message == "rule b is never reached: the rules before it take its requests"


def test_many_windows_are_held_against_each_other() -> None:
    clock = "{:02}:{:02}-{:02}:{:02}"
    rules = ""
    for rule in range(2):  # minute by minute in turns: 1,440 windows, 10,080 stretches of a week
        minutes = [(minute // 60, minute % 60, (minute + 1) // 60 % 24, (minute + 1) % 60) for minute in range(1_440)]
        said = " ".join(f'during "{clock.format(*each)} UTC"' for each in minutes[rule::2])
        rules += f"rule r{rule} {{ {said} primary any }}\n"
    text = f'route all for "*" {{ {rules} primary fra secondary any }}'
    assert codes(REGIONS + text) == []
    assert codes(REGIONS + text.replace("00:01-00:02", "00:00-00:02")) == ["E408"]


def test_many_paths_are_told_apart() -> None:
    rules = "".join(f'rule r{n} {{ when path in "/v{n}/**", "/x/{n}" primary fra secondary any }}\n' for n in range(60))
    assert codes(REGIONS + f'route all for "*" {{ {rules} primary fra secondary any }}') == []


def test_what_others_are_called_by_nobody_may_be_named() -> None:
    rules = """rule one { when host in "x.example" primary fra secondary any }
    rule rest { when host in "*.example" primary ams secondary any }
    rule deep { when path in "/x/x" primary fra secondary any }
    rule other { when path in "/x/*" and method in PATCH and header("a") in "-" primary ams secondary any }
    rule last { when path in "/x/*" and not method in PATCH primary ams secondary any }
    rule none { when header("a") present and not header("a") in "-" primary ams secondary any }
    """
    assert codes(REGIONS + f'route all for "*" {{ {rules} primary fra secondary any }}') == []


def test_panic_that_keeps_a_dead_tier_is_refused_exactly_then() -> None:
    route = 'route all for "*" { primary fra, ams secondary iad panic below %d%% }'
    assert codes(REGIONS + route % 34) == ["E407"]
    assert codes(REGIONS + route % 33) == []
    for below, serves in ((34, "fra"), (33, "iad")):
        program = compile_policy(parse(REGIONS + route % below))
        levels = {"fra": Level.DOWN, "ams": Level.DOWN, "iad": Level.HEALTHY}
        table = plan(program, levels, SitePlace("s", 0, 0))
        assert decide(table, Request("", "h", "/"), frozenset()).region == serves
    assert codes(REGIONS + 'route all for "*" { primary fra, ams, iad panic below 90% }') == [], (
        "no other tier to leave to"
    )


REGIONS = TEXT[: TEXT.index("group gdpr")]


def proofs(text: str) -> tuple[Diagnostic, ...]:
    return prove(compile_policy(parse(text)))
