"""What is tried again, and what never: nothing may happen twice, and no user sees an endpoint die."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from lattice.types import SECOND, Endpoint, Level
from router.decision.decide import Attempt, Decision, Request
from router.traffic.ending import Lost
from router.traffic.proxy import Outcome, ProxyLimits
from router.traffic.terms import IDEMPOTENT
from router.traffic.upstream_pool import CROSSING_US, Upstream
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Script,
    Wire,
    answer,
    hanging,
    listen,
    post,
    proxied,
    refusing,
    resetting,
    serving,
    staged,
)

ATTEMPT = Attempt("fra", "primary", Level.HEALTHY, ("127.0.0.1", 1))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"POST", b"PATCH"])
def test_the_retry_rule(method: bytes) -> None:
    idempotent = method not in (b"POST", b"PATCH")
    for unsent, answered, replayable in itertools.product((True, False), repeat=3):
        if unsent and answered:
            continue  # an answer to nothing: garbage, never tried again by any rule
        lost = Lost(ATTEMPT, Outcome.RESET, unsent=unsent, answered=answered)
        may = replayable and (unsent or (idempotent and not answered))
        assert lost.may_retry(repeatable=method in IDEMPOTENT, replayable=replayable) is may


async def test_a_refused_connection_is_told_before_the_next_attempt() -> None:
    async with staged(refusing(), refusing(), serving(answer())) as stage:
        response = await stage.ask(GET)
        assert (response.status, response.one(b"X-Edge-Region")) == (200, b"region2")
        assert response.one(b"X-Edge-Reason") == b"secondary: region1 REFUSED"
        assert stage.router.told == [
            ("region0", Outcome.REFUSED),
            ("region1", Outcome.REFUSED),
            ("region2", Outcome.OK),
        ]
        assert stage.proxy.counters["retries"] == 2


class Ejecting(FixedRouter):
    """Never decides for an endpoint that was refused: as the node's ejection mask does."""

    def decide(self, request: Request) -> Decision:
        refused = {region for region, outcome in self.told if outcome is Outcome.REFUSED}
        decision = super().decide(request)
        attempts = tuple(attempt for attempt in decision.attempts if attempt.region not in refused)
        return Decision("r", "", "region0", attempts[0].region, "primary", "primary", 200, attempts)


async def test_the_next_request_is_decided_with_that_knowledge() -> None:
    async with trio.open_nursery() as nursery:
        standby = await listen(nursery, serving(answer()))
        async with proxied(Ejecting(refusing(), standby.endpoint)) as stage:
            wire = await stage.client()
            await wire.send(GET * 10)
            assert [(await wire.response()).status for _ in range(10)] == [200] * 10
            assert stage.proxy.counters["retries"] == 1
        nursery.cancel_scope.cancel()


async def test_posts_move_on_when_the_connection_is_refused() -> None:
    async with staged(refusing(), serving(answer())) as stage:
        assert (await stage.ask(post(b"hello"), "POST")).status == 200


async def test_a_reset_moves_an_idempotent_request_on() -> None:
    async with staged(resetting, serving(answer())) as stage:
        assert (await stage.ask(GET)).one(b"X-Edge-Reason") == b"secondary: region0 RESET"
        assert stage.router.told == [("region0", Outcome.RESET), ("region1", Outcome.OK)]


async def test_a_close_without_an_answer_counts_as_a_reset() -> None:
    async def closing(wire: Wire) -> None:
        await wire.request()

    async with staged(closing, serving(answer())) as stage:
        assert (await stage.ask(GET)).status == 200
        assert stage.router.told[0] == ("region0", Outcome.RESET)


async def test_a_post_that_was_written_is_never_tried_again() -> None:
    async with trio.open_nursery() as nursery:
        standby = await listen(nursery, serving(answer()))
        broken = await listen(nursery, resetting)
        async with proxied(FixedRouter(broken.endpoint, standby.endpoint)) as stage:
            wire = await stage.client()
            response = await wire.ask(post(b"hello"), "POST")
            assert response.status == 502
            assert b"region0: reset, after 1 of 2 endpoints" in response.body
            assert standby.received == b"", "connected, perhaps, to be ready"
            assert (await wire.ask(GET)).status == 200  # the client's connection is none the worse
        nursery.cancel_scope.cancel()


