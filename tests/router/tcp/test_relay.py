"""TCP mode end to end: real sockets, a scripted node."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
import trio
import trustme

from lattice.types import MILLISECOND, SECOND, Endpoint, Level
from router.decision.decide import Attempt, Decision, Request
from router.decision.request import NO_NEEDS
from router.tcp.relay import TcpListener, TcpRelay
from router.tcp.tcp_limits import TcpLimits
from router.traffic.hang import SAMPLES_MIN, WAITING_MIN
from router.traffic.proxy_protocol import proxy_header_v2, read_proxy_header
from router.traffic.steering import Outcome
from router.traffic.trusted_hops import TrustedHops
from tests.router.traffic.upstreams import deaf

Serve = Callable[[trio.SocketStream], Awaitable[None]]


class ScriptedNode:
    """Sends everybody to the same endpoints, in order; remembers what it was asked and told."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.attempts = tuple(
            Attempt(f"r{number}", "primary", Level.HEALTHY, endpoint) for number, endpoint in enumerate(endpoints)
        )
        self.asked: list[Request] = []
        self.told: list[tuple[Endpoint, Outcome]] = []

    needs = NO_NEEDS

    def decide(self, request: Request) -> Decision:
        self.asked.append(request)
        region = self.attempts[0].region if self.attempts else None
        return Decision("r", "", region, region, "primary", "primary", 0, self.attempts)

    def epoch(self) -> object:
        return object()

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        raise AssertionError("TCP has no word for it")

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int, at: float) -> None:
        assert latency_us >= 0
        self.told.append((attempt.endpoint, outcome))


@asynccontextmanager
async def upstream(serve: Serve) -> AsyncIterator[Endpoint]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        host, port = listeners[0].socket.getsockname()[:2]
        yield host, port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relaying(
    node: ScriptedNode,
    limits: TcpLimits | None = None,
    *,
    tls: bool = False,
    says_who: bool = False,
    announced_by: TrustedHops | None = None,
    host: str = "127.0.0.1",
    unix: Mapping[Endpoint, Path] = MappingProxyType({}),
) -> AsyncIterator[tuple[TcpRelay, Endpoint]]:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    relay = TcpRelay(node, limits, unix=unix, says_who=says_who, announced_by=announced_by)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve, [TcpListener(listener, tls)])
        host, port = listener.socket.getsockname()[:2]
        yield relay, (host, port)
        await relay.drain(0)


DIALLED: list[trio.SocketStream] = []


async def dial(at: Endpoint) -> trio.SocketStream:
    """A client, closed when the test is over."""
    DIALLED.append(await trio.open_tcp_stream(*at))
    return DIALLED[-1]


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    yield
    while DIALLED:
        fd = DIALLED.pop().socket.detach()  # trio has stopped, so its own way of closing has too
        if fd >= 0:
            os.close(fd)


async def echo(stream: trio.SocketStream) -> None:
    """Says everything back, and ends when the other side has, in whatever way."""
    with contextlib.suppress(trio.BrokenResourceError):
        async for part in stream:
            await stream.send_all(part)
    await stream.aclose()


