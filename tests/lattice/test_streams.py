"""Frames over a connection, in virtual time: how long a link may take, how much stands in line, what ends it."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from lattice.errors import WireError
from lattice.streams import (
    BYTES_PER_S_MIN,
    FRAME_S,
    IDLE_IN_S,
    IDLE_S,
    LINE_BYTES_MAX,
    STREAMS_A_HOST_MAX,
    Streams,
    _Line,
)
from lattice.transport import Clock
from lattice.types import Endpoint

SOURCE = ("192.0.2.1", 7)


class Received:
    def __init__(self, frame_bytes_max: int = 65_536) -> None:
        self.frames: list[bytes] = []
        self.counters: Counter[str] = Counter()
        self.streams = Streams(self.counters, Clock(), frame_bytes_max, lambda _: False, self._take)

    def _take(self, frame: bytes, source: Endpoint) -> None:
        assert source == SOURCE
        self.frames.append(frame)

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        await self.streams._hand_on(stream, None, SOURCE)  # type: ignore[arg-type]


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


async def drip(stream: trio.abc.SendStream, data: bytes, bytes_per_s: int) -> None:
    """As a narrow link hands it on."""
    for at in range(0, len(data), 100):
        await trio.sleep(100 / bytes_per_s)
        await stream.send_all(data[at : at + 100])


async def test_a_large_frame_over_a_narrow_link_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    received, frame = Received(), bytes(40_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(received.read, theirs)
        await drip(ours, framed(frame), 2 * BYTES_PER_S_MIN)
        assert trio.current_time() > 3 * FRAME_S
        await ours.send_all(framed(b"another"))
        await ours.send_eof()
    assert received.frames == [frame, b"another"]


async def test_a_peer_that_drips_loses_its_place(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    received = Received()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, ours, framed(bytes(40_000)), BYTES_PER_S_MIN // 2)
        with pytest.raises(trio.TooSlowError):
            await received.read(theirs)
        assert trio.current_time() <= 2 * FRAME_S + 40_000 / BYTES_PER_S_MIN
        nursery.cancel_scope.cancel()
    assert received.frames == []


@pytest.mark.parametrize(("said", "at_most_s"), [(b"", FRAME_S), (framed(b"one"), IDLE_IN_S), (b"\0\0", FRAME_S)])
async def test_a_peer_that_says_nothing_more_loses_it_too(
    said: bytes, at_most_s: int, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(said)
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await Received().read(theirs)
    assert trio.current_time() - start == pytest.approx(at_most_s)


async def test_a_line_sends_what_comes_and_ends_when_nothing_does(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    received, line = Received(), _Line()
    assert line.put(b"first")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(received.read, theirs)
        nursery.start_soon(line.say, ours)  # type: ignore[arg-type]
        await trio.sleep(IDLE_S / 2)
        assert line.put(b"second")
        await trio.sleep(IDLE_S / 2)
        assert line.put(b"third")
        start = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        assert received.frames == [b"first", b"second", b"third"]
        await trio.sleep(IDLE_S)
        await ours.send_eof()
    assert trio.current_time() - start == pytest.approx(IDLE_S)
    assert not line.waiting


def test_a_line_is_bounded() -> None:
    line, frame = _Line(), bytes(LINE_BYTES_MAX // 4)
    assert [line.put(frame) for _ in range(5)] == [True, True, True, True, False]
    assert line.waiting == 4


async def test_what_a_peer_ends_early_is_told() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = trio.sleep_forever  # a peer that takes nothing
    line = _Line()
    assert line.put(b"first")
    await theirs.send_eof()
    with pytest.raises(WireError, match="ended by the peer"):
        await line.say(ours)  # type: ignore[arg-type]
    assert line.waiting == 1


async def test_one_address_holds_a_part_of_all_places() -> None:
    counters: Counter[str] = Counter()
    streams = Streams(counters, Clock(), 1_000, lambda _: False, lambda _, __: None)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with trio.open_nursery() as nursery:
        callers = []
        for _ in range(STREAMS_A_HOST_MAX + 1):
            callers.append(await trio.open_tcp_stream(*listener.socket.getsockname()))
            nursery.start_soon(streams.serve, await listener.accept())
        assert await callers[-1].receive_some(1) == b"", "there is no room for it"
        assert counters == {"frame rejected: too many streams": 1}
        for caller in callers:
            await caller.aclose()
    assert counters["frame rejected: truncated"] == STREAMS_A_HOST_MAX
    assert not streams._from_host
    await listener.aclose()
