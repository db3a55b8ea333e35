"""Time: every phase of a request has its limit, and a drain loses nobody who was being served."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from lattice.types import MILLISECOND, SECOND
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.proxy import Outcome, Proxy, ProxyLimits
from router.traffic.request_body import Client
from tests.router.traffic.upstreams import (
    DRIVER,
    GET,
    SITE,
    FixedRouter,
    Script,
    Stage,
    Wire,
    answer,
    hanging,
    post,
    serving,
    staged,
)

LIMITS = ProxyLimits(
    idle_timeout_us=8 * SECOND,
    head_timeout_us=4 * SECOND,
    body_timeout_us=3 * SECOND,
    client_write_timeout_us=5 * SECOND,
    linger_timeout_us=1 * SECOND,
    upstream_write_timeout_us=3 * SECOND,
    first_byte_timeout_us=6 * SECOND,
    response_head_timeout_us=2 * SECOND,
    response_body_timeout_us=7 * SECOND,
    rate_bytes_per_second_min=0,
)
RATED = replace(LIMITS, rate_bytes_per_second_min=100)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps once nothing has happened for a moment: all ends of every socket are in this process."""
    return trio.testing.MockClock(autojump_threshold=0.01)


async def elapsed(work: Callable[[], Awaitable[object]]) -> float:
    began = trio.current_time()
    await work()
    return round(trio.current_time() - began, 1)


# --- the client's phases


async def test_an_idle_connection_is_closed_quietly(clock: trio.testing.MockClock) -> None:
    async with staged(serving(answer()), limits=LIMITS) as stage:
        wire = await stage.client()
        assert await elapsed(wire.rest) == 8.0
        assert wire.received == b""
        wire = await stage.client()
        assert (await wire.ask(GET)).status == 200
        assert await elapsed(wire.rest) == 8.0
        assert stage.proxy.counters["requests"] == 1


async def test_a_head_has_its_time_however_it_drips(clock: trio.testing.MockClock) -> None:
    async with staged(serving(answer()), limits=LIMITS) as stage:
        wire = await stage.client()
        began = trio.current_time()

        async def drip() -> None:
            for i in range(len(GET)):
                await wire.send(GET[i : i + 1])
                await trio.sleep(0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            response = await wire.response()
            nursery.cancel_scope.cancel()
        assert response.status == 408
        assert round(trio.current_time() - began, 1) == 4.0
        assert stage.proxy.counters["reason.head timeout"] == 1


@pytest.mark.parametrize("size", [100, 1_000_000])
async def test_a_body_that_stops_is_408(size: int, clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(post(bytes(size))[:-50])
        began = trio.current_time()
        assert (await wire.response("POST")).status == 408
        assert round(trio.current_time() - began, 1) == 3.0
        assert stage.router.told == []  # the endpoint did nothing wrong


async def test_a_client_that_takes_nothing_is_let_go(clock: trio.testing.MockClock) -> None:
    async def floods(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer(bytes(50_000_000)))

    async with staged(floods, limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(GET)
        assert await elapsed(stage_empty(stage)) >= 5.0
        assert stage.proxy.counters["client_gone"] == 1
        assert stage.router.told == [("region0", Outcome.OK)]


def stage_empty(stage: Stage) -> Callable[[], Awaitable[object]]:
    async def wait() -> None:
        while stage.proxy.connections:  # noqa: ASYNC110 -- the proxy has no event for it, and time is virtual
            await trio.sleep(0.5)

    return wait


async def test_lingering_is_bounded(clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=LIMITS) as stage:
        wire = await stage.client()
        assert (await wire.ask(b"bad\r\n\r\n")).status == 400
        assert stage.proxy.connections == 1  # the client has not closed yet
        await trio.sleep(1.5)
        assert stage.proxy.connections == 0


# --- the upstream's phases


async def silent_after(sent: bytes, wire: Wire) -> None:
    await wire.request()
    await wire.send(sent)
    await trio.sleep_forever()


def saying(sent: bytes) -> Script:
    async def script(wire: Wire) -> None:
        await silent_after(sent, wire)

    return script


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"", 6.0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 6.0),
        (b"HTTP/1.1 200 OK\r\n", 2.0),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", 2.0),
    ],
)
async def test_a_response_that_does_not_come_is_504(sent: bytes, seconds: float, clock: trio.testing.MockClock) -> None:
    async with staged(saying(sent), limits=LIMITS) as stage:
        wire = await stage.client()
        began = trio.current_time()
        response = await wire.ask(GET)
        if response.status == 100:
            response = await wire.response()
        assert response.status == 504
        assert round(trio.current_time() - began, 1) == seconds
        assert stage.router.told == [("region0", Outcome.TIMEOUT)]


