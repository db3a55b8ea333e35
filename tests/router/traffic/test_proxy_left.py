"""A kept connection whose endpoint closes it while a request is on its way: nobody's fault, mostly nobody's loss."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lattice.types import SECOND
from router.traffic.proxy import Outcome, ProxyLimits
from router.traffic.upstream_pool import CROSSING_US
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Wire,
    answer,
    hanging,
    listen,
    post,
    proxied,
    serving,
    staged,
)

PUT = post(b"hello").replace(b"POST", b"PUT")
KEYED = post(b"hello").replace(b"Host:", b"Idempotency-Key: 1\r\nHost:")
OK, RESET = ("region0", Outcome.OK), ("region0", Outcome.RESET)
NO_WARMTH = ProxyLimits(warm_per_standby=0)


class Leaving:
    """Answers one request of each connection, and closes or resets it when the next one comes."""

    def __init__(self, *, resets: bool, after_seconds: float = 0.0) -> None:
        self.resets = resets
        self.after_seconds = after_seconds
        self.connections = 0
        self.requests: list[bytes] = []

    async def __call__(self, wire: Wire) -> None:
        self.connections += 1
        request = await wire.request()
        if request is None:
            return
        self.requests.append(request.body)
        await wire.send(answer(b"%d" % self.connections))
        if await wire.request() is not None:
            await trio.sleep(self.after_seconds)
            if self.resets:
                wire.reset()


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("request_", [GET, PUT, KEYED], ids=["GET", "PUT", "POST with a key"])
async def test_what_may_be_repeated_is_asked_by_a_new_connection(request_: bytes, resets: bool) -> None:
    script, method = Leaving(resets=resets), request_.split()[0].decode()
    async with staged(script, serving(answer(b"standby")), limits=NO_WARMTH) as stage:
        wire = await stage.client()
        first = await wire.ask(request_, method)
        second = await wire.ask(request_, method)
        assert (first.body, second.body) == (b"1", b"2")
        assert second.one(b"X-Edge-Reason") == b"primary", "it was steered as decided"
        assert stage.router.told == [OK, OK], "no evidence against the endpoint"
        assert script.requests == [request_.partition(b"\r\n\r\n")[2]] * 2
        counters = stage.proxy.counters
        assert (counters["renewed"], counters["retries"], counters["retries_denied"]) == (1, 0, 0)


async def test_it_costs_no_retry_and_so_needs_no_budget() -> None:
    limits = ProxyLimits(retry_share_pct=0, retry_spare=0, attempts_max=1)
    async with staged(Leaving(resets=True), limits=limits) as stage:
        wire = await stage.client()
        assert [(await wire.ask(GET)).status for _ in range(4)] == [200] * 4


async def test_what_may_not_be_repeated_ends_there_and_nobody_is_left_for_it() -> None:
    script = Leaving(resets=True)
    async with staged(script, serving(answer(b"standby")), limits=NO_WARMTH) as stage:
        wire = await stage.client()
        assert (await wire.ask(post(b"hello"), "POST")).body == b"1"
        lost = await wire.ask(post(b"hello"), "POST")
        assert (lost.status, script.requests) == (502, [b"hello"])
        assert b"region0: reset, after 1 of 2 endpoints" in lost.body
        assert (await wire.ask(post(b"hello"), "POST")).body == b"2"
        assert stage.router.told == [OK, OK]
        assert stage.proxy.counters["renewed"] == 0


async def test_one_that_is_left_takes_along_what_was_idle_for_as_long() -> None:
    """A restarted load balancer resets every connection it knew, each only when something is sent by it: one request
    that may not be repeated was lost for each of them."""
    arrived, both = 0, trio.Event()

    async def forgotten(wire: Wire) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both.set()
        mine = arrived
        await wire.request()
        await both.wait()
        await wire.send(answer(b"%d" % mine))
        if mine > 2:
            await serving(answer(b"%d" % mine))(wire)
        elif await wire.request() is not None:
            wire.reset()

    async with staged(forgotten, limits=NO_WARMTH) as stage:
        clients = [await stage.client() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.ask, post(b"hello"), "POST")
        statuses = [(await clients[0].ask(post(b"hello"), "POST")).status for _ in range(3)]
        assert statuses == [502, 200, 200]
        assert stage.proxy.counters["upstream.opened"] == 3


async def test_an_endpoint_that_is_gone_refuses_the_new_connection_and_is_left() -> None:
    script = Leaving(resets=True)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        standby = await listen(nursery, serving(answer(b"standby")))

        async def serve_one() -> None:
            stream = await listener.accept()
            async with stream:
                await listener.aclose()
                await script(Wire(stream))

        nursery.start_soon(serve_one)
        async with proxied(FixedRouter(listener.socket.getsockname(), standby.endpoint), NO_WARMTH) as stage:
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"1"
            rescued = await wire.ask(GET)
            assert (rescued.body, rescued.one(b"X-Edge-Reason")) == (b"standby", b"secondary: region0 REFUSED")
            assert stage.router.told == [OK, ("region0", Outcome.REFUSED), ("region1", Outcome.OK)]
        nursery.cancel_scope.cancel()


async def test_one_new_connection_is_made_and_what_becomes_of_that_is_evidence() -> None:
    leaving = Leaving(resets=True)

    async def worse(wire: Wire) -> None:
        if leaving.connections == 0:
            await leaving(wire)
            return
        leaving.connections += 1
        await wire.request()
        wire.reset()

    async with staged(worse, serving(answer(b"standby")), limits=NO_WARMTH) as stage:
        wire = await stage.client()
        assert [(await wire.ask(GET)).body for _ in range(2)] == [b"1", b"standby"]
        assert leaving.connections == 2
        assert stage.router.told == [OK, RESET, ("region1", Outcome.OK)]
        assert (stage.proxy.counters["renewed"], stage.proxy.counters["retries"]) == (1, 1)


async def test_whoever_closes_later_than_a_close_can_cross_a_request_died_of_it() -> None:
    script = Leaving(resets=True, after_seconds=2 * CROSSING_US / SECOND)
    async with staged(script, serving(answer(b"standby")), limits=NO_WARMTH) as stage:
        wire = await stage.client()
        assert [(await wire.ask(GET)).body for _ in range(2)] == [b"1", b"standby"]
        assert stage.router.told == [OK, RESET, ("region1", Outcome.OK)]
        assert stage.proxy.counters["renewed"] == 0


async def test_what_was_warmed_and_closed_under_its_first_request_was_left_too() -> None:
    """It has waited as one that was used has."""
    connections, warmed = 0, trio.Event()

    async def closes_the_first(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        warmed.set()
        mine = connections
        while await wire.request() is not None and mine > 1:
            await wire.send(answer(b"%d" % mine))

    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging)
        second = await listen(nursery, closes_the_first)
        router = FixedRouter(first.endpoint, second.endpoint)
        async with proxied(router, ProxyLimits(warm_per_standby=1)) as stage:
            waiting = await stage.client()
            await waiting.send(post(b"hello"))
            with trio.fail_after(5):
                await warmed.wait()
                await trio.testing.wait_all_tasks_blocked(0.01)
            router.endpoints = router.endpoints[1:]
            assert (await stage.ask(GET)).body == b"2"
            assert OK in stage.router.told
            assert RESET not in stage.router.told
        nursery.cancel_scope.cancel()
