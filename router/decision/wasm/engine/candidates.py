"""Who may serve, and in which order: the lane's tiers resolved to regions, then options by class and tier.

`CANDIDATES` holds the regions that policy allows, in its order; `OPTIONS` the numbers of those that may serve, best
first. What `plan` and `decide` work out beforehand for a table is worked out here for the one request.
"""

from __future__ import annotations

from router.decision.wasm.engine.hashing import bucket, cost
from router.decision.wasm.engine.members import insert
from router.decision.wasm.engine.nearby import around_client
from router.decision.wasm.language import fill, get8, get32, get64, narrow, put8, put32, put64, u32, u64, wide
from router.decision.wasm.layout import (
    CANDIDATE_BYTES,
    CANDIDATE_COUNT,
    CANDIDATE_REGION,
    CANDIDATE_SCALE,
    CANDIDATE_TIER,
    CANDIDATES,
    CLASS_OUT,
    FOR_USER,
    LANE_KEYS,
    LANE_PANIC_PPM,
    LANE_SPILL_PPM,
    LANE_TIERS,
    LEAVING,
    LEFT,
    LOCATION,
    MEMBERS,
    NAMED,
    NEAREST,
    NONE,
    OPTION_COUNT,
    OPTIONS,
    PANICKED,
    PROPOSED,
    REGION_BYTES,
    REGION_RANK_NAME,
    REGION_SALT,
    REGION_STATES,
    REGIONS,
    SITE_ORDER,
    SPILLED_PROPOSED,
    STATE_AVOIDED,
    STATE_AWAY,
    STATE_BYTES,
    STATE_CLASS,
    STATE_SATURATION,
    TIER_COUNT,
    TIER_GROUP,
    TIER_KIND,
    TIER_NAMED,
    TIER_TO_CLIENT,
    ZONE,
    ZONE_BYTES,
    ZONE_ORDER,
    ZONES,
)

PPM = 1_000_000
SPILLED, RETURNING = 1, 2


def candidate(place: u32) -> u32:
    return get32(CANDIDATES) + CANDIDATE_BYTES * place


def state_of(place: u32) -> u32:
    return get32(REGION_STATES) + STATE_BYTES * get32(candidate(place) + CANDIDATE_REGION)


def region_of(place: u32) -> u32:
    return get32(REGIONS) + 4 + REGION_BYTES * get32(candidate(place) + CANDIDATE_REGION)


def same_tier(place: u32, other: u32) -> u32:
    return get32(candidate(place) + CANDIDATE_TIER) == get32(candidate(other) + CANDIDATE_TIER)


def list_candidates(lane: u32) -> None:
    """Tier by tier, each region once: a tier takes what no earlier tier took."""
    put32(CANDIDATE_COUNT, 0)
    fill(get32(LEFT), 1, get32(get32(REGIONS)))
    tiers = get32(lane + LANE_TIERS)
    for number in range(get32(tiers)):
        tier = get32(tiers + 4 + 4 * number)
        if get32(tier + TIER_KIND) == NAMED:
            named = get32(tier + TIER_NAMED)
            for place in range(get32(named)):
                entry = named + 4 + 12 * place
                take_region(get32(entry), tier, get64(entry + 4))
        else:
            take_nearest(tier)


def take_nearest(tier: u32) -> None:
    order = get32(get32(ZONES) + 4 + ZONE_BYTES * get32(ZONE) + ZONE_ORDER)
    if get32(tier + TIER_TO_CLIENT) and get32(LOCATION) > 0:
        order = around_client()
    elif order == 0:
        order = get32(SITE_ORDER)
    group = get32(tier + TIER_GROUP)
    wanted = get32(tier + TIER_COUNT) if get32(tier + TIER_KIND) == NEAREST else NONE
    for place in range(get32(order)):
        region = get32(order + 4 + 4 * place)
        if wanted > 0 and (group == 0 or get8(group + region)):
            wanted -= take_region(region, tier, 0)


def take_region(region: u32, tier: u32, scale: u64) -> u32:
    """Whether it was left to take."""
    left = get8(get32(LEFT) + region)
    if left:
        put8(get32(LEFT) + region, 0)
        at = candidate(get32(CANDIDATE_COUNT))
        put32(at + CANDIDATE_REGION, region)
        put32(at + CANDIDATE_TIER, tier)
        put64(at + CANDIDATE_SCALE, scale)
        put32(CANDIDATE_COUNT, get32(CANDIDATE_COUNT) + 1)
    return left


