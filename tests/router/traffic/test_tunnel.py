"""A WebSocket whose server has to go: its client is told between two frames, and nothing looks whole that is not."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND
from router.traffic.proxy import ProxyLimits
from router.traffic.websocket_frames import GOING_AWAY, FrameWalk
from tests.router.traffic.test_proxy import SWITCHING, UPGRADE
from tests.router.traffic.upstreams import Script, Stage, Wire, staged

CLIENTS_CLOSE = b"\x88\x82\x01\x02\x03\x04\x02\xeb"
"""1001, masked."""
GRACE = 5 * SECOND


def frame(payload: bytes, opcode: int = 2, key: bytes = b"") -> bytes:
    """As RFC 6455 5.2 has it; with a key it is masked (with what, is nobody's business here)."""
    size = len(payload)
    if size < 126:
        length = bytes([size | 0x80 * bool(key)])
    elif size < 1 << 16:
        length = bytes([126 | 0x80 * bool(key)]) + size.to_bytes(2, "big")
    else:
        length = bytes([127 | 0x80 * bool(key)]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + key + payload


frames = st.lists(
    st.builds(frame, st.sampled_from((0, 1, 2, 125, 126, 300, 65_535, 65_536)).map(bytes), st.sampled_from((1, 2, 9)),
              st.sampled_from((b"", b"key!"))), max_size=6,
)  # fmt: skip


@given(frames, st.lists(st.integers(1, 70_000), max_size=12), st.data())
def test_where_frames_end_is_known_however_they_are_cut(
    said: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    stream, ends = b"".join(said), {0}
    for each in said:
        ends.add(max(ends) + len(each))
    walk, at = FrameWalk(), 0
    for size in [*cuts, len(stream)]:
        piece = stream[at : at + size]
        found = walk.walk(piece)
        within = [end - at for end in ends if at <= end <= at + len(piece)]
        assert found == max(within, default=-1)
        at += len(piece)
        assert walk.between == (at in ends)
    assert walk.between


def chatting(*said: bytes, then: bytes = b"") -> Script:
    """An application that says this at once and `then` when its client has said something; it closes on a Close."""

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(SWITCHING + b"".join(said))
        while await wire.more():
            if then and wire.buffer.endswith(b"go"):
                await wire.send(then)
            if wire.buffer.endswith(CLIENTS_CLOSE):
                return

    return script


async def upgraded(stage: Stage) -> Wire:
    wire = await stage.client()
    assert (await wire.ask(UPGRADE)).status == 101
    return wire


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.02)


async def test_a_client_is_told_to_go_and_its_upstream_hears_its_goodbye(clock: trio.testing.MockClock) -> None:
    hello = frame(b"hello")
    async with staged(chatting(hello)) as stage:
        wire = await upgraded(stage)
        assert await wire.exactly(len(hello)) == hello
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, GRACE)
            assert await wire.exactly(4) == GOING_AWAY
            await wire.send(CLIENTS_CLOSE)
            await wire.rest_or_reset()
            await wire.stream.aclose()
        assert trio.current_time() - began < 1, "nobody waits for the end of the grace"
        assert stage.proxy.counters["relayed_1xx"] == 1


async def test_it_is_told_between_two_frames_and_nothing_follows(clock: trio.testing.MockClock) -> None:
    long, more = frame(bytes(300)), frame(b"more")
    async with staged(chatting(long[:100], then=long[100:] + more + more[:3])) as stage:
        wire = await upgraded(stage)
        assert await wire.exactly(100) == long[:100]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, GRACE)
            await trio.sleep(1)
            await wire.send(b"go")
            assert await wire.exactly(len(long) - 100 + len(more) + 4) == long[100:] + more + GOING_AWAY
            await wire.send(CLIENTS_CLOSE)
            await wire.rest_or_reset()
            await wire.stream.aclose()


@pytest.mark.parametrize("size", [16 << 20, 4_096])
async def test_who_has_not_read_yet_is_told_behind_what_it_was_sent(clock: trio.testing.MockClock, size: int) -> None:
    """Part of a frame, or of a read that ends with one, waits to be taken: in its middle is no place for another."""
    one = frame(bytes(size - (10 if size > 65_536 else 4)))
    count = (16 << 20) // size

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(SWITCHING)
        await trio.sleep(0.1)  # so that reads begin with a frame
        await wire.send(one * count)
        while await wire.more():
            pass

    async with staged(script) as stage:
        wire = await upgraded(stage)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, GRACE)
            await trio.sleep(1)
            while not wire.buffer.endswith(GOING_AWAY):
                assert await wire.more()
            whole, rest = divmod(len(wire.buffer) - len(GOING_AWAY), size)
            assert (whole <= count, rest, wire.buffer[:-4]) == (True, 0, one * whole)
            await wire.send(CLIENTS_CLOSE)
            await wire.rest_or_reset()
            await wire.stream.aclose()


async def test_who_does_not_answer_is_left_in_order_and_who_could_not_be_told_is_cut_off(
    clock: trio.testing.MockClock,
) -> None:
    half = frame(bytes(300))[:100]
    for said, told in ((b"", True), (half, False)):
        async with staged(chatting(said)) as stage:
            wire = await upgraded(stage)
            assert await wire.exactly(len(said)) == said
            began = trio.current_time()
            await stage.proxy.drain(GRACE)
            assert 4.9 < trio.current_time() - began < 5.5
            if told:
                assert await wire.exactly(4) == GOING_AWAY
                await wire.rest_or_reset()
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await wire.rest_or_reset()
            await trio.testing.wait_all_tasks_blocked()
            assert stage.proxy.counters["abandoned"] == 1


async def test_what_is_over_is_told_nothing(clock: trio.testing.MockClock) -> None:
    async with staged(chatting()) as stage:
        gone, stays = await upgraded(stage), await upgraded(stage)
        await gone.stream.aclose()
        while stage.proxy.connections > 1:
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, GRACE)
            assert await stays.exactly(4) == GOING_AWAY
            await trio.sleep(2.5)  # both would have had their turn
            await stays.send(CLIENTS_CLOSE)
            await stays.rest_or_reset()
            await stays.stream.aclose()


async def test_many_are_told_one_after_the_other_and_who_comes_late_at_once(clock: trio.testing.MockClock) -> None:
    """Or all of them would call again at one moment. The last second is for their answers."""
    gone: list[float] = []

    async def client(wire: Wire) -> None:
        assert await wire.exactly(4) == GOING_AWAY
        gone.append(trio.current_time() - began)
        await wire.send(CLIENTS_CLOSE)
        await wire.rest_or_reset()
        await wire.stream.aclose()

    async def late(wire: Wire) -> None:
        await wire.request()
        await trio.sleep(2)
        await wire.send(SWITCHING)
        while await wire.more():
            pass

    async with staged(chatting(), limits=ProxyLimits(tunnel_close_us=SECOND)) as stage:
        wires = [await upgraded(stage) for _ in range(4)]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for wire in wires:
                nursery.start_soon(client, wire)
            nursery.start_soon(partial(stage.proxy.drain, GRACE))
        assert [round(at) for at in sorted(gone)] == [0, 1, 2, 3]
    async with staged(late) as stage:
        wire = await stage.client()
        await wire.send(UPGRADE)
        await trio.sleep(1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.proxy.drain, GRACE)
            assert (await wire.response()).status == 101
            await client(wire)
        assert gone[-1] < 2
