"""One probe over real sockets: HTTP, TCP and gRPC, plain and over TLS."""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import grpc
import pytest
import trio
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.grade import Sample
from router.health.grpc_question import GrpcQuestion
from router.health.http_question import BODY_BYTES_MAX, HEAD_BYTES_MAX, BadAnswerError
from router.health.probe_once import ProbeResult, probe_once
from router.policy.probe import USUAL_PROBE, Probe, ProbeKind, StatusRange

TCP = Probe(ProbeKind.TCP, "")
GRPC = Probe(ProbeKind.GRPC, "")


@asynccontextmanager
async def serving(
    answer: Callable[[trio.SocketStream], Awaitable[None]], host: str = "127.0.0.1"
) -> AsyncIterator[Endpoint]:
    """A server that does `answer` to each connection."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await answer(stream)
            except trio.BrokenResourceError:
                return  # the probe has seen enough

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=host))
        yield listeners[0].socket.getsockname()[:2]
        nursery.cancel_scope.cancel()


def saying(response: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(response)

    return answer


async def probed(response: bytes, probe: Probe = USUAL_PROBE) -> ProbeResult:
    with trio.fail_after(20):
        async with serving(saying(response)) as endpoint:
            return await probe_once(endpoint, probe, 10 * SECOND)


@pytest.mark.parametrize(
    ("response", "ok", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, "200"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, "204"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", True, "200"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True, "200"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, "200"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * (BODY_BYTES_MAX + 1), True, "200"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", False, "302"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", False, "503"),
        (b"", False, "connection closed before an answer"),
        (b"HTTP/1.1 20", False, "connection closed before an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", False, "connection closed within the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", False, "connection closed within the answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", False, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX * 2, False, "headers of more than"),
    ],
)
async def test_an_answer_is_judged_by_status_and_shape(response: bytes, ok: bool, detail: str) -> None:
    result = await probed(response)
    assert result.ok == ok
    assert detail in result.detail
    assert not result.connect_failed
    assert not result.ours
    assert result.sample() == Sample(ok, result.latency_us, connect_failed=False)


async def test_the_request_is_what_a_server_expects() -> None:
    seen = bytearray()

    async def answer(stream: trio.SocketStream) -> None:
        seen.extend(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with serving(answer, "::1") as endpoint:
        assert (await probe_once(endpoint, Probe(target="/up?x=1"), SECOND)).ok
        lines = bytes(seen).split(b"\r\n")
        assert lines[0] == b"GET /up?x=1 HTTP/1.1"
        assert b"Host: [::1]:%d" % endpoint[1] in lines
        assert b"Connection: close" in lines


async def test_nobody_listens() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        result = await probe_once(unused.getsockname(), USUAL_PROBE, SECOND)
    assert (result.ok, result.connect_failed, result.detail) == (False, True, "connection refused")


async def test_an_endpoint_that_hangs_takes_no_longer_than_the_timeout() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 ")
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with serving(answer) as endpoint:
            result = await probe_once(endpoint, USUAL_PROBE, 20 * MILLISECOND)
    assert (result.ok, result.connect_failed, result.detail) == (False, False, "no answer in 20 ms")


async def test_a_reset_is_an_answer_too() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        # SO_LINGER with 0 seconds: closing sends RST.
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with serving(answer) as endpoint:
        result = await probe_once(endpoint, USUAL_PROBE, SECOND)
    assert not result.ok


async def test_what_this_node_lacks_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> trio.socket.SocketType:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.socket, "socket", exhausted)
    result = await probe_once(("127.1.0.1", 9001), USUAL_PROBE, SECOND)
    assert result.ours
    assert result.detail == "this node: Too many open files"


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well"


@pytest.mark.parametrize(
    ("response", "probe", "ok", "detail"),
    [
        (OK, Probe(containing="well"), True, "200"),
        (OK, Probe(containing="ill"), False, "200, without 'ill'"),
        (OK, Probe(statuses=(StatusRange(201, 204),)), False, "200"),
        (OK, Probe(statuses=(StatusRange(201, 204), StatusRange(200, 200))), True, "200"),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", Probe(statuses=(StatusRange(301, 301),)), True, "301"),
    ],
)
async def test_what_is_expected_may_be_said(response: bytes, probe: Probe, ok: bool, detail: str) -> None:
    result = await probed(response, probe)
    assert (result.ok, result.detail) == (ok, detail)


async def test_a_tcp_probe_asks_nothing() -> None:
    heard: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        heard.append(bytes(await stream.receive_some()))

    async with serving(answer) as endpoint:
        result = await probe_once(endpoint, TCP, SECOND)
        with trio.fail_after(5):
            while not heard:  # noqa: ASYNC110 - the server's task is not ours to wait for
                await trio.sleep(0.001)
    assert (result.ok, result.detail) == (True, "connected")
    assert heard == [b""]


# --- gRPC, asked of the real thing


@contextmanager
def grpc_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[tuple[Endpoint, health.HealthServicer]]:
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield ("127.0.0.1", port), servicer
        finally:
            server.stop(None).wait()


async def test_a_grpc_server_says_how_it_is() -> None:
    cart = Probe(ProbeKind.GRPC, "shop.v1.Cart")
    with grpc_server() as (endpoint, servicer):
        assert (await probe_once(endpoint, GRPC, 5 * SECOND)).detail == "SERVING"
        unknown = await probe_once(endpoint, cart, 5 * SECOND)
        assert not unknown.ok
        assert unknown.detail.startswith("grpc-status 5")
        servicer.set("shop.v1.Cart", health_pb2.HealthCheckResponse.SERVING)
        assert (await probe_once(endpoint, cart, 5 * SECOND)).ok
        servicer.set("shop.v1.Cart", health_pb2.HealthCheckResponse.NOT_SERVING)
        ill = await probe_once(endpoint, cart, 5 * SECOND)
        assert (ill.ok, ill.detail) == (False, "NOT_SERVING")


async def test_an_http_server_is_no_grpc_server() -> None:
    result = await probed(OK, GRPC)
    assert (result.ok, result.connect_failed) == (False, False)


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_hostile_answers_are_refused_or_wait(data: bytes, greeted: bool) -> None:
    question = GrpcQuestion(GRPC, "a.test", "http")
    if greeted:
        data = h2_server(question.to_send()).data_to_send() + data
    with contextlib.suppress(BadAnswerError):
        question.receive(data)


@given(st.binary(max_size=40), st.sampled_from([b"", b"\0", b"\0\0\0\0\2\x08\1"]))
def test_hostile_messages_are_refused_or_read(message: bytes, before: bytes) -> None:
    question = GrpcQuestion(GRPC, "a.test", "http")
    server = h2_server(question.to_send())
    server.send_headers(1, [(":status", "200"), ("grpc-status", "0")])
    server.send_data(1, before + message, end_stream=True)
    with contextlib.suppress(BadAnswerError):
        assert question.receive(server.data_to_send()) is not None


def h2_server(heard: bytes) -> H2Connection:
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(heard)
    return server


# --- over TLS


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def test_an_endpoint_that_speaks_tls_is_asked_over_tls(ca: trustme.CA) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("shop.test").configure_cert(server)
    heard = bytearray()

    async def answer(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True, https_compatible=True)
        heard.extend(await tls.receive_some())
        await tls.send_all(OK)

    async with serving(answer) as endpoint:
        well = await probe_once(endpoint, USUAL_PROBE, 5 * SECOND, tls="shop.test", context=trusting(ca))
        assert (well.ok, well.detail) == (True, "200")
        assert b"Host: shop.test\r\n" in heard
        wrong = await probe_once(endpoint, USUAL_PROBE, 5 * SECOND, tls="other.test", context=trusting(ca))
        assert not wrong.ok
        assert wrong.detail.startswith("certificate refused: Hostname mismatch")
        stranger = await probe_once(endpoint, TCP, 5 * SECOND, tls="shop.test")
        assert not stranger.ok
        assert stranger.detail.startswith("certificate refused: ")


async def test_plain_text_is_no_tls() -> None:
    async with serving(saying(OK)) as endpoint:
        result = await probe_once(endpoint, USUAL_PROBE, 5 * SECOND, tls="shop.test")
    assert not result.ok
    assert result.detail.startswith("no TLS: ")


async def test_grpc_over_tls(ca: trustme.CA) -> None:
    certificate = ca.issue_cert("rpc.test")
    key = certificate.private_key_pem.bytes()
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    context = trusting(ca)
    context.set_alpn_protocols(["h2"])
    with grpc_server(grpc.ssl_server_credentials([(key, chain)])) as (endpoint, _):
        result = await probe_once(endpoint, GRPC, 5 * SECOND, tls="rpc.test", context=context)
    assert (result.ok, result.detail) == (True, "SERVING")
