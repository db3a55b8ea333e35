"""The guide's examples are whole policies: they hold, their own tests pass, and together they use every word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.decision.scenario_run import run_tests
from router.policy import format_policy, parse
from router.policy.conditions import FIELDS
from router.policy.settings import KEYS

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "policy-by-example.md").read_text(encoding="utf-8")
GRAMMAR = (ROOT / "router" / "policy" / "grammar.lark").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n+```policy\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_proved_and_its_tests_pass(title: str) -> None:
    text = EXAMPLES[title]
    program = compile_policy(parse(text, title))
    assert [found.render(text) for found in prove(program)] == []
    results = list(run_tests(program))
    assert results
    assert [failed.message for _, failures in results for failed in failures] == []
    assert format_policy(format_policy(text)) == format_policy(text)


def test_together_they_use_every_word_of_the_language() -> None:
    said = re.sub(r"#[^\n]*", "", "\n".join(EXAMPLES.values()))
    words = set(re.findall(r'^[A-Z_]+: "([a-z-]+)"$', GRAMMAR, re.MULTILINE))
    assert {word for word in words if not re.search(rf"\b{word}\b", said)} == set()
    assert {name for name in FIELDS if not re.search(rf"\b{name}(\(\"[^\"]*\"\))? (in|present)\b", said)} <= {"host"}
    assert {key for key in KEYS if f"{key}(" not in said} == set()
