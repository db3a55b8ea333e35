"""Dates as HTTP writes them: the three forms of RFC 9110 5.6.7, and nothing else."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, date, datetime
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), start=1
    )
}
_DAY: Final = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY: Final = rb"(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_MONTH: Final = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME: Final = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS: Final = (
    re.compile(_DAY + rb", (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) " + _TIME + rb" GMT"),
    re.compile(_LONG_DAY + rb", (?P<day>\d\d)-" + _MONTH + rb"-(?P<year>\d\d) " + _TIME + rb" GMT"),
    re.compile(_DAY + rb" " + _MONTH + rb" (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})"),
)
_TWO_DIGITS_AHEAD: Final = 50
"""RFC 9110 5.6.7: a two-digit year more than 50 years ahead is one of the past century."""


def read_http_date(value: bytes, now_ms: int) -> int | None:
    """Seconds since the epoch; None for what is no HTTP date. `now_ms` gives a two-digit year its century."""
    for form in _FORMS:
        match = form.fullmatch(value)
        if match is None:
            continue
        parts = {name: int(text) for name, text in match.groupdict().items() if name != "month"}
        year = parts["year"]
        if len(match["year"]) == 2:
            this_year = datetime.fromtimestamp(now_ms / 1_000, UTC).year
            year += this_year - this_year % 100
            if year > this_year + _TWO_DIGITS_AHEAD:
                year -= 100
        try:
            day = date(year, _MONTHS[match["month"]], parts["day"])
        except ValueError:
            return None
        if parts["hour"] > 23 or parts["minute"] > 59 or parts["second"] > 60:  # 60: a leap second
            return None
        return timegm((*day.timetuple()[:3], parts["hour"], parts["minute"], parts["second"]))
    return None