async def test_a_post_on_a_kept_connection_that_was_closed_meanwhile_loses_nothing() -> None:
    async def once(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer())

    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, once)
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client()
            for i in range(5):
                assert (await wire.ask(post(b"%d" % i), "POST")).status == 200
                await trio.testing.wait_all_tasks_blocked()
            assert len(upstream.wires) == 5
            assert all(wire.received.count(b"POST") == 1 for wire in upstream.wires)
            assert stage.proxy.counters["retries"] == 0
        nursery.cancel_scope.cancel()


class Learning(FixedRouter):
    """Thinks otherwise of everybody once something was lost."""

    def decide(self, request: Request) -> Decision:
        decision = super().decide(request)
        return decision._replace(attempts=decision.attempts[::-1]) if self.told else decision


async def test_a_rescue_goes_where_the_node_by_now_thinks_best() -> None:
    async with trio.open_nursery() as nursery:
        second, third = [await listen(nursery, serving(answer(body))) for body in (b"second", b"third")]
        async with proxied(Learning(refusing(), second.endpoint, third.endpoint)) as stage:
            assert (await stage.ask(GET)).body == b"third"
        nursery.cancel_scope.cancel()


async def test_what_is_kept_of_an_endpoint_that_failed_is_not_used() -> None:
    """Its other connections lead to the same place."""
    both = trio.Event()
    connections = 0

    async def once_each(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        await wire.request()
        if mine == 2:
            both.set()
        await both.wait()
        await wire.send(answer(b"%d" % mine))
        await wire.request()
        await trio.sleep(2 * CROSSING_US / SECOND)  # it was no close that crossed the request
        wire.reset()

    async with staged(once_each, serving(answer(b"standby"))) as stage:
        wires = [await stage.client() for _ in range(2)]
        for wire in wires:
            await wire.send(GET)
        assert sorted([(await wire.response()).body for wire in wires]) == [b"1", b"2"]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await wires[0].ask(GET)).body == b"standby", "one of the two was reset"
        assert (await wires[0].ask(GET)).body == b"3", "the other was closed"


async def test_bodies_are_replayed_whole() -> None:
    body = bytes(range(256)) * 200
    got: list[bytes] = []

    async def takes(wire: Wire) -> None:
        request = await wire.request()
        assert request is not None
        got.append(request.body)
        await wire.send(answer())

    async with staged(resetting, refusing(), resetting, takes) as stage:
        request = post(body).replace(b"POST", b"PUT")
        assert (await stage.ask(request, "PUT")).status == 200
        assert got == [body]


async def test_chunked_bodies_are_replayed_from_what_was_kept() -> None:
    got: list[bytes] = []

    async def resets_early(wire: Wire) -> None:
        await wire.head()
        while b"hello" not in wire.received:
            await wire.more()
        wire.reset()

    async def takes(wire: Wire) -> None:
        request = await wire.request()
        assert request is not None
        got.append(request.body)
        await wire.send(answer())

    async with staged(resets_early, takes) as stage:
        wire = await stage.client()
        await wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await wire.send(b"6\r\n world\r\n0\r\n\r\n")
        assert (await wire.response("PUT")).status == 200
        assert got == [b"hello world"]


async def test_a_body_too_large_to_keep_is_not_tried_again() -> None:
    async with staged(resets_after(100_000), serving(answer())) as stage:
        wire = await stage.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_refused, wire, post(bytes(10_000_000)).replace(b"POST", b"PUT"))
            response = await wire.response("PUT")
            assert response.status == 502
            nursery.cancel_scope.cancel()
        assert stage.proxy.counters["retries"] == 0


def resets_after(count: int) -> Script:
    async def script(wire: Wire) -> None:
        while len(wire.received) < count:
            await wire.more()
        wire.reset()

    return script


async def send_until_refused(wire: Wire, data: bytes) -> None:
    try:
        await wire.send(data)
    except trio.BrokenResourceError:
        return


