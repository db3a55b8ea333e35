"""Proxies in front of a site that say for whom they speak: believed where the site names them, and nowhere else."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
import trio

from router.policy.settings import Cache, Settings
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.trusted_hops import Forwarders, TrustedHops
from tests.router.traffic.upstreams import FixedRouter, answer, listen, proxied, serving

HOPS = TrustedHops([ip_network("127.10.0.0/16")])
LOAD_BALANCER, STRANGER = "127.10.0.1", "127.20.0.1"


def asking(*lines: str, path: str = "/a") -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: shop.example.com", *lines, "", "")).encode()


@pytest.mark.parametrize(
    ("source", "by_forwarded", "lines", "client", "proto"),
    [
        (LOAD_BALANCER, False, ("X-Forwarded-For: 203.0.113.9",), "203.0.113.9", "http"),
        (LOAD_BALANCER, False, ("X-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.10.0.7",), "203.0.113.9", "http"),
        (LOAD_BALANCER, False, ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"), "203.0.113.9", "https"),
        (LOAD_BALANCER, False, ("X-Forwarded-Proto: gopher",), LOAD_BALANCER, "http"),
        (LOAD_BALANCER, False, ("Forwarded: for=203.0.113.9",), LOAD_BALANCER, "http"),
        (LOAD_BALANCER, True, ("Forwarded: for=203.0.113.9", "X-Forwarded-For: 6.6.6.6"), "203.0.113.9", "http"),
        (LOAD_BALANCER, True, ("Forwarded: for=203.0.113.9;proto=https",), "203.0.113.9", "https"),
        (LOAD_BALANCER, True, ("Forwarded: for=6.6.6.6;proto=https, for=203.0.113.9",), "203.0.113.9", "http"),
        (
            LOAD_BALANCER,
            True,
            ("Forwarded: for=203.0.113.9;proto=https, for=127.10.0.7;proto=http",),
            "203.0.113.9",
            "https",
        ),
        (LOAD_BALANCER, True, ("Forwarded: for=_hidden;proto=https",), LOAD_BALANCER, "https"),
        (LOAD_BALANCER, True, ("Forwarded: for=203.0.113.9", "X-Forwarded-Proto: https"), "203.0.113.9", "http"),
        (LOAD_BALANCER, False, ("X-Forwarded-Proto: https, http",), LOAD_BALANCER, "http"),
        (LOAD_BALANCER, False, (), LOAD_BALANCER, "http"),
        (STRANGER, False, ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"), STRANGER, "http"),
        (STRANGER, True, ("Forwarded: for=203.0.113.9",), STRANGER, "http"),
    ],
)
async def test_who_asks(source: str, by_forwarded: bool, lines: tuple[str, ...], client: str, proto: str) -> None:
    """What is decided by, and what the endpoint is told, are the same word."""
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        forwarders = Forwarders(HOPS, by_forwarded=by_forwarded)
        async with proxied(FixedRouter(upstream.endpoint), forwarders=forwarders) as stage:
            wire = await stage.client(source)
            assert (await wire.ask(asking(*lines))).status == 200
            assert stage.router.asked[0].client == client
            told = upstream.received
            assert told.count(b"X-Forwarded-For: ") == told.count(b"Forwarded: for=") == 1
            assert f"X-Forwarded-For: {client}\r\nX-Forwarded-Proto: {proto}\r\n".encode() in told
            assert f"Forwarded: for={client};proto={proto}".encode() in told
        nursery.cancel_scope.cancel()


async def test_each_request_on_one_connection_has_its_own_client() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        async with proxied(FixedRouter(upstream.endpoint), forwarders=Forwarders(HOPS)) as stage:
            wire = await stage.client(LOAD_BALANCER)
            users = [f"203.0.113.{number % 3}" for number in range(9)]
            for user in users:
                await wire.ask(asking(f"X-Forwarded-For: {user}"))
            assert [request.client for request in stage.router.asked] == users
            assert [upstream.received.count(f"X-Forwarded-For: 203.0.113.{n}\r\n".encode()) for n in range(3)] == [
                3
            ] * 3
        nursery.cancel_scope.cancel()


async def test_a_load_balancer_may_open_more_connections_than_a_client() -> None:
    limits = ProxyLimits(connections_per_client_max=1)
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        async with proxied(FixedRouter(upstream.endpoint), limits, forwarders=Forwarders(HOPS)) as stage:
            for source, statuses in ((LOAD_BALANCER, [200, 200]), (STRANGER, [200, 503])):
                wires = [await stage.client(source) for _ in statuses]
                assert [(await wire.ask(asking())).status for wire in wires] == statuses
        nursery.cancel_scope.cancel()


async def test_what_came_by_http_is_not_given_to_who_came_by_https() -> None:
    """Or the redirect to https would answer there, for ever."""
    fresh = answer(b"", "301 Moved Permanently", "Location: https://shop.example.com/a", "Cache-Control: max-age=60")
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(fresh, answer(b"here")))
        router = FixedRouter(upstream.endpoint, settings=Settings(cache=Cache()))
        async with proxied(router, forwarders=Forwarders(HOPS)) as stage:
            wire = await stage.client(LOAD_BALANCER)
            by_http, by_https = (f"X-Forwarded-Proto: {scheme}" for scheme in ("http", "https"))
            assert (await wire.ask(asking(by_http))).status == 301
            assert (await wire.ask(asking(by_http))).one(b"Age") == b"0"
            assert (await wire.ask(asking(by_https))).body == b"here"
        nursery.cancel_scope.cancel()
