"""Time windows: when they are open, and when that changes next, on the clocks people live by.

A window is written in the local time of an IANA zone: `Mon-Fri 22:00-06:00 Europe/Berlin`, every week, or
`2027-03-28 01:00 to 2027-03-28 05:00 Europe/Berlin`, once. One that ends at or before its start ends the next day, and
belongs to the day it starts on; 24:00 is the end of the day.

Twice a year local time skips an hour or repeats one. Both are defined so that whoever reads a clock on the wall is
right: in a gap an edge falls on the moment the clocks jump (a window that lies within the gap is not open that day);
in an overlap a window opens at the first and closes at the last of the two moments that read so.

The rules of the zones come from the package `tzdata` alone, never from the machine, so that sites with other operating
systems switch at the same moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from lattice.types import SECOND

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_LIST = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:-(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun))?"
_TIME = r"([0-9]{2}):([0-9]{2})"
_NAME = r"([A-Za-z0-9_+/-]{1,64})"
_WEEKLY = re.compile(rf"(?:({_DAY_LIST}(?:,{_DAY_LIST})*) )?{_TIME}-{_TIME} {_NAME}\Z")
_DATE = rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}) {_TIME}"
_ONCE = re.compile(rf"{_DATE} to {_DATE} {_NAME}\Z")
_ZONE_PART = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*\Z")
_LOOK_AHEAD_DAYS = 9
"""A weekly window opens again within a week, and a day more for zones far east or west."""
_FARTHER_DAYS = _LOOK_AHEAD_DAYS + 7
"""Unless it lies within a gap then. No two gaps of a zone are a week apart since 1970: 16 days (in tzdata 2026f)."""
YEARS = (1970, 2199)


class WindowError(ValueError):
    """Not a window; `unknown_zone` says that only its zone is wrong."""

    def __init__(self, message: str, unknown_zone: str = "") -> None:
        super().__init__(message)
        self.unknown_zone = unknown_zone


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time that comes every week on `days` (0 is Monday), or once when `first` and `last` are dates."""

    zone: str
    start_minute: int
    end_minute: int
    days: tuple[int, ...] = ()
    first: str = ""
    last: str = ""

    def open_at(self, now_us: int) -> bool:
        return any(start <= now_us < end for start, end in self._around(now_us, _LOOK_AHEAD_DAYS))

    def next_edge(self, now_us: int) -> int | None:
        """The first moment after `now_us` at which it opens or closes; None when it never will again."""
        for days in (_LOOK_AHEAD_DAYS, _FARTHER_DAYS):
            stretches = [(start, end) for start, end in self._around(now_us, days) if start < end]
            if edges := [edge for stretch in stretches for edge in stretch if edge > now_us]:
                return min(edges)
        return None

    def __str__(self) -> str:
        start, end = _clock(self.start_minute), _clock(self.end_minute)
        if self.first:
            return f"{self.first} {start} to {self.last} {end} {self.zone}"
        return f"{f'{_days_text(self.days)} ' if len(self.days) < 7 else ''}{start}-{end} {self.zone}"

    def _around(self, now_us: int, days_ahead: int) -> Iterator[tuple[int, int]]:
        """The stretches that may hold `now_us`, and those soon after, as microseconds since the epoch."""
        if self.first:
            yield self.once_us()
            return
        zone = time_zone(self.zone)
        today = _utc(now_us).astimezone(zone).date()
        over_midnight = self.end_minute <= self.start_minute
        for offset in range(-2, days_ahead):
            day = today + timedelta(days=offset)
            if day.weekday() in self.days:
                end_day = day + timedelta(days=over_midnight)
                yield self._moment(day, self.start_minute, 0), self._moment(end_day, self.end_minute, 1)

    def once_us(self) -> tuple[int, int]:
        """From when to when one with dates is open, in microseconds since the epoch."""
        first, last = date.fromisoformat(self.first), date.fromisoformat(self.last)
        return self._moment(first, self.start_minute, 0), self._moment(last, self.end_minute, 1)

    def _moment(self, day: date, minute: int, fold: int) -> int:
        return _instant_us(self.zone, day, minute, fold)


