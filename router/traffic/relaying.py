"""An upstream's answer on its way to the client, as fast as the client takes it (edge)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from router.traffic.ending import RELAYED, After, Ending
from router.traffic.forwarded import WEBSOCKET, response_for_client
from router.traffic.http1 import ResponseHead
from router.traffic.message_body import FramingError, LengthBody, UntilClose, chunk, last_chunk, response_framing
from router.traffic.nested_epoll import Wake
from router.traffic.plane import Leg, Plane, region_counter
from router.traffic.request_body import ClientGoneError
from router.traffic.steering import Outcome
from router.traffic.trailers import passed_on
from router.traffic.tunnel import Tunnel
from router.traffic.upstream_pool import Upstream

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange


async def relay(exchange: Exchange, leg: Leg, head: ResponseHead, data: bytes) -> Ending:
    """Pass on an answer of any framing as it comes; `data` is what came of it behind its head."""
    upstream = leg.upstream
    framing = response_framing(head, exchange.head.method)
    unbounded = not framing.complete and not isinstance(framing, LengthBody)
    chunked = unbounded and exchange.head.minor == 1
    keep = exchange.keeps() and not (unbounded and not chunked)
    out = [exchange.head_for_client(head, leg.steered, chunked=chunked, keep=keep)]
    looked = False
    if exchange.head.fields.may_wait or _are_events(head):
        exchange.streams = True
        exchange.unburden()
    try:
        while True:
            payload, surplus = framing.feed(data)
            if payload:
                if exchange.turn is not None:
                    exchange.turn.take(payload)
                out.append(chunk(payload) if chunked else payload)
            if framing.complete:
                break
            # A small body often arrives right behind its head: look once, and both leave in one write.
            more = None if looked else upstream.receive_now()
            looked = True
            if more is None:
                await exchange.respond(b"".join(out))
                out.clear()
                await exchange.nest.pause()
                timeout_us = exchange.left_us(exchange.body_timeout_us)
                more = await (
                    _news(exchange, upstream, timeout_us) if exchange.streams else upstream.receive(timeout_us)
                )
            if not more:
                if framing.end():
                    break
                raise FramingError("closed before the end of the body")
            data = more
    except (FramingError, OSError, trio.TooSlowError):
        exchange.observe(leg.attempt, Outcome.TRUNCATED, leg.began)
        if not exchange.flushed:
            return await exchange.fail(502, f"{leg.attempt.region}: {Outcome.TRUNCATED.value}", "failed_502")
        # A body that ends with the connection would look whole after an orderly close.
        return Ending("truncated", After.ABORT if unbounded and not chunked else After.CLOSE)
    if exchange.turn is not None and not isinstance(framing, UntilClose):  # cut off, that would look whole
        exchange.turn.whole()
    if chunked:
        out.append(last_chunk(passed_on(framing.trailers, head.connection)))
    upstream.reusable = head.keep_alive and exchange.uploaded and not surplus and not isinstance(framing, UntilClose)
    await exchange.respond(b"".join(out))
    return relayed(exchange.plane, leg, head, keep=keep)


def _are_events(head: ResponseHead) -> bool:
    """Whatever the client asked for, these are server-sent events."""
    return any(
        key == b"content-type" and value.lower().startswith(b"text/event-stream") for key, _, value in head.fields
    )


async def _news(exchange: Exchange, upstream: Upstream, timeout_us: int) -> bytes:
    """As `receive`, and `ClientGoneError` when nobody waits for it any more: that could take as long."""
    client, fiber = exchange.client, exchange.nest.current
    if fiber is None:
        return await upstream.receive(timeout_us)
    deadline = exchange.nest.time() + timeout_us / 1e6
    while (data := upstream.receive_now()) is None:
        if client.has_left():
            raise ClientGoneError
        upstream.read_waiter = client.read_waiter = fiber
        wake = await fiber.park(deadline)
        upstream.read_waiter = client.read_waiter = None
        if wake is Wake.LATE:
            raise trio.TooSlowError
    return data


async def relay_upgraded(exchange: Exchange, leg: Leg, head: ResponseHead) -> Ending:
    """The upstream speaks WebSocket from here on."""
    client, upstream, plane = exchange.client, leg.upstream, exchange.plane
    early, client.reader.rest = client.reader.rest, b""
    late, upstream.reader.rest = upstream.reader.rest, b""
    await exchange.respond(response_for_client(head, leg.steered, WEBSOCKET, b"", b"") + late)
    plane.counters[region_counter(leg.attempt.region)] += 1
    upstream.outlive_cuts()
    tunnel = Tunnel(client, upstream, exchange.nest, exchange.limits)
    plane.tunnels.add(tunnel)
    if plane.draining:
        tunnel.leave()
    try:
        await tunnel.run(early, late)
    finally:
        plane.tunnels.discard(tunnel)
    return Ending("relayed_1xx", After.CLOSE)


def relayed(plane: Plane, leg: Leg, head: ResponseHead, *, keep: bool) -> Ending:
    """The ending of an answer that went out whole, counted for its region."""
    plane.counters[region_counter(leg.attempt.region)] += 1
    return RELAYED[head.status // 100 - 2][keep]
