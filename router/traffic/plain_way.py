"""The plain way: what is most frequent, in one coroutine and with nothing kept that is not asked for again (edge).

A GET without a body that may be neither hedged nor held to a total (`Course.plain`), in a fiber, to an endpoint whose
connection was kept, answered by one read that holds the whole response. The interpreter's price for it is calls and
attributes, so there is no `Exchange` until something is not plain: then one is made, told how far things are, and takes
over. Every step is one that an exchange takes too, in the same order, and is explained there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import trio

from lattice.types import Micros
from router.traffic.ending import CLIENT_GONE, RELAYED, Ending
from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.nested_epoll import Fiber, Wake
from router.traffic.plane import Course, Leg, Plane
from router.traffic.reply import head_for_client
from router.traffic.request_body import Client, ClientGoneError
from router.traffic.steering import Outcome
from router.traffic.strict import BadResponseError
from router.traffic.uploading import converse
from router.traffic.upstream_pool import Upstream

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange

_READY: Final = Wake.READY
_OK: Final = Outcome.OK


def plain_way(
    plane: Plane, client: Client, head: RequestHead, course: Course, now: float, exchange: type[Exchange]
) -> Coroutine[Any, Any, Ending] | None:
    """The way from here to the request's ending, to be awaited at once. None, and nothing has happened, if it is not
    plain. `exchange` takes over where it ceases to be."""
    fiber = plane.nest.current
    if not course.plain or fiber is None or not course.share.enter_if_room():
        return None
    upstream = plane.pool.take(course.attempt.endpoint, now)
    if upstream is None:
        course.share.leave()
        return None
    return _go(plane, client, head, course, now, exchange, fiber, upstream)


async def _go(
    plane: Plane,
    client: Client,
    head: RequestHead,
    course: Course,
    began: float,
    exchange: type[Exchange],
    fiber: Fiber,
    upstream: Upstream,
) -> Ending:
    share, nest, watched = course.share, plane.nest, course.watched
    course.terms.requests.add(Micros(int(began * 1e6)))
    leg = Leg(course.attempt, course.steered, began, upstream)
    left: bytes | memoryview = course.request
    wake: Wake | None = None
    response: ResponseHead | None = None
    waits_since, heard_at = -1.0, began
    heir: Exchange | None = None
    try:
        try:
            left = upstream.send_now(left)
            if not left:
                waits_since = nest.clock()
                plane.sent(leg, watched, began)
                wake = _READY
                if not upstream.ready:
                    upstream.read_waiter = fiber
                    wake = await fiber.park(began + course.first_byte_seconds)
                heard_at = nest.now
                if wake is _READY and (data := upstream.receive_now()) is not None:
                    if not data:
                        raise ConnectionResetError("closed before the first byte")
                    leg.awaited = False
                    watched.heard(leg, Micros(int((heard_at - plane.slept) * 1e6)))
                    reader = upstream.reader
                    response = reader.feed(data)
                    body = reader.rest
                    if response is not None and response.plain and len(body) == response.content_length:
                        reader.rest = b""
                        upstream.reusable = response.keep_alive
                        if watched.history:
                            watched.answered(available=True)
                        share.window.went_well()
                        now = nest.clock()
                        plane.router.observed(leg.attempt, _OK, int((heard_at - began) * 1e6), now)
                        edge = now - began
                        if heard_at > waits_since:
                            edge -= heard_at - waits_since
                        keep = head.keep_alive and not plane.draining
                        out = head_for_client(plane, head, response, leg.steered, edge, chunked=False, keep=keep) + body
                        try:
                            rest = client.send_now(out)
                        except OSError:
                            raise ClientGoneError from None
                        if rest:
                            await _to_client(plane, client, rest)
                        plane.counters[course.counter] += 1
                        return RELAYED[response.status // 100 - 2][keep]
        except (OSError, BadResponseError) as error:
            heir = _heir(exchange(plane, client, head), course, leg, not left, waits_since, heard_at)
            result = heir.lose_by(error) if heir.uploaded else await heir.refused_while_sending()
        else:
            heir = _heir(exchange(plane, client, head), course, leg, not left, waits_since, heard_at)
            result = await (converse(heir, leg, course, left) if left else heir.receive_response(wake, response))
    except ClientGoneError:
        return CLIENT_GONE
    finally:
        if heir is None:
            share.leave()
            if leg.awaited:
                plane.land(leg)
            else:
                plane.pool.release(upstream, heard_at)
        else:
            heir.unburden()
            plane.land(heir.leg)
    return result if isinstance(result, Ending) else await heir.try_each(course.decision, result)


async def _to_client(plane: Plane, client: Client, data: bytes | memoryview) -> None:
    limits = plane.limits
    try:
        await client.send(data, limits.client_write_timeout_us, limits.rate_bytes_per_second_min)
    except (OSError, trio.TooSlowError):
        raise ClientGoneError from None


def _heir(
    exchange: Exchange, course: Course, leg: Leg, uploaded: bool, waits_since: float, heard_at: float
) -> Exchange:
    """An exchange that has come as far."""
    exchange.began = leg.began
    exchange.terms, exchange.tried, exchange.leg, exchange.burden = course.terms, course.tried, leg, course.share
    if uploaded:
        exchange.uploaded = True
        exchange.waits_since = waits_since
        exchange.deadline = leg.began + course.first_byte_seconds
    if not leg.awaited:
        exchange.answered = True
        exchange.waited = max(0.0, heard_at - waits_since)
    return exchange
