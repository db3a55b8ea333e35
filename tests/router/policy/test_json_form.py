"""The JSON form refuses what it does not know, and says where: tried all over a policy that uses the whole language."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Network
from random import Random
from typing import Any, get_args, get_type_hints

import pytest

from router.policy import PolicyError, parse
from router.policy.check import check
from router.policy.errors import Findings
from router.policy.json_form import JSON_BYTES_MAX, JsonPolicyError, from_json, to_json
from router.policy.printer import print_policy
from router.policy.span import Span
from router.policy.syntax import Policy
from router.policy.whole import WHOLE
from router.policy.words import WORDS

WHOLE_TEXT = """edition 1
region fra { at 50.11 8.68 endpoint 192.0.2.1:443 tls "x.example" weight 3 capacity 4000rps drain 12h health all
  avoid during "2027-03-28 01:00 to 2027-03-28 05:00 Europe/Berlin" }
region ams { at -52.37 4.90 endpoint [2001:db8::2]:443 health tcp }
region iad { at 38.94 -77.45 endpoint 192.0.2.3:443 health grpc }
group gdpr { fra, ams }
zone eu { at 50 9 10.0.0.0/8 country DE, FR continent EU asn 64500, 4200000001 demand 10rps }
health all { probe "/x" expect 200-204, 301 containing "ok" every 250ms timeout 200ms latency above 400ms below 300ms
  errors above 20% below 5% over 5s samples 20 saturation above 95% below 85% oldest above 2s below 1s fail after 4
  recover after 3s cooldown 5s probation 1s unknown as down
  damp penalty 1001 suppress 3000 reuse 700 half-life 60s max 11m }
