"""Quantities as people write them in a scenario, on top of the readings that site files use.

The only module of the simulator that knows where those readings are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches

from router.site.config_reader import (
    ConfigError,
    NotExpected,
    Problem,
    Section,
    duration,
    duration_text,
    shown,
    text,
    truth,
)

__all__ = [
    "ConfigError",
    "NotExpected",
    "Problem",
    "Section",
    "any_duration",
    "bandwidth",
    "choice",
    "duration_text",
    "factor",
    "number",
    "share",
    "shown",
    "size",
    "some_duration",
    "text",
    "truth",
]

DAY_US = 24 * 3_600_000_000

any_duration = duration(0, DAY_US)
"""From nothing to a day."""
some_duration = duration(1, DAY_US)

_SIZE = re.compile(r"(\d{1,12})\s*(B|KiB|MiB|kB|MB)")
_SIZES = {"B": 1, "kB": 1_000, "MB": 1_000_000, "KiB": 1_024, "MiB": 1_048_576}
_RATE = re.compile(r"(\d{1,9})\s*(bit|kbit|Mbit|Gbit)(/s)?")
_RATES = {"bit": 1, "kbit": 1_000, "Mbit": 1_000_000, "Gbit": 1_000_000_000}


def share(value: object) -> int:
    """ "2.5%" -> parts per million."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,4})?)\s*%", value) if isinstance(value, str) else None
    if match is None:
        bare = isinstance(value, int | float) and not isinstance(value, bool)
        raise NotExpected('a share from 0% to 100%, as "2.5%"', f'write "{value}%" in quotes' if bare else "")
    ppm = int(Decimal(match.group(1)) * 10_000)
    if ppm > 1_000_000:
        raise NotExpected("a share from 0% to 100%")
    return ppm


def factor(value: object) -> int:
    """A plain number, as 1.76 -> parts per million."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotExpected("a number, as 1.5")
    try:
        ppm = int(Decimal(str(value)) * 1_000_000)
    except (InvalidOperation, OverflowError, ValueError):
        raise NotExpected("a number, as 1.5") from None
    if not 0 <= ppm <= 1_000_000_000:
        raise NotExpected("a number from 0 to 1000")
    return ppm


def size(value: object) -> int:
    """ "256KiB" -> bytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise NotExpected('a size, as "256KiB"', "units: B, kB, MB, KiB, MiB")
    return int(match.group(1)) * _SIZES[match.group(2)]


def bandwidth(value: object) -> int:
    """ "100Mbit" -> bits per second; "unlimited" -> 0."""
    if value == "unlimited":
        return 0
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise NotExpected('a bandwidth, as "100Mbit", or "unlimited"', "units: bit, kbit, Mbit, Gbit, each a second")
    return int(match.group(1)) * _RATES[match.group(2)]


def number(least: int, most: int) -> Callable[[object], int]:
    """A whole number within both bounds."""

    def reading(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise NotExpected(f"a whole number from {least:,} to {most:,}".replace(",", " "))
        return value

    return reading


def choice(*options: str) -> Callable[[object], str]:
    """One of these words."""

    def reading(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise NotExpected("one of " + ", ".join(options), _near(value, options))
        return value

    return reading


def _near(value: object, options: Sequence[str]) -> str:
    near = get_close_matches(value, options, n=1) if isinstance(value, str) else []
    return f"did you mean {near[0]}?" if near else ""
