"""Weekly windows laid side by side, whatever time zones they are written in.

A window is a few stretches of the week, in minutes from Monday's midnight. Windows of one zone are laid side by side by
its local time. Those of several are laid on the clock of one of them, and how far the others are ahead of it changes
when clocks do: so once for each *season*, a way in which their clocks stand to each other. The hour at which a clock
is changed is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from router.policy.windows import Window, time_zone

DAY: Final = 24 * 60
WEEK: Final = 7 * DAY
_FIRST_MONDAY: Final = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""Seasons are those of two years from edition 1's own; laws that change them later are not known here."""
_WEEKS: Final = 2 * 52


Owner = TypeVar("Owner")


class Season(NamedTuple):
    monday: str
    """The first day of the first week that is so, as a date."""
    ahead: Mapping[str, int]
    """By zone: by how many minutes its clocks are ahead of the first zone's."""


class Stretch(NamedTuple):
    """A stretch of the week, in minutes from the first zone's Monday; it may end in the week after."""

    start: int
    end: int


def seasons(zones: Iterable[str]) -> tuple[Season, ...]:
    """One when there is one zone, however often its clocks change. `zones` without repetition, and not none."""
    names = tuple(zones)
    found: dict[tuple[int, ...], Season] = {}
    for week in range(_WEEKS if len(names) > 1 else 1):
        monday = _FIRST_MONDAY + timedelta(weeks=week)
        offsets = [monday.astimezone(time_zone(name)).utcoffset() or timedelta() for name in names]
        ahead = tuple((offset - offsets[0]) // timedelta(minutes=1) for offset in offsets)
        found.setdefault(ahead, Season(monday.date().isoformat(), dict(zip(names, ahead, strict=True))))
    return tuple(found.values())


def stretches(window: Window, season: Season) -> Iterator[Stretch]:
    """When a weekly window is open, on the first zone's clock; a start may lie in the week before or after."""
    start, end = window.start_minute, window.end_minute
    length = end - start if end > start else end - start + DAY
    for day in window.days:
        begins = day * DAY + start - season.ahead[window.zone]
        yield Stretch(begins, begins + length)


def open_together(windows: Mapping[Owner, tuple[Window, ...]]) -> tuple[frozenset[Owner], ...]:
    """Every set of owners whose weekly windows are open at one moment; of nobody, where a moment is nobody's."""
    weekly = [(owner, window) for owner, owned in windows.items() for window in owned if window.days]
    if not weekly:
        return (frozenset(),)
    found: dict[frozenset[Owner], None] = {}
    for season in seasons(dict.fromkeys(window.zone for _, window in weekly)):
        laid = [(owner, stretch) for owner, window in weekly for stretch in stretches(window, season)]
        for moment in sorted({edge % WEEK for _, stretch in laid for edge in stretch}):
            found[frozenset(owner for owner, (start, end) in laid if (moment - start) % WEEK < end - start)] = None
    return tuple(found)
