"""Routes that say `cache`, over real sockets: what is asked once, what is asked again, and what stands in."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

from lattice.types import SECOND
from router.policy.settings import Cache, Settings
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.plane import Plane
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.upstream_pool import ExhaustedError, UpstreamPool
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Message,
    Script,
    Stage,
    Upstream,
    Wire,
    answer,
    listen,
    proxied,
    refusing,
    serving,
)

CACHED = Settings(cache=Cache())
GRACE = Settings(cache=Cache(stale_us=3_600 * SECOND))
FRESH = "Cache-Control: max-age=60"
LIS = b"lis; "


def asking(*lines: str, method: str = "GET", path: str = "/a?b=c") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: shop.example.com", *lines, "", "")).encode()


def requests(upstream: Upstream) -> int:
    return upstream.received.count(b" HTTP/1.1\r\n")


def status(response: Message) -> bytes:
    value = response.one(b"Cache-Status")
    assert value is not None
    assert value.startswith(LIS)
    return value.removeprefix(LIS)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seconds that pass when a test says so, on the clock that HTTP's dates are of."""
    passed = [0]
    monkeypatch.setattr(Plane, "wall_ms", lambda self: time.time_ns() // 1_000_000 + passed[0] * 1_000)
    return passed


async def test_an_origin_hears_by_which_name_it_may_address_us() -> None:
    ours = b'Surrogate-Capability: edgelattice="Surrogate/1.0"\r\n'
    for settings, times in ((CACHED, 1), (Settings(), 0)):
        async with trio.open_nursery() as nursery:
            upstream = await listen(nursery, serving(answer()))
            async with proxied(FixedRouter(upstream.endpoint, settings=settings)) as stage:
                before = 'Surrogate-Capability: abc="Surrogate/1.0"'
                assert (await stage.ask(asking(before))).status == 200
                assert (upstream.received.count(ours), upstream.received.count(before.encode())) == (times, 1)
            nursery.cancel_scope.cancel()


async def test_what_was_asked_once_is_answered_here() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", FRESH, 'ETag: "1"', "X-App: yes")))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            wire = await stage.client()
            first, second = await wire.ask(GET), await wire.ask(GET)
            assert status(first) == b"fwd=uri-miss; fwd-status=200; stored"
            assert status(second) == b"hit; ttl=60"
            assert (second.status, second.body, second.one(b"X-App")) == (200, b"hello", b"yes")
            assert (second.one(b"Age"), second.one(b"X-Edge-Region")) == (b"0", b"region0")
            assert second.one(b"X-Edge-Reason") == b"cache"
            has = await wire.ask(asking('If-None-Match: "1"'))
            assert (has.status, has.body, has.one(b"Content-Length")) == (304, b"", None)
            part = await wire.ask(asking("Range: bytes=1-2"))
            assert (part.status, part.body, part.one(b"Content-Range")) == (206, b"el", b"bytes 1-2/5")
            beyond = await wire.ask(asking("Range: bytes=9-"))
            assert (beyond.status, beyond.body, beyond.one(b"Content-Range")) == (416, b"", b"bytes */5")
            head = await wire.ask(asking(method="HEAD"), "HEAD")
            assert (head.status, head.one(b"Content-Length")) == (200, b"5")
            head = await wire.ask(asking("Range: bytes=1-2", method="HEAD"), "HEAD")
            assert (head.status, head.one(b"Content-Length")) == (200, b"5"), "only a GET has parts"
            assert requests(upstream) == 1
            await _until(lambda: stage.proxy.counters["cached"] == 6)
            assert stage.proxy.counters["cache.hit"] == 6
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("settings", [Settings(), Settings(cache=Cache(off=True))])
async def test_without_the_routes_word_nothing_is_kept(settings: Settings) -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", FRESH)))
        async with proxied(FixedRouter(upstream.endpoint, settings=settings)) as stage:
            wire = await stage.client()
            for _ in range(2):
                assert (await wire.ask(GET)).one(b"Cache-Status") is None
            assert requests(upstream) == 2
        nursery.cancel_scope.cancel()


async def chunked(wire: Wire) -> None:
    while await wire.request() is not None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n"
        await wire.send(head + chunk(b"hel") + chunk(b"lo") + LAST_CHUNK)


async def cut_off(wire: Wire) -> None:
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nCache-Control: max-age=60\r\n\r\nhello")


async def until_close(wire: Wire) -> None:
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nhello")


@pytest.mark.parametrize(
    ("script", "asked_again"),
    [
        (chunked, False),
        (cut_off, True),
        (until_close, True),
        (serving(answer(b"x" * 70_000, "200 OK", FRESH)), True),
        (serving(answer(b"", "204 No Content", FRESH).replace(b"Content-Length: 0\r\n", b"")), False),
    ],
)
async def test_only_what_came_whole_and_is_not_too_large_is_kept(script: Script, asked_again: bool) -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, script)
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            first = await stage.ask(GET)
            second = await stage.ask(GET)
            if script is not cut_off:  # which is an answer or an error, as its pieces come
                assert second.body == first.body
            assert requests(upstream) == 1 + asked_again
        nursery.cancel_scope.cancel()


