"""Plain nodes to the syntax tree: what each word means, and which statements a block lacks or repeats.

A bad value is reported and replaced or left out, and building goes on, so that every mistake is found in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from router.policy import values
from router.policy.errors import Findings
from router.policy.syntax import (
    HEALTH_DEFAULT,
    NOWHERE,
    AnyLeft,
    Choice,
    Cidr,
    Deny,
    Health,
    Named,
    Nearest,
    Otherwise,
    Override,
    Policy,
    Region,
    RegionName,
    Route,
    ServePrimary,
    Span,
    Tier,
    UpstreamEndpoint,
    Zone,
)

EDITION = 1
FAILURES_MAX = 100
NEAREST_MAX = 256
PROBE_INTERVAL_US_MIN = 10_000

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Word:
    """A token: its kind (a terminal of the grammar), what was written, and where."""

    kind: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Node:
    """A rule of the grammar with what it was made of; `start` and `end` are offsets into the text."""

    rule: str
    children: tuple[Child, ...]
    start: int
    end: int

    def nodes(self, *rules: str) -> list[Node]:
        return [child for child in self.children if isinstance(child, Node) and child.rule in rules]

    def words(self, kind: str) -> list[Word]:
        return [child for child in self.children if isinstance(child, Word) and child.kind == kind]

    @property
    def first(self) -> Word:
        """The first word, which a statement is known by."""
        child = self.children[0]
        return child if isinstance(child, Word) else child.first


Child: TypeAlias = Node | Word


def build(nodes: Iterable[Node], findings: Findings, blocks: tuple[str, ...]) -> Policy:
    """A policy from top-level nodes. What is wrong goes to `findings`; then the result is only good for checking."""
    statements = tuple(nodes)
    builder = _Builder(findings)
    if not statements:
        findings.add("E312", NOWHERE, "the policy is empty", "an edition, regions and routes", "begin with: edition 1")
    edition = builder.edition(statements) if statements else EDITION
    return Policy(
        edition=edition,
        regions=tuple(builder.region(node) for node in statements if node.rule == "region"),
        zones=tuple(builder.zone(node) for node in statements if node.rule == "zone"),
        health=tuple(builder.health(node) for node in statements if node.rule == "health"),
        routes=tuple(builder.route(node) for node in statements if node.rule == "route"),
        blocks=blocks,
        file=findings.file,
    )


class _Builder:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def edition(self, statements: tuple[Node, ...]) -> int:
        editions = [node for node in statements if node.rule == "edition"]
        for node in editions:
            word = node.words("WORD")[0]
            if word.text != str(EDITION):
                self._findings.add(
                    "E102",
                    word.span,
                    f"edition {word.text[:20]} is not known here",
                    f"edition {EDITION}",
                    "upgrade, or write 1",
                )
        if statements[0].rule != "edition":
            fix = "move the edition to the top" if editions else f"add a first line: edition {EDITION}"
            self._findings.add(
                "E101",
                statements[0].first.span,
                "the policy does not begin with its edition",
                f"edition {EDITION}",
                fix,
            )
        for node in editions[1:]:
            self._findings.add(
                "E101", node.first.span, "the edition is given again", "one edition, at the top", "delete this"
            )
        return EDITION

    def region(self, node: Node) -> Region:
        name, span = self._name(node)
        place = self._at(node, span)
        if place is None:
            self._findings.add(
                "E202",
                span,
                f"region {name} does not say where it is",
                "at LATITUDE LONGITUDE",
                "add a line: at 50.11 8.68",
            )
        endpoints = []
        for line in node.nodes("endpoint"):
            word = line.words("WORD")[0]
            address = self._value(values.read_endpoint, word, None, span)
            if address:
                endpoints.append(UpstreamEndpoint(*address, span=word.span))
        graded_by = self._once(node, "graded_by", "health")
        health, health_span = self._name(graded_by) if graded_by else (HEALTH_DEFAULT, NOWHERE)
        latitude, longitude = place or (0, 0)
        return Region(name, latitude, longitude, tuple(endpoints), health, span=span, health_span=health_span)

    def zone(self, node: Node) -> Zone:
        name, span = self._name(node)
        cidrs = []
        for line in node.nodes("cidr"):
            word = line.words("WORD")[0]
            network = self._value(values.read_cidr, word, None, span)
            if network:
                cidrs.append(Cidr(network, span=word.span))
        latitude, longitude = self._at(node, span) or (None, None)
        return Zone(name, tuple(cidrs), latitude, longitude, span=span)

    def health(self, node: Node) -> Health:
        name, span = self._name(node)
        health = Health(name=name, span=span)

        def line(rule: str) -> list[Word]:
            found = self._once(node, rule, rule)
            return found.words("WORD") if found else []

        probe = self._once(node, "probe", "probe")
        if probe:
            every, timeout = probe.words("WORD")
            health = replace(
                health,
                probe_path=self._value(values.read_probe_path, _unquoted(probe.words("STRING")[0]), "/", span),
                probe_interval_us=self._value(
                    lambda word: values.read_duration(word, PROBE_INTERVAL_US_MIN), every, values.DURATION_US_MAX, span
                ),
                probe_timeout_us=self._value(values.read_duration, timeout, 1, span),
            )
        for word in line("latency"):
            health = replace(health, latency_us_max=self._value(values.read_duration, word, 1, span))
        for word in line("errors"):
            health = replace(health, errors_ppm_max=self._value(values.read_percent, word, 1, span))
        for word in line("fail"):
            fail_after = self._value(lambda text: values.read_count(text, FAILURES_MAX, "failures"), word, 1, span)
            health = replace(health, fail_after=fail_after)
        for word in line("recover"):
            health = replace(health, recover_after_us=self._value(values.read_duration, word, 1, span))
        for word in line("unknown"):
            health = replace(health, unknown_as=self._value(values.read_unknown, word, Health().unknown_as, span))
        return health

    def route(self, node: Node) -> Route:
        name, span = self._name(node)
        hosts: list[Word] = []
        paths: list[Word] = []
        after_path = False
        for child in node.children:
            if isinstance(child, Word) and child.kind == "PATH":
                after_path = True
            elif isinstance(child, Word) and child.kind == "STRING":
                (paths if after_path else hosts).append(_unquoted(child))
        patterns: dict[str, Word] = {}
        for host in hosts:
            pattern = self._value(values.read_host_pattern, host, None, span)
            if pattern in patterns:
                self._findings.add(
                    "E313", host.span, f"host {pattern} is given twice", "each host once", "delete this one"
                )
            elif pattern:
                patterns[pattern] = host
        path = self._value(values.read_path_pattern, paths[0], "/", span) if paths else "/**"
        return Route(
            name,
            tuple(patterns),
            path,
            tuple(self._tier(tier) for tier in node.nodes("tier")),
            tuple(self._override(override) for override in node.nodes("override")),
            self._otherwise(node) or Deny(),
            span=span,
        )

    def _override(self, node: Node) -> Override:
        name, span = self._name(node)
        return Override(name, tuple(self._tier(tier) for tier in node.nodes("tier")), self._otherwise(node), span=span)

    def _tier(self, node: Node) -> Tier:
        keyword, chosen = node.first, node.children[-1]
        assert isinstance(chosen, Node)
        choice: Choice
        if chosen.rule == "names":
            choice = Named(
                tuple(RegionName(_shortened(word), word.span) for word in map(_only_word, chosen.nodes("name")))
            )
        elif chosen.rule == "nearest":
            counts = chosen.words("WORD")
            choice = Nearest(self._value(_read_nearest, counts[0], 1) if counts else 1)
        else:
            choice = AnyLeft()
        return Tier(keyword.text, choice, span=keyword.span)

    def _otherwise(self, node: Node) -> Otherwise | None:
        found = self._once(node, "otherwise", "otherwise")
        if found is None:
            return None
        denied = found.nodes("deny")
        if not denied:
            return ServePrimary()
        return Deny(self._value(values.read_status, denied[0].words("WORD")[0], 503))

    def _at(self, node: Node, owner: Span) -> tuple[int, int] | None:
        found = self._once(node, "at", "at")
        if found is None:
            return None
        latitude, longitude = found.words("WORD")
        return (
            self._value(
                lambda word: values.read_coordinate(word, values.LATITUDE_E6_MAX, "latitude"), latitude, 0, owner
            ),
            self._value(
                lambda word: values.read_coordinate(word, values.LONGITUDE_E6_MAX, "longitude"), longitude, 0, owner
            ),
        )

    def _once(self, node: Node, rule: str, keyword: str) -> Node | None:
        """The one statement of this rule in a block, if any; the first when it is repeated."""
        found = node.nodes(rule)
        for again in found[1:]:
            self._findings.add(
                "E201",
                again.first.span,
                f"{keyword} is given again; it stands on line {found[0].first.span.line} already",
                f"{keyword} at most once in a block",
                "keep one of them",
            )
        return found[0] if found else None

    def _name(self, node: Node) -> tuple[str, Span]:
        word = _only_word(node.nodes("name")[0])
        return self._value(values.read_name, word, _shortened(word)), word.span

    def _value(
        self, read: Callable[[str], Value], word: Word, instead: Default, owner: Span | None = None
    ) -> Value | Default:
        """What a word means, or `instead` when it means nothing; then the statement named at `owner` is damaged."""
        try:
            return read(word.text)
        except values.BadValueError as error:
            self._findings.add(error.code, word.span, error.message, error.expected, error.hint)
            if owner is not None:
                self._findings.damaged.add(owner)
            return instead


Default = TypeVar("Default")


def _only_word(node: Node) -> Word:
    return node.first


def _shortened(word: Word) -> str:
    """A name that may be wrong, short enough for a message and still too long for a right one."""
    return word.text[: values.NAME_LENGTH_MAX + 1]


def _unquoted(word: Word) -> Word:
    return replace(word, text=word.text[1:-1])


def _read_nearest(word: str) -> int:
    try:
        return values.read_count(word, NEAREST_MAX, "regions")
    except values.BadValueError as error:
        if values.is_name(word):
            error.hint = f"to name regions leave out nearest: primary {word}"
        raise
