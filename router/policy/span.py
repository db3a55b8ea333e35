"""Where in the text something stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A place in the text: line and column count from 1, width in characters. A span never crosses lines."""

    line: int
    column: int
    width: int


NOWHERE = Span(1, 1, 1)
"""The span of what was never written: a default, or a policy made by a program."""
