"""Requests rescued while they wait: from an endpoint that hangs, and from one that is late."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lattice.types import MILLISECOND
from router.decision.decide import Decision, Request
from router.policy.settings import Hedge, Settings
from router.traffic.hang import SAMPLES_MIN, UNKNOWN_US, WAITING_MIN
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.proxy import Outcome, ProxyLimits
from router.traffic.upstream_pool import Upstream
from tests.router.traffic.test_proxy_left import Leaving
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Script,
    Stage,
    Wire,
    answer,
    deaf,
    hanging,
    listen,
    post,
    proxied,
    serving,
)


class Ejecting(FixedRouter):
    """Leaves the region that hangs, as the node does."""

    def decide(self, request: Request) -> Decision:
        hung = {region for region, outcome in self.told if outcome is Outcome.HUNG}
        whole = super().decide(request)
        kept = tuple(attempt for attempt in whole.attempts if attempt.region not in hung)
        return Decision("r", "", "region0", kept[0].region, kept[0].tier, "primary", 200, kept)


def hanging_after(count: int) -> Script:
    """Answers so many requests of all connections, then reads on and is silent."""
    left = [count]

    async def script(wire: Wire) -> None:
        while await wire.request() is not None:
            if left[0] > 0:
                left[0] -= 1
                await wire.send(answer(b"first"))

    return script


def late_after(count: int, late_seconds: float = 5) -> Script:
    """Answers so many requests of all connections, then each after so many seconds."""
    left = [count]

    async def script(wire: Wire) -> None:
        while await wire.request() is not None:
            left[0] -= 1
            if left[0] < 0:
                await trio.sleep(late_seconds)
            await wire.send(answer(b"first"))

    return script


async def warm(stage: Stage) -> None:
    wire = await stage.client()
    for _ in range(SAMPLES_MIN):
        assert (await wire.ask(GET)).body == b"first"


async def test_whoever_waits_for_a_hung_region_is_rescued_at_once(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(
            Ejecting(first.endpoint, second.endpoint), ProxyLimits(hedge_share_pct=0, hedge_spare=0)
        ) as stage:
            await warm(stage)
            began = trio.current_time()
            bodies: list[bytes] = []

            async def user() -> None:
                wire = await stage.client()
                response = await wire.ask(GET)
                bodies.append(response.body)
                assert response.one(b"X-Edge-Reason") == b"secondary: region0 HUNG"

            async with trio.open_nursery() as users:
                for _ in range(5):
                    users.start_soon(user)
            assert bodies == [b"second"] * 5
            assert trio.current_time() - began < 0.5
            outcomes = [outcome for region, outcome in stage.router.told[SAMPLES_MIN:] if region == "region0"]
            assert outcomes.count(Outcome.HUNG) == 1
            assert outcomes.count(Outcome.OUTRUN) == 5
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"second"
            assert stage.proxy.counters["hedges_won"] == 5
        nursery.cancel_scope.cancel()


async def test_one_that_is_late_is_hedged_and_the_first_to_answer_wins(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(FixedRouter(first.endpoint, second.endpoint)) as stage:
            await warm(stage)
            wire = await stage.client()
            response = await wire.ask(GET)
            assert (response.body, response.one(b"X-Edge-Region")) == (b"second", b"region1")
            assert stage.router.told[SAMPLES_MIN:] == [("region0", Outcome.OUTRUN), ("region1", Outcome.OK)]
        nursery.cancel_scope.cancel()


async def test_the_one_that_was_asked_first_may_still_win(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, late_after(SAMPLES_MIN))
        second = await listen(nursery, hanging_after(0))
        async with proxied(FixedRouter(first.endpoint, second.endpoint)) as stage:
            await warm(stage)
            wire = await stage.client()
            assert (await wire.ask(GET)).body == b"first"
            assert stage.router.told[SAMPLES_MIN:] == [("region0", Outcome.OK), ("region1", Outcome.OUTRUN)] or (
                stage.router.told[SAMPLES_MIN:] == [("region1", Outcome.OUTRUN), ("region0", Outcome.OK)]
            )
            assert (await wire.ask(GET)).status == 200, "in step"
        nursery.cancel_scope.cancel()


async def test_who_is_being_connected_to_keeps_nobody_from_hearing_the_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its answer lay there until the connect had failed: a quarter of a second more for who was 30 ms late."""
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, late_after(SAMPLES_MIN, 0.1))
        with deaf() as second:
            async with proxied(FixedRouter(first.endpoint, second)) as stage:
                await warm(stage)
                began = trio.current_time()
                wire = await stage.client()
                assert (await wire.ask(GET)).body == b"first"
                assert trio.current_time() - began < 0.15
                assert stage.proxy.counters["hedges"] == 1
                assert (await wire.ask(GET)).body == b"first", "in step"
        nursery.cancel_scope.cancel()