async def unused() -> Endpoint:
    """Where nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()[:2]
    await listener.aclose()
    return host, port


async def everything(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


async def everything_or_reset(stream: trio.SocketStream) -> bytes:
    with contextlib.suppress(trio.BrokenResourceError):
        return await everything(stream)
    return b""


async def settled(relay: TcpRelay) -> None:
    """Wait until no connection is under way."""
    with trio.fail_after(5):
        while relay.open:  # noqa: ASYNC110 - what a user sees has no event
            await trio.sleep(0.001)


async def test_bytes_pass_both_ways_and_a_half_close_travels() -> None:
    data = os.urandom(3_000_000)
    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node) as (relay, at):
            client = await dial(at)
            received = b""

            async def read() -> None:
                nonlocal received
                received = await everything(client)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await client.send_all(data)
                await client.send_eof()
            await settled(relay)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    assert relay.counters["bytes up"] == relay.counters["bytes down"] == len(data)
    assert relay.counters["relayed"] == relay.counters["connections"] == relay.counters["region.r0"] == 1
    assert node.told == [(endpoint, Outcome.OK)]
    assert node.asked == [Request("127.0.0.1", "", "/", method="CONNECT", port=at[1])]


async def test_an_endpoint_may_be_a_unix_socket(tmp_path: Path) -> None:
    """Whatever its address: that one is link-local, where nobody is ever connected to. Dead, it is a refusal."""
    local: Endpoint = ("169.254.1.1", 9)
    path = tmp_path / "upstream.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, trio.fail_after(5):
        listener.bind(str(path))
        listener.listen()
        async with upstream(echo) as second, trio.open_nursery() as nursery:
            node = ScriptedNode(local, second)
            async with relaying(node, unix={local: path}) as (relay, at):
                serving = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
                nursery.start_soon(trio.serve_listeners, echo, [serving])
                client = await dial(at)
                await client.send_all(b"by a path")
                await client.send_eof()
                assert await everything(client) == b"by a path"
                await settled(relay)
                nursery.cancel_scope.cancel()
    assert node.told == [(local, Outcome.OK)]
    node = ScriptedNode(local)
    async with relaying(node, unix={local: path}) as (relay, at):
        assert await everything_or_reset(await dial(at)) == b""
        await settled(relay)
    assert node.told == [(local, Outcome.REFUSED)]
    assert relay.counters["forbidden"] == 0


async def test_a_connect_that_nobody_answers_is_given_up_long_before_its_timeout() -> None:
    """Three in turn, and the endpoint is out of use; as long as it is not, each goes on to the next."""
    with deaf() as cut:
        async with upstream(echo) as second:
            node = ScriptedNode(second, cut)
            async with relaying(node) as (relay, at):
                for _ in range(SAMPLES_MIN):  # both are of one region, which is known to answer at once
                    await (await dial(at)).aclose()
                await settled(relay)
                node.told.clear()
                node.attempts = tuple(attempt._replace(region="r0") for attempt in reversed(node.attempts))
                for _ in range(WAITING_MIN):
                    with trio.fail_after(TcpLimits().connect_timeout_us / 2e6):
                        client = await dial(at)
                        await client.send_all(b"hello")
                        await client.send_eof()
                        assert await everything(client) == b"hello"
                await settled(relay)
    assert node.told == [
        *((cut, Outcome.LATE), (second, Outcome.OK)) * (WAITING_MIN - 1),
        *((cut, Outcome.SILENT), (second, Outcome.OK)),
    ]


async def test_who_is_the_last_to_be_asked_has_the_whole_time() -> None:
    limits = TcpLimits(connect_timeout_us=200 * MILLISECOND)
    with deaf() as first, deaf() as last:
        async with relaying(ScriptedNode(first, last), limits) as (relay, at):
            assert await everything_or_reset(await dial(at)) == b""
            await settled(relay)
            assert relay.counters["unreachable"] == 1
            assert relay.counters["connect failed"] == 2


async def test_the_server_may_speak_first() -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 hello\r\n")
        await stream.aclose()

    async with upstream(greet) as endpoint, relaying(ScriptedNode(endpoint)) as (_, at):
        client = await dial(at)
        assert await everything(client) == b"220 hello\r\n"
        await client.aclose()


async def test_a_refusing_endpoint_costs_nothing_but_a_try() -> None:
    dead = await unused()
    async with upstream(echo) as alive:
        node = ScriptedNode(dead, alive)
        async with relaying(node) as (relay, at):
            client = await dial(at)
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"
            await client.send_eof()
            assert await client.receive_some() == b""
            await settled(relay)
    assert node.told == [(dead, Outcome.REFUSED), (alive, Outcome.OK)]
    assert relay.counters["connect failed"] == relay.counters["region.r1"] == 1


@pytest.mark.parametrize("endpoints", [0, 1])
async def test_nowhere_to_go_is_a_reset(endpoints: int) -> None:
    node = ScriptedNode(*[await unused() for _ in range(endpoints)])
    async with relaying(node) as (relay, at):
        client = await dial(at)
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await settled(relay)
    assert relay.counters["unreachable" if endpoints else "denied"] == 1


async def test_an_upstream_lost_in_mid_stream_is_no_clean_end() -> None:
    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of it")
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with upstream(half) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node) as (relay, at):
            client = await dial(at)
            assert await client.receive_some() == b"half of it"
            await client.send_all(b"go on")
            with pytest.raises(trio.BrokenResourceError):
                await everything(client)
            await settled(relay)
    assert relay.counters["upstream lost"] == 1
    assert node.told == [(endpoint, Outcome.OK), (endpoint, Outcome.TRUNCATED)]


async def test_a_client_lost_is_no_evidence_against_the_upstream() -> None:
    gone = trio.Event()

    async def wait_for_loss(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        gone.set()

    async with upstream(wait_for_loss) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node) as (relay, at):
            client = await dial(at)
            assert await client.receive_some() == b"hello"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
            with trio.fail_after(5):
                await gone.wait()
            await settled(relay)
    assert relay.counters["client lost"] == 1
    assert node.told == [(endpoint, Outcome.OK)]


async def test_silence_ends_a_connection_and_movement_keeps_it() -> None:
    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node, TcpLimits(idle_timeout_us=150 * MILLISECOND)) as (relay, at):
            client = await dial(at)
            for _ in range(4):
                await trio.sleep(0.06)
                await client.send_all(b".")
                assert await client.receive_some() == b"."
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            await settled(relay)
    assert relay.counters["idle"] == 1


async def test_more_than_its_share_is_shed() -> None:
    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node, TcpLimits(connections_per_client_max=1)) as (relay, at):
            first = await dial(at)
            await first.send_all(b"1")
            assert await first.receive_some() == b"1"
            second = await dial(at)
            with pytest.raises(trio.BrokenResourceError):
                await second.receive_some()
            await first.send_eof()
            assert await first.receive_some() == b""
            await settled(relay)
            third = await dial(at)
            await third.send_all(b"3")
            assert await third.receive_some() == b"3"
    assert relay.counters["shed"] == 1


async def test_no_descriptors_left_sheds_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pipe2

    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node) as (relay, at):
            monkeypatch.setattr(os, "pipe2", none_left)
            client = await dial(at)
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            monkeypatch.setattr(os, "pipe2", real)
            client = await dial(at)
            await client.send_all(b"again")
            assert await client.receive_some() == b"again"
    assert relay.counters["shed"] == 1
    assert node.told == [(endpoint, Outcome.OK)], "our own want of descriptors is no evidence"


async def test_a_drain_waits_for_those_under_way_and_resets_the_rest() -> None:
    async with upstream(echo) as endpoint, trio.open_nursery() as nursery:
        node = ScriptedNode(endpoint)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        at = listener.socket.getsockname()[:2]
        relay = TcpRelay(node)
        await nursery.start(relay.serve, [TcpListener(listener, False)])
        patient, stubborn = await dial(at), await dial(at)
        for client in (patient, stubborn):
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"
        nursery.start_soon(relay.drain, 200 * MILLISECOND)
        await trio.sleep(0.02)
        with pytest.raises(OSError, match=r"(?i)connect"):
            await dial(at)
        await patient.send_all(b"still here")
        assert await patient.receive_some() == b"still here"
        await patient.send_eof()
        assert await patient.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await stubborn.receive_some()
    assert (relay.counters["relayed"], relay.counters["abandoned"]) == (1, 1)


@pytest.mark.parametrize("checkpoints", range(1, 9))
async def test_who_is_being_accepted_as_a_drain_begins_is_joined(checkpoints: int) -> None:
    async with upstream(echo) as endpoint:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        relay = TcpRelay(ScriptedNode(endpoint))
        with socket.create_connection(listener.socket.getsockname()) as client:
            client.send(b"hello")
            client.shutdown(socket.SHUT_WR)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.serve, [TcpListener(listener, False)])
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                await relay.drain(10 * SECOND)
            assert relay.counters["relayed"] == relay.counters["connections"]
            if relay.counters["connections"]:
                assert client.recv(9) == b"hello"
            else:
                assert checkpoints < 8, "long accepted"


def contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server that is `name`, and of a client that believes it."""
    ca = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    ca.issue_cert(name).configure_cert(server)
    ca.configure_trust(client)
    return server, client