def away_ppm(place: u32) -> u32:
    """The share of a region's users that does not go back to it yet."""
    return 0 if get32(PANICKED) else get32(state_of(place) + STATE_AWAY)


def spill_ppm(lane: u32, place: u32) -> u32:
    """The share of a region's users that goes elsewhere: none at the threshold, all at saturation; and who is away."""
    above = get32(lane + LANE_SPILL_PPM)
    saturation = get32(state_of(place) + STATE_SATURATION)
    away = away_ppm(place)
    if above == NONE or saturation <= above:
        return away
    share = narrow(wide(saturation - above) * PPM // wide(PPM - above))
    return max(away, share)


def judge_lane(lane: u32) -> None:
    """Whether panic holds, and whether the order depends on who asks."""
    count = get32(CANDIDATE_COUNT)
    serving = 0
    for place in range(count):
        serving += get32(state_of(place) + STATE_CLASS) < CLASS_OUT
    below = get32(lane + LANE_PANIC_PPM)
    put32(PANICKED, below != NONE and wide(serving) * PPM < wide(below) * wide(count))
    for_user: u32 = get32(lane + LANE_KEYS) != 0
    for place in range(count):
        if get64(candidate(place) + CANDIDATE_SCALE) != 0 or spill_ppm(lane, place) > 0:
            for_user = 1
    put32(FOR_USER, for_user)


def class_of(place: u32) -> u32:
    state = state_of(place)
    if get32(PANICKED):
        return CLASS_OUT if get32(state + STATE_AVOIDED) else 0
    return get32(state + STATE_CLASS)


def list_options(lane: u32) -> None:
    """By class, then by tier; within a tier by rank where there is affinity or weight. Of each class those go last that
    are too full for this user."""
    put32(OPTION_COUNT, 0)
    put32(SPILLED_PROPOSED, 0)
    sticky = get32(lane + LANE_KEYS) != 0
    propose(sticky)
    for wanted in range(CLASS_OUT):
        leaving = 0
        first = 0
        while first < get32(CANDIDATE_COUNT):
            after = first
            members = 0
            while after < get32(CANDIDATE_COUNT) and same_tier(first, after):
                if class_of(after) == wanted:
                    put32(get32(MEMBERS) + 4 * members, after)
                    members += 1
                after += 1
            rank(members, sticky)
            for number in range(members):
                place = get32(get32(MEMBERS) + 4 * number)
                ppm = spill_ppm(lane, place)
                user: u32 = PPM
                if ppm > 0:
                    user = bucket(get32(region_of(place) + REGION_SALT))
                if user < ppm:
                    put32(get32(LEAVING) + 4 * leaving, place)
                    leaving += 1
                    if place == get32(PROPOSED):
                        put32(SPILLED_PROPOSED, RETURNING if user < away_ppm(place) else SPILLED)
                else:
                    add_option(place)
            first = after
        for number in range(leaving):
            add_option(get32(get32(LEAVING) + 4 * number))


def add_option(place: u32) -> None:
    put32(get32(OPTIONS) + 4 * get32(OPTION_COUNT), place)
    put32(OPTION_COUNT, get32(OPTION_COUNT) + 1)


def propose(sticky: u32) -> None:
    """What policy alone wants: the first of the first tier, everything healthy."""
    members = 0
    while members < get32(CANDIDATE_COUNT) and same_tier(0, members):
        put32(get32(MEMBERS) + 4 * members, members)
        members += 1
    rank(members, sticky)
    put32(PROPOSED, get32(get32(MEMBERS)))


def rank(count: u32, sticky: u32) -> None:
    """Sort `MEMBERS` by whom this user belongs to first, when that matters."""
    if count < 2:
        return
    if not sticky and get64(candidate(get32(get32(MEMBERS))) + CANDIDATE_SCALE) == 0:
        return
    for number in range(count):
        place = get32(get32(MEMBERS) + 4 * number)
        insert(
            number, place, cost(get32(region_of(place) + REGION_RANK_NAME), get64(candidate(place) + CANDIDATE_SCALE))
        )
