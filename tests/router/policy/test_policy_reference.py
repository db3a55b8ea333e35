"""What the reference shows is what the parser takes: every example in it parses, every diagnostic in it is real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.decision.program import compile_policy
from router.decision.scenario_run import run_tests
from router.policy import PolicyError, parse
from router.policy.conditions import FIELDS
from router.policy.grammar import grammar
from router.policy.json_form import JsonPolicyError, from_json
from router.policy.printer import print_policy
from router.policy.probe import ProbeKind
from router.policy.scenarios import BOUNDS, FACTS
from router.policy.settings import KEYS
from router.policy.syntax import Health, Policy

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference" / "policy.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```policy\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
SURROUNDINGS = {
    "region fra": "region fra { at 50.11 8.68 endpoint 192.0.2.10:443 }",
    "region iad": "region iad { at 38.94 -77.45 endpoint 192.0.2.20:443 }",
    "region nrt": "region nrt { at 35.76 140.39 endpoint 192.0.2.30:443 }",
    "zone asia": "zone asia { 198.51.100.128/25 }",
    "route": 'route all for "*" { primary nearest }',
}


def completed(example: str) -> Policy:
    """An example is a whole policy, or some statements of one: then what they need is put around them."""
    if not example.startswith("edition"):
        declared = set(re.findall(r"^(?:route|\w+ [a-z]+)", example, re.MULTILINE))
        needed = [statement for head, statement in SURROUNDINGS.items() if head not in declared]
        example = "\n".join(["edition 1", example, *needed])
    return parse(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("{")[0].strip().replace("\n", " "))
def test_every_example_of_the_reference_compiles(example: str) -> None:
    compile_policy(completed(example))


def test_there_are_examples_of_every_statement() -> None:
    for keyword in ("region", "zone", "health", "route", "group", "never", "test"):
        assert any(re.search(rf"^{keyword} ", example, re.MULTILINE) for example in EXAMPLES)


def test_every_word_of_the_language_stands_in_an_example() -> None:
    said = re.sub(r"#[^\n]*", "", "\n".join(EXAMPLES))
    words = set(re.findall(r'^[A-Z_]+: "([a-z<=-]+)"$', grammar(), re.MULTILINE))
    assert len(words) > 70
    words |= {"penalty", "suppress", "reuse", "half-life", "max", "connect", "first-byte", "total"}
    words |= {*BOUNDS, *(kind.value for kind in ProbeKind)}
    assert {word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", said)} == set()
    assert {name for name in FIELDS if not re.search(rf'\b{name}(\("[^"]*"\))? (in|present)\b', said)} == set()
    assert {key for key in KEYS if f"{key}(" not in said} == set()
    given = " ".join(re.findall(r"^ *given (.*)$", said, re.MULTILINE))
    assert {fact for fact in FACTS if not re.search(rf"\b{fact}\b", given)} == set()


def test_the_tests_that_are_shown_pass() -> None:
    shown = [completed(example) for example in EXAMPLES if re.search(r"^test ", example, re.MULTILINE)]
    failed = [one.message for policy in shown for _, failures in run_tests(compile_policy(policy)) for one in failures]
    assert (len(shown), failed) == (2, [])


def test_the_json_that_is_shown_is_a_policy_and_its_error_real() -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
    policy = from_json(shown)
    assert parse(print_policy(policy)) == policy
    (said,) = re.findall(r"^shop\.json: (.*)$", REFERENCE, re.MULTILINE)
    with pytest.raises(JsonPolicyError) as caught:
        from_json(shown.replace("43200000000", "5"))
    assert str(caught.value) == said


def test_the_health_block_that_is_shown_is_the_default() -> None:
    shown = next(example for example in EXAMPLES if example.startswith("health default"))
    assert completed(shown).health == (Health(),)


def test_the_diagnostic_that_is_shown_is_real() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
    text = "\n".join(
        [
            "edition 1",
            SURROUNDINGS["region fra"],
            SURROUNDINGS["region iad"],
            'route all for "*" { primary fraa secondary idd, tokyo }',
        ]
    )
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert caught.value.diagnostics[0].render(text) + "\n" == shown
