"""The view, read and kept: what every region's state is, which windows are open, and until when that holds.

Two passes: the first only writes where nothing is read from yet, so that a view that is refused changes nothing.
"""

from __future__ import annotations

from router.decision.wasm.engine.reading import begin, ended, fail, take, take8, take16, take32, take64
from router.decision.wasm.engine.texts import found
from router.decision.wasm.engine.windows import NEVER, is_open, next_edge
from router.decision.wasm.language import copy, fill, get8, get32, put8, put32, put64, u32, u64
from router.decision.wasm.layout import (
    CLASS_OUT,
    FAULT,
    LEFT,
    NEW_ORDER,
    NEW_STATES,
    NONE,
    OUT_OF_RANGE,
    PLANNED,
    REGION_AVOID,
    REGION_BYTES,
    REGION_NAMES,
    REGION_STATES,
    REGION_UNKNOWN_CLASS,
    REGIONS,
    SITE_ORDER,
    STATE_AVOIDED,
    STATE_AWAY,
    STATE_BYTES,
    STATE_CLASS,
    STATE_LEVEL,
    STATE_SATURATION,
    VALID_UNTIL,
    WINDOW_BYTES,
    WINDOW_STATES,
    WINDOWS,
)

NOW_US_MAX = 7_258_118_400_000_000
"""The year 2200: windows are written up to 2199, and the rules of the zones are laid out so far."""
LEVEL_MAX = 4
PPM_MAX = 1_000_000
_UNKNOWN, _DOWN = 0, 4


def plan_view(size: u32) -> u32:
    """The fault, or 0 and the view holds."""
    begin(size)
    now_us = take64()
    if now_us >= NOW_US_MAX:
        fail(OUT_OF_RANGE)
    read_regions()
    if ended() != 0:
        return get32(FAULT)
    count = get32(get32(REGIONS))
    copy(get32(REGION_STATES), get32(NEW_STATES), STATE_BYTES * count)
    copy(get32(SITE_ORDER), get32(NEW_ORDER), 4 + 4 * count)
    open_windows(now_us)
    for region in range(count):
        grade(region)
    put32(PLANNED, 1)
    return 0


def read_regions() -> None:
    """Regions nearest first. Those that are missing are UNKNOWN and follow, in the order of their names; a name that
    the policy lacks is passed over, and of one that comes twice the first holds."""
    count = get32(get32(REGIONS))
    fill(get32(NEW_STATES), 0, STATE_BYTES * count)
    fill(get32(LEFT), 1, count)
    put32(get32(NEW_ORDER), 0)
    for _ in range(take16()):
        size = take16()
        name = take(size)
        level = take8()
        saturation = take32()
        away = take32()
        if level > LEVEL_MAX or saturation > PPM_MAX or away > PPM_MAX:
            fail(OUT_OF_RANGE)
        if get32(FAULT) != 0:
            return
        region = found(get32(REGION_NAMES), name, size)
        if region != NONE and get8(get32(LEFT) + region):
            state = get32(NEW_STATES) + STATE_BYTES * region
            put32(state + STATE_LEVEL, level)
            put32(state + STATE_SATURATION, saturation)
            put32(state + STATE_AWAY, away)
            place_next(region)
    for region in range(count):
        if get8(get32(LEFT) + region):
            place_next(region)


def place_next(region: u32) -> None:
    order = get32(NEW_ORDER)
    put8(get32(LEFT) + region, 0)
    put32(order, get32(order) + 1)
    put32(order + 4 * get32(order), region)


def open_windows(now_us: u64) -> None:
    valid_until: u64 = NEVER
    windows = get32(WINDOWS)
    for number in range(get32(windows)):
        window = windows + 4 + WINDOW_BYTES * number
        put8(get32(WINDOW_STATES) + number, is_open(window, now_us))
        edge = next_edge(window, now_us)
        if edge < valid_until:
            valid_until = edge
    put64(VALID_UNTIL, valid_until)


def grade(region: u32) -> None:
    """Whether a window says to avoid the region, and the class of its level."""
    state = get32(REGION_STATES) + STATE_BYTES * region
    record = get32(REGIONS) + 4 + REGION_BYTES * region
    avoided = 0
    windows = get32(record + REGION_AVOID)
    for place in range(get32(windows)):
        if get8(get32(WINDOW_STATES) + get32(windows + 4 + 4 * place)):
            avoided = 1
    level = get32(state + STATE_LEVEL)
    class_ = level - 1
    if level == _UNKNOWN:
        class_ = get32(record + REGION_UNKNOWN_CLASS)
    if avoided or level == _DOWN:
        class_ = CLASS_OUT
    put32(state + STATE_AVOIDED, avoided)
    put32(state + STATE_CLASS, class_)
