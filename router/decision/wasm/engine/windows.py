"""Time windows on the clocks people live by, as `router.policy.windows` defines them.

Moments are seconds of `BIAS_S` here, and offsets from UTC have a day added, so that nothing is negative.
"""

from __future__ import annotations

from router.decision.wasm.language import get32, get64, narrow, u32, u64, wide
from router.decision.wasm.layout import (
    BIAS_S,
    CLOCK_AFTER,
    CLOCK_COUNT,
    CLOCK_EARLY,
    CLOCK_FIRST,
    CLOCK_LATE,
    CLOCK_UTC,
    OFFSET_BIAS_S,
    WINDOW_CLOSES,
    WINDOW_DAYS,
    WINDOW_END,
    WINDOW_OPENS,
    WINDOW_START,
    WINDOW_ZONE,
)

DAY_S = 86_400
DAYS_BACK = 2
DAYS_LOOKED_AT = 11
"""Two days back and nine ahead: a weekly window opens again within a week,"""
DAYS_LOOKED_AT_MOST = 18
"""or the week after, when it lies within a gap then."""
NEVER = 0xFFFF_FFFF_FFFF_FFFF


def changes_until(moments: u32, count: u32, moment: u64) -> u32:
    """How many of these sorted moments are not after this one."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if get64(moments + 8 * middle) <= moment:
            low = middle + 1
        else:
            high = middle
    return low


def offset_after(zone: u32, changes: u32) -> u64:
    """The offset from UTC, biased, once so many changes are past."""
    if changes == 0:
        return wide(get32(zone + CLOCK_FIRST))
    return wide(get32(get32(zone + CLOCK_AFTER) + 4 * (changes - 1)))


def instant(zone: u32, wall: u64, closing: u32) -> u64:
    """When the clocks of a zone read this; in a gap, when they jump."""
    count = get32(zone + CLOCK_COUNT)
    early = changes_until(get32(zone + CLOCK_EARLY), count, wall)
    late = changes_until(get32(zone + CLOCK_LATE), count, wall)
    before = offset_after(zone, early)
    after = offset_after(zone, late)
    if before >= after:
        return wall + OFFSET_BIAS_S - (after if closing else before)
    return get64(get32(zone + CLOCK_UTC) + 8 * (late - 1))


def today(zone: u32, now_s: u64) -> u64:
    """The day of the zone's calendar."""
    changes = changes_until(get32(zone + CLOCK_UTC), get32(zone + CLOCK_COUNT), now_s)
    return (now_s + offset_after(zone, changes) - OFFSET_BIAS_S) // DAY_S


def opening(window: u32, day: u64) -> u64:
    """When the window of a day opens, in microseconds since 1970."""
    wall = day * DAY_S + wide(60 * get32(window + WINDOW_START))
    return micros(instant(get32(window + WINDOW_ZONE), wall, 0))


def closing(window: u32, day: u64) -> u64:
    end = get32(window + WINDOW_END)
    if end <= get32(window + WINDOW_START):
        day += 1
    return micros(instant(get32(window + WINDOW_ZONE), day * DAY_S + wide(60 * end), 1))


def micros(moment_s: u64) -> u64:
    """Nothing is before 1970: `now` is not, so an edge before it is past either way."""
    return (moment_s - BIAS_S) * 1_000_000 if moment_s > BIAS_S else 0


def has_day(window: u32, day: u64) -> u32:
    """Whether the window comes on this day of the week. Day 0 of the bias was a Thursday."""
    return get32(window + WINDOW_DAYS) >> narrow((day + 3) % 7) & 1


def is_open(window: u32, now_us: u64) -> u32:
    zone = get32(window + WINDOW_ZONE)
    if zone == 0:
        return get64(window + WINDOW_OPENS) <= now_us < get64(window + WINDOW_CLOSES)
    day = today(zone, now_us // 1_000_000 + BIAS_S) - DAYS_BACK
    for _ in range(DAYS_LOOKED_AT):
        if has_day(window, day) and opening(window, day) <= now_us and now_us < closing(window, day):
            return 1
        day += 1
    return 0


def next_edge(window: u32, now_us: u64) -> u64:
    """The first moment after now at which it opens or closes, or `NEVER`."""
    zone = get32(window + WINDOW_ZONE)
    if zone == 0:
        return sooner(NEVER, get64(window + WINDOW_OPENS), get64(window + WINDOW_CLOSES), now_us)
    edge: u64 = NEVER
    day = today(zone, now_us // 1_000_000 + BIAS_S) - DAYS_BACK
    for looked_at in range(DAYS_LOOKED_AT_MOST):
        if looked_at == DAYS_LOOKED_AT and edge != NEVER:
            return edge
        if has_day(window, day):
            edge = sooner(edge, opening(window, day), closing(window, day), now_us)
        day += 1
    return edge


def sooner(edge: u64, opens: u64, closes: u64, now_us: u64) -> u64:
    """The soonest of an edge and those of a stretch that has a length."""
    if opens < closes:
        if now_us < opens < edge:
            return opens
        if now_us < closes < edge:
            return closes
    return edge