async def test_many_who_want_the_same_are_one_request() -> None:
    gate = trio.Event()

    async def slow(wire: Wire) -> None:
        while await wire.request() is not None:
            await gate.wait()
            await wire.send(answer(b"hello", "200 OK", FRESH))

    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, slow)
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            answers: list[Message] = []

            async def ask() -> None:
                answers.append(await stage.ask(GET))

            async with trio.open_nursery() as asking_now:
                for _ in range(50):
                    asking_now.start_soon(ask)
                await _until(lambda: stage.proxy.connections == 50 and bool(upstream.received))
                gate.set()
            assert [one.body for one in answers] == [b"hello"] * 50
            assert requests(upstream) == 1
            assert sum(b"collapsed" in status(one) for one in answers) == stage.proxy.counters["cache.collapsed"] > 0
        nursery.cancel_scope.cancel()


async def test_what_may_not_be_kept_makes_nobody_wait_twice() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"mine", "200 OK", "Cache-Control: private")))
        patient = ProxyLimits(collapse_timeout_us=3_600 * SECOND)
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED), patient) as stage:
            with trio.fail_after(30):
                async with trio.open_nursery() as asking_now:
                    for _ in range(20):
                        asking_now.start_soon(stage.ask, GET)
            assert requests(upstream) == 20
        nursery.cancel_scope.cancel()


async def test_a_stale_answer_is_asked_about(later: list[int]) -> None:
    responses = (
        answer(b"old", "200 OK", FRESH, 'ETag: "1"'),
        b'HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: "1"\r\n\r\n',
        answer(b"new", "200 OK", FRESH, 'ETag: "2"'),
    )
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(*responses))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            wire = await stage.client()
            bodies, said = [], []
            for _ in range(3):
                response = await wire.ask(GET)
                bodies.append(response.body)
                said.append(status(response))
                later[0] += 100
            assert bodies == [b"old", b"old", b"new"]
            assert said[1] == b"fwd=stale; fwd-status=304; ttl=60; stored"
            assert upstream.received.count(b'If-None-Match: "1"\r\n') == 2
            assert len(upstream.wires) == 1, "a 304 leaves the connection as good as new"
        nursery.cancel_scope.cancel()


