"""Where two runs part: the first line of their journals that differs, and what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import zip_longest

CONTEXT_LINES = 5


def first_divergence(one: Iterable[str], other: Iterable[str]) -> list[str] | None:
    """The last common lines, then both versions of the first that differs; None when there is none."""
    before: deque[str] = deque(maxlen=CONTEXT_LINES)
    for number, (left, right) in enumerate(zip_longest(one, other), 1):
        if left != right:
            return [
                *(f"  {line.rstrip()}" for line in before),
                f"line {number}:",
                f"- {left.rstrip() if left is not None else '(the first ends here)'}",
                f"+ {right.rstrip() if right is not None else '(the second ends here)'}",
            ]
        before.append(left)
    return None
