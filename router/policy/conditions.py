"""What a rule asks of a request: a tree of tests over a closed list of fields.

There is one way to test: a field is `in` a list of values, or it is `present`. Everything else is `and`, `or`, `not`.
A field that a request does not have is in no list. No test runs longer than its pattern: there are no regular
expressions here, and nothing backtracks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import TypeAlias

from router.policy.span import NOWHERE, Span

FIELDS = (
    "host", "path", "method", "header", "query", "cookie", "upgrade", "zone", "country", "continent", "asn", "port",
    "sni",
)  # fmt: skip
WITH_ARGUMENT = frozenset(("header", "query", "cookie"))
"""Fields that are many: they say which one in parentheses."""
CONDITION_DEPTH_MAX = 16
"""Parentheses inside parentheses. Nobody reads deeper."""
VALUES_MAX = 512
"""Values of one list."""


@dataclass(frozen=True, slots=True)
class Match:
    """The field is one of these values; hosts and paths are patterns."""

    field: str
    argument: str
    """The name of the header (lower case), query parameter or cookie; else empty."""
    values: tuple[str, ...]
    span: Span = attribute(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Present:
    """The request has this header, query parameter or cookie, whatever it says."""

    field: str
    argument: str
    span: Span = attribute(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    condition: Condition


@dataclass(frozen=True, slots=True)
class And:
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    conditions: tuple[Condition, ...]


Condition: TypeAlias = Match | Present | Not | And | Or


def tests_of(condition: Condition | None) -> Iterator[Match | Present]:
    """Every test in a condition, from left to right."""
    match condition:
        case None:
            return
        case Match() | Present():
            yield condition
        case Not(inner):
            yield from tests_of(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from tests_of(part)
