"""Values that stand for all others: what a field's tests can tell apart, one value of each kind.

A path pattern holds the paths that agree with its segments; two patterns hold together what their *merge* holds, which
is a pattern again, or nothing. So let the patterns of a policy be closed under merging. Each stands for itself by paths
with a segment that nobody names wherever it has a `*`, and with tails of such segments where it ends in `**`: of every
length up to one more than any pattern has that overlaps it, for there only open ends still hold. If some path passes
tests that ask for some patterns and forbid others, then so does the path of its length which stands for the merge of
those asked for: a forbidden pattern that holds this one has a `*` wherever nobody's segment stands, and so holds the
first one as well. (Empty segments, which no `*` holds, have tails of their own.)

Host patterns are nested or apart, so each stands for itself by a label that nobody names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from router.policy.paths import ONE, PathPattern

PATTERNS_MAX: Final = 2_000
"""Of one route, merges included. Each stars-and-all pattern is merged with every other."""
NOBODY: Final = "-"
_OTHERS: Final = {"method": "PATCH", "asn": "0", "port": "0", "country": "", "continent": "", "upgrade": ""}
_Pattern: TypeAlias = tuple[tuple[str, ...], bool]
"""Segments, and whether `/**` follows."""


class TooHardError(Exception):
    """A question was not answered within its bounds; which, as "in 5 steps"."""


def other(field: str, named: Iterable[str]) -> str:
    """A value of a field that is none of these: what a field says where it says nothing, if it can."""
    return _fresh(_OTHERS.get(field, NOBODY), set(named))


def hosts(patterns: Iterable[str]) -> list[str]:
    """Hosts, sorted: one for each pattern, and one that no pattern but `*` holds."""
    named = [pattern for pattern in patterns if pattern != "*"]
    fresh = _fresh("x", {label for pattern in named for label in pattern.split(".")})
    return sorted({pattern.replace("*", fresh) for pattern in named} | {f"{fresh}.invalid"})


def paths(patterns: Sequence[str]) -> list[str]:
    """Paths, sorted: each pattern told apart from all others, and from any of them together. Raises `TooHardError`."""
    compiled = [PathPattern.compiled(pattern) for pattern in dict.fromkeys(["/**", *patterns])]
    closed = _closed([(pattern.segments, pattern.open_end) for pattern in compiled])
    fresh = _fresh("x", {segment for segments, _ in closed for segment in segments})
    return sorted({path for pattern in closed for path in _standing_for(pattern, closed, fresh)})


def _closed(patterns: list[_Pattern]) -> list[_Pattern]:
    """With all merges. Two patterns without stars are nested or apart, so that nothing comes of them."""
    closed = dict.fromkeys(patterns)
    starred = [pattern for pattern in patterns if ONE in pattern[0]]
    for one in starred:  # grows meanwhile
        for another in list(closed):
            merged = _merge(one, another)
            if merged is not None and merged not in closed:
                if len(closed) >= PATTERNS_MAX:
                    raise TooHardError(f"with more than {PATTERNS_MAX} path patterns, overlaps included")
                closed[merged] = None
                if ONE in merged[0]:
                    starred.append(merged)
    return list(closed)


def _merge(one: _Pattern, another: _Pattern) -> _Pattern | None:
    """The pattern of what both hold; None when that is nothing."""
    (short, short_open), (long, long_open) = sorted((one, another), key=lambda pattern: len(pattern[0]))
    if len(short) < len(long) and not short_open:
        return None
    segments = []
    for mine, theirs in zip(short, long, strict=False):
        if mine != theirs and (ONE not in (mine, theirs) or "" in (mine, theirs)):
            return None
        segments.append(theirs if mine == ONE else mine)
    segments += long[len(short) :]
    return tuple(segments), long_open and (short_open or len(short) < len(long))


def _standing_for(pattern: _Pattern, closed: list[_Pattern], fresh: str) -> Iterable[str]:
    segments, open_end = pattern
    base = [fresh if segment == ONE else segment for segment in segments]
    if not open_end:
        yield "/" + "/".join(base)
        return
    overlapping = [other_segments for other_segments, _ in closed if _merge(pattern, (other_segments, True))]
    longest = max(map(len, overlapping))
    for more in range(longest - len(segments) + 2):
        yield "/" + "/".join([*base, *[fresh] * more])
    if any(len(longer) > len(segments) and longer[len(segments)] == ONE for longer in overlapping):
        yield "/" + "/".join([*base, ""])
        yield "/" + "/".join([*base, "", fresh])


def _fresh(word: str, named: set[str]) -> str:
    """The word, or one like it that nobody names."""
    found, number = word, 1
    while found in named:
        number += 1
        found = f"{word}{number}"
    return found
