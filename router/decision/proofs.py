"""What is proved of a policy before it is published, over every request and every state of health.

**Requests.** Rules test a finite number of things, so requests fall into finitely many kinds. For each field there is a
list of values that stand for all others: every value that some test names, one that none names, and none at all; of
hosts and paths those of `representatives`. A question ("does a request exist that ...?") is
a search through these with three-valued logic: a branch is left as soon as what is known of the request decides it.

**Health.** Which regions a lane may ever use is exactly its candidates: whatever comes before one may be DOWN. So a
`never` holds over all states of health if no lane that its requests can reach has a candidate it forbids; else the
counterexample is a request, and the regions that must be DOWN. `nearest` without a place means near to a site that is
not known here: every region that it may take counts, and the counterexample is a site next to it. `to client` is near
to a client that is not known either, and who is next to the same region.

**Minimal.** A counterexample says nothing that it does not need: without any one part of the request, or with any one
of the regions well, it would be none.

That every request ends in a region or a written denial needs no proof: `otherwise` has no third kind, and a host
without a route is answered with 404.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote_plus

from router.decision.layout import Layout, SitePlace, lay_out, lay_out_next_to
from router.decision.program import Program
from router.decision.proofs_of_capacity import check_capacity
from router.decision.proofs_of_settings import check_panic, check_settings, may_take
from router.decision.proofs_of_windows import check_windows
from router.decision.representatives import NOBODY, TooHardError, hosts, other, paths
from router.decision.request import Request
from router.policy.conditions import And, Condition, Match, Not, Or, Present, tests_of
from router.policy.errors import Diagnostic, Findings
from router.policy.hosts import host_key
from router.policy.paths import PathPattern
from router.policy.span import Span
from router.policy.syntax import Never, Route, Rule, Tier, is_to_client
from router.policy.zones import read_client

STEPS_MAX = 400_000
"""Tests evaluated in one search, about half a second; a question that takes longer is reported as not proved."""
KINDS_MAX = 2_000
"""Kinds of requests that are listed."""

Assignment = dict[tuple[str, str], str | None]


def prove(program: Program) -> tuple[Diagnostic, ...]:
    """Everything that the policy may do and should not. Slow for large policies: seconds, not microseconds."""
    findings = Findings(program.policy.file)
    layouts: dict[str, Layout] = {}
    for index, route in enumerate(program.routes):
        question = _Question(program, route, layouts)
        _check_reachable(question, findings)
        for never in program.policy.nevers:
            _check_never(question, index, never, findings)
        check_settings(program, route, findings)
        check_windows(route, findings)
    check_panic(program, findings)
    check_capacity(program, findings)
    return tuple(sorted(findings.diagnostics, key=lambda found: (found.line, found.column, found.code)))


def _check_reachable(question: _Question, findings: Findings) -> None:
    for number, rule in enumerate(question.route.rules):
        try:
            reached = question.request(question.reaching(number))
        except TooHardError as bound:
            _too_hard(rule.span, f"whether rule {rule.name} is reached", bound, findings)
            continue
        if reached is None:
            why, remedy = _why_unreached(question, rule)
            findings.add(
                "E401",
                rule.span,
                f"rule {rule.name} is never reached: {why}",
                "rules from the particular to the general: the first that matches wins",
                remedy,
            )


def _why_unreached(question: _Question, rule: Rule) -> tuple[str, str]:
    """Why, and what helps."""
    try:
        alone = question.request([(rule.condition, True)])
    except TooHardError:  # with the rules before it the question was easier
        return "no request passes its tests and gets past the rules before it", "move it up, or mend its `when`"
    if alone is None:
        return "no request passes its tests", "mend its `when`"
    return "the rules before it take its requests", "move it up, or delete it"


def _check_never(question: _Question, index: int, never: Never, findings: Findings) -> None:
    program, route = question.program, question.route
    allowed = (
        program.groups[never.outside]
        if never.outside is not None
        else set(program.regions) - {region.name for region in never.regions}
    )
    for number in (*range(len(route.rules)), len(route.rules)):
        rule = route.rules[number] if number < len(route.rules) else None
        if rule is not None and rule.refuse is not None:
            continue
        forbidden = {zone: bad for zone in program.zones if (bad := question.forbidden(index, number, zone, allowed))}
        if not forbidden:
            continue
        goals = question.reaching(number)
        if never.condition is not None:
            goals.append((never.condition, True))
        found = None
        try:
            for fewest in sorted({len(down) for _, down, _ in forbidden.values()}):
                zones = tuple(zone for zone, (_, down, _) in forbidden.items() if len(down) == fewest)
                found = found or question.request([*goals, (Match("zone", "", zones), True)])
        except TooHardError as bound:
            _too_hard(never.span, f"never {never.name}", bound, findings)
            return
        if found is not None:
            region, down, site = forbidden[question.zone(found) or ""]
            where = f"rule {rule.name} (line {rule.span.line})" if rule else f"the tiers of route {route.name}"
            tiers = question.tiers(number, question.zone(found) or "")
            whose = " and for clients" if any(map(is_to_client, tiers)) else ""
            when = f", at a site{whose} near {site}" if site else ""
            when += f", when {', '.join(down)} {'is' if len(down) == 1 else 'are'} DOWN" if down else ""
            findings.add(
                "E402",
                never.span,
                f"never {never.name} does not hold: {region} may serve {question.shown(found)}{when}",
                f"no way to a region that it forbids; this one is by {where}",
                "name allowed regions only in its tiers, or put a rule before it",
            )
            return


def kinds_of_requests(program: Program) -> Iterator[Request]:
    """A request of every kind that the policy tells apart: for each route one by each rule and by its own tiers, from
    each zone that can get there, and one for each of its hosts; `KINDS_MAX` at most."""
    layouts: dict[str, Layout] = {}
    kinds = (
        kind for route in program.routes for kind in _kinds_of_route(_Question(program, route, layouts))
    )  # fmt: skip
    yield from islice(kinds, KINDS_MAX)


def _kinds_of_route(question: _Question) -> Iterator[Request]:
    for number in (*range(len(question.route.rules)), len(question.route.rules)):
        for zone in question.program.zones:
            try:
                found = question.request([*question.reaching(number), (Match("zone", "", (zone,)), True)])
            except TooHardError:
                found = None
            if found is not None:
                yield question.example(found)
    for host in question.route.hosts[1:]:
        yield question.example({("host", ""): _a_host(host)})


def _too_hard(span: Span, what: str, bound: TooHardError, findings: Findings) -> None:
    findings.add(
        "E406",
        span,
        f"{what} could not be proved {bound}",
        "conditions on fewer fields",
        "simplify `when`",
    )


class _Goal(NamedTuple):
    """What must hold, or must not, of a request."""

    condition: Condition
    wanted: bool
    subjects: frozenset[tuple[str, str]]
    """What it depends on."""


@dataclass(slots=True)
class _Question:
    """Questions about the requests of one route."""

    program: Program
    route: Route
    layouts: dict[str, Layout]
    """By region: the lanes of a site next to it."""
    domains: dict[tuple[str, str], list[str | None]] = field(default_factory=dict)
    unanswerable: TooHardError | None = None
    """Its patterns are too many to be told apart."""
    steps: int = 0

    def __post_init__(self) -> None:
        conditions = [rule.condition for rule in self.route.rules]
        conditions += [never.condition for never in self.program.policy.nevers]
        named: dict[tuple[str, str], set[str]] = {}
        for condition in conditions:
            for test in tests_of(condition):
                values = test.values if isinstance(test, Match) else ()
                named.setdefault((test.field, test.argument), set()).update(values)
        try:
            for subject, mentioned in named.items():
                self.domains[subject] = self._representatives(subject[0], sorted(mentioned))
        except TooHardError as bound:
            self.unanswerable = bound
        with_blocks = [zone.name for zone in self.program.policy.zones if zone.cidrs]
        self.domains["prefix", ""] = ["", *with_blocks]
        geo = self.program.geo
        places = (("asn", geo.asns), ("country", geo.countries), ("continent", geo.continents)) if geo else ()
        for name, owners in places:
            known = named.get((name, ""), set()) | {str(owner) for owner in owners}
            self.domains[name, ""] = [other(name, known), *sorted(known)]
        self.domains.pop(("zone", ""), None)

    def reaching(self, number: int) -> list[tuple[Condition | None, bool]]:
        """What a request must be to get to this rule (or, past the last, to the route's own tiers)."""
        # A rule with a window or a share may let any request pass.
        before = [rule for rule in self.route.rules[:number] if not rule.windows and rule.share is None]
        goals: list[tuple[Condition | None, bool]] = [(rule.condition, False) for rule in before]
        if number < len(self.route.rules):
            goals.append((self.route.rules[number].condition, True))
        return goals

    def request(self, goals: list[tuple[Condition | None, bool]]) -> Assignment | None:
        """A request for which every goal has its value; None when there is none. Raises `TooHardError`."""
        if self.unanswerable is not None:
            raise self.unanswerable
        if any(condition is None and not wanted for condition, wanted in goals):
            return None
        asked = [_Goal(each, wanted, frozenset(self._subjects(each))) for each, wanted in goals if each is not None]
        subjects = list(dict.fromkeys(subject for goal in asked for subject in self._subjects(goal.condition)))
        asked.sort(key=lambda goal: not goal.wanted)  # what must hold rules out most, so it is asked first
        self.steps = 0
        found = self._search(asked, subjects)
        return None if found is None else self._smallest(asked, found)

    def _smallest(self, goals: list[_Goal], found: Assignment) -> Assignment:
        """Without what it can do without: whatever a left-out part is, every goal still has its value."""
        for subject in list(found):
            fewer = {other: value for other, value in found.items() if other != subject}
            self.steps = 0
            if all(self._value(goal.condition, fewer) is goal.wanted for goal in goals if subject in goal.subjects):
                found = fewer
        return found

    def _search(self, goals: list[_Goal], subjects: list[tuple[str, str]]) -> Assignment | None:
        """The first of all assignments, in the order of subjects and of their values. Without recursion, for a policy
        may test more fields than the interpreter's stack is deep."""
        known: Assignment = {}
        if not goals:
            return known
        branches = [(self._values_that_matter(goals, subjects[0]), goals)]
        while branches:
            values, goals = branches[-1]
            subject = subjects[len(branches) - 1]
            for value in values:
                known[subject] = value
                still_open = self._still_open(goals, subject, known)
                if still_open is not None:
                    break
            else:
                known.pop(subject, None)
                branches.pop()
                continue
            if not still_open:
                return known
            branches.append((self._values_that_matter(still_open, subjects[len(branches)]), still_open))
        return None

    def _values_that_matter(self, goals: list[_Goal], subject: tuple[str, str]) -> Iterator[str | None]:
        """Those of a subject; one when no goal depends on it."""
        values = iter(self.domains.get(subject, [None]))
        return values if any(subject in goal.subjects for goal in goals) else islice(values, 1)

    def _still_open(self, goals: list[_Goal], subject: tuple[str, str], known: Assignment) -> list[_Goal] | None:
        """The goals that are not decided now that this subject is known; None when one has the wrong value."""
        self._step()
        still_open = []
        for goal in goals:
            holds = self._value(goal.condition, known) if subject in goal.subjects else None
            if holds is None:
                still_open.append(goal)
            elif holds is not goal.wanted:
                return None
        return still_open

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise TooHardError(f"in {STEPS_MAX} steps")

    def _subjects(self, condition: Condition) -> Iterator[tuple[str, str]]:
        for test in tests_of(condition):
            if test.field == "zone":
                yield "prefix", ""
                if self.program.geo:
                    yield from (("asn", ""), ("country", ""), ("continent", ""))
            else:
                yield test.field, test.argument

    def _value(self, condition: Condition, known: Assignment) -> bool | None:
        """Whether a condition holds of what is known of a request; None when that does not decide it."""
        self._step()
        match condition:
            case And(parts):
                values = [self._value(part, known) for part in parts]
                return False if False in values else None if None in values else True
            case Or(parts):
                values = [self._value(part, known) for part in parts]
                return True if True in values else None if None in values else False
            case Not(inner):
                holds = self._value(inner, known)
                return None if holds is None else not holds
            case Present(name, argument):
                return known[name, argument] is not None if (name, argument) in known else None
            case Match("zone", _, zones):
                zone = self.zone(known)
                return None if zone is None else zone in zones
            case Match(name, argument, values):
                if (name, argument) not in known:
                    return None
                return _fits(name, known[name, argument], values)

    def zone(self, known: Assignment) -> str | None:
        """The zone of a request, once what is known decides it."""
        prefix = known.get(("prefix", ""), None)
        if prefix or (prefix is not None and self.program.geo is None):
            return prefix
        geo = self.program.geo
        if prefix is None or geo is None:
            return None
        for name, owners in (("asn", geo.asns), ("country", geo.countries), ("continent", geo.continents)):
            value = known.get((name, ""), None)
            if value is None:
                return None
            owner = {str(key): zone for key, zone in owners.items()}.get(value)
            if owner:
                return owner
        return ""

    def forbidden(
        self, index: int, number: int, zone: str, allowed: frozenset[str] | set[str]
    ) -> tuple[str, list[str], str] | None:
        """A region of a lane that is not allowed, what must be DOWN before it is used, and near what the deciding site
        is ("" when that does not matter): of all such, one with the fewest DOWN."""
        place = self.program.zones[zone]
        tiers = self.tiers(number, zone)
        if place is None or place.latitude_e6 is None or any(map(is_to_client, tiers)):
            possible = may_take(self.program, tiers) - set(allowed)
            near = {name: self._order(self._layout_at(name), index, number, zone) for name in sorted(possible)}
            found = [(*first, name) for name, order in near.items() if (first := _first_of(order, allowed))]
            return min(found, key=lambda one: (len(one[1]), one), default=None)
        first = _first_of(self._order(lay_out(self.program, SitePlace("", 0, 0)), index, number, zone), allowed)
        return None if first is None else (*first, "")

    def _layout_at(self, region: str) -> Layout:
        """The lanes of a site next to a region, for clients who are there too."""
        if region not in self.layouts:
            self.layouts[region] = lay_out_next_to(self.program, region)
        return self.layouts[region]

    def _order(self, layout: Layout, index: int, number: int, zone: str) -> list[str]:
        of_rule = layout.rule_lanes[index][number] if number < len(self.route.rules) else layout.lane_of[index]
        assert of_rule is not None
        return [layout.candidates[each].region for each in layout.lanes[of_rule[zone]][0]]

    def tiers(self, number: int, zone: str) -> tuple[Tier, ...]:
        return self.route.rules[number].tiers if number < len(self.route.rules) else self.route.tiers_for(zone)

    def example(self, known: Assignment) -> Request:
        """A request of which this is true."""

        def said(name: str, otherwise: str = "") -> str:
            return known.get((name, "")) or otherwise

        def named(field: str) -> list[tuple[str, str]]:
            return [
                (argument, value) for (name, argument), value in known.items() if name == field and value is not None
            ]

        queries = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in named("query"))
        cookies = "; ".join(f"{name}={value}" for name, value in named("cookie"))
        path = said("path", self.route.path.replace("**", "").replace("*", "x"))
        return Request(
            client=self._address_in(said("prefix")),
            host=said("host", _a_host(self.route.hosts[0])),
            path=f"{path}?{queries}" if queries else path,
            method=said("method", "GET"),
            headers=(*named("header"), *((("cookie", cookies),) if cookies else ())),
            country=said("country"),
            continent=said("continent"),
            asn=int(said("asn", "0")),
            upgrade=said("upgrade"),
            port=int(said("port", "0")),
            sni=said("sni"),
        )

    def _address_in(self, zone: str) -> str:
        """The first address of a zone's blocks that no longer prefix takes from it; "" when there is none."""
        place = self.program.zones[zone]
        for cidr in place.cidrs if place else ():
            for address in (cidr.network.network_address, cidr.network.broadcast_address):
                if self.program.addresses.zone_of(read_client(str(address))) == zone:
                    return str(address)
        return ""

    def shown(self, known: Assignment) -> str:
        """The request in words."""
        parts = [f"zone {self.zone(known)}"] if self.zone(known) else []
        for (name, argument), value in known.items():
            if name == "prefix" or value in (None, "", "0"):
                continue
            parts.append(f'{name}("{argument}") "{value}"' if argument else f"{name} {value}")
        path = [] if any(part.startswith("path ") for part in parts) else [self.route.path.replace("**", "")]
        return f"a request with {', '.join(parts)}" if parts else f"any request to {(path or ['/'])[0]}"

    def _representatives(self, name: str, values: list[str]) -> list[str | None]:
        if name == "path":
            mine = PathPattern.compiled(self.route.path)
            return [path for path in paths([*values, self.route.path]) if mine.matches(path)] or [NOBODY]
        if name == "host":
            known = hosts([*values, *self.route.hosts])
            return [host for host in known if _fits("host", host, self.route.hosts)] or [NOBODY]
        if name == "sni":
            return ["", *hosts(values)]
        absent: list[str | None] = [None] if name in ("header", "query", "cookie") else []
        return [*values, other(name, values), *absent]


def _a_host(pattern: str) -> str:
    return pattern.replace("*", "x")


def _first_of(order: list[str], allowed: frozenset[str] | set[str]) -> tuple[str, list[str]] | None:
    """The first that is not allowed, and all before it."""
    for position, name in enumerate(order):
        if name not in allowed:
            return name, order[:position]
    return None


def _fits(name: str, value: str | None, patterns: tuple[str, ...]) -> bool:
    if name == "path" and value is not None:
        return any(pattern == "/**" or PathPattern.compiled(pattern).matches(value) for pattern in patterns)
    if name in ("host", "sni") and value is not None:
        host = host_key(value)
        return any(
            pattern == "*" or host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in patterns
        )
    return value in patterns


__all__ = ["KINDS_MAX", "STEPS_MAX", "kinds_of_requests", "prove"]