async def test_a_response_that_stops_is_cut_off(clock: trio.testing.MockClock) -> None:
    async with staged(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), limits=LIMITS) as stage:
        wire = await stage.client()
        began = trio.current_time()
        response = await wire.ask(GET)
        assert (response.body, response.whole) == (b"hello", False)
        assert round(trio.current_time() - began, 1) == 7.0
        assert stage.router.told[-1] == ("region0", Outcome.TRUNCATED)


async def test_an_upstream_that_takes_nothing_is_504(clock: trio.testing.MockClock) -> None:
    async def reads_nothing(wire: Wire) -> None:
        await trio.sleep_forever()

    async with staged(reads_nothing, limits=LIMITS) as stage:
        wire = await stage.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send, post(bytes(50_000_000)))
            assert (await wire.response("POST")).status == 504
            nursery.cancel_scope.cancel()
        assert stage.router.told == [("region0", Outcome.TIMEOUT)]


async def test_the_first_byte_is_awaited_only_after_the_last_was_sent(clock: trio.testing.MockClock) -> None:
    async with staged(serving(answer()), limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):  # longer than the first-byte limit, in steps below the body limit
            await trio.sleep(2.5)
            await wire.send(b"1\r\nx\r\n")
        assert (await wire.ask(b"0\r\n\r\n")).status == 200


@pytest.mark.parametrize("length", [b"Content-Length: 100001", b"Transfer-Encoding: chunked"])
async def test_a_body_larger_than_the_site_takes_is_413(length: bytes) -> None:
    """At once where it says so itself, else as soon as it is; and what is just as large is taken."""
    limits = replace(LIMITS, body_bytes_max=100_000)

    async def reading(wire: Wire) -> None:
        if (request := await wire.request()) is not None and request.whole:
            await wire.send(answer(b"%d" % len(request.body)))

    async with staged(reading, limits=limits) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + length + b"\r\n\r\n")
        if b"chunked" in length:
            await wire.send(chunk(b"x" * 100_000) + chunk(b"x"))
        response = await wire.response()
        assert (response.status, response.one(b"Connection")) == (413, b"close")
        assert stage.proxy.counters["reason.body too large"] == 1
        just = post(b"x" * 100_000) if b"chunked" not in length else (
            b"POST / HTTP/1.1\r\nHost: h\r\n" + length + b"\r\n\r\n" + chunk(b"x" * 100_000) + LAST_CHUNK
        )  # fmt: skip
        assert (await stage.ask(just)).body == b"100000"


async def test_a_body_that_only_trickles_is_408(clock: trio.testing.MockClock) -> None:
    async with staged(serving(answer()), limits=RATED) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(3):  # each within the limit between two reads
            await trio.sleep(2)
            await wire.send(b"x")
        assert (await wire.response("POST")).status == 408
        assert stage.proxy.counters["reason.body too slow"] == 1


async def test_a_long_body_that_only_trickles_is_408(clock: trio.testing.MockClock) -> None:
    """As a short one, though it goes by unseen."""
    async with staged(hanging, limits=replace(RATED, rate_bytes_per_second_min=100_000)) as stage:
        wire = await stage.client()
        await wire.send(post(bytes(1_000_000))[:400_000])
        for _ in range(3):
            await trio.sleep(2)
            await wire.send(b"x")
        assert (await wire.response("POST")).status == 408
        assert stage.proxy.counters["reason.body too slow"] == 1


async def test_a_body_that_keeps_its_rate_may_take_its_time(clock: trio.testing.MockClock) -> None:
    async with staged(serving(answer()), limits=RATED) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n")
        for _ in range(8):
            await trio.sleep(2)
            await wire.send(b"x" * 250)
        assert (await wire.response("POST")).status == 200


