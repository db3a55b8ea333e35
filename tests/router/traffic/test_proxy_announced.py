"""Clients whose address a load balancer in front says, by a PROXY protocol header before their first byte."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from lattice.types import MILLISECOND
from router.traffic.proxy import ProxyLimits
from router.traffic.proxy_protocol import proxy_header_v2
from router.traffic.server_tls import ServerTls
from router.traffic.trusted_hops import TrustedHops
from tests.router.traffic.test_server_tls import write
from tests.router.traffic.upstreams import GET, FixedRouter, Stage, Wire, answer, listen, proxied, serving

CA = trustme.CA()
BALANCER = "127.20.0.1"
HOPS = TrustedHops([ipaddress.ip_network("127.20.0.0/16")])
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 40001 443\r\n"
V2 = proxy_header_v2(("2001:db8::7", 40_001), ("2001:db8::1", 443), "shop.test")


@asynccontextmanager
async def balanced(limits: ProxyLimits | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        async with proxied(FixedRouter(upstream.endpoint), limits, tls, HOPS) as stage:
            yield stage
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("header", "client"), [(V1, "192.0.2.1"), (V2, "2001:db8::7"), (b"PROXY UNKNOWN\r\n", BALANCER)]
)
@pytest.mark.parametrize("cut", [0, 5, 14, 20])
async def test_the_header_says_who_the_client_is(header: bytes, client: str, cut: int) -> None:
    cut = min(cut, len(header) - 1)
    async with balanced() as stage:
        wire = await stage.client(BALANCER)
        if cut:
            await wire.send(header[:cut])
            while not stage.proxy.connections:
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
        assert (await wire.ask(header[cut:] + GET)).status == 200
        assert (await wire.ask(GET)).status == 200  # once a connection
        assert [asked.client for asked in stage.router.asked][:1] == [client]


async def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    tls = ServerTls([write(tmp_path, CA, "shop.test")]).context
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    async with balanced(tls=tls) as stage:
        assert stage.tls_endpoint is not None
        plain = await trio.open_tcp_stream(*stage.tls_endpoint, local_address=BALANCER)
        await plain.send_all(V2)
        wire = Wire(trio.SSLStream(plain, context, server_hostname="shop.test", https_compatible=True))
        stage.wires.append(wire)
        assert (await wire.ask(GET)).status == 200
        assert stage.router.asked[0].client == "2001:db8::7"


async def test_whoever_is_no_balancer_is_not_believed() -> None:
    async with balanced() as stage:
        wire = await stage.client()
        assert (await wire.ask(V1 + GET)).status == 400
        assert (await stage.ask(GET)).status == 200
        assert stage.router.asked[0].client == "127.0.0.1"


@pytest.mark.parametrize("first", [GET, V1[:20], b"\r\n\r\n\0nothing"])
async def test_a_balancer_that_does_not_say_is_closed(first: bytes) -> None:
    async with balanced(ProxyLimits(handshake_timeout_us=50 * MILLISECOND)) as stage:
        wire = await stage.client(BALANCER)
        await wire.send(first)
        with trio.fail_after(5):
            assert await wire.rest() == b""
        await stage.emptied()
        assert stage.proxy.counters["accept.no proxy header"] == 1
        assert stage.proxy.counters["requests"] == 0


async def test_the_limit_is_on_the_clients_behind_and_not_on_the_balancer() -> None:
    async with balanced(ProxyLimits(connections_per_client_max=1)) as stage:
        for address in ("192.0.2.1", "192.0.2.2"):
            wire = await stage.client(BALANCER)
            assert (await wire.ask(proxy_header_v2((address, 1), ("198.51.100.7", 443)) + GET)).status == 200
        wire = await stage.client(BALANCER)
        await wire.send(V1 + GET)
        assert await wire.rest() == b""
        assert stage.proxy.counters["accept.shed"] == 1