def read_window(text: str) -> Window:
    """A window from its text. Raises `WindowError`."""
    if matched := _ONCE.match(text):
        first, h1, m1, last, h2, m2, zone = matched.groups()
        try:
            dates = date.fromisoformat(first), date.fromisoformat(last)
        except ValueError:
            raise WindowError("there is no such date") from None
        if not all(YEARS[0] <= day.year <= YEARS[1] for day in dates):
            raise WindowError(f"dates are from {YEARS[0]} to {YEARS[1]}")
        window = Window(zone, _minute(h1, m1), _minute(h2, m2), (), first, last)
        if (last, window.end_minute) <= (first, window.start_minute):
            raise WindowError("it ends before it begins")
    elif matched := _WEEKLY.match(text):
        days, h1, m1, h2, m2, zone = matched.groups()
        window = Window(zone, _minute(h1, m1), _minute(h2, m2), _read_days(days))
        if window.start_minute == 1440:
            raise WindowError("a window cannot begin at 24:00: write 00:00 of the next day")
    else:
        raise WindowError("it is not written like a window")
    time_zone(window.zone)
    return window


@lru_cache(maxsize=256)
def time_zone(name: str) -> ZoneInfo:
    """An IANA zone by its name, from the package. Raises `WindowError`."""
    parts = name.split("/")
    if not all(_ZONE_PART.match(part) for part in parts):
        raise WindowError(f"{name} is not a time zone", name)
    package = ".".join(("tzdata.zoneinfo", *parts[:-1]))
    try:
        with resources.files(package).joinpath(parts[-1]).open("rb") as opened:
            return ZoneInfo.from_file(opened, key=name)
    except (ImportError, OSError, ValueError):
        raise WindowError(f"{name} is not a time zone", name) from None


@lru_cache(maxsize=1)
def zone_names() -> tuple[str, ...]:
    """Every zone there is."""
    return tuple(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@lru_cache(maxsize=4_096)
def _instant_us(name: str, day: date, minute: int, fold: int) -> int:
    """When the clocks of a zone read this; in a gap, when they jump."""
    zone = time_zone(name)
    local = datetime.combine(day, time(), zone) + timedelta(minutes=minute)
    naive = local.replace(tzinfo=None)
    before, after = (_offset_s(naive.replace(tzinfo=zone, fold=f)) for f in (0, 1))
    wall = (naive - datetime(1970, 1, 1)) // timedelta(seconds=1)  # noqa: DTZ001  (seconds on the wall, no zone)
    if before >= after:  # an ordinary moment, or an overlap
        return (wall - (after if fold else before)) * SECOND
    low, high = wall - after, wall - before  # the clocks jump after `low`, at `high` at the latest
    while low < high:
        middle = (low + high) // 2
        if _offset_s(_utc(middle * SECOND).astimezone(zone)) == after:
            high = middle
        else:
            low = middle + 1
    return low * SECOND


def _offset_s(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _utc(now_us: int) -> datetime:
    return datetime.fromtimestamp(now_us // SECOND, UTC)


def read_moment(text: str) -> int:
    """An ISO 8601 moment with its offset ("2027-03-28T03:30:00+02:00"), as microseconds. Raises `ValueError`.

    Of the years that windows are for, in UTC: calendars end, and windows look a few days around.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        # Python's own words repeat the text, however long it is, unless they say which part is out of range.
        raise ValueError("not ISO 8601" if repr(text) in str(error) else str(error)) from None
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    if not datetime(YEARS[0], 1, 1, tzinfo=UTC) <= moment < datetime(YEARS[1] + 1, 1, 1, tzinfo=UTC):
        raise ValueError(f"years are from {YEARS[0]} to {YEARS[1]}")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def write_moment(now_us: int) -> str:
    """A moment as ISO 8601, in UTC; where calendars end, a number that is no moment."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)).isoformat()
    except OverflowError:
        return str(now_us)


def _minute(hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > 1440:
        raise WindowError(f"{hours}:{minutes} is not a time of day")
    return minute


def _read_days(text: str | None) -> tuple[int, ...]:
    if text is None:
        return tuple(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        start = DAYS.index(first)
        days |= {(start + offset) % 7 for offset in range((DAYS.index(last or first) - start) % 7 + 1)}
    return tuple(sorted(days))


def _days_text(days: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(DAYS[run[0]] + (f"-{DAYS[run[-1]]}" if len(run) > 1 else "") for run in runs)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
