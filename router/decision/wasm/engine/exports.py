"""What the module offers: `docs/reference/wasm.md` describes each."""

from __future__ import annotations

from router.decision.wasm.engine.answer import say_decided, say_no_route, say_refused
from router.decision.wasm.engine.client import find_zone, read_client
from router.decision.wasm.engine.deciding import decide_on, lane_of
from router.decision.wasm.engine.parts import make_host_key
from router.decision.wasm.engine.planning import plan_view
from router.decision.wasm.engine.reading import read_request
from router.decision.wasm.engine.rules import route_of, rule_of
from router.decision.wasm.language import get32, get64, u32, u64
from router.decision.wasm.layout import (
    INPUT,
    INPUT_BYTES_MAX,
    NOT_PLANNED,
    OUT,
    OUTPUT,
    PLANNED,
    RULE_LANE,
    VALID_UNTIL,
)

ABI = 3


def abi() -> u32:
    return ABI


def alloc(size: u32) -> u32:
    """Where the caller may write so many bytes until its next call; 0 when that is more than is taken."""
    return INPUT if size <= INPUT_BYTES_MAX else 0


def plan(size: u32) -> u32:
    """Take a view: 0, or an error as a negative number, and the view before still holds."""
    return 0 - plan_view(size)


def valid_until() -> u64:
    """When to plan anew, in microseconds since 1970; all ones when never."""
    return get64(VALID_UNTIL)


def decide(size: u32) -> u32:
    """Decide a request: how many bytes the decision has, or an error as a negative number."""
    fault = NOT_PLANNED if get32(PLANNED) == 0 else read_request(size)
    if fault:
        return 0 - fault
    read_client()
    find_zone()
    make_host_key()
    route = route_of()
    if route == 0:
        say_no_route()
    else:
        decide_route(route, rule_of(route))
    return get32(OUT) - get32(OUTPUT)


def decide_route(route: u32, rule: u32) -> None:
    if rule and get32(rule + RULE_LANE) == 0:
        say_refused(route, rule)
        return
    decide_on(get32(rule + RULE_LANE) if rule else lane_of(route))
    say_decided(route, rule)


def output() -> u32:
    """Where the decision is until the next call."""
    return get32(OUTPUT)
