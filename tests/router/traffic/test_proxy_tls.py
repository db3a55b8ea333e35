"""TLS towards clients, end to end: names, versions, resumption, renewal, and how handshakes fail."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from lattice.types import MILLISECOND, SECOND
from router.decision.request import NO_NEEDS, Needs
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.proxy import ProxyLimits
from router.traffic.server_tls import ServerTls
from tests.router.traffic.test_server_tls import write
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Stage,
    Wire,
    answer,
    hanging,
    listen,
    post,
    proxied,
    serving,
    staged,
)

CA = trustme.CA()


def client_context(ca: trustme.CA = CA, *, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take long to load
    context.maximum_version = maximum
    context.set_alpn_protocols(["http/1.1"])
    ca.configure_trust(context)
    return context


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    return ServerTls(
        [write(tmp_path, CA, "shop.test", stem="shop"), write(tmp_path, CA, "*.example.com", stem="example")]
    )


def shown(wire: Wire) -> str:
    assert isinstance(wire.stream, trio.SSLStream)
    names = wire.stream.getpeercert()["subjectAltName"]
    return str(names[0][1])


async def until_counted(stage: Stage, name: str, count: int = 1) -> None:
    with trio.fail_after(5):
        while stage.proxy.counters[name] < count:
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_name_asked_for_chooses_the_certificate_and_upstreams_hear_of_https(
    tls: ServerTls, version: ssl.TLSVersion
) -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello")))
        async with proxied(FixedRouter(upstream.endpoint), tls=tls.context) as stage:
            for name, certificate in (("shop.test", "shop.test"), ("www.example.com", "*.example.com")):
                wire = await stage.tls_client(client_context(maximum=version), name)
                for _ in range(3):
                    assert (await wire.ask(GET)).body == b"hello"
                assert shown(wire) == certificate
                assert isinstance(wire.stream, trio.SSLStream)
                assert wire.stream.selected_alpn_protocol() == "http/1.1"
            with pytest.raises(trio.BrokenResourceError):  # the first certificate is not for that name
                await stage.tls_client(client_context(), "unknown.test")
            assert (await stage.ask(GET)).status == 200  # the plain listener beside it
        nursery.cancel_scope.cancel()
    assert upstream.received.count(b"X-Forwarded-Proto: https\r\n") == 6
    assert upstream.received.count(b";proto=https;host=") == 6
    assert upstream.received.count(b"X-Forwarded-Proto: http\r\n") == 1


async def test_bodies_larger_than_any_buffer_pass_both_ways(tls: ServerTls) -> None:
    body = bytes(range(256)) * 8_192  # 2 MiB: many records, and more than the kernel takes at once

    async def echo(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await wire.send(chunk(request.body) + LAST_CHUNK)

    async with staged(echo, tls=tls.context) as stage:
        wire = await stage.tls_client(client_context(), "shop.test")
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.send, post(body))
                assert (await wire.response("POST")).body == body


@pytest.mark.parametrize("closes", ["when it is asked to", "when nobody asks"])
async def test_an_orderly_end_is_said(tls: ServerTls, closes: str, autojump_clock: trio.testing.MockClock) -> None:
    """Without close_notify a client could not tell it from a loss (RFC 8446, 6.1)."""
    autojump_clock.autojump_threshold = 0.02
    async with staged(serving(answer(b"hello")), tls=tls.context) as stage:
        assert stage.tls_endpoint is not None
        context = client_context()
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # as Python 3.11.2 has it, there is no difference
        stream = trio.SSLStream(await trio.open_tcp_stream(*stage.tls_endpoint), context, server_hostname="shop.test")
        wire = Wire(stream)
        stage.wires.append(wire)
        request = GET if closes == "when nobody asks" else GET.replace(b"Host", b"Connection: close\r\nHost")
        assert (await wire.ask(request)).body == b"hello"
        assert await stream.receive_some() == b"", "it would raise"


async def test_the_name_in_the_handshake_is_told_where_the_policy_reads_it(tls: ServerTls) -> None:
    async with staged(serving(answer()), tls=tls.context) as stage:
        for needs in (Needs(sni=True), NO_NEEDS):
            stage.router.needs = needs
            wire = await stage.tls_client(client_context(), "shop.test")
            assert (await wire.ask(GET)).status == 200
        plain = await stage.client()
        stage.router.needs = Needs(sni=True)
        assert (await plain.ask(GET)).status == 200
        assert [request.sni for request in stage.router.asked] == ["shop.test", "", ""]


async def test_whoever_was_here_before_resumes_even_after_a_renewal(tls: ServerTls, tmp_path: Path) -> None:
    async with staged(serving(answer()), tls=tls.context) as stage:
        context = client_context()
        counts = Counter[str]()
        session = None
        for renewed in (False, False, True):
            if renewed:
                write(tmp_path, CA, "shop.test", "renewed.test", stem="shop")
                assert [found.ok for found in tls.refresh()] == [True]
            session, reused = await trio.to_thread.run_sync(ask_once, stage, context, session)
            counts["resumed" if reused else "full"] += 1
        assert counts == {"full": 1, "resumed": 2}
        await until_counted(stage, "tls.resumed", 2)
        wire = await stage.tls_client(client_context(), "renewed.test")  # who begins anew gets the new one
        assert (await wire.ask(GET)).status == 200


def ask_once(
    stage: Stage, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool]:
    """A request over the standard library's own blocking TLS."""
    assert stage.tls_endpoint is not None
    with (
        socket.create_connection(stage.tls_endpoint, 5) as sock,
        context.wrap_socket(sock, server_hostname="shop.test", session=session) as secure,
    ):
        secure.sendall(GET)
        assert secure.recv(4096).startswith(b"HTTP/1.1 200 ")
        return secure.session, bool(secure.session_reused)


