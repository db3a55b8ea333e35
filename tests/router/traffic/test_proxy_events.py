"""What is silent by its nature: event streams, also those that nobody announced, and routes whose requests wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from lattice.types import SECOND
from router.policy.settings import Settings, Timeouts
from router.traffic.hang import UNKNOWN_US, WAITING_MIN
from router.traffic.message_body import chunk
from router.traffic.proxy import ProxyLimits
from tests.router.traffic.upstreams import (
    DRIVER,
    GET,
    FixedRouter,
    Script,
    Wire,
    answer,
    hanging,
    listen,
    post,
    proxied,
    staged,
)

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
ASKED_FOR = GET.replace(b"Host", b"Accept: text/event-stream\r\nHost")


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.02)


def telling(*pauses: float) -> Script:
    """An event after each of these pauses, in answer to whatever is asked first; then it answers at once."""

    async def script(wire: Wire) -> None:
        request = await wire.request()
        if request is not None and request.first.startswith(b"GET /quick"):
            await wire.send(answer())
            return
        await wire.send(EVENTS)
        for pause in pauses:
            await trio.sleep(pause)
            await wire.send(chunk(b"data: news\n\n"))
        await wire.send(b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("request_", [GET, post(b"tell me")])
async def test_events_are_known_by_the_answer_whatever_was_asked_for(
    clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """They have their own time, and no place in their region's window: there would be none for anybody else."""
    for limit in ("LIMIT_START", "LIMIT_MAX"):
        monkeypatch.setattr(f"router.traffic.concurrency.{limit}", 1)
    limits = ProxyLimits(response_body_timeout_us=SECOND, events_idle_timeout_us=10 * SECOND)
    async with staged(telling(5, 5), limits=limits) as stage:
        wire = await stage.client()
        await wire.send(request_)
        head = await wire.head()
        assert head is not None
        await trio.sleep(1)
        quick = await stage.ask(b"GET /quick HTTP/1.1\r\nHost: h\r\n\r\n")
        assert quick.status == 200
        began = trio.current_time()
        assert (await wire.line(), await wire.exactly(12), await wire.line()) == (b"c", b"data: news\n\n", b"")
        assert (await wire.line(), await wire.exactly(12), await wire.line()) == (b"c", b"data: news\n\n", b"")
        assert await wire.line() == b"0"
        assert trio.current_time() - began > 8
        await wire.stream.aclose()
        await stage.emptied()


@pytest.mark.parametrize("request_", [ASKED_FOR, GET.replace(b"Host", b"Prefer: wait=60\r\nHost"), GET])
@pytest.mark.usefixtures("fibers_only")
async def test_who_leaves_while_nothing_comes_is_noticed(clock: trio.testing.MockClock, request_: bytes) -> None:
    """Else two descriptors and a connection of its upstream's were held for minutes: until something came, or never."""
    left: list[float] = []

    async def script(wire: Wire) -> None:
        await wire.request()
        if request_ is GET:
            await wire.send(EVENTS + chunk(b"data: hello\n\n"))
        await hanging(wire)
        left.append(trio.current_time())

    async with staged(script) as stage:
        wire = await stage.client()
        await wire.send(request_)
        await trio.sleep(20)
        await wire.send(b"GET /next")  # what comes early is no end
        await trio.sleep(20)
        assert not left
        await wire.stream.aclose()
        went = trio.current_time()
        await stage.emptied()
        await trio.testing.wait_all_tasks_blocked()
        assert [at - went < 1 for at in left] == [True]
        assert stage.proxy.counters["client_gone"] == 1


async def test_a_route_that_gives_a_first_byte_its_time_is_not_taken_for_one_that_hangs(
    clock: trio.testing.MockClock,
) -> None:
    """Long polls of clients that do not say so."""

    async def ask(settings: Settings, wanted: Callable[[int], bool]) -> None:
        async with trio.open_nursery() as nursery:
            endpoints = [(await listen(nursery, polled)).endpoint for _ in range(2)]
            async with proxied(FixedRouter(*endpoints, settings=settings)) as stage:
                wires = [await stage.client() for _ in range(WAITING_MIN)]
                for wire in wires:
                    await wire.send(GET)
                for wire in wires:
                    assert (await wire.response()).status == 200
                assert wanted(stage.proxy.counters["hang.region0"])
                assert wanted(stage.proxy.counters["hedges"])
            nursery.cancel_scope.cancel()

    async def polled(wire: Wire) -> None:
        while await wire.request() is not None:
            await trio.sleep(20 * UNKNOWN_US / SECOND)
            await wire.send(answer())

    await ask(Settings(timeouts=Timeouts(first_byte_us=60 * SECOND)), lambda count: count == 0)
    if DRIVER.get() == "fibers":
        await ask(Settings(timeouts=Timeouts(first_byte_us=25 * SECOND)), lambda count: count > 0)