async def test_a_stream_may_last_as_long_as_it_speaks(clock: trio.testing.MockClock) -> None:
    async def ticking(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(6):
            await wire.send(b"tick")
            await trio.sleep(6)

    async with staged(ticking, limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(GET)
        await wire.head()
        began = trio.current_time()
        assert (await wire.line(), await wire.exactly(6)) == (b"4", b"tick\r\n")  # each event as it comes
        assert trio.current_time() - began < 1
        assert (await wire.rest()).count(b"tick") == 5


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
async def test_an_upload_takes_its_time_and_its_answer_has_its_own(
    expects: bytes, clock: trio.testing.MockClock
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\n" + expects + b"Transfer-Encoding: chunked\r\n\r\n"
    for answers in (serving(answer()), hanging):
        async with staged(answers, limits=LIMITS) as stage:
            wire = await stage.client()
            await wire.send(head)
            for _ in range(5):  # longer than the first-byte limit, which an expectation has made count from the start
                await trio.sleep(2.5)
                await wire.send(b"1\r\nx\r\n")
            await wire.send(b"0\r\n\r\n")
            began = trio.current_time()
            assert (await wire.response("POST")).status == (504 if answers is hanging else 200)
            assert round(trio.current_time() - began) == (6 if answers is hanging else 0)


async def test_an_early_answer_outlasts_a_request_that_stops(clock: trio.testing.MockClock) -> None:
    async def ticking(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            await wire.send(chunk(b"tick"))
            await trio.sleep(2)
        await wire.send(LAST_CHUNK)
        await wire.rest()

    async with staged(ticking, limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nx")  # and no more
        response = await wire.response("POST")
        assert (response.body, response.whole, response.one(b"Connection")) == (b"tick" * 6, True, b"close")


async def test_a_question_nobody_answers_is_504(clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=LIMITS) as stage:
        wire = await stage.client()
        began = trio.current_time()
        head = post(b"hello", "Expect: 100-continue").removesuffix(b"hello")
        assert (await wire.ask(head, "POST")).status == 504  # the client had every right to wait
        assert round(trio.current_time() - began, 1) == 6.0


# --- drain


async def test_a_drain_finishes_what_is_in_flight(clock: trio.testing.MockClock) -> None:
    async def slow(wire: Wire) -> None:
        while await wire.request() is not None:
            await trio.sleep(2)
            await wire.send(answer())

    async with staged(slow, limits=LIMITS) as stage:
        idle, busy, streaming = [await stage.client() for _ in range(3)]
        assert (await idle.ask(GET)).status == 200
        await busy.send(GET)
        await streaming.send(GET[:-2])
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, 10 * SECOND)
            began = trio.current_time()
            assert await idle.rest() == b""
            assert trio.current_time() - began == pytest.approx(LIMITS.last_request_us / SECOND, abs=0.01)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="connect"):
                await stage.client()
            response = await busy.response()
            assert (response.status, response.one(b"Connection")) == (200, b"close")
            await streaming.send(b"\r\n")
            response = await streaming.response()
            assert (response.status, response.one(b"Connection")) == (200, b"close")
            await busy.stream.aclose()
            await streaming.stream.aclose()
        assert stage.proxy.connections == 0
        assert stage.proxy.counters["abandoned"] == 0


async def test_an_answer_of_many_pieces_says_that_a_drain_closes_behind_it(clock: trio.testing.MockClock) -> None:
    async def slow(wire: Wire) -> None:
        await wire.request()
        await trio.sleep(2)
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"one"))
        await trio.sleep(2)
        await wire.send(chunk(b"two") + LAST_CHUNK)

    async with staged(slow, limits=LIMITS) as stage:
        wire = await stage.client()
        await wire.send(GET)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, 10 * SECOND)
            response = await wire.response()
            assert (response.body, response.whole, response.one(b"Connection")) == (b"onetwo", True, b"close")
            assert await wire.rest() == b""


async def test_a_request_that_crosses_the_drain_is_answered() -> None:
    async with staged(serving(answer()), limits=LIMITS) as stage:
        wire = await stage.client()
        assert (await wire.ask(GET)).status == 200
        await trio.testing.wait_all_tasks_blocked()
        wire.socket._sock.send(GET)  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, 10 * SECOND)
            response = await wire.response()
            assert (response.status, response.one(b"Connection")) == (200, b"close")
            await wire.stream.aclose()


async def test_who_is_busy_when_a_drain_begins_is_answered_and_told(clock: trio.testing.MockClock) -> None:
    """Closed at once, the more requests a client has the surer one of them would meet the end."""
    async with staged(serving(answer()), limits=LIMITS) as stage:
        busy = await stage.client()
        assert (await busy.ask(GET)).status == 200
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, 10 * SECOND)
            await trio.sleep(LIMITS.last_request_us / SECOND * 0.9)
            response = await busy.ask(GET)
            assert (response.status, response.one(b"Connection")) == (200, b"close")
            await busy.stream.aclose()


async def test_a_first_request_on_its_way_meets_no_reset(clock: trio.testing.MockClock) -> None:
    """A client that has just connected does not know that a drain has begun; one that never asks does not delay it."""
    async with staged(serving(answer()), limits=LIMITS) as stage:
        new, silent = await stage.client(), await stage.client()
        await trio.testing.wait_all_tasks_blocked()

        async def drain() -> None:
            await stage.proxy.drain(10 * SECOND)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await trio.sleep(0.2)
            response = await new.ask(GET)
            assert (response.status, response.one(b"Connection")) == (200, b"close")
            await new.stream.aclose()
            began = trio.current_time()
            assert await silent.rest() == b""
            assert trio.current_time() - began < LIMITS.first_request_us / SECOND


