"""A `test` block: what is given, what happens on a virtual clock, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from lattice.types import Level
from router.policy.span import NOWHERE, Span

FACTS = (
    "client", "host", "path", "method", "header", "query", "cookie", "upgrade", "country", "continent", "asn", "port",
    "sni", "users", "site", "location",
)  # fmt: skip
USERS_MAX = 100_000
REPEAT_MAX = 1_000
ACTIONS_MAX = 2_000
"""Actions of one test, repeats multiplied out; each thing that an `expect` names is one."""
BOUNDS = ("switches", "moved", "load")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing the request has, or `users` (how many), or `site` (where the deciding site is)."""

    name: str
    argument: str
    value: str
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Given:
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class At:
    """The virtual clock, in microseconds since the Unix epoch."""

    now_us: int


@dataclass(frozen=True, slots=True)
class SetLevel:
    region: str
    level: Level
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class SetSaturation:
    region: str
    ppm: int
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Step:
    by_us: int


@dataclass(frozen=True, slots=True)
class Expected:
    """`what` is region, tier, rule or route (with `value` its name), deny (with a status), or a bound.

    Bounds hold `value` at most: switches (a count), moved (millionths), load of a `region` (millionths).
    """

    what: str
    value: str | int
    region: str = ""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    count: int
    actions: tuple[Action, ...]


Action: TypeAlias = Given | At | SetLevel | SetSaturation | Step | Repeat | Expected


@dataclass(frozen=True, slots=True)
class Scenario:
    """A test block."""

    name: str
    actions: tuple[Action, ...]
    span: Span = field(default=NOWHERE, compare=False)


def multiplied_out(actions: tuple[Action, ...]) -> int:
    """How many actions these are, played."""
    return sum(each.count * multiplied_out(each.actions) if isinstance(each, Repeat) else 1 for each in actions)
