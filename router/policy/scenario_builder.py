"""`test` blocks: from plain nodes to the syntax tree."""

from __future__ import annotations

from lattice.types import SECOND, Level
from router.policy import values
from router.policy.conditions import WITH_ARGUMENT
from router.policy.errors import did_you_mean, excerpt
from router.policy.reading import Node, unquoted
from router.policy.rule_builder import RuleBuilder
from router.policy.scenarios import (
    ACTIONS_MAX,
    BOUNDS,
    FACTS,
    REPEAT_MAX,
    USERS_MAX,
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
)
from router.policy.windows import read_moment

STEP_US_MAX = 7 * 86_400 * SECOND
_ACTIONS = ("given", "moment", "set", "step", "expect", "repeat")


class ScenarioBuilder(RuleBuilder):
    def scenario(self, node: Node) -> Scenario:
        title = unquoted(node.value("STRING"))
        name = self._value(values.read_reason, title, "test")
        actions = tuple(self._action(child) for child in node.nodes(*_ACTIONS))
        total = sum(action.count * len(action.actions) if isinstance(action, Repeat) else 1 for action in actions)
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
                return At(self._value(_read_moment, unquoted(node.value("STRING")), 0))
            case "set":
                word = node.nodes("name")[0].first
                if saturated := node.nodes("saturated"):
                    ppm = self._value(_read_saturation, saturated[0].value(), 0)
                    return SetSaturation(word.text, ppm, span=word.span)
                level = self._value(values.read_level, node.value(), Level.UNKNOWN)
                return SetLevel(word.text, level, span=word.span)
            case "step":
                return Step(self._value(lambda w: values.read_duration(w, 1_000, STEP_US_MAX), node.value(), 1_000))
            case "repeat":
                count = self._value(
                    lambda word: values.read_number(word, 1, REPEAT_MAX, "E112", "a number of times", "20"),
                    node.value(),
                    1,
                )
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
        reader = {
            "method": values.read_method,
            "path": _read_path,
            "country": values.read_country,
            "continent": values.read_continent,
            "asn": lambda w: str(values.read_number(w, 1, 4_294_967_295, "E122", "an AS number", "64500")),
            "port": lambda w: str(values.read_number(w, 1, 65_535, "E107", "a port", "443")),
            "users": lambda w: str(values.read_number(w, 1, USERS_MAX, "E133", "a number of users", "1000")),
            "client": _read_client,
            "site": _read_site,
        }.get(word.text, lambda text: text)
        read = self._value(reader, value, None)
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
            number = self._value(lambda w: values.read_number(w, 1, 16, "E135", "a tier", "4"), value, 4)
            text = ("primary", "secondary", "tertiary")[number - 1] if number <= 3 else f"tier {number}"
        return Expected(what, text, span=value.span)

    def _bound(self, node: Node) -> Expected:
        word, value = node.words("WORD")
        names = node.nodes("name")
        if word.text not in BOUNDS or (word.text == "load") != bool(names):
            self._findings.add(
                "E134",
                word.span,
                f"{excerpt(word.text)} cannot be bounded so",
                "switches <= COUNT, moved <= PERCENT, or load REGION <= PERCENT",
                did_you_mean(word.text, BOUNDS),
            )
            return Expected("switches", 0, span=word.span)
        if word.text == "switches":
            count = self._value(
                lambda w: values.read_number(w, 0, 10_000, "E112", "a number of switches", "2"), value, 0
            )
            return Expected("switches", count, span=word.span)
        ppm = self._value(_read_saturation, value, 0)
        return Expected(word.text, ppm, names[0].first.text if names else "", span=word.span)


def _inner(node: Node) -> list[Node]:
    return [child for outer in node.nodes(*_ACTIONS) for child in (outer, *outer.nodes(*_ACTIONS))]


def _read_moment(text: str) -> int:
    try:
        return read_moment(text)
    except ValueError as error:
        raise values.BadValueError(
            "E131",
            f"{excerpt(text)} is not a moment: {error}",
            'a date, a time and an offset, like "2027-03-28T03:30:00+02:00"',
        ) from None


def _read_saturation(word: str) -> int:
    return 0 if word == "0%" else values.read_percent(word)


def _read_switches(word: str) -> int:
    return values.read_number(word, 0, 10_000, "E112", "a number of switches", "2")


def _read_path(word: str) -> str:
    if not word.startswith("/"):
        raise values.BadValueError("E133", f"{excerpt(word)} is not a path", "an absolute path", f"write /{word}")
    return word


def _read_client(word: str) -> str:
    if values.read_address(word) is None:
        raise values.BadValueError("E133", f"{excerpt(word)} is not a client's address", "a numeric IP address")
    return word


def _read_site(word: str) -> str:
    latitude, _, longitude = word.partition(" ")
    if not longitude:
        raise values.BadValueError("E133", f"{excerpt(word)} is not a place", 'latitude and longitude, like "50.1 8.7"')
    values.read_coordinate(latitude, values.LATITUDE_E6_MAX, "latitude")
    values.read_coordinate(longitude, values.LONGITUDE_E6_MAX, "longitude")
    return word
