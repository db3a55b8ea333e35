"""TLS towards endpoints: who they must be, who we are, and connections that stand ready with all of that done."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import router.traffic.upstream_pool
from lattice.grants import Role
from lattice.identity import public_key_of
from lattice.stream_security import StreamSecurity
from lattice.types import SECOND, Endpoint, Level, Micros
from router.decision.decide import Attempt
from router.site.ca_dir import CaDir
from router.site.tls_files import TlsFiles
from router.traffic.connection import RECORD_BYTES, connect
from router.traffic.proxy import Proxy
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.upstream_pool import ForbiddenAddressError, Upstream, UpstreamPool
from router.traffic.upstream_tls import UpstreamTls, UpstreamTlsError
from tests.router.traffic.test_server_tls import write
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Stage,
    Wire,
    answer,
    deaf,
    hanging,
    listen,
    proxied,
    refusing,
    serving,
)

CA = trustme.CA()
OTHER_CA = trustme.CA()
SHOWN = CA.issue_cert("site@edge.test")
NAME = "fra.internal"


class TlsUpstream:
    """An endpoint that speaks TLS, and what it saw of those who connected."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connections = 0
        self.resumed = 0
        self.shown: list[str] = []
        self.wires: list[Wire] = []


@asynccontextmanager
async def tls_upstream(
    *, name: str = NAME, asks: bool = False, tickets: int = 2, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[TlsUpstream]:
    """Answers every request; `asks` for a certificate of `CA`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.num_tickets = tickets
    context.set_alpn_protocols(["http/1.1"])
    CA.issue_cert(name).configure_cert(context)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        CA.configure_trust(context)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    upstream = TlsUpstream(listener.socket.getsockname())

    async def serve(plain: trio.SocketStream) -> None:
        upstream.connections += 1
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        async with stream:
            try:
                await stream.do_handshake()
                upstream.resumed += bool(stream.session_reused)
                if asks:
                    upstream.shown.append(str(stream.getpeercert()["subject"]))
                wire = Wire(stream)
                upstream.wires.append(wire)
                await serving(answer(b"hello", "200 OK", "endpoint-load-metrics: TEXT cpu_utilization=0.5"))(wire)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield upstream
        nursery.cancel_scope.cancel()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, TlsFiles]:
    """The authority's file, and those of what we show."""
    CA.cert_pem.write_to_path(tmp_path / "ca.crt")
    return tmp_path / "ca.crt", write(tmp_path, CA, "site.edge.test")


async def soon(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.testing.wait_all_tasks_blocked()


def attempts(*endpoints: Endpoint) -> list[Attempt]:
    return [Attempt(f"r{n}", "primary", Level.HEALTHY, endpoint) for n, endpoint in enumerate(endpoints)]


@asynccontextmanager
async def tls_proxied(tls: UpstreamTls, *endpoints: Endpoint) -> AsyncIterator[Stage]:
    async with proxied(FixedRouter(*endpoints)) as stage:
        stage.proxy.configure(dict.fromkeys(endpoints, NAME), tls)
        yield stage


async def test_a_request_reaches_an_endpoint_that_asks_who_we_are(files: tuple[Path, TlsFiles]) -> None:
    ca, shown = files
    async with (
        tls_upstream(asks=True) as upstream,
        tls_proxied(UpstreamTls(ca, shown, None), upstream.endpoint) as stage,
    ):
        for _ in range(3):
            assert (await stage.ask(GET)).body == b"hello"
        assert upstream.connections == 1
        assert stage.router.loads == [("region0", 500_000)] * 3, "who has proved its name is believed"
        assert len(upstream.shown) == 1
        assert stage.proxy.counters["upstream.tls.full"] == 1
        assert stage.proxy.counters["upstream.reused"] == 2


@pytest.mark.parametrize("piece_bytes", [10_000, 200_000])
async def test_what_may_have_arrived_counts_as_sent(piece_bytes: int, files: tuple[Path, TlsFiles]) -> None:
    """OpenSSL says that it could not send, and has sent all records but the last: a POST of which the endpoint has read
    that much was taken for one of which it had read nothing, and sent to another. Of one record it has read nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(NAME).configure_cert(context)
    read, full = trio.Event(), trio.Event()
    received = 0

    async def serve(plain: trio.SocketStream) -> None:
        nonlocal received
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        await full.wait()
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(1):
            while piece := await stream.receive_some():
                received += len(piece)
        read.set()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        endpoint: Endpoint = listener.socket.getsockname()
        pool = UpstreamPool(ProxyLimits())
        pool.configure({endpoint: NAME}, UpstreamTls(files[0], None, None))
        upstream = await pool.open(endpoint, SECOND)
        upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 60_000)
        taken, piece = 0, bytes(piece_bytes)
        while not upstream.send_now(piece):
            taken += piece_bytes
        full.set()
        await read.wait()
        assert (received > taken) is (upstream.sent > taken) is (piece_bytes > RECORD_BYTES)
        upstream.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [True, False])
async def test_a_body_without_length_is_whole_only_if_its_end_was_said(
    said: bool, files: tuple[Path, TlsFiles]
) -> None:
    """Anybody on the way can close a TCP connection; close_notify only who holds the keys (RFC 9112 9.8)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(NAME).configure_cert(context)

    async def serve(plain: trio.SocketStream) -> None:
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=not said)
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        endpoint: Endpoint = listener.socket.getsockname()
        async with tls_proxied(UpstreamTls(files[0], None, None), endpoint) as stage:
            response = await stage.ask(GET)
            assert ((response.status, response.body, response.whole) == (200, b"hello", True)) is said
            counters = stage.proxy.counters  # nothing of it has gone out if all came at once
            assert counters["truncated"] + counters["failed_502"] == (not said)
        nursery.cancel_scope.cancel()


async def test_without_a_file_of_its_own_a_site_shows_the_node_certificate(tmp_path: Path) -> None:
    now = Micros(time.time_ns() // 1_000)
    authority = CaDir.create(tmp_path / "ca", "test", now)
    key = bytes(range(32))
    certificate = authority.issue(public_key_of(key), Role.NODE, "ams", now)
    own = StreamSecurity(authority.authority, certificate, key, tmp_path)
    CA.cert_pem.write_to_path(tmp_path / "upstreams.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(NAME).configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.authority.pem.decode())
    client = UpstreamTls(tmp_path / "upstreams.crt", None, own).context("http/1.1")
    near, far = trio.testing.memory_stream_pair()
    ours = trio.SSLStream(near, client, server_hostname=NAME)
    theirs = trio.SSLStream(far, context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.do_handshake)
        nursery.start_soon(theirs.do_handshake)
    assert "ams" in str(theirs.getpeercert()["subject"])


@pytest.mark.parametrize("wrong", ["name", "authority", "plain"])
async def test_who_does_not_prove_its_name_gets_no_request_and_the_next_endpoint_does(
    files: tuple[Path, TlsFiles], wrong: str
) -> None:
    ca, shown = files
    if wrong == "authority":
        OTHER_CA.cert_pem.write_to_path(ca)
    claimed = "evil.internal" if wrong == "name" else NAME
    async with (
        tls_upstream(name=claimed) as bad,
        tls_upstream() as good,
        proxied(FixedRouter(bad.endpoint, good.endpoint)) as stage,
    ):
        names = {good.endpoint: NAME, bad.endpoint: NAME}
        # Without any `UpstreamTls` the policy says TLS, and nothing here can speak it: never in plain text then.
        stage.proxy.configure(names, None if wrong == "plain" else UpstreamTls(ca, shown, None))
        response = await stage.ask(GET)
        assert not bad.wires
        if wrong == "name":
            assert response.one(b"X-Edge-Reason") == b"secondary: region0 REFUSED"
            assert response.body == b"hello"
            assert any(name.startswith("upstream.tls.certificate: hostname") for name in stage.proxy.counters)
        else:
            assert response.status == 502
            assert not good.wires


async def test_a_plain_connection_is_never_used_for_an_endpoint_that_has_become_tls() -> None:
    async with trio.open_nursery() as nursery:
        endpoint = (await listen(nursery, hanging)).endpoint
        pool = UpstreamPool(ProxyLimits())
        under_way = await pool.acquire(endpoint)
        idle = await pool.acquire(endpoint)
        for upstream in (idle, under_way):
            upstream.reusable = True
        pool.release(idle, trio.current_time())
        pool.configure({endpoint: NAME}, None)
        assert pool.idle == 0  # what was idle went at once
        pool.release(under_way, trio.current_time())
        assert pool.idle == 0  # and what was in use when it came back
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_standbys_are_kept_ready_and_renewed_before_they_are_too_old(
    files: tuple[Path, TlsFiles], version: ssl.TLSVersion
) -> None:
    ca, shown = files
    limits = ProxyLimits(upstream_idle_timeout_us=400_000)
    async with tls_upstream(asks=True, version=version) as standby, trio.open_nursery() as nursery:
        pool = UpstreamPool(limits)
        pool.configure({standby.endpoint: NAME}, UpstreamTls(ca, shown, None))
        pool.expect(attempts(refusing(), standby.endpoint))
        assert pool.wanted.is_set()  # a new standby does not wait for the next pass
        least = 2
        ends = trio.current_time() + 1.5
        pool.keep_warm(nursery)
        await soon(lambda: pool.idle == 2)
        while trio.current_time() < ends:
            pool.keep_warm(nursery)
            await trio.sleep(0.05)
            least = min(least, pool.idle)
        assert least == 2  # at no moment fewer
        assert standby.connections >= 4  # renewed
        if version is ssl.TLSVersion.TLSv1_2:  # trio's server sends those of 1.3 with its first answer only
            assert standby.resumed >= standby.connections - 3  # and mostly by ticket
        upstream = await pool.acquire(standby.endpoint)
        assert pool.counters["reused"] == 1  # ready: no handshake was waited for
        assert upstream.send_now(GET) == b""
        assert (await upstream.receive(SECOND)).startswith(b"HTTP/1.1 200")
        upstream.close()
        pool.close_idle()
        nursery.cancel_scope.cancel()


async def test_who_was_connected_before_resumes_as_the_same_and_begins_anew_as_another(
    files: tuple[Path, TlsFiles],
) -> None:
    ca, shown = files
    tls, renewed = UpstreamTls(ca, shown, None), UpstreamTls(ca, shown, None)
    async with tls_upstream(asks=True) as endpoint:
        pool = UpstreamPool(ProxyLimits())
        for who in (tls, tls, renewed):
            pool.configure({endpoint.endpoint: NAME}, who)
            upstream = await pool.acquire(endpoint.endpoint)
            upstream.send_now(GET)
            assert (await upstream.receive(SECOND)).startswith(b"HTTP/1.1 200")
            upstream.reusable = True
            pool.release(upstream, trio.current_time())
            pool.discard(endpoint.endpoint)
        assert (pool.counters["tls.full"], pool.counters["tls.resumed"]) == (2, 1)


async def test_what_was_in_use_when_we_became_another_is_not_kept(files: tuple[Path, TlsFiles]) -> None:
    ca, shown = files
    async with tls_upstream(asks=True) as endpoint:
        pool = UpstreamPool(ProxyLimits())
        pool.configure({endpoint.endpoint: NAME}, UpstreamTls(ca, shown, None))
        upstream = await pool.acquire(endpoint.endpoint)
        pool.configure({endpoint.endpoint: NAME}, UpstreamTls(ca, shown, None))
        upstream.send_now(GET)
        assert (await upstream.receive(SECOND)).startswith(b"HTTP/1.1 200")
        upstream.reusable = True
        pool.release(upstream, trio.current_time())
        assert pool.idle == 0
        (await pool.acquire(endpoint.endpoint)).close()
        assert (pool.counters["tls.full"], pool.counters["tls.resumed"]) == (2, 0), "nor is its session"


async def test_connection_and_handshake_share_one_timeout(
    files: tuple[Path, TlsFiles], autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def slowly(*arguments: Any) -> Upstream:
        await trio.sleep(3)
        return await connect(*arguments)

    monkeypatch.setattr(router.traffic.upstream_pool, "connect", slowly)
    async with trio.open_nursery() as nursery:
        silent = await listen(nursery, hanging)
        pool = UpstreamPool(ProxyLimits())
        pool.configure({silent.endpoint: NAME}, UpstreamTls(files[0], files[1], None))
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await pool.open(silent.endpoint, 4 * SECOND)
        assert 3.9 < trio.current_time() - began < 4.5
        nursery.cancel_scope.cancel()


async def test_a_standby_that_closes_is_noticed_without_a_request(files: tuple[Path, TlsFiles]) -> None:
    ca, shown = files
    async with tls_upstream() as standby, trio.open_nursery() as nursery:
        pool = UpstreamPool(ProxyLimits())
        pool.configure({standby.endpoint: NAME}, UpstreamTls(ca, shown, None))
        pool.expect(attempts(refusing(), standby.endpoint))
        pool.keep_warm(nursery)
        await soon(lambda: pool.idle == len(standby.wires) == 2)
        standby.wires[0].reset()
        while pool.counters["stale"] < 1:
            pool.keep_warm(nursery)
            await trio.sleep(0.005)
        await soon(lambda: pool.idle == 2)
        assert standby.connections == 3
        assert b"".join(wire.received for wire in standby.wires) == b""
        pool.close_idle()
        nursery.cancel_scope.cancel()


async def test_a_standby_that_does_not_answer_keeps_no_other_waiting(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    good = (await listen(nursery, hanging)).endpoint
    pool = UpstreamPool(ProxyLimits())
    with deaf() as silent:
        pool.expect(attempts(refusing(), silent, good))
        pool.keep_warm(nursery)
        while pool.counters["warmed"] < 2:
            await trio.testing.wait_all_tasks_blocked()
        pool.keep_warm(nursery)  # what is under way is counted
        await trio.testing.wait_all_tasks_blocked()
        assert pool.idle == 2
        nursery.cancel_scope.cancel()
    pool.close_idle()


async def test_an_address_that_is_never_a_region_is_refused_at_connect() -> None:
    pool = UpstreamPool(ProxyLimits())
    with pytest.raises(ForbiddenAddressError):
        await pool.acquire(("169.254.169.254", 80))
    assert pool.counters == {"forbidden": 1}
    async with proxied(FixedRouter(("fd00:ec2::254", 80))) as stage:
        assert (await stage.ask(GET)).status == 502
        assert stage.proxy.counters["upstream.forbidden"] == 1
    assert isinstance(stage.proxy, Proxy)


def test_files_that_cannot_be_used_are_named(files: tuple[Path, TlsFiles], tmp_path: Path) -> None:
    ca, shown = files
    with pytest.raises(UpstreamTlsError, match=r"upstream\.ca: .*nowhere: no such file"):
        UpstreamTls(tmp_path / "nowhere", None, None)
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(UpstreamTlsError, match=r"upstream\.ca: .*junk: no certificate or crl found"):
        UpstreamTls(tmp_path / "junk", None, None)
    shown.key.chmod(0o644)
    with pytest.raises(UpstreamTlsError, match=r"upstream\.certificate: .*everyone on this machine can read"):
        UpstreamTls(ca, shown, None)
