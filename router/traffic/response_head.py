"""The head of an upstream's answer, as it comes: waited for by whoever drives the exchange (edge)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from router.traffic.forwarded import response_for_client
from router.traffic.http1 import ResponseHead
from router.traffic.nested_epoll import Wake
from router.traffic.strict import BadResponseError
from router.traffic.upstream_pool import Upstream

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange


def hear(exchange: Exchange, data: bytes | None, now: float) -> ResponseHead | None:
    """The leg's first bytes are here, unless it is None. Its head, if it is whole. Raises as a reader does, and
    OSError when the connection is over."""
    if data is None:
        return None
    if not data:
        raise ConnectionResetError("closed before the first byte")
    leg = exchange.leg
    leg.awaited = False
    if leg.watched is not None:
        leg.watched.heard(leg, exchange.plane.listened_us(now))
    if now > exchange.waits_since:
        exchange.waited += now - exchange.waits_since
    exchange.answered = True
    return leg.upstream.reader.feed(data)


async def receive_head(exchange: Exchange, head: ResponseHead | None) -> ResponseHead:
    """The final response's head; interim ones, `head` perhaps the first, are passed on (RFC 9110 15.2)."""
    upstream = exchange.leg.upstream
    reader = upstream.reader
    interim = 0
    begun = False
    while True:
        if head is None and reader.rest:
            head = reader.next_head()
        if head is None:
            if reader.rest and not begun:
                begun = True
                exchange.arm(exchange.limits.response_head_timeout_us)
            data = await _within_deadline(exchange, upstream)
            if not data:
                raise ConnectionResetError("closed before the end of the head")
            if (leg := exchange.leg).awaited:  # by a task, which does not come by `hear`
                leg.awaited = False
                if leg.watched is not None:
                    leg.watched.heard(leg, exchange.plane.listened_us(exchange.nest.time()))
            exchange.answered = True
            head = reader.feed(data)
        elif head.status >= 200 or (head.status == 101 and exchange.head.websocket and _is_websocket(head)):
            return head
        else:
            begun = False
            interim += 1
            if head.status == 101 or interim > exchange.limits.interim_max:
                raise BadResponseError("unwanted interim response")
            if exchange.head.minor == 1:
                await exchange.to_client(response_for_client(head, exchange.leg.steered, b"", b"", b""))
            if exchange.uploaded:
                exchange.arm(exchange.first_byte_timeout_us)
            else:
                exchange.disarm()
            head = None


async def _within_deadline(exchange: Exchange, upstream: Upstream) -> bytes:
    while True:
        if (fiber := exchange.nest.current) is None:
            with trio.CancelScope(deadline=exchange.deadline) as exchange.waiting:
                await trio.lowlevel.wait_readable(upstream.sock)
            if exchange.waiting.cancelled_caught:
                raise trio.TooSlowError
        elif not upstream.ready:
            upstream.read_waiter = fiber
            if await fiber.park(exchange.deadline) is Wake.LATE:
                upstream.read_waiter = None
                raise trio.TooSlowError
        data = upstream.receive_now()
        if data is not None:
            return data


def _is_websocket(head: ResponseHead) -> bool:
    return [value.lower() for key, _, value in head.fields if key == b"upgrade"] == [b"websocket"]
