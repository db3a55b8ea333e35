"""A request head as the decision reads it: no more of it than the policy in force asks for. Pure."""

from __future__ import annotations

from router.decision.request import Needs, Request
from router.traffic.http1 import Fields, RequestHead


def asked(needs: Needs, head: RequestHead, client: str, port: int, sni: str = "") -> Request:
    """What to decide. `port` is where the request arrived, `sni` the name in its TLS handshake; 0 and "" when `needs`
    has no use for them."""
    target = head.target
    if not needs.query:
        target = target.partition(b"?")[0]
    return Request(
        client,
        head.host_name,
        target.decode("ascii"),
        head.method.decode("ascii"),
        _headers(head.fields, needs.headers) if needs.headers else (),
        upgrade="websocket" if head.websocket else "",
        port=port,
        sni=sni,
    )


def _headers(fields: Fields, names: frozenset[bytes]) -> tuple[tuple[str, str], ...]:
    """The fields of these names as text. Remembered: a kept connection mostly repeats its fields."""
    known = fields.chosen
    if known is None or known[0] is not names:
        chosen = [(key, value) for key, _, value in fields if key in names]
        # Values are bytes of any kind: what is no UTF-8 must neither fail nor collide with what is.
        texts = [(key.decode("ascii"), value.decode("utf-8", "surrogateescape")) for key, value in chosen]
        known = fields.chosen = names, tuple(texts)
    return known[1]