health tcp { probe tcp every 1s timeout 1s }
health grpc { probe grpc "shop.v1.Cart" every 1s timeout 1s }
route api for "a.example" "*.b.example" path "/a/**" {
  rule blocked { when method in PUT or header("x-a") in "" and not cookie("c") present deny 403 "no" }
  rule sticky { during "Mon-Fri 22:00-06:00 Europe/Berlin" share 5% by cookie("u") primary iad weight 80, ams weight 20
    stick by jwt("sub"), ip(24), path(1) for 12h spill above 50% panic below 50% retry 2 budget 11% methods GET, HEAD
    hedge after 50ms budget 3% timeout connect 1s first-byte 2s total 30s cache stale 10m }
  zone eu { primary fra otherwise serve primary }
  primary nearest 2 of gdpr  secondary any  otherwise deny 404
}
route more for "*" { primary any of gdpr cache off }
never one { when zone in eu serves iad }
never two { serves outside gdpr }
test "all" {
  given client "10.0.0.1" method GET header("x-a") "b" users 10 site "50.1 8.7"
  at "2027-03-28T03:30:00.5+02:00"
  set fra down  set ams saturation 90%  step 3s
  repeat 3 { set fra up expect region fra tier 4 }
  repeat 1 { expect rule none }
  expect route api deny 503 switches <= 3 load fra <= 0%
  expect tier primary
}
"""
FORM = json.loads(to_json(parse(WHOLE_TEXT)))


def nodes(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    """Every value of the form, with its path as errors write it."""
    yield path, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(inner, f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]")


def refused(value: Any) -> JsonPolicyError:
    with pytest.raises(JsonPolicyError) as caught:
        from_json(json.dumps(value))
    return caught.value


def test_an_unknown_field_anywhere_is_an_error_with_its_path() -> None:
    kinds = set()
    for path, node in nodes(FORM):
        if isinstance(node, dict) and node["is"] not in kinds:
            kinds.add(node["is"])
            node["colour"] = 1
            error = refused(FORM)
            assert error.path == f"{path}.colour"
            assert str(error).startswith(f"{path}.colour: unknown; a {node['is']} has ")
            del node["colour"]
    assert len(kinds) > 35, kinds
    assert admitted(FORM)


def test_a_value_of_the_wrong_type_is_an_error_with_its_path() -> None:
    seen = set()
    for path, node in nodes(FORM):
        for key, value in node.items() if isinstance(node, dict) else ():
            if key != "is" and isinstance(value, int | str) and (node["is"], key) not in seen:
                seen.add((node["is"], key))
                wrong: Any
                for wrong in (1.5, [], {}, *(() if node["is"] == "Expected" else ("x" if type(value) is int else 7,))):
                    node[key] = wrong
                    assert refused(FORM).path.startswith(f"{path}.{key}")
                node[key] = value
    assert len(seen) > 60, len(seen)


@pytest.mark.parametrize("name", ["\u202e", "a\nb", "x" * 5_000, "", "a.b"])
def test_a_field_of_any_name_is_told_in_a_line(name: str) -> None:
    error = refused(FORM | {name: 1})
    assert str(error).isprintable()
    assert len(str(error)) < 300


def test_a_field_that_is_there_twice_is_found_among_many() -> None:
    names = [*(f"f{number}" for number in range(100_000)), "f99999"]
    with pytest.raises(JsonPolicyError, match="the field 'f99999' is there twice"):  # minutes, if each were counted
        from_json("{" + ",".join(f'"{name}":1' for name in names) + "}")


def test_what_is_missing_is_an_error_with_its_path() -> None:
    for path, node in nodes(FORM):
        if isinstance(node, dict) and "name" in node and path.count("[0]") == path.count("["):
            name = node.pop("name")
            if node["is"] not in ("Key", "Health"):
                assert refused(FORM).path == f"{path}.name"
            node["name"] = name


def test_what_is_no_policy_at_all_is_said_so() -> None:
    for text in ("", "{", "[" * 100_000, "7", "[]", "nul", '{"is":"Route"}', " " * (JSON_BYTES_MAX + 1)):
        with pytest.raises(JsonPolicyError, match=r"^\$"):
            from_json(text)


def fields_of_the_language() -> Iterator[tuple[type[Any], str, set[type[Any]]]]:
    """Every field of the syntax tree, with the types that it may hold."""
    kinds: list[type[Any]] = [Policy]
    for kind in kinds:
        for field in fields(kind):
            parts: list[Any] = [get_type_hints(kind)[field.name]]
            for part in parts:
                parts += get_args(part)
            inner = {part for part in parts if isinstance(part, type)}
            kinds += [each for each in inner if is_dataclass(each) and each is not Span and each not in kinds]
            if field.compare:
                yield kind, field.name, inner


def test_every_value_of_the_language_has_its_word() -> None:
    read_whole = {"Expected", "Fact", "Key", "Match", "Present", "Probe", "StatusRange", "Window"}
    found = {(kind.__name__, name) for kind, name, inner in fields_of_the_language() if inner & {int, str, IPv4Network}}
    assert {each for each in found if each[0] not in read_whole} | {("Health", "unknown_as")} == set(WORDS)
    assert read_whole <= set(WHOLE)


def admitted(value: Any) -> bool:
    """Whether a form is admitted; then the law holds: its text says the same, and is refused only for what it means."""
    refusal, codes = None, set()
    try:
        policy = from_json(json.dumps(value))
    except JsonPolicyError as error:
        refusal = error
    if refusal is not None:
        assert refusal.path.startswith("$")
        assert str(refusal).isprintable()
        return False
    text = print_policy(policy)
    findings = Findings()
    check(policy, findings)
    again = None
    try:
        again = parse(text)
    except PolicyError as error:
        codes = {each.code for each in error.diagnostics}
    assert codes <= {each.code for each in findings.diagnostics}, text
    assert again == (None if codes else policy)
    assert bool(codes) is bool(findings.diagnostics)
    return True


LONG = "x" * 5_000
WRONG: tuple[Any, ...] = (-1, 0, 1 << 40, 10**30, "", "X y", "region", 'x"', "x\n}", "\ud800", LONG[:64])


def test_what_text_cannot_say_is_refused_with_its_path_and_all_else_can_be_printed() -> None:
    seen, outcomes = set(), Counter[bool]()
    for _, node in nodes(FORM):
        for key, value in node.items() if isinstance(node, dict) else ():
            kind = node["is"], key, type(value[0]) if isinstance(value, list) and value else type(value)
            if key == "is" or kind in seen or kind[2] in (dict, bool):
                continue
            seen.add(kind)
            for wrong in WRONG:
                if isinstance(wrong, kind[2]):
                    node[key] = [*value, wrong] if isinstance(value, list) else wrong
                    outcomes[admitted(FORM)] += 1
            node[key] = value
    assert len(seen) > 80, sorted(map(str, seen))
    assert min(outcomes[False], 20 * outcomes[True]) > 350
    assert admitted(FORM)


def test_forms_put_together_wrongly_are_refused_or_can_be_printed() -> None:
    random = Random("mutated forms")
    everything = [value for path, value in nodes(FORM) if path != "$"]
    outcomes = Counter[bool]()
    for _ in range(60):
        form = json.loads(json.dumps(FORM))
        places = [node for _, node in nodes(form) if isinstance(node, dict | list) and node]
        for _ in range(random.randint(1, 2)):
            node = random.choice(places)
            key = random.choice([*node] if isinstance(node, dict) else range(len(node)))
            accident = random.randrange(4)
            if accident == 0:
                del node[key]
                break
            node[key] = node[key] * 2 if accident == 1 and isinstance(node[key], list) else random.choice(everything)
        outcomes[admitted(form)] += 1
    assert min(outcomes.values()) > 3, outcomes


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("$.regions[0].name", "primary", "'primary' is a word of the language and cannot be a name; expected another"),
        ("$.regions[0].drain_us", 5, "'5': the duration '5us' is out of range; expected a whole number and a unit"),
        ("$.regions[0].endpoints[0].port", 0, "0 is not a port; expected a port from 1 to 65535"),
        ("$.zones[0].countries", ["DE", "de"], "[1]: 'de': 'de' is not a country; expected a country's two capital"),
        ("$.zones[0].countries", ["DE", "DE"], "one of the countries is there twice; expected each once"),
        (
            "$.routes[0].rules[0].refuse.reason",
            'a"b',
            "the character U+0022 cannot stand in a policy's text",
        ),
        ("$.routes[0].rules[1].settings.retry.methods", [], "there are no methods; expected one at least"),
        ("$.tests[0].actions[0].facts", [], "a request of which nothing is given; expected one fact at least"),
        ("$.tests[0].name", "", "missing"),
    ],
)
def test_an_error_names_value_place_and_remedy(path: str, value: Any, said: str) -> None:
    form = json.loads(json.dumps(FORM))
    *inner, last = re.findall(r"\w+", path)
    node = form
    for key in inner:
        node = node[int(key)] if key.isdigit() else node[key]
    node[last] = value
    if said == "missing":
        del node[last]
    error = str(refused(form))
    assert error.startswith(path.partition("[")[0] if "countries" in path or value == [] else f"{path}: ")
    assert said in error


def test_what_no_text_can_hold_is_refused() -> None:
    form = json.loads(json.dumps(FORM))
    form["regions"] *= 1_000
    assert "bytes long; at most" in str(refused(form))
    for depth, holds in ((15, True), (17, False)):
        test: Any = {"is": "Match", "field": "method", "argument": "", "values": ["GET"]}
        for _ in range(depth):
            test = {"is": "Not", "condition": {"is": "Or", "conditions": [test, test]}}
            test["condition"]["conditions"][1] = form["nevers"][0]["condition"]
        form = json.loads(json.dumps(FORM))
        form["routes"][0]["rules"][0]["condition"] = test
        assert admitted(form) is holds
    with pytest.raises(JsonPolicyError, match="the field 'edition' is there twice"):
        from_json('{"edition": 1, "edition": 1}')
