"""Which route takes a request, and which of its rules the request passes first.

A rule's condition is a list of tests, each of which says where to go on when it holds and when it does not: no stack,
no depth.
"""

from __future__ import annotations

from router.decision.wasm.engine.hashing import bucket
from router.decision.wasm.engine.keys import take_key
from router.decision.wasm.engine.parts import find_cookie, find_header, find_query, path_end
from router.decision.wasm.engine.texts import found, is_text, place_of, same
from router.decision.wasm.language import get8, get32, u32
from router.decision.wasm.layout import (
    ACCEPT,
    ASN,
    CONTINENT,
    COUNTRY,
    EXACT_HOSTS,
    HOST_ANY,
    HOST_BELOW,
    HOST_KEY,
    HOST_KEY_SIZE,
    HOST_PATTERN_BYTES,
    HOST_PATTERN_KIND,
    HOST_PATTERN_TEXT,
    HOSTS_ANYWHERE,
    HOSTS_BELOW,
    IN_ASN,
    IN_CONTINENT,
    IN_COOKIE,
    IN_COUNTRY,
    IN_HEADER,
    IN_HOST,
    IN_METHOD,
    IN_PATH,
    IN_PORT,
    IN_QUERY,
    IN_SNI,
    IN_UPGRADE,
    IN_ZONE,
    METHOD,
    NONE,
    PART,
    PART_SIZE,
    PATH,
    PATTERN_OPEN_END,
    PATTERN_SEGMENTS,
    PORT,
    ROUTE_PATH,
    ROUTE_RULES,
    RULE_SHARE_KEY,
    RULE_SHARE_PPM,
    RULE_SHARE_SALT,
    RULE_TESTS,
    RULE_WINDOWS,
    SNI,
    TEST_ARGUMENT,
    TEST_FIELD,
    TEST_NO,
    TEST_VALUES,
    TEST_YES,
    UPGRADE,
    WINDOW_STATES,
    ZONE,
)


def route_of() -> u32:
    """The first route, in the order written, that takes the host and the path; 0 when none does."""
    routes = routes_of_host()
    for place in range(get32(routes)):
        route = get32(routes + 4 + 4 * place)
        pattern = get32(route + ROUTE_PATH)
        if pattern == 0 or path_fits(pattern):
            return route
    return 0


def routes_of_host() -> u32:
    """A list: of the host itself, else of the longest suffix the policy names, else of any host."""
    at = HOST_KEY
    end = HOST_KEY + get32(HOST_KEY_SIZE)
    routes = found(get32(EXACT_HOSTS), at, end - at)
    if routes != NONE:
        return routes
    if at < end and get8(at) != ord("[") and get8(at) != ord("."):
        at = place_of(at, end, ord("."))
        while at < end:
            routes = found(get32(HOSTS_BELOW), at + 1, end - at - 1)
            if routes != NONE:
                return routes
            at = place_of(at + 1, end, ord("."))
    return get32(HOSTS_ANYWHERE)


def path_fits(pattern: u32) -> u32:
    """Segment by segment; a pattern without an address takes any segment but an empty one."""
    at = get32(PATH)
    end = path_end()
    segments = get32(pattern + PATTERN_SEGMENTS)
    for place in range(get32(segments)):
        if at >= end or get8(at) != ord("/"):
            return 0
        stop = place_of(at + 1, end, ord("/"))
        wanted = get32(segments + 4 + 4 * place)
        if stop == at + 1 if wanted == 0 else not is_text(at + 1, stop - at - 1, wanted):
            return 0
        at = stop
    return at == end or (get32(pattern + PATTERN_OPEN_END) and get8(at) == ord("/"))


def rule_of(route: u32) -> u32:
    """The first rule that holds now and that the request passes; 0 when there is none."""
    rules = get32(route + ROUTE_RULES)
    for place in range(get32(rules)):
        rule = get32(rules + 4 + 4 * place)
        if any_open(get32(rule + RULE_WINDOWS)) and passes(get32(rule + RULE_TESTS)) and in_share(rule):
            return rule
    return 0


def any_open(windows: u32) -> u32:
    """Whether one of these is open; without any, always."""
    if windows == 0:
        return 1
    for place in range(get32(windows)):
        if get8(get32(WINDOW_STATES) + get32(windows + 4 + 4 * place)):
            return 1
    return 0


def in_share(rule: u32) -> u32:
    salt = get32(rule + RULE_SHARE_SALT)
    return salt == 0 or (take_key(get32(rule + RULE_SHARE_KEY)) and bucket(salt) < get32(rule + RULE_SHARE_PPM))


def passes(test: u32) -> u32:
    while test > ACCEPT:
        test = get32(test + (TEST_YES if holds(test) else TEST_NO))
    return test


def holds(test: u32) -> u32:
    field = get32(test + TEST_FIELD)
    values = get32(test + TEST_VALUES)
    if field == IN_PATH:
        return any_path(values)
    if field == IN_HOST:
        return any_host(values, HOST_KEY, get32(HOST_KEY_SIZE))
    if field == IN_SNI:
        return any_host(values, get32(SNI), get32(SNI + 4))
    if field == IN_ZONE:
        return holds_number(values, get32(ZONE))
    if field == IN_ASN:
        return holds_number(values, get32(ASN))
    if field == IN_PORT:
        return holds_number(values, get32(PORT))
    if field == IN_METHOD:
        return holds_text(values, METHOD)
    if field == IN_UPGRADE:
        return holds_text(values, UPGRADE)
    if field == IN_COUNTRY:
        return holds_text(values, COUNTRY)
    if field == IN_CONTINENT:
        return holds_text(values, CONTINENT)
    name = get32(test + TEST_ARGUMENT)
    has = 0
    if field == IN_HEADER:
        has = find_header(name)
    if field == IN_COOKIE:
        has = find_cookie(name)
    if field == IN_QUERY:
        has = find_query(name)
    return has and (values == 0 or found(values, get32(PART), get32(PART_SIZE)) != NONE)


def any_path(patterns: u32) -> u32:
    for place in range(get32(patterns)):
        pattern = get32(patterns + 4 + 4 * place)
        if pattern == 0 or path_fits(pattern):
            return 1
    return 0


def any_host(patterns: u32, at: u32, size: u32) -> u32:
    for place in range(get32(patterns)):
        if host_fits(patterns + 4 + HOST_PATTERN_BYTES * place, at, size):
            return 1
    return 0


def host_fits(pattern: u32, at: u32, size: u32) -> u32:
    """`*`, a suffix with its dot and a label before it, or the name itself."""
    kind = get32(pattern + HOST_PATTERN_KIND)
    if kind == HOST_ANY:
        return 1
    wanted = get32(pattern + HOST_PATTERN_TEXT)
    if kind == HOST_BELOW:
        below = get32(wanted)
        if size < below or get8(at) == ord("[") or get8(at) == ord("."):
            return 0
        return same(at + size - below, below, wanted + 4, below)
    return is_text(at, size, wanted)


def holds_number(numbers: u32, number: u32) -> u32:
    for place in range(get32(numbers)):
        if get32(numbers + 4 + 4 * place) == number:
            return 1
    return 0


def holds_text(values: u32, field: u32) -> u32:
    return found(values, get32(field), get32(field + 4)) != NONE
