"""Both ends of the proxy in one process: raw clients, and upstreams that behave as badly as the test says.

The wire reads HTTP in the plainest way there is, so that it shares no code, and no mistake, with what it tests.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import trio
import trio.testing

from lattice.types import Endpoint, Level
from router.cache.turn import SiteCache
from router.decision.decide import Attempt, Decision, Request
from router.decision.request import NO_NEEDS, Needs
from router.policy.settings import NO_SETTINGS, Settings
from router.traffic.proxy import Outcome, Proxy, ProxyLimits
from router.traffic.trusted_hops import Forwarders, TrustedHops

SITE = "lis"
DRIVER: ContextVar[str] = ContextVar("DRIVER", default="fibers")
"""Who drives the proxy's connections: "fibers" or "tasks" (see `conftest`)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or response as it was on the wire; the body without chunk framing."""

    first: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    whole: bool
    """The body ended as its framing said."""

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


class Wire:
    """One TCP connection, read as HTTP by hand."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.buffer = b""
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            return False
        self.buffer += data
        self.received += data
        return bool(data)

    async def head(self) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]] | None:
        """First line and headers; None if the peer closed before any."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                assert not self.buffer, f"cut off in a head: {self.buffer!r}"
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        return first, tuple((name, value.strip()) for name, _, value in pairs)

    async def exactly(self, count: int) -> bytes | None:
        while len(self.buffer) < count:
            if not await self.more():
                return None
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    async def line(self) -> bytes | None:
        while b"\r\n" not in self.buffer:
            if not await self.more():
                return None
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    async def message(self, *, response_to: str | None = None) -> Message | None:
        """The next request, or the next response to a request of that method."""
        head = await self.head()
        if head is None:
            return None
        first, headers = head
        fields = {name.lower(): value for name, value in headers}
        status = int(first.split()[1]) if response_to is not None else 0
        if response_to == "HEAD" or status in (204, 304) or 100 <= status < 200:
            return Message(first, headers, b"", True)
        if fields.get(b"transfer-encoding") == b"chunked":
            body = b""
            while True:
                size_line = await self.line()
                if size_line is None:
                    return Message(first, headers, body, False)
                size = int(size_line, 16)
                piece = await self.exactly(size)
                end = await self.line()
                if piece is None or end != b"":
                    return Message(first, headers, body + (piece or self.buffer), False)
                if size == 0:
                    return Message(first, headers, body, True)
                body += piece
        if b"content-length" in fields:
            whole = await self.exactly(int(fields[b"content-length"]))
            return Message(first, headers, self.buffer if whole is None else whole, whole is not None)
        if response_to is None:
            return Message(first, headers, b"", True)
        while await self.more():
            pass
        return Message(first, headers, self.buffer, True)

    async def request(self) -> Message | None:
        return await self.message()

    async def response(self, method: str = "GET") -> Message:
        message = await self.message(response_to=method)
        assert message is not None, "closed without a response"
        return message

    async def ask(self, request: bytes, method: str = "GET") -> Message:
        await self.send(request)
        return await self.response(method)

    async def rest(self) -> bytes:
        """Everything until the peer closes."""
        while await self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    async def rest_or_reset(self) -> None:
        """As `rest`, but a reset raises."""
        while await self.stream.receive_some():
            pass

    @property
    def socket(self) -> trio.socket.SocketType:
        stream = self.stream
        return (stream if isinstance(stream, trio.SocketStream) else stream.transport_stream).socket

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script: TypeAlias = Callable[[Wire], Awaitable[None]]


@dataclass
class Upstream:
    """What an upstream saw."""

    endpoint: Endpoint
    wires: list[Wire] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        return b"".join(wire.received for wire in self.wires)


def answer(body: bytes = b"hello", status: str = "200 OK", *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def serving(*responses: bytes) -> Script:
    """Reads whole requests and answers them in turn; the last answer repeats."""

    async def script(wire: Wire) -> None:
        turn = 0
        while await wire.request() is not None:
            await wire.send(responses[min(turn, len(responses) - 1)])
            turn += 1

    return script


async def resetting(wire: Wire) -> None:
    """Reads a request, then resets."""
    await wire.request()
    wire.reset()


async def hanging(wire: Wire) -> None:
    """Reads and never says anything."""
    while await wire.more():
        pass


async def listen(nursery: trio.Nursery, script: Script) -> Upstream:
    """A real server on 127.0.0.1 whose every connection runs `script`, then closes."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    upstream = Upstream(listener.socket.getsockname())

    async def serve(stream: trio.SocketStream) -> None:
        wire = Wire(stream)
        upstream.wires.append(wire)
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await script(wire)

    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return upstream


def refusing() -> Endpoint:
    """An endpoint where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address: Endpoint = sock.getsockname()
    return address


class FixedRouter:
    """Sends everything to the same endpoints, in order, and writes down what it is told."""

    def __init__(
        self,
        *endpoints: Endpoint,
        denial: tuple[int, str] | None = None,
        settings: Settings = NO_SETTINGS,
        needs: Needs = NO_NEEDS,
    ) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self.needs = needs
        self.denial = denial
        self.asked: list[Request] = []
        self.told: list[tuple[str, Outcome]] = []
        self.loads: list[tuple[str, int]] = []

    def decide(self, request: Request) -> Decision:
        self.asked.append(request)
        if self.denial is not None:
            status, reason = self.denial
            return Decision("r", "", None, None, "", reason, status, (), settings=self.settings)
        attempts = tuple(
            Attempt(f"region{i}", "primary" if i == 0 else "secondary", Level.HEALTHY, endpoint)
            for i, endpoint in enumerate(self.endpoints)
        )
        return Decision("r", "", "region0", "region0", "primary", "primary", 200, attempts, settings=self.settings)

    def epoch(self) -> object:
        return self.denial, sum(outcome is not Outcome.OK for _, outcome in self.told)

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int, at: float) -> None:
        assert latency_us >= 0
        self.told.append((attempt.region, outcome))

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        self.loads.append((attempt.region, saturation_ppm))


