"""Rules made into Python: generated functions say which of a route's rules a request passes first.

A tree of objects costs a call for each node; the source below costs what its comparisons cost. Only constants that
`repr` writes and names given to them here reach the source, so no text of a policy is ever code.

Most rules ask for a path, and most of these fail at its first segment. So where it pays there is a function for each
first segment that some rule names, and one for all others, with only the rules and tests that it leaves possible
(partial evaluation: Jones, Gomard and Sestoft, 1993). And rules that each ask for values of one field are one look-up
for each field, however many they are; the others are asked in their places between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

from router.decision.request import Request, cookie, in_share, key_bytes, query
from router.policy.conditions import WITH_ARGUMENT, And, Condition, Match, Not, Or, Present, tests_of
from router.policy.hosts import ANY_HOST, host_key
from router.policy.paths import ONE, PathPattern
from router.policy.syntax import Route, Rule
from router.policy.zones import Client

NO_RULE = -1
CHOOSERS_MAX = 4_096
SPLIT_MIN = 3
"""Rules that ask for a path, from which on finding the segment first is cheaper than asking them all."""
LOOK_UPS_MIN = 3
"""Rules that each ask for values of one field, from which on looking up is cheaper than asking them one by one."""
SPLIT_RULES_MAX = 2_048
"""Rules in all functions of a route together: each costs 20 to 50 us to compile."""
_PATTERNED = ("path", "host", "sni")
_DISPATCH = """\
    segments = path.split("/", 2)
    if len(segments) > 1 and segments[1] in by_segment: return by_segment[segments[1]](r, path, zone, client)
"""
Chooser: TypeAlias = Callable[[Request, str, str, Client | None], int]
"""Of a request, its path without the query, and its client's zone and address: the first rule that is passed."""


@lru_cache(maxsize=CHOOSERS_MAX)
def chooser(route: Route, active: tuple[int, ...]) -> Chooser:
    """A function that gives the first of the active rules that a request passes, or `NO_RULE`.

    Its `path` is the very object `request.path` when that has no query: then nobody searches it for parameters.
    """
    tests = [test for number in active for test in tests_of(route.rules[number].condition)]
    patterns = [test.values for test in tests if isinstance(test, Match) and test.field == "path"]
    named = {_first_segment(value) for values in patterns for value in values} - {None}
    left = {segment: _left(route, active, segment) for segment in sorted(map(str, named))}
    others = _left(route, active, None)
    if len(patterns) < SPLIT_MIN or len(others) + sum(map(len, left.values())) > SPLIT_RULES_MAX:
        return _function(route, {number: route.rules[number].condition for number in active})
    return _function(route, others, {segment: _function(route, rules) for segment, rules in left.items()})


def _function(
    route: Route, rules: Mapping[int, Condition | None], by_segment: Mapping[str, Chooser] = MappingProxyType({})
) -> Chooser:
    """The generated function for these rules, each with what is to be tested of it; a path that begins with one of
    these segments is another's."""
    writer = _Writer()
    lines = list(writer.rules(route, rules))
    if by_segment:
        writer.names["by_segment"] = dict(by_segment)
    dispatch = _DISPATCH if by_segment else ""
    body = "\n".join([*writer.prepared(), *lines])
    source = f"def choose(r, path, zone, client):\n{dispatch}{body}\n"
    exec(compile(source, f"<rules of route {route.name}>", "exec"), writer.names)  # noqa: S102  (constants only)
    made: Chooser = writer.names["choose"]
    return made


def _value_tests(route: Route, rules: Mapping[int, Condition | None]) -> dict[int, Match]:
    """The rules of which all that is asked is that one field has one of some values."""
    return {
        number: condition
        for number, condition in rules.items()
        if isinstance(condition, Match) and condition.field not in _PATTERNED and not route.rules[number].share
    }


def _first_segment(pattern: str) -> str | None:
    """What every path that the pattern takes begins with; None when that is not one segment."""
    segments = PathPattern.compiled(pattern).segments
    return segments[0] if segments and segments[0] != ONE else None


def _left(route: Route, active: tuple[int, ...], segment: str | None) -> dict[int, Condition | None]:
    """The rules that a path may pass which begins with this segment (None: with one that no rule names)."""
    left: dict[int, Condition | None] = {}
    for number in active:
        condition = route.rules[number].condition
        reduced = True if condition is None else _reduced(condition, segment)
        if reduced is not False:
            left[number] = None if reduced is True else reduced
    return left


def _reduced(condition: Condition, segment: str | None) -> Condition | bool:
    """What of the condition is still to be tested when the path's first segment is known."""
    match condition:
        case Match("path", _, patterns):
            possible = tuple(pattern for pattern in patterns if _first_segment(pattern) in (None, segment))
            return Match("path", "", possible) if possible else False
        case And(parts) | Or(parts):
            absorbing = isinstance(condition, Or)
            reduced = [_reduced(part, segment) for part in parts]
            if absorbing in reduced:
                return absorbing
            kept = tuple(part for part in reduced if not isinstance(part, bool))
            if len(kept) < 2:
                return kept[0] if kept else not absorbing
            return type(condition)(kept)
        case Not(inner):
            found = _reduced(inner, segment)
            return not found if isinstance(found, bool) else Not(found)
    return condition


