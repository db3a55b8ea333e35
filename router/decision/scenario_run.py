"""Runs the `test` blocks of a policy: its own decisions, on a virtual clock, with its own damping and return of users.

Every region is HEALTHY to begin with, the clock reads what `at` says (the epoch without it), and the deciding site is
where `given site` says (0 0 without it). `users` are told apart by address and by every cookie and header that the
policy tells users apart by. A region that is well again gets its users back as at a node, a few at a time; `at` is a
jump, after which everybody is back. `moved` is the share of users whose region is not the one they had before the first
`set` or `step`; `switches` counts how often the region of the given request changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lattice.types import MILLISECOND, Level, Micros
from router.decision.decide import Decision, decide
from router.decision.failback import RAMP_US, Failback
from router.decision.layout import SitePlace
from router.decision.nearby import location_at
from router.decision.plan import RouteTable, plan
from router.decision.program import Program
from router.decision.request import Request
from router.health.damping import RegionDamping
from router.policy.scenarios import (
    Action,
    At,
    Expected,
    Given,
    Repeat,
    Scenario,
    SetLevel,
    SetSaturation,
    Step,
)
from router.policy.span import Span
from router.policy.values import read_place, write_duration, write_percent

EVENTS_MAX = 10_000
"""Moments of one step at which something changes by itself."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An expectation that did not come true."""

    test: str
    message: str
    span: Span


def run_tests(program: Program, failback_us: int = RAMP_US) -> Iterator[tuple[Scenario, list[Failed]]]:
    """Every test of the policy with what failed of it, in the order written; a region that is well again gets its users
    back over so long."""
    for scenario in program.policy.tests:
        run = _Run(program, scenario, failback_us)
        run.play(scenario.actions)
        yield scenario, run.failed


