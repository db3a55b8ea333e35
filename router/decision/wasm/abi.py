"""What goes into the module, as bytes: views and requests. `docs/reference/wasm.md` shows both, field by field.

Numbers are little-endian; a text is its size in two bytes, then UTF-8 (half a surrogate pair, which Python allows in
text, as the three bytes that it would be).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from lattice.types import Endpoint, Level
from router.decision.layout import SitePlace, nearest_to_site, octaves_of
from router.decision.nearby import LOCATION_MAX
from router.decision.program import Program
from router.decision.request import Request
from router.decision.wasm.layout import INPUT_BYTES_MAX, MALFORMED, NOT_PLANNED, OUT_OF_RANGE, TOO_LONG

ERRORS = MappingProxyType(
    {
        TOO_LONG: f"longer than {INPUT_BYTES_MAX} bytes",
        MALFORMED: "a size does not fit, or something is left over",
        OUT_OF_RANGE: "a level, a share or a moment that there is not",
        NOT_PLANNED: "no view has been taken yet",
    }
)
"""By what `plan` and `decide` return, without its sign."""
_COUNT_MAX = 0xFFFF
"""Of a text's bytes, or a list's entries: two bytes say how many there are."""


class RefusedError(ValueError):
    """Bytes that a module does not take, or what cannot be written as such; nothing has changed."""


def view_bytes(
    program: Program,
    levels: Mapping[str, Level],
    site: SitePlace,
    now: int = 0,
    saturation_ppm: Mapping[str, int] = MappingProxyType({}),
    rtt_us: Mapping[str, int] = MappingProxyType({}),
    away_ppm: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """What `router.decision.plan.plan` takes, for the module's `plan`: the moment, and the regions nearest first.

    Raises `RefusedError` when there are more regions than the module takes."""
    regions = [
        _text(name)
        + bytes([levels.get(name, Level.UNKNOWN)])
        + min(saturation_ppm.get(name, 0), 1_000_000).to_bytes(4, "little")
        + away_ppm.get(name, 0).to_bytes(4, "little")
        for name in nearest_to_site(program, site, dict(octaves_of(program, rtt_us)))
    ]
    return now.to_bytes(8, "little") + _listed(regions)


def request_bytes(request: Request, ejected: Collection[Endpoint] = ()) -> bytes:
    """What `router.decision.decide.decide` takes, for the module's `decide`. The order of `ejected` says nothing.

    Raises `RefusedError` when a text or a list is longer than the module takes."""
    texts = (
        request.client, request.host, request.path, request.method, request.country, request.continent,
        request.upgrade, request.sni,
    )  # fmt: skip
    return b"".join(
        (
            *map(_text, texts),
            request.asn.to_bytes(4, "little"),
            (request.location if 0 < request.location <= LOCATION_MAX else 0).to_bytes(2, "little"),
            request.port.to_bytes(2, "little"),
            _listed([_text(name) + _text(value) for name, value in request.headers]),
            _listed([_text(host) + port.to_bytes(2, "little") for host, port in sorted(ejected)]),
        )
    )


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return _counted(encoded) + encoded


def _listed(entries: Collection[bytes]) -> bytes:
    return _counted(entries) + b"".join(entries)


def _counted(what: Collection[object]) -> bytes:
    if len(what) > _COUNT_MAX:
        raise RefusedError(ERRORS[TOO_LONG])
    return len(what).to_bytes(2, "little")
