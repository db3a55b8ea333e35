"""One request on an HTTP/2 connection, as the exchange knows it: a client that reads and writes HTTP/1.1 (edge)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from router.traffic.http1 import RequestReader, ResponseReader
from router.traffic.http2_head import response_headers
from router.traffic.message_body import Framing, chunk, last_chunk, response_framing
from router.traffic.nested_epoll import Fiber, Member, NestedEpoll, Wake
from router.traffic.request_body import Client
from router.traffic.trailers import trailer_list

if TYPE_CHECKING:
    from router.traffic.http2 import Http2Connection


class _Signal:
    """Something that one fiber or task waits for."""

    __slots__ = ("_event", "_fiber")

    def __init__(self) -> None:
        self._fiber: Fiber | None = None
        self._event: trio.Event | None = None

    def notify(self) -> None:
        fiber, self._fiber = self._fiber, None
        if fiber is not None:
            fiber.nudge()
        if self._event is not None:
            self._event.set()

    async def wait(self, nest: NestedEpoll, deadline: float) -> None:
        """Until notified, or for no reason. Raises trio.TooSlowError."""
        if (fiber := nest.current) is not None:
            self._fiber = fiber
            if await fiber.park(deadline) is Wake.LATE:
                self._fiber = None
                raise trio.TooSlowError
            return
        self._event = trio.Event()
        with trio.CancelScope(deadline=deadline) as scope:
            await self._event.wait()
        if scope.cancelled_caught:
            raise trio.TooSlowError


class Http2Stream(Client):
    """One request and its response: a client as the exchange knows it."""

    __slots__ = (
        "_arrival",
        "_body",
        "_connection",
        "_ended",
        "_framing",
        "_response",
        "_room",
        "gone",
        "method",
        "number",
        "trailers",
        "whole",
    )

    def __init__(self, connection: Http2Connection, number: int) -> None:
        Member.__init__(self)
        client = connection.client
        self.sock = client.sock  # of all streams: for its addresses, never for its bytes
        self.secure = client.secure
        self.address = client.address
        self.sent = 0
        self.reader = RequestReader()
        self.asked = True
        self.course = None
        self.idle_since = None
        self.number = number
        self.method = b""
        self.gone = False
        """Reset, or its connection is over."""
        self.whole = False
        """The response has ended as its framing says."""
        self.trailers = b""
        """What came behind the request's body, as lines."""
        self._connection = connection
        self._body = bytearray()
        self._ended = False  # the request
        self._response = ResponseReader()
        self._framing: Framing | None = None
        self._room = _Signal()  # to send
        self._arrival = _Signal()  # of body

    # --- the request's body

    def feed(self, data: bytes, *, chunked: bool) -> None:
        self._body += chunk(data) if chunked and data else data
        self._arrival.notify()

    def end(self, *, chunked: bool) -> None:
        if not self._ended:
            self._ended = True
            if chunked:
                self._body += last_chunk(self.trailers)
            self._arrival.notify()

    @property
    def ended(self) -> bool:
        """The request came whole."""
        return self._ended

    def receive_now(self) -> bytes | None:
        if self.gone:
            raise ConnectionResetError("the stream is over")
        if self._body:
            data = bytes(self._body)
            self._body.clear()
            self._connection.consumed(self.number)
            return data
        return b"" if self._ended else None

    def has_left(self) -> bool:
        return self.gone

    async def receive(self, timeout_us: int) -> bytes:
        deadline = self.time() + timeout_us / 1e6
        while (data := self.receive_now()) is None:
            await self._arrival.wait(self._connection.nest, deadline)
        return data

    # --- the response

    def time(self) -> float:
        return self._connection.nest.time()

    def send_now(self, data: bytes | memoryview) -> bytes | memoryview:
        return data

    async def send(self, data: bytes | memoryview, stall_timeout_us: int, rate_min: int = 0) -> None:
        """Translate what HTTP/1.1 would have sent, as far as the client's window goes."""
        payload = self._translate(bytes(data))
        total, began = len(payload), self.time()
        left = memoryview(payload)
        framing = self._framing
        ends = framing is not None and framing.complete and not self.whole
        trailers = trailer_list(framing.trailers) if framing is not None and ends else []
        while left:
            sent = self._connection.send_body(self, left, last=ends and not trailers)
            left = left[sent:]
            if left and not sent:
                await self._room.wait(self._connection.nest, self.time() + stall_timeout_us / 1e6)
                elapsed = self.time() - began
                if elapsed * 1e6 > stall_timeout_us and total - len(left) < rate_min * elapsed:
                    raise trio.TooSlowError
            elif left:
                await self._connection.nest.pause()
        if ends:
            self.whole = True
            if trailers or not payload:
                self._connection.send_end(self, trailers)
        self._connection.flush()

    def _translate(self, data: bytes) -> bytes:
        """Heads become field lists at once; the payload of the body is given back."""
        while self._framing is None:
            head = self._response.feed(data)
            data = b""
            if head is None:
                return b""
            if head.status < 200:
                self._connection.send_head(self, response_headers(head), end=False)
                continue
            self._framing = response_framing(head, self.method)
            self.whole = self._framing.complete
            self._connection.send_head(self, response_headers(head), end=self.whole)
            data, self._response.rest = self._response.rest, b""
        return self._framing.feed(data)[0] if data and not self._framing.complete else b""

    def may_send(self) -> None:
        """There may be window, or room."""
        self._room.notify()

    def lose(self) -> None:
        """No byte comes or goes any more."""
        self.gone = True
        self._arrival.notify()
        self._room.notify()
        if self.read_waiter is not None:  # it waits for an upstream, and looks after us meanwhile
            self.read_waiter.nudge()