def answering(server: ssl.SSLContext) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """One answer over TLS."""

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True)
        await tls.send_all(b"over TLS: " + await tls.receive_some())
        await tls.aclose()

    return serve


async def test_tls_passes_through_to_whoever_the_name_says() -> None:
    server, trusting = contexts("shop.example.com")

    async with upstream(answering(server)) as endpoint:
        node = ScriptedNode(await unused(), endpoint)
        async with relaying(node, tls=True) as (relay, at):
            plain = await dial(at)
            tls = trio.SSLStream(plain, trusting, server_hostname="shop.example.com", https_compatible=True)
            await tls.send_all(b"hello")
            assert await tls.receive_some() == b"over TLS: hello"
            await tls.aclose()
            await settled(relay)
    assert node.asked == [
        Request("127.0.0.1", "shop.example.com", "/", method="CONNECT", port=at[1], sni="shop.example.com")
    ]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b""])
async def test_who_speaks_no_tls_where_tls_is_spoken(first: bytes) -> None:
    node = ScriptedNode(await unused())
    async with relaying(node, TcpLimits(hello_timeout_us=50 * MILLISECOND), tls=True) as (relay, at):
        client = await dial(at)
        if first:
            await client.send_all(first)
        else:
            await client.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await settled(relay)
    assert relay.counters["not tls"] == 1
    assert node.asked == []