async def test_nothing_is_tried_again_once_a_byte_of_a_response_came() -> None:
    async def says_little(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"H")

    async with staged(says_little, serving(answer())) as stage:
        assert (await stage.ask(GET)).status == 502
        assert stage.router.told == [("region0", Outcome.TRUNCATED)]


async def test_an_endpoint_is_never_tried_twice() -> None:
    endpoint: Endpoint = refusing()
    async with proxied(FixedRouter(endpoint, endpoint, endpoint)) as stage:
        response = await stage.ask(GET)
        assert response.status == 502
        assert stage.router.told == [("region0", Outcome.REFUSED)]


async def test_attempts_are_bounded() -> None:
    limits = ProxyLimits(attempts_max=3)
    async with staged(*(refusing() for _ in range(5)), limits=limits) as stage:
        response = await stage.ask(GET)
        assert response.status == 502
        assert b"after 3 of 5 endpoints" in response.body
        assert len(stage.router.told) == 3


async def test_no_endpoint_at_all_is_502() -> None:
    async with proxied(FixedRouter()) as stage:
        assert (await stage.ask(GET)).status == 502


async def test_server_errors_are_passed_on_and_told() -> None:
    async with staged(serving(answer(b"sorry", "500 Internal Server Error")), serving(answer())) as stage:
        assert (await stage.ask(GET)).status == 500
        assert stage.router.told == [("region0", Outcome.SERVER_ERROR)]


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
async def test_a_gateway_error_is_not_the_answer_while_another_can_be_asked(status: str) -> None:
    async with staged(serving(answer(b"sorry", status)), serving(answer())) as stage:
        wire = await stage.client()
        for _ in range(2):
            response = await wire.ask(GET)
            assert (response.status, response.body) == (200, b"hello")
            assert response.one(b"X-Edge-Reason") == b"secondary: region0 SERVER_ERROR"
        assert (await stage.ask(post(b"x"), "POST")).status == int(status[:3])  # may have happened
        assert stage.proxy.counters["retries"] == 2


async def test_an_endpoint_that_is_mostly_unavailable_is_told_of() -> None:
    well, ill = answer(), answer(b"sorry", "503 Service Unavailable")
    async with staged(serving(*(ill if turn % 2 else well for turn in range(20))), serving(well)) as stage:
        wire = await stage.client()
        for _ in range(12):
            assert (await wire.ask(GET)).status == 200
        outcomes = [outcome for region, outcome in stage.router.told if region == "region0"]
        assert outcomes[:9].count(Outcome.SERVER_ERROR) == 4
        assert outcomes[9] is Outcome.UNAVAILABLE


async def test_what_was_unavailable_long_ago_counts_no_more() -> None:
    said = [*[answer(), answer(b"sorry", "503 Service Unavailable")] * 4, *[answer()] * 16, answer(b"", "503 No")]
    left = iter(said)

    async def over_all_connections(wire: Wire) -> None:
        while await wire.request() is not None:
            await wire.send(next(left))

    async with staged(over_all_connections, serving(answer())) as stage:
        wire = await stage.client()
        for _ in said:
            assert (await wire.ask(GET)).status == 200
        outcomes = [outcome for region, outcome in stage.router.told if region == "region0"]
        assert outcomes.count(Outcome.SERVER_ERROR) == 5
        assert Outcome.UNAVAILABLE not in outcomes


async def test_a_gateway_error_is_passed_on_when_nobody_else_is_left() -> None:
    async with staged(serving(answer(b"sorry", "503 Service Unavailable"))) as stage:
        response = await stage.ask(GET)
        assert (response.status, response.body, response.one(b"Retry-After")) == (503, b"sorry", None)
        assert stage.router.told == [("region0", Outcome.SERVER_ERROR)]


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        (ProxyLimits(attempts_max=2), 2),
        (ProxyLimits(retry_share_pct=0, retry_spare=1), 2),
        (ProxyLimits(retry_share_pct=0, retry_spare=0), 1),
    ],
)
async def test_a_gateway_error_is_passed_on_when_no_more_may_be_asked(limits: ProxyLimits, asked: int) -> None:
    """It says more than an error of ours would."""
    sorry = [serving(answer(b"sorry %d" % number, "503 Service Unavailable")) for number in range(3)]
    async with staged(*sorry, limits=limits) as stage:
        response = await stage.ask(GET)
        assert (response.status, response.body) == (503, b"sorry %d" % (asked - 1))
        assert stage.proxy.counters["retries_denied"] == 0