def unsupported() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")  # no forward secrecy
    return context


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (unsupported, "tls.no shared cipher"),
        (lambda: client_context(trustme.CA()), "tls.tlsv1 alert unknown ca"),
    ],
)
async def test_failed_handshakes_are_counted_by_reason(
    tls: ServerTls, context: Callable[[], ssl.SSLContext], reason: str
) -> None:
    async with staged(serving(answer()), tls=tls.context) as stage:
        with pytest.raises(ssl.SSLError):
            await trio.to_thread.run_sync(ask_once, stage, context(), None)
        await until_counted(stage, reason)
        await stage.emptied()
        assert stage.proxy.counters["requests"] == 0


@pytest.mark.parametrize(
    ("first", "reason"),
    [(GET, "tls.http request"), (b"\x16\x03\x01\x00\x05junk!", "tls."), (b"", "tls.closed")],
)
async def test_what_is_no_handshake_is_closed_at_once(tls: ServerTls, first: bytes, reason: str) -> None:
    async with staged(serving(answer()), tls=tls.context) as stage:
        assert stage.tls_endpoint is not None
        stream = await trio.open_tcp_stream(*stage.tls_endpoint)
        async with stream:
            if first:
                await stream.send_all(first)
            else:
                await stream.send_eof()
            with trio.fail_after(5):
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        await stage.emptied()
        assert sum(count for name, count in stage.proxy.counters.items() if name.startswith(reason)) == 1


async def test_a_handshake_has_a_time_and_all_of_them_a_number(tls: ServerTls) -> None:
    limits = ProxyLimits(handshakes_max=1, handshake_timeout_us=SECOND)  # the second comes while the first is silent
    context = client_context()
    async with staged(serving(answer()), limits=limits, tls=tls.context) as stage:
        assert stage.tls_endpoint is not None
        async with await trio.open_tcp_stream(*stage.tls_endpoint):  # says nothing
            await until_counted(stage, "connections")
            with pytest.raises((trio.BrokenResourceError, OSError)):
                await stage.tls_client(context, "shop.test")
            assert stage.proxy.counters["accept.shed"] == 1
            await until_counted(stage, "tls.timeout")
        wire = await stage.tls_client(context, "shop.test")
        assert (await wire.ask(GET)).status == 200