@dataclass
class Stage:
    """A proxy that serves, and what surrounds it."""

    proxy: Proxy
    router: FixedRouter
    endpoint: Endpoint
    tls_endpoint: Endpoint | None = None
    bugs: int = 0
    """Internal errors that the test provokes."""
    wires: list[Wire] = field(default_factory=list)

    async def client(self, source: str = "127.0.0.1") -> Wire:
        wire = Wire(await trio.open_tcp_stream(*self.endpoint, local_address=source))
        self.wires.append(wire)
        return wire

    async def tls_client(self, context: ssl.SSLContext, name: str) -> Wire:
        """A client that speaks TLS and asks for that name; its handshake is done."""
        assert self.tls_endpoint is not None
        stream = trio.SSLStream(
            await trio.open_tcp_stream(*self.tls_endpoint), context, server_hostname=name, https_compatible=True
        )
        wire = Wire(stream)
        self.wires.append(wire)
        await stream.do_handshake()
        return wire

    async def emptied(self) -> None:
        """Wait until the proxy has let go of every client."""
        while self.proxy.connections:
            await trio.testing.wait_all_tasks_blocked()

    async def ask(self, request: bytes, method: str = "GET") -> Message:
        """One request on a connection of its own."""
        wire = await self.client()
        async with wire.stream:
            return await wire.ask(request, method)

    def check_books(self) -> None:
        """Every request has exactly one ending, and no ending is a bug of ours that the test did not ask for."""
        counters = self.proxy.counters
        endings = sum(count for name, count in counters.items() if name.split("_")[0] in ENDINGS)
        assert counters["internal_error"] == self.bugs
        assert endings + self.bugs == counters["requests"], counters


ENDINGS = frozenset(
    {
        "relayed",
        "denied",
        "rejected",
        "failed",
        "shed",
        "looped",
        "truncated",
        "client",
        "abandoned",
        "cached",
        "uncached",
    }
)


@asynccontextmanager
async def staged(
    *scripts: Script | Endpoint, limits: ProxyLimits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Stage]:
    """A proxy in front of one upstream per script; an endpoint stands for itself."""
    async with trio.open_nursery() as nursery:
        endpoints = [
            script if isinstance(script, tuple) else (await listen(nursery, script)).endpoint for script in scripts
        ]
        async with proxied(FixedRouter(*endpoints), limits, tls) as stage:
            yield stage
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(
    router: FixedRouter,
    limits: ProxyLimits | None = None,
    tls: ssl.SSLContext | None = None,
    announced_by: TrustedHops | None = None,
    forwarders: Forwarders | None = None,
    unix: Mapping[Endpoint, Path] = MappingProxyType({}),
) -> AsyncIterator[Stage]:
    """A proxy that steers by `router`, with a TLS listener beside the plain one. At the end its books must balance."""
    cache = SiteCache(1 << 20, 1 << 16)
    fast = DRIVER.get() == "fibers"
    proxy = Proxy(
        router,
        SITE,
        limits,
        tls=tls,
        unix=unix,
        announced_by=announced_by,
        forwarders=forwarders,
        cache=cache,
        fast=fast,
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    secured = await trio.open_tcp_listeners(0, host="127.0.0.1") if tls is not None else []
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve, listeners, secured)
        stage = Stage(proxy, router, listeners[0].socket.getsockname())
        stage.tls_endpoint = secured[0].socket.getsockname() if secured else None
        try:
            yield stage
        finally:
            for wire in stage.wires:
                wire.socket.close()
        nursery.cancel_scope.cancel()
    stage.check_books()
    assert proxy.connections == 0
    assert not cache.fetches, "somebody would wait for nothing"


GET = b"GET /a?b=c HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


def post(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"POST /in HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@contextmanager
def deaf() -> Iterator[Endpoint]:
    """An address where nobody refuses and nobody answers: a full backlog drops SYNs, as a cut network does."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()