class _Run:
    def __init__(self, program: Program, scenario: Scenario, failback_us: int) -> None:
        self._program = program
        self._scenario = scenario
        self._levels = dict.fromkeys(program.regions, Level.HEALTHY)
        self._saturation: dict[str, int] = {}
        self._now = Micros(0)
        self._site = SitePlace("test", 0, 0)
        self._request = Request("", "", "/")
        self._users = 1
        self._damping = RegionDamping()
        self._damping.configure(program.health)
        self._failback_us = failback_us
        self._failback = Failback(failback_us)
        self._table: RouteTable | None = None
        self._next: int | None = None
        self._before: list[str | None] | None = None
        self._shown: str | None = None
        self._switches = 0
        self.failed: list[Failed] = []

    def play(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Given():
                    self._give(action)
                case At(now_us):
                    self._now, self._table, self._failback = Micros(now_us), None, Failback(self._failback_us)
                case SetLevel(region, level):
                    self._begin()
                    self._levels[region] = level
                    self._change()
                case SetSaturation(region, ppm):
                    self._begin()
                    self._saturation[region] = ppm
                    self._change()
                case Step(by_us):
                    self._begin()
                    self._step(by_us)
                case Repeat(count, inner):
                    for _ in range(count):
                        self.play(inner)
                case Expected():
                    self._expect(action)

    def _give(self, given: Given) -> None:
        facts: dict[str, str] = {}
        headers = []
        for fact in given.facts:
            if fact.name == "header":
                headers.append((fact.argument, fact.value))
            elif fact.name == "cookie":
                headers.append(("cookie", f"{fact.argument}={fact.value}"))
            elif fact.name == "site":
                self._site = SitePlace("test", *read_place(fact.value))
            elif fact.name == "users":
                self._users = int(fact.value)
            else:
                facts[f"{fact.name} {fact.argument}" if fact.argument else fact.name] = fact.value
        queries = [f"{name.removeprefix('query ')}={value}" for name, value in facts.items() if name[:6] == "query "]
        old = self._request
        location = location_at(*read_place(facts["location"])) if "location" in facts else old.location
        path = facts.get("path", old.path)
        self._request = Request(
            client=facts.get("client", old.client),
            host=facts.get("host", old.host or facts.get("sni", "")),
            path=f"{path}{'&' if '?' in path else '?'}{'&'.join(queries)}" if queries else path,
            method=facts.get("method", old.method),
            headers=(*headers, *old.headers),
            country=facts.get("country", old.country),
            continent=facts.get("continent", old.continent),
            asn=int(facts.get("asn", old.asn)),
            upgrade=facts.get("upgrade", old.upgrade).lower(),
            port=int(facts.get("port", old.port)),
            sni=facts.get("sni", old.sni),
            location=location,
        )
        self._table, self._before, self._shown = None, None, None

    def _begin(self) -> None:
        """Before the first change: who is where."""
        if self._before is None:
            self._before = self._regions()
            self._shown = self._decision().region

    def _change(self) -> None:
        self._table = None
        region = self._decision().region
        self._switches += region != self._shown
        self._shown = region

    def _step(self, by_us: int) -> None:
        end = self._now + by_us
        for _ in range(EVENTS_MAX):
            self._planned()
            if self._next is None or self._next >= end:
                break
            self._now = Micros(max(self._next, self._now + 1))
            self._change()
        self._now = Micros(end)
        self._change()

    def _planned(self) -> RouteTable:
        if self._table is None:
            damped = self._damping.levels(self._levels, self._now)
            returning = self._failback.returning(damped.levels, self._now)
            self._table = plan(
                self._program, damped.levels, self._site, self._now, self._saturation, away_ppm=returning.away_ppm
            )
            edges = (damped.next_change, returning.next_change, self._table.valid_until)
            self._next = min((edge for edge in edges if edge is not None), default=None)
        return self._table

    def _decision(self) -> Decision:
        return decide(self._planned(), self._request, frozenset())

    def _regions(self) -> list[str | None]:
        table = self._planned()
        return [
            decide(table, request, frozenset()).region
            for request in users_of(self._program, self._request, self._users)
        ]

    def _expect(self, expected: Expected) -> None:
        decision = self._decision()
        found: str | int
        match expected.what:
            case "region":
                found = decision.region or f"deny {decision.status}"
            case "tier":
                found = decision.tier
            case "rule":
                found = decision.rule or "none"
            case "route":
                found = decision.route or "none"
            case "deny":
                found = decision.status if decision.region is None else f"region {decision.region}"
            case "switches":
                found = self._switches
            case "moved":
                before, after = self._before or self._regions(), self._regions()
                moved = sum(was != now for was, now in zip(before, after, strict=True))
                found = -(-moved * 1_000_000 // len(after))
            case _:
                regions = self._regions()
                found = -(-Counter(regions)[expected.region] * 1_000_000 // len(regions))
        bounded = expected.what in ("switches", "moved", "load")
        if bounded and int(found) <= int(expected.value):
            return
        if not bounded and found == expected.value:
            return
        message = f"{_message(expected, found, decision)}{self._held()}"
        self.failed.append(Failed(self._scenario.name, message, expected.span))

    def _held(self) -> str:
        """Which regions are not yet what the test set them to."""
        planned = self._planned().levels
        held = []
        for region, level in self._levels.items():
            returns = self._damping[region].returns_at(self._now)
            if planned[region] > level and returns is not None:
                left = write_duration(-(-(returns - self._now) // MILLISECOND) * MILLISECOND)
                held.append(f"{region} is held {planned[region].name} for {left} more (damping, cooldown, probation)")
        return "".join(f"; {each}" for each in held)


def users_of(program: Program, request: Request, count: int) -> Iterator[Request]:
    """The request as so many users would send it; as it is when there is one."""
    if count == 1:
        yield request
        return
    keys = [key for route in program.routes for settings in (route.settings, *(rule.settings for rule in route.rules))
            if settings.stick for key in settings.stick.keys]  # fmt: skip
    keys += [rule.share.by for route in program.routes for rule in route.rules if rule.share]
    cookies = sorted({key.name for key in keys if key.kind == "cookie"})
    names = sorted({key.name for key in keys if key.kind == "header"} - {name for name, _ in request.headers})
    for user in range(count):
        headers = [(name, f"user-{user}") for name in names]
        if cookies:
            headers.append(("cookie", "; ".join(f"{name}=user-{user}" for name in cookies)))
        client = request.client or f"100.{64 + (user >> 16)}.{user >> 8 & 255}.{user & 255}"
        yield Request(
            client, request.host, request.path, request.method, (*request.headers, *headers), request.country,
            request.continent, request.asn, request.upgrade, request.port, request.sni, request.location,
        )  # fmt: skip


def _message(expected: Expected, found: str | int, decision: Decision) -> str:
    if expected.what == "switches":
        return f"{found} switches, more than {expected.value}"
    if expected.what in ("moved", "load"):
        subject = f"load {expected.region}" if expected.region else "moved"
        return f"{subject} is {write_percent(int(found))}, more than {write_percent(int(expected.value))}"
    return f"expected {expected.what} {expected.value}, found {found} ({decision.reason})"
