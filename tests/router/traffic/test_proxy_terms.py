"""What a policy says of retries, hedges and times is what the data plane does; and rules see the request they test."""

from __future__ import annotations

import trio
import trio.testing

from lattice.types import MILLISECOND, SECOND
from router.decision.decide import Decision
from router.decision.request import NO_NEEDS, Needs
from router.policy.settings import NO_SETTINGS, Hedge, Retry, Settings, Timeouts
from router.traffic.asking import asked
from router.traffic.http1 import RequestReader
from router.traffic.proxy import Outcome
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.terms import IDEMPOTENT, TermsBook
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
    refusing,
    resetting,
    serving,
)

PATIENT = ProxyLimits(warm_per_standby=0)


async def outcome_of(
    settings: Settings, *scripts: Script | None, request: bytes = GET, method: str = "GET"
) -> tuple[int, list[Outcome], float]:
    """The status, what the node was told, and how long it took, of one request; None stands for a closed port."""
    async with trio.open_nursery() as nursery:
        endpoints = [refusing() if script is None else (await listen(nursery, script)).endpoint for script in scripts]
        async with proxied(FixedRouter(*endpoints, settings=settings), PATIENT) as stage:
            began = trio.current_time()
            response = await stage.ask(request, method)
            took = trio.current_time() - began
            told = [outcome for _, outcome in stage.router.told]
        nursery.cancel_scope.cancel()
    return response.status, told, took


async def test_so_many_retries_and_no_more() -> None:
    dead: list[Script | None] = [None, None, None]
    assert (await outcome_of(Settings(retry=Retry(0)), *dead, serving(answer())))[:2] == (502, [Outcome.REFUSED])
    assert (await outcome_of(Settings(retry=Retry(2)), *dead, serving(answer())))[:2] == (502, [Outcome.REFUSED] * 3)
    assert (await outcome_of(Settings(retry=Retry(3)), *dead, serving(answer())))[0] == 200


async def test_only_methods_that_are_named_are_sent_twice() -> None:
    only_get = Settings(retry=Retry(2, methods=("GET",)))
    assert (await outcome_of(only_get, resetting, serving(answer())))[0] == 200
    put = post(b"x").replace(b"POST", b"PUT")
    assert (await outcome_of(only_get, resetting, serving(answer()), request=put, method="PUT"))[0] == 502
    assert (await outcome_of(only_get, None, serving(answer()), request=put, method="PUT"))[0] == 200, "never sent"
    with_post = Settings(retry=Retry(2, methods=("POST",)))
    assert (await outcome_of(with_post, resetting, serving(answer()), request=post(b"x"), method="POST"))[0] == 200


async def test_a_first_byte_and_a_total_have_their_time(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    quick = Settings(timeouts=Timeouts(first_byte_us=300 * MILLISECOND), retry=Retry(0))
    status, told, took = await outcome_of(quick, hanging)
    assert (status, told) == (504, [Outcome.TIMEOUT])
    assert 0.29 < took < 1
    total = Settings(timeouts=Timeouts(first_byte_us=800 * MILLISECOND, total_us=1_200 * MILLISECOND))
    status, told, took = await outcome_of(total, hanging, hanging, hanging)
    assert (status, told) == (504, [Outcome.TIMEOUT] * 2), "the second is cut short, and no third is begun"
    assert 1.19 < took < 2


async def test_a_total_ends_a_body_that_never_ends(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def dripping(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await wire.send(b"x")
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, dripping)
        settings = Settings(timeouts=Timeouts(total_us=2 * SECOND))
        async with proxied(FixedRouter(upstream.endpoint, settings=settings), PATIENT) as stage:
            began = trio.current_time()
            response = await stage.ask(GET)
            assert not response.whole
            assert 1.99 < trio.current_time() - began < 3
            assert stage.proxy.counters["truncated"] == 1
        nursery.cancel_scope.cancel()


async def test_a_hedge_is_sent_when_the_policy_says_so(autojump_clock: trio.testing.MockClock) -> None:
    """On fibers: a connection that is a task of its own is never hedged."""
    autojump_clock.autojump_threshold = 0.02
    if DRIVER.get() != "fibers":
        return
    hedged = Settings(hedge=Hedge(200 * MILLISECOND), retry=Retry(0))
    status, told, took = await outcome_of(hedged, hanging, serving(answer()))
    assert (status, told) == (200, [Outcome.OUTRUN, Outcome.OK]), "it is beside the retries"
    assert 0.19 < took < 0.5
    events = GET.replace(b"Host", b"Accept: text/event-stream\r\nHost")
    silent = Settings(hedge=Hedge(200 * MILLISECOND), timeouts=Timeouts(first_byte_us=SECOND), retry=Retry(0))
    websocket = GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost")
    for patient in (events, websocket):
        assert (await outcome_of(silent, hanging, serving(answer()), request=patient))[:2] == (504, [Outcome.TIMEOUT])


def head(text: bytes) -> RequestReader:
    reader = RequestReader()
    reader.receive(text)
    return reader


def test_a_request_is_as_much_as_the_policy_reads_and_no_more() -> None:
    line, fields = b"GET /cart?q=1&r=2 HTTP/1.1\r\n", b"X-Tenant: t\xc3\xbc\r\nCookie: uid=7\r\nX-Raw: \xff\r\n"
    text = line + b"Host: Shop.example:80\r\n" + fields + b"\r\n"
    parsed = head(text).next_head()
    assert parsed is not None
    plain = asked(NO_NEEDS, parsed, "192.0.2.1", 0)
    assert (plain.host, plain.path, plain.headers, plain.upgrade) == ("shop.example", "/cart", (), "")
    needs = Needs(headers=frozenset({b"x-tenant", b"cookie", b"x-raw"}), query=True)
    whole = asked(needs, parsed, "192.0.2.1", 8080)
    assert whole.path == "/cart?q=1&r=2"
    assert whole.headers == (("x-tenant", "tü"), ("cookie", "uid=7"), ("x-raw", "\udcff"))
    assert whole.port == 8080
    fewer = asked(Needs(headers=frozenset({b"cookie"})), parsed, "192.0.2.1", 0)
    assert fewer.headers == (("cookie", "uid=7"),), "another policy reads another part of the same fields"


def test_terms_are_kept_with_their_budgets_until_the_settings_change() -> None:
    book = TermsBook(ProxyLimits())

    def decided(settings: Settings, rule: str = "") -> Decision:
        return Decision("shop", "", "fra", "fra", "primary", "primary", 0, (), rule, settings)

    assert book.of(decided(NO_SETTINGS)) is book.usual
    assert book.usual.repeatable is IDEMPOTENT
    first = book.of(decided(Settings(retry=Retry(1))))
    assert book.of(decided(Settings(retry=Retry(1)))) is first, "a new policy with the same words"
    assert book.of(decided(Settings(retry=Retry(1)), "eu")) is not first, "a rule has a budget of its own"
    assert book.of(decided(Settings(retry=Retry(99)))).attempts_max == ProxyLimits().attempts_max
