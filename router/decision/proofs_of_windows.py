"""Weekly windows of one route's rules, held against each other: no overlap and no small gap is left unsaid.

Rules that take the same requests at different times divide the week between them. Where two of their windows overlap
the first rule wins, whether that was meant or not; where a few minutes lie between them nobody's does, and the route's
own tiers serve. Both are usually slips of a minute or a day, seen first at that minute. So an author says what is meant
with windows that meet, or with conditions that differ. Windows of one time zone are compared, by local time; single
dates are exceptions, and may overlap what they like.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from router.policy.errors import Findings
from router.policy.syntax import Route, Rule

DAY: Final = 24 * 60
WEEK: Final = 7 * DAY
GAP_MINUTES_MAX: Final = 15
"""Longer gaps are meant."""
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class _Open(NamedTuple):
    """A stretch of the week, in minutes from Monday's midnight; it may end in the week after."""

    start: int
    end: int
    rule: Rule


def check_windows(route: Route, findings: Findings) -> None:
    alike: dict[tuple[object, object, str], list[_Open]] = defaultdict(list)
    for rule in route.rules:
        for window in rule.windows:
            if window.days:
                alike[rule.condition, rule.share, window.zone] += [
                    _Open(*stretch, rule) for stretch in _stretches(window.start_minute, window.end_minute, window.days)
                ]
    for (_, _, zone), stretches in alike.items():
        if len({stretch.rule.name for stretch in stretches}) > 1:
            _check_overlaps(stretches, zone, findings)
            _check_gaps(stretches, zone, findings)


def _stretches(start: int, end: int, days: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    length = end - start if end > start else end - start + DAY
    for day in days:
        yield day * DAY + start, day * DAY + start + length


def _check_overlaps(stretches: list[_Open], zone: str, findings: Findings) -> None:
    said = set()
    for one in stretches:
        for other in stretches:
            pair = one.rule.name, other.rule.name
            if _place(one.rule) >= _place(other.rule) or pair in said:
                continue
            for shift in (-WEEK, 0, WEEK):
                start, end = max(one.start, other.start + shift), min(one.end, other.end + shift)
                if start < end and pair not in said:
                    said.add(pair)
                    findings.add(
                        "E408",
                        other.rule.span,
                        f"the windows of rules {pair[0]} and {pair[1]} overlap, {_when(start, end)} {zone}, and both "
                        f"take the same requests: there {pair[0]} wins",
                        "windows that meet and do not overlap, or conditions that differ",
                        f"let one end at {_clock(start)}, or begin at {_clock(end)}",
                    )


def _check_gaps(stretches: list[_Open], zone: str, findings: Findings) -> None:
    said = set()
    ordered = sorted(stretches, key=lambda stretch: (stretch.start, stretch.end))
    covered = ordered[0]
    for after in [*ordered[1:], *(each._replace(start=each.start + WEEK, end=each.end + WEEK) for each in ordered)]:
        names = covered.rule.name, after.rule.name
        minutes = after.start - covered.end
        if 0 < minutes <= GAP_MINUTES_MAX and names[0] != names[1] and names not in said:
            said.add(names)
            findings.add(
                "E409",
                after.rule.span,
                f"between rules {names[0]} and {names[1]} nobody's window is open, "
                f"{_when(covered.end, after.start)} {zone}: the route's own tiers serve for {minutes} min",
                f"windows that meet, or gaps of more than {GAP_MINUTES_MAX} minutes",
                f"let the window of {names[0]} end at {_clock(after.start)}",
            )
        if after.end > covered.end:
            covered = after


def _place(rule: Rule) -> tuple[int, int]:
    return rule.span.line, rule.span.column


def _when(start: int, end: int) -> str:
    day, other = _DAYS[start % WEEK // DAY], _DAYS[end % WEEK // DAY]
    return f"{day} {_clock(start)} to {f'{other} ' if other != day else ''}{_clock(end)}"


def _clock(minute: int) -> str:
    return f"{minute % DAY // 60:02}:{minute % 60:02}"
