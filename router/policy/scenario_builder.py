"""`test` blocks: from plain nodes to the syntax tree."""

from __future__ import annotations

from lattice.types import Level
from router.policy import values
from router.policy.conditions import WITH_ARGUMENT
from router.policy.errors import did_you_mean, excerpt
from router.policy.reading import Node, unquoted
from router.policy.rule_builder import RuleBuilder
from router.policy.scenarios import (
    ACTIONS_MAX,
    FACTS,
    Action,
    At,
    Expected,
    Fact,
    Given,
    Repeat,
    Scenario,
    SetLevel,
    SetSaturation,
    Step,
    multiplied_out,
)
from router.policy.syntax import tier_name
from router.policy.words import BOUND_READERS, FACT_READERS, read_tier_number, reader

_ACTIONS = ("given", "moment", "set", "step", "expect", "repeat")


class ScenarioBuilder(RuleBuilder):
    def scenario(self, node: Node) -> Scenario:
        title = unquoted(node.value("STRING"))
        name = self._value(reader(Scenario, "name"), title, "test")
        actions = tuple(self._action(child) for child in node.nodes(*_ACTIONS))
        total = multiplied_out(actions)
        if total > ACTIONS_MAX:
            self._findings.add(
                "E001", title.span, f"the test has {total} actions, repeats multiplied out", f"at most {ACTIONS_MAX}"
            )
        if not any(child.rule == "expect" for child in _inner(node)):
            self._findings.add(
                "E214", title.span, "the test expects nothing", "a line that says what must come of it",
                "add a line: expect region NAME",
            )  # fmt: skip
        return Scenario(name, actions, span=title.span)

    def _action(self, node: Node) -> Action:
        match node.rule:
            case "given":
                return Given(tuple(fact for child in node.nodes("fact") if (fact := self._fact(child))))
            case "moment":
                return At(self._value(reader(At, "now_us"), unquoted(node.value("STRING")), 0))
            case "set":
                word = node.nodes("name")[0].first
                if saturated := node.nodes("saturated"):
                    ppm = self._value(reader(SetSaturation, "ppm"), saturated[0].value(), 0)
                    return SetSaturation(word.text, ppm, span=word.span)
                level = self._value(values.read_level, node.value(), Level.UNKNOWN)
                return SetLevel(word.text, level, span=word.span)
            case "step":
                return Step(self._value(reader(Step, "by_us"), node.value(), 1_000))
            case "repeat":
                count = self._value(reader(Repeat, "count"), node.value(), 1)
                return Repeat(count, tuple(self._action(child) for child in node.nodes(*_ACTIONS)))
            case _:
                claims = [self._claim(child) for child in node.nodes("claim")]
                return claims[0] if len(claims) == 1 else Repeat(1, tuple(claims))

    def _fact(self, node: Node) -> Fact | None:
        word = node.first
        strings = node.words("STRING")
        names = node.nodes("name")
        value = unquoted(names[0].first if names else strings[-1])
        argument = unquoted(strings[0]).text if len(strings) > (not names) else ""
        if word.text not in FACTS or (argument == "") == (word.text in WITH_ARGUMENT):
            shown = ", ".join(f'{fact}("...")' if fact in WITH_ARGUMENT else fact for fact in FACTS)
            self._findings.add(
                "E133", word.span, f"{excerpt(word.text)} cannot be given so", shown, did_you_mean(word.text, FACTS)
            )
            return None
        reads = FACT_READERS.get(word.text, lambda text: text)
        read = self._value(reads, value, None)
        name = argument.lower() if word.text == "header" else argument
        return None if read is None else Fact(word.text, name, read, span=value.span)

    def _claim(self, node: Node) -> Expected:
        if bounds := node.nodes("bound"):
            return self._bound(bounds[0])
        word = node.first
        what = word.text
        if what == "deny":
            return Expected("deny", self._value(values.read_status, node.value(), 503), span=word.span)
        names = node.nodes("name")
        value = names[0].first if names else node.children[-1]
        assert not isinstance(value, Node)
        text = value.text
        if what == "tier" and value.kind == "WORD":
            number = self._value(read_tier_number, value, 4)
            text = tier_name(number)
        return Expected(what, text, span=value.span)

    def _bound(self, node: Node) -> Expected:
        word, value = node.words("WORD")
        names = node.nodes("name")
        if word.text not in BOUND_READERS or (word.text == "load") != bool(names):
            self._findings.add(
                "E134",
                word.span,
                f"{excerpt(word.text)} cannot be bounded so",
                "switches <= COUNT, moved <= PERCENT, or load REGION <= PERCENT",
                did_you_mean(word.text, BOUND_READERS),
            )
            return Expected("switches", 0, span=word.span)
        most = self._value(BOUND_READERS[word.text], value, 0)
        return Expected(word.text, most, names[0].first.text if names else "", span=word.span)


def _inner(node: Node) -> list[Node]:
    return [child for outer in node.nodes(*_ACTIONS) for child in (outer, *outer.nodes(*_ACTIONS))]
