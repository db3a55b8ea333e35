"""A request's body on its way through: pulled from the client as the upstream takes it, and kept while it is small.

What was pulled is remembered up to `replay_bytes_max`; so long as that holds it all, another endpoint can be tried.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from router.tcp.splice import Pipe
from router.traffic.connection import Connection
from router.traffic.http1 import RequestHead, RequestReader
from router.traffic.message_body import FramingError, LengthBody, NoBody, chunk, last_chunk, request_framing
from router.traffic.nested_epoll import Member, NestedEpoll
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.strict import BadRequestError
from router.traffic.trailers import passed_on

if TYPE_CHECKING:
    from router.traffic.plane import Course


class ClientGoneError(Exception):
    """The client closed or reset its connection before its request was whole. Nobody is left to answer."""


class Client(Connection):
    """One client connection, with what has been read of it."""

    __slots__ = ("address", "asked", "course", "idle_since", "reader")

    def __init__(self, sock: socket.socket, nest: NestedEpoll | None = None) -> None:
        super().__init__(sock, nest)
        self.address = ""
        self.reader = RequestReader()
        self.asked = False
        """A byte of a request has come."""
        self.course: Course | None = None
        """Where its last request went first."""
        self.idle_since: float | None = None
        """Since when it has been waited for its next request's first byte."""

    def receive_or_end(self) -> bytes | None:
        """As `receive_now`, where a loss is an end like any other."""
        try:
            return self.receive_now()
        except OSError:
            return b""

    @property
    def scheme(self) -> str:
        """How the client reached us."""
        return "https" if self.secure else "http"


class Unheard(Client):
    """Nobody, in place of a client: for an answer that only the cache wants. It has no socket to say anything on."""

    __slots__ = ()

    def __init__(self, instead_of: Client) -> None:
        Member.__init__(self)
        self.secure = instead_of.secure
        self.address = instead_of.address
        self.reader = RequestReader()
        self.asked = True
        self.course = None
        self.idle_since = None

    def has_left(self) -> bool:
        return False

    def send_now(self, data: bytes | memoryview) -> bytes | memoryview:
        return b""

    async def send(self, data: bytes | memoryview, stall_timeout_us: int, rate_min: int = 0) -> None:
        pass


class RequestBody:
    """`absorb`, `gather` and `read` may raise `BadRequestError` (framing, or 408) and `ClientGoneError`."""

    __slots__ = (
        "_began",
        "_chunked",
        "_client",
        "_connection",
        "_framing",
        "_kept",
        "_limits",
        "_payload",
        "_received",
        "replayable",
    )

    def __init__(self, client: Client, head: RequestHead, limits: ProxyLimits) -> None:
        self._client = client
        self._limits = limits
        self._framing = request_framing(head)
        self._chunked = head.chunked
        self._connection = head.connection
        self._kept = bytearray()
        self._began: float | None = None  # when the first wait for more of it began
        self._received = 0
        self._payload = 0  # without chunk framing; what goes by unseen is not counted, for its length was judged
        self.replayable = True
        """Everything pulled so far is still kept."""

    @property
    def complete(self) -> bool:
        """The client has sent all of it."""
        return self._framing.complete

    def absorb(self) -> None:
        """Pull what came together with the head, without waiting; it is less than two reads, so it is kept."""
        reader = self._client.reader
        if reader.rest and not self.complete:
            self._kept += self._feed(reader.rest)

    async def gather(self) -> None:
        """Pull all of it. For a body whose announced length can be kept: only then is an endpoint bothered."""
        while not self.complete:
            self._kept += self._feed(await self._receive(self._limits.body_timeout_us))

    def in_hand(self) -> bytes:
        """All that is kept, framed for an upstream: what an attempt begins with. Call only while `replayable`."""
        assert self.replayable, "what is gone cannot be sent again"
        return self._framed(bytes(self._kept))

    async def read(self, timeout_us: int) -> bytes:
        """The next piece, framed for an upstream; b"" if it was complete already."""
        while not self.complete:
            payload = self._feed(await self._receive(timeout_us))
            if len(self._kept) + len(payload) > self._limits.replay_bytes_max:
                self.replayable = False
                self._kept.clear()
            if self.replayable:
                self._kept += payload
            if framed := self._framed(payload):
                return framed
        return b""

    @property
    def unseen(self) -> int:
        """How many bytes may go from socket to socket as they are: what is still to come of a body whose length was
        announced and that is no longer kept. What is inside TLS goes through our hands."""
        framing = self._framing
        if self.replayable or self._client.secure or not isinstance(framing, LengthBody):
            return 0
        return framing.remaining

    async def pass_into(self, pipe: Pipe, timeout_us: int) -> int:
        """Move the next bytes of what may go unseen into an empty pipe; how many they are. Raises as `read`."""
        framing, client = self._framing, self._client
        assert isinstance(framing, LengthBody), "unseen"
        self._keep_pace()
        while True:
            try:
                count = pipe.fill(client.sock, framing.remaining)
                break
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                raise ClientGoneError from None
            client.ready = False
            client.patient = True
            try:
                await client.readable(timeout_us)
            except trio.TooSlowError:
                raise BadRequestError(408, "body timeout") from None
            finally:
                client.patient = False
        if not count:
            raise ClientGoneError
        self._received += count
        framing.passed(count)
        return count

    def _framed(self, payload: bytes) -> bytes:
        if not self._chunked:
            return payload
        end = last_chunk(passed_on(self._framing.trailers, self._connection)) if self.complete else b""
        return (chunk(payload) if payload else b"") + end

    def _keep_pace(self) -> None:
        """Whoever has been sending for a while must have sent enough."""
        now = self._client.time()
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        if (
            elapsed * 1e6 > self._limits.body_timeout_us
            and self._received < elapsed * self._limits.rate_bytes_per_second_min
        ):
            raise BadRequestError(408, "body too slow")

    async def _receive(self, timeout_us: int) -> bytes:
        self._keep_pace()
        client = self._client
        client.patient = True
        try:
            data = await client.receive(timeout_us)
        except OSError:
            raise ClientGoneError from None
        except trio.TooSlowError:
            raise BadRequestError(408, "body timeout") from None
        finally:
            client.patient = False
        self._received += len(data)
        if not data:
            raise ClientGoneError
        return data

    def _feed(self, data: bytes) -> bytes:
        try:
            payload, self._client.reader.rest = self._framing.feed(data)
        except FramingError as error:
            raise BadRequestError(400, str(error)) from None
        self._payload += len(payload)
        if self._payload > self._limits.body_bytes_max:
            raise too_large()
        return payload


def too_large() -> BadRequestError:
    return BadRequestError(413, "body too large")


class _NoBody(RequestBody):
    """What a request without a body has: complete, and shared by all of them."""

    __slots__ = ()

    def __init__(self) -> None:
        self._framing = NoBody()
        self._chunked = False
        self._kept = bytearray()
        self.replayable = True


NO_BODY: Final = _NoBody()