class _Writer:
    """Writes expressions, and keeps the constants they name."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "query": query,
            "cookie": cookie,
            "host_key": host_key,
            "key_bytes": key_bytes,
            "in_share": in_share,
        }
        self._reads_host = False
        self._parts: dict[tuple[str, str], str] = {}
        self._segments = 0
        """Of the longest pattern that is compared segment by segment."""

    def prepared(self) -> Iterable[str]:
        """What several expressions share, worked out once."""
        if self._reads_host:
            yield "    host = host_key(r.host)"
        if self._segments:
            # One more than it has, so that a longer path is told from one as long.
            yield f"    segments = path.split('/', {self._segments + 1})"
            yield "    count = len(segments)"
        for (field, argument), name in self._parts.items():
            if field == "header":
                yield f"    {name} = None"
                yield "    for known, value in r.headers:"
                yield f"        if known == {argument!r}: {name} = value; break"
            elif field == "query":
                yield f"    {name} = None if path is r.path else query(r, {argument!r})"
            else:
                yield f"    {name} = {field}(r, {argument!r})"

    def rules(self, route: Route, rules: Mapping[int, Condition | None]) -> Iterator[str]:
        """Statements that return the first of the rules that the request passes."""
        none = len(route.rules)
        looked_up = _value_tests(route, rules)
        if len(looked_up) < LOOK_UPS_MIN:
            looked_up = {}
        else:
            yield from self._look_ups(looked_up, none)
        passed_over = False
        for number, condition in rules.items():
            if number in looked_up:
                passed_over = True
                continue
            if passed_over:
                yield f"    if first < {number}: return first"
                passed_over = False
            yield f"    if {self.rule(route, route.rules[number], condition)}: return {number}"
        yield f"    return first if first != {none} else {NO_RULE}" if looked_up else f"    return {NO_RULE}"

    def _look_ups(self, tests: Mapping[int, Match], none: int) -> Iterator[str]:
        """Statements that find the first of these rules that is passed."""
        by_subject: dict[str, dict[object, int]] = {}
        for number, test in tests.items():
            numbers = by_subject.setdefault(self._subject(test), {})
            for value in self._values(test):
                numbers.setdefault(value, number)
        yield f"    first = {none}"
        for subject, numbers in by_subject.items():
            name = self._constant(numbers)
            # Most values are in no rule, and `in` is half of what `get` costs.
            yield f"    if {subject} in {name} and {name}[{subject}] < first: first = {name}[{subject}]"

    def rule(self, route: Route, rule: Rule, condition: Condition | None) -> str:
        parts = [f"({self.condition(condition)})"] if condition else []
        if rule.share:
            salt, key = share_salt(route, rule), self._constant(rule.share.by)
            parts.append(f"in_share({salt!r}, {rule.share.ppm}, key_bytes({key}, r, client))")
        return " and ".join(parts) or "True"

    def condition(self, condition: Condition) -> str:
        match condition:
            case And(parts):
                return " and ".join(f"({self.condition(part)})" for part in parts)
            case Or(parts):
                return " or ".join(f"({self.condition(part)})" for part in parts)
            case Not(inner):
                return f"not ({self.condition(inner)})"
            case Present(field, argument):
                return f"{self._part(field, argument)} is not None"
            case Match():
                return self._match(condition)

    def _match(self, test: Match) -> str:
        if test.field == "path":
            return " or ".join(self._path(PathPattern.compiled(pattern)) for pattern in test.values) or "False"
        if test.field in ("host", "sni"):
            subject = "r.sni" if test.field == "sni" else "host"
            self._reads_host |= test.field == "host"
            return self._host(subject, test.values)
        subject, values = self._subject(test), self._values(test)
        if len(values) == 1:
            return f"{subject} == {values[0]!r}"
        return f"{subject} in {self._constant(frozenset(values))}"

    def _subject(self, test: Match) -> str:
        if test.field in WITH_ARGUMENT:
            return self._part(test.field, test.argument)
        return "zone" if test.field == "zone" else f"r.{test.field}"

    @staticmethod
    def _values(test: Match) -> list[str] | list[int]:
        return [int(value) for value in test.values] if test.field in ("asn", "port") else list(test.values)

    def _path(self, pattern: PathPattern) -> str:
        if pattern.everything:
            return "True"
        if pattern.literal is None:
            return self._segment_by_segment(pattern)
        same = f"path == {pattern.literal!r}"
        return f"{same} or path.startswith({pattern.below!r})" if pattern.open_end else same

    def _segment_by_segment(self, pattern: PathPattern) -> str:
        """As `PathPattern.matches`, the tests that most paths fail first."""
        count = len(pattern.segments)
        self._segments = max(self._segments, count)
        numbered = list(enumerate(pattern.segments, 1))
        named = [f"segments[{place}] == {segment!r}" for place, segment in numbered if segment != ONE]
        wild = [f"segments[{place}]" for place, segment in numbered if segment == ONE]
        long_enough = f"count {'>' if pattern.open_end else '=='} {count + (not pattern.open_end)}"
        return " and ".join([long_enough, *reversed(named), *wild, "not segments[0]"])

    def _host(self, subject: str, patterns: tuple[str, ...]) -> str:
        if ANY_HOST in patterns:
            return "True"
        exact = frozenset(pattern for pattern in patterns if not pattern.startswith("*."))
        ends = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*."))
        parts = [f"{subject} in {self._constant(exact)}"] if exact else []
        # ".example.com" itself is not below example.com: there must be a label. Nor is what looks like an address.
        parts += [f"({subject}.endswith({ends!r}) and {subject}[0] not in '.[')"] if ends else []
        return " or ".join(parts) or "False"

    def _part(self, field: str, argument: str) -> str:
        """A header, query parameter or cookie, read once however many rules test it."""
        return self._parts.setdefault((field, argument), f"part{len(self._parts)}")

    def _constant(self, value: object) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name


def share_salt(route: Route, rule: Rule) -> bytes:
    """So that two rules pick their users independently, and one keeps its users while its share grows."""
    return f"share {route.name} {rule.name}".encode("ascii")