async def test_when_no_region_answers_what_is_stale_stands_in(later: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        serves = [True]

        async def script(wire: Wire) -> None:
            while await wire.request() is not None:
                if not serves[0]:
                    wire.reset()
                    return
                await wire.send(answer(b"hello", "200 OK", FRESH))

        upstream = await listen(nursery, script)
        router = FixedRouter(upstream.endpoint, refusing(), settings=GRACE)
        async with proxied(router) as stage:
            assert (await stage.ask(GET)).body == b"hello"
            serves[0] = False
            later[0] += 100
            response = await stage.ask(GET)
            assert (response.status, response.body, response.one(b"Age")) == (200, b"hello", b"100")
            assert status(response) == b"fwd=stale; ttl=-40; detail=stale-if-error"
            router.denial = 503, "denied: every region DOWN"
            assert (await stage.ask(GET)).status == 200
            later[0] += 4_000
            assert (await stage.ask(GET)).status == 503, "an hour is over"
            router.denial = None
            assert (await stage.ask(GET)).status == 502
        nursery.cancel_scope.cancel()


async def test_without_a_connection_to_be_had_what_is_stale_stands_in(
    later: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted(*_: object) -> None:
        raise ExhaustedError

    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", FRESH)))
        async with proxied(FixedRouter(upstream.endpoint, settings=GRACE)) as stage:
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"hello"
            later[0] += 100
            monkeypatch.setattr(UpstreamPool, "take", lambda *_: None)
            monkeypatch.setattr(UpstreamPool, "open", exhausted)
            response = await wire.ask(GET)
            assert (response.status, response.body) == (200, b"hello")
        nursery.cancel_scope.cancel()


async def test_an_error_is_not_better_than_a_stale_answer(later: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        responses = answer(b"hello", "200 OK", FRESH), answer(b"oops", "500 Internal Server Error")
        upstream = await listen(nursery, serving(*responses))
        async with proxied(FixedRouter(upstream.endpoint, settings=GRACE)) as stage:
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"hello"
            later[0] += 100
            response = await wire.ask(GET)
            assert (response.status, response.body) == (200, b"hello")
            assert status(response) == b"fwd=stale; fwd-status=500; ttl=-40; detail=stale-if-error"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "says",
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\n", b"poison"),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\npoison",),
        (b'HTTP/1.1 304 Not Modified\r\nConnection: close\r\nETag: "1"\r\n\r\n',),
        (b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison',),
    ],
)
async def test_a_connection_that_is_not_read_to_its_end_is_not_used_again(
    says: tuple[bytes, ...], later: list[int]
) -> None:
    """What is stored stands in for an answer as soon as its head is there; the rest of it is nobody's."""
    connections = 0

    async def script(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        await wire.request()
        await wire.send(answer(b"hello", "200 OK", FRESH, 'ETag: "1"'))
        if connections == 1:
            await wire.request()
            for piece in says:
                await wire.send(piece)
                await trio.testing.wait_all_tasks_blocked(0.01)
        while await wire.more():
            pass

    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, script)
        async with proxied(FixedRouter(upstream.endpoint, settings=GRACE)) as stage:
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"hello"
            later[0] += 100
            assert (await wire.ask(GET)).body == b"hello"
            assert (await wire.ask(asking(path="/other"))).body == b"hello"
            assert connections == 2
            assert stage.proxy.counters["upstream.stale"] == 0
        nursery.cancel_scope.cancel()


async def test_stale_while_it_is_asked_for_again(later: list[int]) -> None:
    lines = "Cache-Control: max-age=60, stale-while-revalidate=60"
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"old", "200 OK", lines), answer(b"new", "200 OK", lines)))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"old"
            later[0] += 100
            response = await wire.ask(GET)
            assert (response.body, status(response)) == (b"old", b"hit; ttl=-40")
            await _until(lambda: stage.proxy.counters["cache.stored"] == 2)
            response = await wire.ask(GET)
            assert response.body == b"new"
            assert requests(upstream) == 2
            assert wire.buffer == b""
            await _until(lambda: stage.proxy.counters["requests"] == 3)
        nursery.cancel_scope.cancel()


async def test_what_changes_something_is_not_answered_from_before() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", FRESH)))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            wire = await stage.client()
            await wire.ask(GET)
            await wire.ask(asking("Content-Length: 0", method="POST"))
            assert status(await wire.ask(GET)) == b"fwd=uri-miss; fwd-status=200; stored"
            assert requests(upstream) == 3
        nursery.cancel_scope.cancel()


async def test_another_port_in_the_host_is_another_answer() -> None:
    """An origin may write the host that it was asked for into links: whoever makes one up must poison nobody's."""
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", FRESH)))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            wire = await stage.client()
            await wire.ask(asking().replace(b"example.com", b"example.com:6666"))
            assert status(await wire.ask(asking())) == b"fwd=uri-miss; fwd-status=200; stored"
            assert status(await wire.ask(asking().replace(b"shop", b"SHOP"))).startswith(b"hit")
            await wire.ask(asking("Content-Length: 0", method="POST"))
            again = await wire.ask(asking().replace(b"example.com", b"example.com:6666"))
            assert status(again).startswith(b"fwd"), "what changes the one changes the other"
        nursery.cancel_scope.cancel()


async def test_only_if_cached_asks_nobody() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            assert (await stage.ask(asking("Cache-Control: only-if-cached"))).status == 504
            await _until(lambda: stage.proxy.counters["uncached"] == 1)
            assert not upstream.received
        nursery.cancel_scope.cancel()


async def test_a_bug_behind_a_clients_back_is_counted_and_ends_alone(
    later: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "Cache-Control: max-age=60, stale-while-revalidate=600"
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"old", "200 OK", lines)))
        async with proxied(FixedRouter(upstream.endpoint, settings=CACHED)) as stage:
            assert (await stage.ask(GET)).body == b"old"
            later[0] += 100

            def broken(*arguments: object) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as broken_now:
                broken_now.setattr("router.traffic.exchange.Exchange.ask", broken)
                assert (await stage.ask(GET)).body == b"old"
            assert "internal error while asking again for /a?b=c" in caplog.text
            assert stage.proxy.counters["cache.broken"] == 1
            await _until(lambda: stage.proxy.counters["requests"] == 2)
            await _settled(stage)
        nursery.cancel_scope.cancel()


async def _settled(stage: Stage) -> None:
    """The next request asks again, and succeeds: nobody holds the fetch."""
    before = stage.proxy.counters["cache.stored"]
    await stage.ask(GET)
    await _until(lambda: stage.proxy.counters["cache.stored"] > before)


async def _until(true: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 -- it is counters that are waited for
            await trio.sleep(0.001)