async def test_no_descriptor_outlives_its_connection() -> None:
    """The planted counterpart of the context managers: twenty connections of every kind leave nothing open."""
    async with upstream(echo) as endpoint:
        node = ScriptedNode(await unused(), endpoint)
        async with relaying(node) as (relay, at):
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
            for number in range(20):
                client = await dial(at)
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await client.aclose()
            await settled(relay)
            with trio.fail_after(5):
                while len(os.listdir("/proc/self/fd")) > before:  # noqa: PTH208, ASYNC110
                    await trio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_endpoint_hears_who_the_client_is_before_anything_else(host: str) -> None:
    """By a PROXY header of version 2, also when the first endpoint is dead."""
    heard: list[bytes] = []
    whole = trio.Event()

    async def listen(stream: trio.SocketStream) -> None:
        heard.extend([bytes(part) async for part in stream])
        whole.set()
        await stream.aclose()

    async with (
        upstream(listen) as endpoint,
        relaying(ScriptedNode(await unused(), endpoint), says_who=True, host=host) as (_, at),
    ):
        client = await dial(at)
        await client.send_all(b"hello")
        await client.send_eof()
        with trio.fail_after(5):
            await whole.wait()
        data = b"".join(heard)
        header = read_proxy_header(data)
        assert header is not None
        assert header.source == client.socket.getsockname()[:2]
        assert header.destination == at
        assert data[header.size :] == b"hello"


# --- behind a balancer that says who the client is

BALANCERS = TrustedHops([ipaddress.ip_network("127.0.0.1/32")])
USER, ASKED = ("203.0.113.9", 40_001), ("198.51.100.7", 443)


@pytest.mark.parametrize("header", [b"PROXY TCP4 203.0.113.9 198.51.100.7 40001 443\r\n", proxy_header_v2(USER, ASKED)])
async def test_a_balancer_says_who_the_client_is(header: bytes) -> None:
    """To the decision, and to an endpoint that hears it: it never sees the balancer."""
    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node, says_who=True, announced_by=BALANCERS) as (relay, at):
            client = await dial(at)
            await client.send_all(header[:7])
            await trio.sleep(0.01)
            await client.send_all(header[7:] + b"hello")
            await client.send_eof()
            told = await everything(client)
            await settled(relay)
    heard = read_proxy_header(told)
    assert heard is not None
    assert (heard.source, heard.destination, told[heard.size :]) == (USER, ASKED, b"hello")
    assert node.asked == [Request(USER[0], "", "/", method="CONNECT", port=at[1])]


async def test_a_balancer_s_header_comes_before_the_hello() -> None:
    server, trusting = contexts("shop.example.com")

    async with upstream(answering(server)) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node, tls=True, announced_by=BALANCERS) as (relay, at):
            plain = await dial(at)
            await plain.send_all(proxy_header_v2(USER, ASKED))
            tls = trio.SSLStream(plain, trusting, server_hostname="shop.example.com", https_compatible=True)
            await tls.send_all(b"hello")
            assert await tls.receive_some() == b"over TLS: hello"
            await tls.aclose()
            await settled(relay)
    assert [(asked.client, asked.sni) for asked in node.asked] == [(USER[0], "shop.example.com")]


async def test_a_balancer_that_does_not_say_is_reset_and_the_limit_is_on_who_is_behind_it() -> None:
    limits = TcpLimits(connections_per_client_max=1, hello_timeout_us=100 * MILLISECOND)
    async with upstream(echo) as endpoint:
        node = ScriptedNode(endpoint)
        async with relaying(node, limits, announced_by=BALANCERS) as (relay, at):
            for first in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4"):
                client = await dial(at)
                await client.send_all(first)
                assert await everything_or_reset(client) == b""
            served = []
            for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
                client = await dial(at)
                await client.send_all(proxy_header_v2((address, 1), ASKED) + b"hello")
                try:
                    served.append(await client.receive_some())
                except trio.BrokenResourceError:
                    served.append(b"")
    assert served == [b"hello", b"hello", b""]
    assert (relay.counters["no proxy header"], relay.counters["shed"]) == (2, 1)