async def test_a_gateway_error_before_the_end_of_the_request_is_the_answer() -> None:
    """Who is still being sent to has not lost the request: it answered early, as it may."""

    async def early(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"sorry", "503 Service Unavailable"))
        await wire.rest()

    async with staged(early, serving(answer())) as stage:
        wire = await stage.client()
        await wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        response = await wire.response("PUT")
        assert (response.status, response.body, response.one(b"Connection")) == (503, b"sorry", b"close")


async def test_whoever_is_asked_behind_a_gateway_error_is_asked_afresh() -> None:
    """What its predecessor has answered is no answer of its own: it may be lost, and a third be asked."""
    async with staged(serving(answer(b"", "503 Service Unavailable")), resetting, serving(answer())) as stage:
        assert (await stage.ask(GET)).status == 200
        assert [outcome for _, outcome in stage.router.told] == [Outcome.SERVER_ERROR, Outcome.RESET, Outcome.OK]


async def test_whoever_is_asked_behind_a_gateway_error_has_its_own_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is awaited once it has the whole request, however long that takes."""
    autojump_clock.autojump_threshold = 0.02
    send_now, asked = Upstream.send_now, 0

    def stingy(self: Upstream, data: bytes | memoryview) -> bytes | memoryview:
        nonlocal asked
        asked += 1
        return send_now(self, data[:20]) or data[20:] if asked == 2 else data if asked == 3 else send_now(self, data)

    async def later(sock: object) -> None:
        await trio.sleep(3)

    monkeypatch.setattr(Upstream, "send_now", stingy)
    monkeypatch.setattr(trio.lowlevel, "wait_writable", later)
    sorry = serving(answer(b"", "503 Service Unavailable"))
    async with staged(sorry, serving(answer()), limits=ProxyLimits(first_byte_timeout_us=2 * SECOND)) as stage:
        assert (await stage.ask(GET)).status == 200


async def test_a_silent_endpoint_is_left_for_the_next(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with staged(hanging, serving(answer()), limits=ProxyLimits(hedge_share_pct=0, hedge_spare=0)) as stage:
        response = await stage.ask(GET)
        assert response.one(b"X-Edge-Reason") == b"secondary: region0 TIMEOUT"


async def test_a_post_to_a_silent_endpoint_is_504(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with staged(hanging, serving(answer())) as stage:
        assert (await stage.ask(post(b"x"), "POST")).status == 504
        assert stage.router.told == [("region0", Outcome.TIMEOUT)]


async def test_killing_one_of_three_loses_no_request() -> None:
    """Many clients, pooled connections, and a region that goes away in the middle of it all."""
    async with trio.open_nursery() as nursery:
        doomed_scope = trio.CancelScope()
        doomed: list[Endpoint] = []

        async def doom() -> None:
            with doomed_scope:
                async with trio.open_nursery() as inner:
                    doomed.append((await listen(inner, slowly)).endpoint)

        nursery.start_soon(doom)
        standbys = [(await listen(nursery, slowly)).endpoint for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        statuses: list[int] = []
        async with proxied(FixedRouter(*doomed, *standbys), ProxyLimits(retry_spare=400)) as stage:

            async def user() -> None:
                wire = await stage.client()
                for i in range(20):
                    statuses.append((await wire.ask(GET)).status)
                    if len(statuses) == 100:
                        doomed_scope.cancel()
                    await trio.sleep(0.0005 * (i % 3))

            async with trio.open_nursery() as users:
                for _ in range(20):
                    users.start_soon(user)
            assert statuses == [200] * 400
            assert stage.proxy.counters["retries"] > 0
        nursery.cancel_scope.cancel()


async def slowly(wire: Wire) -> None:
    while await wire.request() is not None:
        await trio.sleep(0.002)
        await wire.send(answer())