@pytest.mark.parametrize("checkpoints", [*range(1, 9), None])
async def test_who_is_being_accepted_as_a_drain_begins_is_served(
    clock: trio.testing.MockClock, checkpoints: int | None
) -> None:
    """At whatever step: out of the kernel's queue, no other process will have this client. In it, another may. One that
    never asks does not hold the drain up."""
    proxy = Proxy(FixedRouter(), SITE, LIMITS, fast=DRIVER.get() == "fibers")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    where = listener.socket.getsockname()
    with socket.create_connection(where) as client, socket.create_connection(where):
        client.send(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.serve, [listener])
            if checkpoints is None:
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(checkpoints or 0):
                await trio.lowlevel.checkpoint()
            began = trio.current_time()
            await proxy.drain(10 * SECOND)
            assert trio.current_time() - began <= LIMITS.first_request_us / SECOND
        if proxy.counters["connections"]:
            assert client.recv(100).startswith(b"HTTP/1.1 502 "), "answered, though there is no region"
        else:
            assert checkpoints is not None, "long accepted"


async def test_a_drain_ends_after_its_grace(clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=ProxyLimits()) as stage:
        wire = await stage.client()
        await wire.send(GET)
        await trio.sleep(1)

        async def drain() -> None:
            await stage.proxy.drain(5 * SECOND)

        assert await elapsed(drain) == 5.0
        with pytest.raises(trio.BrokenResourceError):  # a reset: this was not an answer
            await wire.stream.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.proxy.counters["abandoned"] == 1


async def test_of_two_graces_the_shorter_counts(clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=ProxyLimits()) as stage:
        await (await stage.client()).send(GET)
        await trio.sleep(1)

        async def drains() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.proxy.drain, 60 * SECOND)
                await trio.sleep(1)
                await stage.proxy.drain(2 * SECOND)

        assert await elapsed(drains) == 3.0


async def test_a_drain_of_nothing_is_at_once(clock: trio.testing.MockClock) -> None:
    async with staged(hanging, limits=LIMITS) as stage:

        async def drain() -> None:
            await stage.proxy.drain(5 * SECOND)

        assert await elapsed(drain) == 0.0


async def test_half_a_message_is_never_followed_by_another(
    clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's body goes bad while an early response is stuck half-way into the client's socket."""

    async def early(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"x" * 10_000))
        await trio.sleep_forever()

    plain = Client.send_now

    def trickle(self: Client, data: bytes | memoryview) -> bytes | memoryview:
        if self.sent >= 100:
            return data
        plain(self, bytes(data[:100]))
        return data[100:]

    async with staged(early, limits=LIMITS) as stage:
        monkeypatch.setattr(Client, "send_now", trickle)
        monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await trio.sleep(1)
        await wire.send(b"bad\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await wire.rest_or_reset()
        assert stage.proxy.counters["client_gone"] == 1


async def never(sock: object) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("field", [b"Accept: text/event-stream", b"Prefer: wait=60"])
async def test_who_may_wait_has_times_of_its_own(field: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """What ends an ordinary request leaves one that waits for news alone, up to its own bounds."""
    autojump_clock.autojump_threshold = 0.02
    limits = ProxyLimits(
        first_byte_timeout_us=SECOND,
        response_body_timeout_us=SECOND,
        waiting_timeout_us=5 * SECOND,
        events_idle_timeout_us=5 * SECOND,
    )

    async def news(wire: Wire) -> None:
        await wire.request()
        await trio.sleep(3)
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await wire.send(b"4\r\nnews\r\n")
        await trio.sleep(3)
        await wire.send(b"4\r\nmore\r\n0\r\n\r\n")

    async with staged(news, limits=limits) as stage:
        response = await stage.ask(GET.replace(b"Host", field + b"\r\nHost"))
        assert (response.status, response.body, response.whole) == (200, b"newsmore", True)
        assert (await stage.ask(GET)).status == 504
    async with staged(hanging, limits=limits) as stage:
        began = trio.current_time()
        assert (await stage.ask(GET.replace(b"Host", field + b"\r\nHost"))).status == 504
        assert 4.9 < trio.current_time() - began < 6


async def test_a_kept_connections_first_byte_has_the_same_limit(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def once(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer())
        await hanging(wire)

    async with staged(once, limits=ProxyLimits(first_byte_timeout_us=200 * MILLISECOND)) as stage:
        wire = await stage.client()
        assert (await wire.ask(GET)).status == 200
        asked = trio.current_time()
        assert (await wire.ask(GET)).status == 504
        assert 0.2 <= trio.current_time() - asked < 0.5
