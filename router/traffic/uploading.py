"""Request and response at the same time, for a request that does not fit the first write or is not all here yet (edge).

A child task uploads while the exchange already listens: an upstream may answer early (413), or want to be asked
(Expect: 100-continue).

What is too long to be kept for another endpoint goes from socket to socket in the kernel (`router.tcp.splice`), where
neither end speaks TLS and the length was announced: there is nothing in it for us to see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from router.tcp.splice import Pipe
from router.traffic.ending import CLIENT_GONE, Ending, Lost
from router.traffic.plane import Course, Leg
from router.traffic.reply import refuse
from router.traffic.request_body import ClientGoneError
from router.traffic.steering import Outcome
from router.traffic.strict import BadRequestError
from router.traffic.upstream_pool import Upstream

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange

SPLICED_BYTES_MIN: Final = 131_072
"""A pipe costs as much as to copy some of them."""
PIPE_BYTES: Final = 262_144
"""What one upload holds in the kernel at most."""


async def converse(exchange: Exchange, leg: Leg, course: Course, left: bytes | memoryview) -> Ending | Lost:
    """Listen while the rest of the request is sent; what the exchange makes of it."""
    upstream, attempt = leg.upstream, leg.attempt
    if exchange.head.expects_continue:
        exchange.arm(exchange.first_byte_timeout_us)  # until the client sends, it is the upstream's turn
    result: Ending | Lost | None = None
    gone: ClientGoneError | None = None
    await exchange.nest.become_task()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_upload, exchange, leg, course, left, nursery.cancel_scope)
        try:
            result = await exchange.receive_response()
        except ClientGoneError as error:  # carried out by hand: a nursery would wrap it
            gone = error
        nursery.cancel_scope.cancel()
    if result is not None:
        return result
    fault = gone or exchange.upload_fault
    assert fault is not None, "only a fault stops the exchange early"
    if isinstance(fault, ClientGoneError) or exchange.flushed or exchange.writing:
        return CLIENT_GONE  # or as good as gone: nothing can follow half a message
    if isinstance(fault, trio.TooSlowError):
        return exchange.lose(attempt, Outcome.TIMEOUT, leg.began, upstream)
    return await refuse(exchange.plane, exchange.client, fault)


async def _upload(
    exchange: Exchange, leg: Leg, course: Course, left: bytes | memoryview, both: trio.CancelScope
) -> None:
    """Send the rest of the request as it arrives. Cancels `both` if nothing good can come of it any more."""
    upstream = leg.upstream
    try:
        await upstream.send(left, exchange.limits.upstream_write_timeout_us)
        timeout_us = exchange.limits.body_timeout_us
        if exchange.head.expects_continue:  # the client may wait to be asked, and the upstream's limit ends that
            timeout_us += exchange.first_byte_timeout_us
        while not exchange.body.complete:
            if not upstream.secure and exchange.body.unseen >= SPLICED_BYTES_MIN and await _splice(exchange, upstream):
                break
            piece = await exchange.body.read(timeout_us)
            timeout_us = exchange.limits.body_timeout_us
            exchange.disarm()
            await upstream.send(piece, exchange.limits.upstream_write_timeout_us)
            if not exchange.body.complete:
                await exchange.nest.pause()  # both ends may be faster than we are
        exchange.uploaded = True
        if course.watches and leg.awaited:
            exchange.plane.sent(leg, course.watched, exchange.nest.time())
    except OSError:
        pass  # the upstream wants no more; its response, or the loss, is met by the reader
    except (BadRequestError, ClientGoneError, trio.TooSlowError) as fault:
        late = isinstance(fault, trio.TooSlowError) or (isinstance(fault, BadRequestError) and fault.status == 408)
        if not (late and exchange.relaying):  # an early answer need not wait for the end of the request
            exchange.upload_fault = fault
            both.cancel()
    exchange.arm(exchange.first_byte_timeout_us)


async def _splice(exchange: Exchange, upstream: Upstream) -> bool:
    """Send the rest of the body in the kernel. False if there are no descriptors for that, and nothing has happened."""
    body, limits = exchange.body, exchange.limits
    try:
        pipe = Pipe()
    except OSError:
        return False
    with pipe:
        pipe.widen(PIPE_BYTES)
        while not body.complete:
            held = await body.pass_into(pipe, limits.body_timeout_us)
            exchange.disarm()
            while held:
                try:
                    count = pipe.drain(upstream.sock, held)
                except (BlockingIOError, InterruptedError):
                    await upstream.writable(limits.upstream_write_timeout_us)
                else:
                    held -= count
                    upstream.sent += count
            await exchange.nest.pause()
    return True
