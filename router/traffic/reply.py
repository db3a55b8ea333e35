"""What a client gets: heads written for it, answers of our own, and what of them it has taken (edge)."""

from __future__ import annotations

import trio

from router.traffic.ending import CLIENT_GONE, After, Ending
from router.traffic.forwarded import Steered, own_response, response_for_client, server_timing
from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.plane import Plane
from router.traffic.request_body import NO_BODY, Client, ClientGoneError, RequestBody
from router.traffic.strict import BadRequestError


class Reply:
    """The client's side of one exchange."""

    body: RequestBody = NO_BODY
    flushed = False  # some byte of the final response went to the client
    writing = False  # a write to the client has begun and not ended
    began = 0.0  # when its head was there
    waited = 0.0  # how long it was the upstream's turn

    def __init__(self, plane: Plane, client: Client, head: RequestHead) -> None:
        self.plane = plane
        self.nest = plane.nest
        self.limits = plane.limits
        self.client = client
        self.head = head
        if head.chunked or head.content_length:
            self.body = RequestBody(client, head, plane.limits)

    def keeps(self) -> bool:
        """Whether the client's connection can serve another request: its bytes must be where the next one begins."""
        return self.head.keep_alive and self.body.complete and not self.plane.draining

    async def answer(self, status: int, text: str, kind: str) -> Ending:
        """End with a response of our own."""
        keep = self.keeps()
        response = own_response(
            status,
            text,
            self.plane.steered(None, text),
            self.plane.date(),
            keep_alive=keep,
            minor=self.head.minor,
            method=self.head.method,
        )
        await self.nest.pause()  # nothing else need have waited: pipelined requests must not starve the rest
        try:
            await self.to_client(response)
        except ClientGoneError:
            return CLIENT_GONE
        return Ending(kind, After.KEEP if keep else After.CLOSE)

    def to_client_now(self, data: bytes | memoryview) -> bytes | memoryview:
        """Send what is taken at once; what is left is `to_client`'s to send."""
        try:
            return self.client.send_now(data)
        except OSError:
            raise ClientGoneError from None

    async def respond(self, data: bytes) -> None:
        """Some of the final response."""
        self.flushed = True
        await self.to_client(data)

    async def to_client(self, data: bytes | memoryview) -> None:
        self.writing = True
        if left := self.to_client_now(data):
            try:
                await self.client.send(left, self.limits.client_write_timeout_us, self.limits.rate_bytes_per_second_min)
            except (OSError, trio.TooSlowError):
                raise ClientGoneError from None
        self.writing = False

    def head_for_client(self, head: ResponseHead, steered: Steered, *, chunked: bool, keep: bool) -> bytes:
        """See the function of this name."""
        edge = self.nest.clock() - self.began - self.waited
        return head_for_client(self.plane, self.head, head, steered, edge, chunked=chunked, keep=keep)


def head_for_client(
    plane: Plane,
    request: RequestHead,
    response: ResponseHead,
    steered: Steered,
    edge: float,
    *,
    chunked: bool,
    keep: bool,
) -> bytes:
    """What an upstream's head becomes for the client, who hears that `edge` of the seconds it waited were ours."""
    connection = b"close" if not keep else b"keep-alive" if request.minor == 0 else b""
    known = response.fields.for_client
    if known is not None and known[0] is steered and known[1] == connection and not chunked:
        return known[2] + server_timing(int(edge * 1e6))
    framing = b""
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif response.content_length is not None and response.status != 204:
        framing = b"Content-Length: %d\r\n" % response.content_length
    rendered = response_for_client(response, steered, framing, connection, plane.date())[:-2]
    if response.fields.dated and not chunked:
        response.fields.for_client = steered, connection, rendered
    return rendered + server_timing(int(edge * 1e6))


async def refuse(plane: Plane, client: Client, error: BadRequestError) -> Ending:
    """Answer a request that cannot be served, and close: its connection cannot be understood any further."""
    plane.counters[f"reason.{error.reason}"] += 1
    steered = Steered(plane.site, None, error.reason)
    response = own_response(error.status, error.reason, steered, plane.date(), keep_alive=False)
    try:
        await client.send(response, plane.limits.client_write_timeout_us)
    except (OSError, trio.TooSlowError):
        return CLIENT_GONE
    return Ending(f"rejected_{error.status}", After.CLOSE)
