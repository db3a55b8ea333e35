"""One request against the view that holds: what `router.decision.decide` says in Python, said here."""

from __future__ import annotations

from router.decision.wasm.engine.candidates import (
    judge_lane,
    list_candidates,
    list_options,
    region_of,
    same_tier,
    state_of,
)
from router.decision.wasm.engine.hashing import cost
from router.decision.wasm.engine.keys import take_client, take_user
from router.decision.wasm.engine.members import insert
from router.decision.wasm.language import get8, get32, get64, put32, u32
from router.decision.wasm.layout import (
    ATTEMPT_COUNT,
    ATTEMPTS,
    CANDIDATE_COUNT,
    CHOSEN,
    CHOSEN_PLACE,
    EJECTED_MARKS,
    ENDPOINT_BYTES,
    ENDPOINT_NAME,
    ENDPOINT_NUMBER,
    ENDPOINT_SCALE,
    FAILED_OPEN,
    LANE,
    LANE_STATUS,
    MEMBERS,
    NONE,
    OPTION_COUNT,
    OPTIONS,
    REGION_ENDPOINTS,
    ROUTE_LANE,
    ROUTE_OVERRIDES,
    STATE_AVOIDED,
    ZONE,
)

ATTEMPTS_MAX = 8
REGION_ATTEMPTS_MAX = 3


def lane_of(route: u32) -> u32:
    """The route's own tiers, or those of the client's zone."""
    overrides = get32(route + ROUTE_OVERRIDES)
    for place in range(get32(overrides)):
        if get32(overrides + 4 + 8 * place) == get32(ZONE):
            return get32(overrides + 8 + 8 * place)
    return get32(route + ROUTE_LANE)


def decide_on(lane: u32) -> None:
    """Leave in the engine's variables who was proposed, who is chosen, and what to try."""
    put32(LANE, lane)
    put32(ATTEMPT_COUNT, 0)
    put32(CHOSEN, NONE)
    put32(FAILED_OPEN, 0)
    list_candidates(lane)
    judge_lane(lane)
    take_user(lane)
    list_options(lane)
    number = 0
    while number < get32(OPTION_COUNT) and get32(ATTEMPT_COUNT) < ATTEMPTS_MAX:
        place = get32(get32(OPTIONS) + 4 * number)
        before = get32(ATTEMPT_COUNT)
        try_region(place)
        if get32(CHOSEN) == NONE and get32(ATTEMPT_COUNT) > before:
            put32(CHOSEN, place)
            put32(CHOSEN_PLACE, number)
        number += 1
    if get32(CHOSEN) == NONE and get32(lane + LANE_STATUS) == 0:
        fail_open()


def try_region(place: u32) -> None:
    """Add the endpoints of a region that are not ejected, the user's own first."""
    taken = order_endpoints(place)
    added = 0
    for number in range(taken):
        endpoint = get32(get32(MEMBERS) + 4 * number)
        if added < REGION_ATTEMPTS_MAX and not is_ejected(endpoint):
            added += 1
            add_attempt(endpoint, place)


def is_ejected(endpoint: u32) -> u32:
    return get8(get32(EJECTED_MARKS) + get32(endpoint + ENDPOINT_NUMBER))


def add_attempt(endpoint: u32, place: u32) -> None:
    count = get32(ATTEMPT_COUNT)
    if count < ATTEMPTS_MAX:
        put32(ATTEMPTS + 8 * count, endpoint)
        put32(ATTEMPTS + 8 * count + 4, place)
        put32(ATTEMPT_COUNT, count + 1)


def order_endpoints(place: u32) -> u32:
    """A region's endpoints into `MEMBERS`; how many."""
    endpoints = get32(region_of(place) + REGION_ENDPOINTS)
    count = get32(endpoints)
    for number in range(count):
        endpoint = endpoints + 4 + ENDPOINT_BYTES * number
        insert(number, endpoint, cost(get32(endpoint + ENDPOINT_NAME), get64(endpoint + ENDPOINT_SCALE)))
    return count


def fail_open() -> None:
    """The primary tier as if it were well, without what a window says to avoid unless that is all; three of each
    region, and what is not ejected first."""
    put32(FAILED_OPEN, 1)
    take_client()
    anyone = 0
    for place in range(get32(CANDIDATE_COUNT)):
        if same_tier(0, place) and not get32(state_of(place) + STATE_AVOIDED):
            anyone = 1
    for ejected in range(2):
        for place in range(get32(CANDIDATE_COUNT)):
            if same_tier(0, place) and not (anyone and get32(state_of(place) + STATE_AVOIDED)):
                try_first(place, ejected)


def try_first(place: u32, ejected: u32) -> None:
    """Of the first three endpoints of a region, those that are (not) ejected."""
    count = order_endpoints(place)
    for number in range(min(REGION_ATTEMPTS_MAX, count)):
        endpoint = get32(get32(MEMBERS) + 4 * number)
        if is_ejected(endpoint) == ejected:
            add_attempt(endpoint, place)