async def test_who_was_being_connected_to_when_the_first_was_lost_was_not_asked_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def script(wire: Wire) -> None:
        for _ in range(SAMPLES_MIN):
            if await wire.request() is not None:
                await wire.send(answer(b"first"))
        await wire.request()
        await trio.sleep(0.1)
        wire.reset()

    async with trio.open_nursery() as nursery:
        first = await listen(nursery, script)
        with deaf() as second:
            async with proxied(FixedRouter(first.endpoint, second)) as stage:
                wire = await stage.client()
                for _ in range(SAMPLES_MIN):
                    assert (await wire.ask(GET)).body == b"first"
                assert (await wire.ask(GET)).status == 504
                told = stage.router.told[SAMPLES_MIN:]
                assert told == [("region0", Outcome.RESET), ("region1", Outcome.TIMEOUT)]
        nursery.cancel_scope.cancel()


async def test_a_region_that_is_full_is_nobody_s_rescue(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every late request of one region would go where there is no room."""
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_START", 1)
    autojump_clock.autojump_threshold = 0.02

    class Otherwise(FixedRouter):
        def decide(self, request: Request) -> Decision:
            decision = super().decide(request)
            return decision._replace(attempts=decision.attempts[::-1]) if request.method == "POST" else decision

    async with trio.open_nursery() as nursery:
        first = await listen(nursery, late_after(SAMPLES_MIN))
        second = await listen(nursery, hanging_after(0))
        async with proxied(Otherwise(first.endpoint, second.endpoint)) as stage:
            await warm(stage)
            filler = await stage.client()
            await filler.send(post(b"once only"))
            with trio.fail_after(1):
                while not second.received:
                    await trio.testing.wait_all_tasks_blocked()
            assert (await (await stage.client()).ask(GET)).body == b"first"
            assert stage.proxy.counters["hedges"] == 0
        nursery.cancel_scope.cancel()


async def closing(wire: Wire) -> None:
    await wire.request()


async def test_whoever_is_asked_besides_and_closes_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first, second = await listen(nursery, late_after(SAMPLES_MIN)), await listen(nursery, closing)
        async with proxied(FixedRouter(first.endpoint, second.endpoint), ProxyLimits(warm_per_standby=0)) as stage:
            await warm(stage)
            assert (await stage.ask(GET)).body == b"first"
            assert stage.router.told[SAMPLES_MIN:] == [("region1", Outcome.RESET), ("region0", Outcome.OK)]
            assert stage.proxy.counters["retries"] == 0
        nursery.cancel_scope.cancel()


async def resets_soon(wire: Wire) -> None:
    await wire.request()
    await trio.sleep(0.105)
    wire.reset()


@pytest.mark.parametrize(
    ("script", "resets", "after_seconds", "outcome"),
    [
        (hanging, False, 0.0, Outcome.OUTRUN),
        (hanging, True, 0.0, Outcome.OUTRUN),
        (resets_soon, True, 0.01, Outcome.RESET),  # lost before the other has left
    ],
)
async def test_a_kept_connection_that_is_left_is_no_hedge_yet(
    script: Script, resets: bool, after_seconds: float, outcome: Outcome, autojump_clock: trio.testing.MockClock
) -> None:
    """The second answers well by a new one; the request waited for the first, which hangs, until its time was over.
    Sent again, it says what it was sent for."""
    autojump_clock.autojump_threshold = 0.02
    leaving = Leaving(resets=resets, after_seconds=after_seconds)
    async with trio.open_nursery() as nursery:
        first, second = await listen(nursery, script), await listen(nursery, leaving)
        router = FixedRouter(second.endpoint, settings=Settings(hedge=Hedge(100 * MILLISECOND)))
        async with proxied(router, ProxyLimits(warm_per_standby=0, retry_spare=0)) as stage:
            assert (await stage.ask(GET)).body == b"1"
            router.endpoints = (first.endpoint, second.endpoint)
            rescued = await stage.ask(GET)
            assert (rescued.body, rescued.one(b"X-Edge-Reason")) == (b"2", b"secondary: region0 LATE")
            assert stage.router.told[1:] == [("region0", outcome), ("region1", Outcome.OK)]
            counters = stage.proxy.counters
            assert (counters["hedges"], counters["renewed"], counters["retries"]) == (1, 1, 0)
            assert counters["hedges_won"] == (outcome is Outcome.OUTRUN)
            assert leaving.requests == [b"", b""]
        nursery.cancel_scope.cancel()


async def test_two_are_asked_at_a_time_and_the_one_that_hangs_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.02
    let_go: list[str] = []

    def silent(name: str) -> Script:
        async def script(wire: Wire) -> None:
            while await wire.more():
                pass
            let_go.append(name)

        return script

    async with trio.open_nursery() as nursery:
        endpoints = [(await listen(nursery, silent(name))).endpoint for name in ("first", "second")]
        endpoints.append((await listen(nursery, serving(answer(b"third")))).endpoint)
        hedged = Settings(hedge=Hedge(100 * MILLISECOND))
        limits = ProxyLimits(warm_per_standby=0, hedge_spare=100)
        async with proxied(FixedRouter(*endpoints, settings=hedged), limits) as stage:

            async def user() -> None:
                wire = await stage.client()
                assert (await wire.ask(GET)).body == b"third"

            async with trio.open_nursery() as users:
                for _ in range(WAITING_MIN):
                    users.start_soon(user)
            await trio.sleep(0.1)
            assert sorted(let_go) == ["first"] * WAITING_MIN + ["second"] * WAITING_MIN
            assert ("region0", Outcome.HUNG) in stage.router.told
        nursery.cancel_scope.cancel()


async def test_whoever_was_asked_besides_is_not_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    limits = ProxyLimits(first_byte_timeout_us=3_000 * MILLISECOND, warm_per_standby=0)
    async with trio.open_nursery() as nursery:
        first, second = await listen(nursery, hanging_after(SAMPLES_MIN)), await listen(nursery, closing)
        async with proxied(FixedRouter(first.endpoint, second.endpoint), limits) as stage:
            await warm(stage)
            assert (await stage.ask(GET)).status == 504
        nursery.cancel_scope.cancel()


async def test_whoever_is_asked_besides_and_does_not_take_it_at_once_is_let_go(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    autojump_clock.autojump_threshold = 0.02
    let_go = trio.Event()

    async def besides(wire: Wire) -> None:
        while await wire.more():
            pass
        let_go.set()

    async with trio.open_nursery() as nursery:
        first, second = await listen(nursery, hanging_after(SAMPLES_MIN)), await listen(nursery, besides)
        send_now = Upstream.send_now

        def stingy(self: Upstream, data: bytes | memoryview) -> bytes | memoryview:
            return send_now(self, data) if self.endpoint == first.endpoint else send_now(self, data[:9]) or data[9:]

        monkeypatch.setattr(Upstream, "send_now", stingy)
        limits = ProxyLimits(warm_per_standby=0, first_byte_timeout_us=3_000 * MILLISECOND, retry_spare=0)
        async with proxied(FixedRouter(first.endpoint, second.endpoint), limits) as stage:
            await warm(stage)
            wire = await stage.client()
            await wire.send(GET)
            with trio.fail_after(2):
                await let_go.wait()
            assert (await wire.response()).status == 504
        nursery.cancel_scope.cancel()


async def test_what_may_not_happen_twice_is_never_hedged(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    limits = ProxyLimits(first_byte_timeout_us=3_000 * MILLISECOND, warm_per_standby=0)
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(FixedRouter(first.endpoint, second.endpoint), limits) as stage:
            await warm(stage)
            assert (await stage.ask(post(b"x"), "POST")).status == 504
            assert second.wires == []
            keyed = post(b"x", "Idempotency-Key: 7")
            assert (await stage.ask(keyed, "POST")).body == b"second"
        nursery.cancel_scope.cancel()


async def test_uploads_that_wait_for_an_answer_are_heard_of_too(autojump_clock: trio.testing.MockClock) -> None:
    """What is too long to be kept cannot be rescued; that its region hangs is known by it, and also that it answers."""
    autojump_clock.autojump_threshold = 0.02
    upload = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(bytes(100_000)) + LAST_CHUNK
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(FixedRouter(first.endpoint, second.endpoint)) as stage:
            wire = await stage.client()
            for _ in range(SAMPLES_MIN):
                assert (await wire.ask(upload)).body == b"first"
            for _ in range(WAITING_MIN):
                await (await stage.client()).send(upload)
            began = trio.current_time()
            while not stage.proxy.counters["hang.region0"]:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.01)
            assert trio.current_time() - began < UNKNOWN_US / 1e6, "by the p99 of what was answered before"
        nursery.cancel_scope.cancel()


async def test_event_streams_are_expected_to_be_silent(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        limits = ProxyLimits(
            first_byte_timeout_us=500 * MILLISECOND, waiting_timeout_us=5_000 * MILLISECOND, retry_spare=0,
            retry_share_pct=0,
        )  # fmt: skip
        async with proxied(FixedRouter(first.endpoint, second.endpoint), limits) as stage:
            await warm(stage)
            events = GET.replace(b"Host", b"Accept: text/event-stream\r\nHost")
            assert (await stage.ask(events)).status == 504
            assert stage.proxy.counters["hedges"] == 0
        nursery.cancel_scope.cancel()


async def test_hedges_end_with_their_budget(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    limits = ProxyLimits(hedge_share_pct=0, hedge_spare=1, first_byte_timeout_us=2_000 * MILLISECOND)
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(FixedRouter(first.endpoint, second.endpoint), limits) as stage:
            await warm(stage)
            wire = await stage.client()
            assert (await wire.ask(GET)).one(b"X-Edge-Reason") == b"secondary: region0 LATE"
            assert (await wire.ask(GET)).one(b"X-Edge-Reason") == b"secondary: region0 TIMEOUT"
            assert stage.proxy.counters["hedges_denied"] == 1
        nursery.cancel_scope.cancel()


async def test_a_stall_of_ours_is_no_silence_of_theirs(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        first = await listen(nursery, hanging_after(SAMPLES_MIN))
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(
            Ejecting(first.endpoint, second.endpoint), ProxyLimits(hedge_share_pct=0, hedge_spare=0)
        ) as stage:
            await warm(stage)
            async with trio.open_nursery() as users:
                for _ in range(WAITING_MIN):
                    wire = await stage.client()
                    await wire.send(GET)
                    users.start_soon(wire.response)
                while stage.proxy.connections < 1 + WAITING_MIN:
                    await trio.testing.wait_all_tasks_blocked()
                await trio.testing.wait_all_tasks_blocked(0.02)
                mock_clock.jump(1.0)  # nobody was woken meanwhile
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert stage.proxy.counters["stalls"] == 1
                assert Outcome.HUNG not in [outcome for _, outcome in stage.router.told]
                for _ in range(30):
                    mock_clock.jump(0.004)
                    await trio.testing.wait_all_tasks_blocked(0.001)
                assert stage.router.told.count(("region0", Outcome.HUNG)) == 1, "what goes on is one"
                assert stage.proxy.counters["stalls"] == 1
        nursery.cancel_scope.cancel()


async def test_whoever_looks_first_takes_a_stall_out(mock_clock: trio.testing.MockClock) -> None:
    """Who asks for how long the oldest has waited may come before the watch: its time ran ahead then by the stall, and
    who was asked in the next second had waited for one, and so was its region left."""
    asked, over = 0, trio.Event()

    async def script(wire: Wire) -> None:
        nonlocal asked
        while await wire.request() is not None:
            asked += 1
            if asked == SAMPLES_MIN + 1:
                await over.wait()
            if asked <= SAMPLES_MIN + 1:
                await wire.send(answer(b"first"))

    async with trio.open_nursery() as nursery:
        first = await listen(nursery, script)
        second = await listen(nursery, serving(answer(b"second")))
        async with proxied(
            Ejecting(first.endpoint, second.endpoint), ProxyLimits(hedge_share_pct=0, hedge_spare=0)
        ) as stage:
            await warm(stage)

            async def one_more_waits() -> Wire:
                wire = await stage.client()
                await wire.send(GET)
                await trio.testing.wait_all_tasks_blocked(0.01)
                return wire

            async def hung_after(steps: int) -> int:
                for _ in range(steps):
                    mock_clock.jump(0.004)
                    await trio.testing.wait_all_tasks_blocked(0.001)
                return stage.router.told.count(("region0", Outcome.HUNG))

            wire = await one_more_waits()
            mock_clock.jump(1.0)
            (waited_us,) = stage.proxy.oldest().values()
            assert waited_us < 100 * MILLISECOND
            over.set()
            assert (await wire.response()).body == b"first"
            for _ in range(WAITING_MIN):
                await one_more_waits()
            assert await hung_after(11) == 0, "44 ms of silence are none"
            assert await hung_after(5) == 1
            assert stage.proxy.counters["stalls"] == 1
        nursery.cancel_scope.cancel()


async def test_on_a_network_that_is_cut_nobody_waits_for_a_connect(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody refuses there: a SYN is not answered. After three such the endpoint is left; all go elsewhere."""
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        second = await listen(nursery, serving(answer(b"second")))
        with deaf() as first:
            router = FixedRouter(first, second.endpoint)
            async with proxied(router) as stage:
                for turn in range(WAITING_MIN):
                    began = trio.current_time()
                    said = await (await stage.client()).ask(post(b"a body") if turn else GET)
                    assert said.body == b"second"
                    assert trio.current_time() - began == pytest.approx(UNKNOWN_US / 1e6, abs=0.1)
                told = [outcome for region, outcome in router.told if region == "region0"]
                assert told == [Outcome.LATE] * (WAITING_MIN - 1) + [Outcome.SILENT]
                assert stage.proxy.counters["retries"] == WAITING_MIN
                stage.proxy._plane.pool._names = {first: "h"}  # TLS has twice as long: here, all there is
                assert (await (await stage.client()).ask(GET)).body == b"second"
                assert router.told[-2][1] is Outcome.TIMEOUT
        nursery.cancel_scope.cancel()


async def test_the_last_who_could_answer_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    with deaf() as only:
        async with proxied(FixedRouter(only)) as stage:
            began = trio.current_time()
            assert (await (await stage.client()).ask(GET)).status == 504
            assert trio.current_time() - began == pytest.approx(ProxyLimits().connect_timeout_us / 1e6, abs=0.1)
