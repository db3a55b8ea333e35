"""A decision written down: the bytes of `decision_bytes`, put together from pieces that the image holds ready."""

from __future__ import annotations

from router.decision.wasm.engine.candidates import RETURNING, candidate, region_of, state_of
from router.decision.wasm.language import copy, get32, put8, put32, text, u32
from router.decision.wasm.layout import (
    ATTEMPT_COUNT,
    ATTEMPTS,
    CANDIDATE_COUNT,
    CANDIDATE_TIER,
    CHOSEN,
    CHOSEN_PLACE,
    ENDPOINT_JSON,
    FAILED_OPEN,
    FOR_USER,
    LANE,
    LANE_SAID,
    LANE_SETTINGS_JSON,
    LANE_STATUS,
    LEVELS,
    NONE,
    OPTION_COUNT,
    OPTIONS,
    OUT,
    OUTPUT,
    PANICKED,
    PROPOSED,
    REGION_NAME,
    ROUTE_JSON,
    RULE_JSON,
    RULE_SAID,
    RULE_STATUS,
    SPILLED_PROPOSED,
    STATE_AVOIDED,
    STATE_LEVEL,
    TIER_NAME,
    ZONE,
    ZONE_BYTES,
    ZONE_JSON,
    ZONES,
)

REASON_REGIONS_MAX = 3


def say(piece: u32) -> None:
    copy(get32(OUT), piece + 4, get32(piece))
    put32(OUT, get32(OUT) + get32(piece))


def say_number(number: u32) -> None:
    if number > 9:
        say_number(number // 10)
    put8(get32(OUT), ord("0") + number % 10)
    put32(OUT, get32(OUT) + 1)


def say_head(route: u32, rule: u32) -> None:
    put32(OUT, get32(OUTPUT))
    say(text('{"route":"'))
    if route:
        say(get32(route + ROUTE_JSON))
    say(text('","zone":"'))
    say(get32(get32(ZONES) + 4 + ZONE_BYTES * get32(ZONE) + ZONE_JSON))
    say(text('","rule":"'))
    if rule:
        say(get32(rule + RULE_JSON))
    say(text('","proposed":'))


def say_no_route() -> None:
    say_head(0, 0)
    say(
        text(
            'null,"region":null,"tier":"","reason":"no route","status":404,"attempts":[],"settings":{"is":"Settings"}}'
        )
    )


def say_refused(route: u32, rule: u32) -> None:
    say_head(route, rule)
    say(text('null,"region":null,"tier":"","reason":"'))
    say(get32(rule + RULE_SAID))
    say(text('","status":'))
    say_number(get32(rule + RULE_STATUS))
    say(text(',"attempts":[],"settings":{"is":"Settings"}}'))


def say_decided(route: u32, rule: u32) -> None:
    """What `decide_on` found out."""
    say_head(route, rule)
    say(text('"'))
    say(get32(region_of(get32(PROPOSED)) + REGION_NAME))
    say(text('","region":'))
    lane = get32(LANE)
    first = get32(ATTEMPTS + 4) if get32(FAILED_OPEN) else get32(CHOSEN)
    status = 0
    if first == NONE:
        status = get32(lane + LANE_STATUS)
        say(text('null,"tier":"'))
    else:
        say(text('"'))
        say(get32(region_of(first) + REGION_NAME))
        say(text('","tier":"'))
        say_tier(first)
    say(text('","reason":"'))
    say_reason(lane)
    say(text('","status":'))
    say_number(status)
    say(text(',"attempts":['))
    for number in range(get32(ATTEMPT_COUNT)):
        say_attempt(ATTEMPTS + 8 * number, number)
    say(text('],"settings":'))
    say(get32(lane + LANE_SETTINGS_JSON))
    say(text("}"))


def say_attempt(attempt: u32, number: u32) -> None:
    place = get32(attempt + 4)
    if number > 0:
        say(text(","))
    say(text('["'))
    say(get32(region_of(place) + REGION_NAME))
    say(text('","'))
    say_tier(place)
    say(text('","'))
    say_level(place)
    say(text('",'))
    say(get32(get32(attempt) + ENDPOINT_JSON))
    say(text("]"))


def say_tier(place: u32) -> None:
    say(get32(get32(candidate(place) + CANDIDATE_TIER) + TIER_NAME))


def say_level(place: u32) -> None:
    say(get32(get32(LEVELS) + 4 * get32(state_of(place) + STATE_LEVEL)))


def say_standing(place: u32) -> None:
    if get32(state_of(place) + STATE_AVOIDED):
        say(text("avoided"))
    else:
        say_level(place)


def say_reason(lane: u32) -> None:
    chosen = get32(CHOSEN)
    if chosen == NONE:
        if get32(FAILED_OPEN):
            say(text("fail open"))
        elif get32(lane + LANE_SAID):
            say(get32(lane + LANE_SAID))
            return
        else:
            say(text("denied"))
        say_passed_over(get32(CANDIDATE_COUNT), get32(OPTION_COUNT))
        return
    if get32(PANICKED):
        say(text("panic: "))
    say_tier(chosen)
    if chosen != get32(PROPOSED):
        if get32(FOR_USER):
            say_why_not_proposed()
        else:
            say_passed_over(chosen, get32(CHOSEN_PLACE))


def say_why_not_proposed() -> None:
    proposed = get32(PROPOSED)
    say(text(": "))
    say(get32(region_of(proposed) + REGION_NAME))
    say(text(" "))
    if is_option(proposed, get32(CHOSEN_PLACE)):
        say(text("ejected"))
    elif get32(SPILLED_PROPOSED):
        say(text("returning") if get32(SPILLED_PROPOSED) == RETURNING else text("spilled"))
    else:
        say_standing(proposed)


def say_passed_over(candidates: u32, options: u32) -> None:
    """The first three of so many candidates, and why: ejected when among so many options, else its level."""
    say(text(": "))
    for place in range(min(REASON_REGIONS_MAX, candidates)):
        if place > 0:
            say(text(", "))
        say(get32(region_of(place) + REGION_NAME))
        say(text(" "))
        if is_option(place, options):
            say(text("ejected"))
        else:
            say_standing(place)
    if candidates > REASON_REGIONS_MAX:
        say(text(", "))
        say_number(candidates - REASON_REGIONS_MAX)
        say(text(" more"))


def is_option(place: u32, count: u32) -> u32:
    """Whether it is among the first of the options."""
    for number in range(count):
        if get32(get32(OPTIONS) + 4 * number) == place:
            return 1
    return 0
