"""Weekly windows of one route's rules, held against each other: no overlap and no small gap is left unsaid.

Rules that take the same requests at different times divide the week between them. Where two of their windows overlap
the first rule wins, whether that was meant or not; where a few minutes lie between them nobody's does, and the route's
own tiers serve. Both are usually slips of a minute or a day, or of two time zones that change their clocks on different
days, and are seen first at that minute. So an author says what is meant with windows that meet, or with conditions that
differ. Single dates are exceptions, and may overlap what they like.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from router.decision.weeks import DAY, WEEK, Season, Stretch, seasons, stretches
from router.policy.errors import Findings
from router.policy.syntax import Route, Rule
from router.policy.windows import DAYS, Window

GAP_MINUTES_MAX: Final = 15
"""Longer gaps are meant."""


class _Open(NamedTuple):
    stretch: Stretch
    rule: Rule
    ahead: int
    """Of the first zone's clock, in minutes."""
    zone: str


def check_windows(route: Route, findings: Findings) -> None:
    alike: dict[tuple[object, object], list[tuple[Rule, Window]]] = defaultdict(list)
    for rule in route.rules:
        alike[rule.condition, rule.share] += [(rule, window) for window in rule.windows if window.days]
    for windows in alike.values():
        if len({rule.name for rule, _ in windows}) > 1:
            said: set[tuple[str, str]] = set()
            for season in seasons(dict.fromkeys(window.zone for _, window in windows)):
                opened = [
                    _Open(stretch, rule, season.ahead[window.zone], window.zone)
                    for rule, window in windows
                    for stretch in stretches(window, season)
                ]
                _check_overlaps(opened, season, said, findings)
                _check_gaps(opened, season, said, findings)


def _check_overlaps(opened: list[_Open], season: Season, said: set[tuple[str, str]], findings: Findings) -> None:
    """Through two weeks, for a stretch may go on into the next; of each rule what is open for longest is enough."""
    week = sorted((each._replace(stretch=_in_its_week(each.stretch)) for each in opened), key=lambda each: each.stretch)
    still_open: dict[tuple[int, int], _Open] = {}
    for one in [*week, *(each._replace(stretch=_a_week_later(each.stretch)) for each in week)]:
        start = one.stretch.start
        still_open = {place: other for place, other in still_open.items() if other.stretch.end > start}
        for other in still_open.values():
            first, second = sorted((one, other), key=lambda each: _place(each.rule))
            pair = first.rule.name, second.rule.name
            if _place(first.rule) == _place(second.rule) or pair in said:
                continue
            said.add(pair)
            end = min(one.stretch.end, other.stretch.end)
            findings.add(
                "E408",
                second.rule.span,
                f"the windows of rules {pair[0]} and {pair[1]} overlap, {_when(start, end, season)}, and both "
                f"take the same requests: there {pair[0]} wins",
                "windows that meet and do not overlap, or conditions that differ",
                f"let one end at {_clock(start)}, or begin at {_clock(end)}{_whose(season)}",
            )
        mine = still_open.get(_place(one.rule))
        if mine is None or mine.stretch.end < one.stretch.end:
            still_open[_place(one.rule)] = one


def _check_gaps(opened: list[_Open], season: Season, said: set[tuple[str, str]], findings: Findings) -> None:
    ordered = sorted(opened, key=lambda each: each.stretch)
    covered = ordered[0]
    for after in [*ordered[1:], *(each._replace(stretch=_a_week_later(each.stretch)) for each in ordered)]:
        names = covered.rule.name, after.rule.name
        start, end = covered.stretch.end, after.stretch.start
        if 0 < end - start <= GAP_MINUTES_MAX and names[0] != names[1] and names not in said:
            said.add(names)
            findings.add(
                "E409",
                after.rule.span,
                f"between rules {names[0]} and {names[1]} nobody's window is open, {_when(start, end, season)}: the "
                f"route's own tiers serve for {end - start} min",
                f"windows that meet, or gaps of more than {GAP_MINUTES_MAX} minutes",
                f"let the window of {names[0]} end at {_clock(end + covered.ahead)}"
                + (f" {covered.zone}" if _whose(season) else ""),
            )
        if after.stretch.end > covered.stretch.end:
            covered = after


def _in_its_week(stretch: Stretch) -> Stretch:
    start = stretch.start % WEEK
    return Stretch(start, start + stretch.end - stretch.start)


def _a_week_later(stretch: Stretch) -> Stretch:
    return Stretch(stretch.start + WEEK, stretch.end + WEEK)


def _place(rule: Rule) -> tuple[int, int]:
    return rule.span.line, rule.span.column


def _when(start: int, end: int, season: Season) -> str:
    day, other = DAYS[start % WEEK // DAY], DAYS[end % WEEK // DAY]
    text = f"{day} {_clock(start)} to {f'{other} ' if other != day else ''}{_clock(end)} {next(iter(season.ahead))}"
    return f"{text} in weeks such as that of {season.monday}" if _whose(season) else text


def _whose(season: Season) -> str:
    """The zone that times are of, where there are several."""
    return f" {next(iter(season.ahead))}" if len(season.ahead) > 1 else ""


def _clock(minute: int) -> str:
    return f"{minute % DAY // 60:02}:{minute % 60:02}"
