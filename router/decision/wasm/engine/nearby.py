"""All regions by distance from where the client is: `router.decision.nearby`, said here."""

from __future__ import annotations

from router.decision.nearby import RADIUS, RADIUS_BITS
from router.decision.wasm.engine.members import insert
from router.decision.wasm.language import copy, get32, narrow, put32, u32, u64, wide
from router.decision.wasm.layout import (
    CLIENT_ORDER,
    CLIENT_X,
    CLIENT_Y,
    CLIENT_Z,
    LOCATION,
    MEMBERS,
    ORDERED,
    REGION_BYTES,
    REGION_X,
    REGION_Y,
    REGION_Z,
    REGIONS,
    SINES,
)


def around_client() -> u32:
    """The order; worked out once a request, and only for who asks."""
    order = get32(CLIENT_ORDER)
    if get32(ORDERED) == 0:
        put32(ORDERED, 1)
        place_client()
        count = get32(get32(REGIONS))
        put32(order, count)
        for region in range(count):
            insert(region, region, chord_squared(get32(REGIONS) + 4 + REGION_BYTES * region))
        copy(order + 4, get32(MEMBERS), 4 * count)
    return order


def place_client() -> None:
    latitude = (get32(LOCATION) - 1) // 360
    longitude = (get32(LOCATION) - 1) % 360
    across = sine(latitude + 180) - RADIUS
    put32(CLIENT_X, scaled(across, sine(longitude + 90)))
    put32(CLIENT_Y, scaled(across, sine(longitude)))
    put32(CLIENT_Z, sine(latitude + 90))


def sine(place: u32) -> u32:
    return get32(get32(SINES) + 4 * place)


def scaled(across: u32, moved: u32) -> u32:
    """A coordinate that was moved by the radius, on a smaller circle, moved by the radius again."""
    return narrow(wide(across) * wide(moved) >> RADIUS_BITS) + RADIUS - across


def chord_squared(region: u32) -> u64:
    """Numbers wrap around, so that the square of a difference is right whichever is greater."""
    x = wide(get32(CLIENT_X)) - wide(get32(region + REGION_X))
    y = wide(get32(CLIENT_Y)) - wide(get32(region + REGION_Y))
    z = wide(get32(CLIENT_Z)) - wide(get32(region + REGION_Z))
    return x * x + y * y + z * z
