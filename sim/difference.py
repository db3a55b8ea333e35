"""Where two runs part: the first line of their journals that differs, and what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import takewhile, zip_longest

CONTEXT_LINES = 5
LINE_CHARS_MAX = 200
"""Of a line that is shown: an input may hold a whole policy."""


def first_divergence(one: Iterable[str], other: Iterable[str]) -> list[str] | None:
    """The last common lines, then both versions of the first that differs; None when there is none."""
    before: deque[str] = deque(maxlen=CONTEXT_LINES)
    for number, (left, right) in enumerate(zip_longest(one, other), 1):
        if left != right:
            alike = takewhile(lambda pair: pair[0] == pair[1], zip(left or "", right or "", strict=False))
            same = sum(1 for _ in alike)
            return [
                *(f"  {_cut(line.rstrip())}" for line in before),
                f"line {number}:",
                f"- {_cut(left.rstrip(), same) if left is not None else '(the first ends here)'}",
                f"+ {_cut(right.rstrip(), same) if right is not None else '(the second ends here)'}",
            ]
        before.append(left)
    return None


def _cut(line: str, same: int = 0) -> str:
    """So much of a line as can be read, from a little before what differs."""
    first = max(0, min(same - LINE_CHARS_MAX // 4, len(line) - LINE_CHARS_MAX))
    shown = line[first : first + LINE_CHARS_MAX]
    left = len(line) - first - len(shown)
    return f"{f'(the same {first} characters) ' if first else ''}{shown}{f' ({left} more)' if left else ''}"