async def test_one_address_does_not_keep_others_from_shaking_hands(tls: ServerTls) -> None:
    """It had to say nothing, from one address, to be all there were for five seconds."""
    limits = ProxyLimits(handshakes_max=3)
    async with staged(serving(answer()), limits=limits, tls=tls.context) as stage:
        assert stage.tls_endpoint is not None
        silent = [await trio.open_tcp_stream(*stage.tls_endpoint, local_address="127.0.0.9") for _ in range(3)]
        while stage.proxy.counters["connections"] < 3:
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises((trio.BrokenResourceError, OSError)):  # reset before or after it knows that it is connected
            async with await trio.open_tcp_stream(*stage.tls_endpoint, local_address="127.0.0.9") as one_more:
                await one_more.receive_some()
        wire = await stage.tls_client(client_context(), "shop.test")
        assert (await wire.ask(GET)).status == 200
        assert await silent[0].receive_some() == b""
        assert stage.proxy.counters["accept.shed"] == stage.proxy.counters["tls.given up"] == 1
        for stream in silent:
            await stream.aclose()


async def test_the_end_is_said_before_the_connection_closes(tls: ServerTls) -> None:
    """Without close_notify a client could not tell an end from a cut (RFC 9112, 9.8)."""
    async with staged(serving(answer()), tls=tls.context) as stage:
        context = client_context()

        def ask() -> bytes:
            assert stage.tls_endpoint is not None
            with (
                socket.create_connection(stage.tls_endpoint, 5) as sock,
                context.wrap_socket(sock, server_hostname="shop.test", suppress_ragged_eofs=False) as secure,
            ):
                secure.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                data = b""
                while piece := secure.recv(4096):  # raises SSLEOFError at an end that is not said
                    data += piece
                return data

        assert (await trio.to_thread.run_sync(ask)).endswith(b"hello")


async def test_idle_clients_are_let_go_at_the_drain_and_what_is_asked_meanwhile_is_answered(tls: ServerTls) -> None:
    async with staged(serving(answer()), tls=tls.context) as stage:
        idle = await stage.tls_client(client_context(), "shop.test")
        assert (await idle.ask(GET)).status == 200
        assert isinstance(idle.stream, trio.SSLStream)
        await idle.send(GET)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.proxy.drain, 5_000 * MILLISECOND)
                last = await idle.response()
                idle.socket.close()
        assert last.status == 200
        assert last.one(b"Connection") == b"close"


async def test_a_client_that_vanishes_without_a_word_is_gone(tls: ServerTls) -> None:
    async with staged(hanging, tls=tls.context) as stage:
        wire = await stage.tls_client(client_context(), "shop.test")
        await wire.send(post(b"x" * 10)[:-5])
        wire.reset()
        await stage.emptied()
        assert stage.proxy.counters["client_gone"] == 1


class Corked(trio.abc.Stream):
    """A transport that holds back what is sent until it is told: several records leave in one segment."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.held: bytes | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.held is None:
            await self.stream.send_all(data)
        else:
            self.held += bytes(data)

    async def release(self) -> None:
        held, self.held = self.held, None
        await self.stream.send_all(held or b"")

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_records_that_come_together_are_all_read(tls: ServerTls, version: ssl.TLSVersion) -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello")))
        async with proxied(FixedRouter(upstream.endpoint), tls=tls.context) as stage:
            assert stage.tls_endpoint is not None
            corked = Corked(await trio.open_tcp_stream(*stage.tls_endpoint))
            context = client_context(maximum=version)
            stream = trio.SSLStream(corked, context, server_hostname="shop.test", https_compatible=True)
            with trio.fail_after(5):
                await stream.do_handshake()
                for cut in (5, 20, len(GET)):
                    corked.held = b""
                    for piece in (GET[:cut], GET[cut:], GET):
                        if piece:
                            await stream.send_all(piece)
                    await corked.release()
                    received = b""
                    while received.count(b"hello") < 2:
                        received += await stream.receive_some()
            await corked.aclose()
        nursery.cancel_scope.cancel()
