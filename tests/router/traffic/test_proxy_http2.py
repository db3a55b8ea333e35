"""HTTP/2 end to end: streams are exchanges, flow control holds both ways, and floods end the connection."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
import trio
import trio.testing
import trustme
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, PingFrame, SettingsFrame

from lattice.types import MILLISECOND, SECOND
from router.decision.request import NO_NEEDS, Needs
from router.traffic.http2 import STREAMS_MAX
from router.traffic.http2_frames import PREFACE
from router.traffic.message_body import LAST_CHUNK, chunk, last_chunk
from router.traffic.proxy import Outcome, ProxyLimits
from router.traffic.server_tls import ServerTls
from tests.router.traffic.test_server_tls import write
from tests.router.traffic.upstreams import (
    Stage,
    Wire,
    answer,
    hanging,
    refusing,
    resetting,
    serving,
    staged,
)

CA = trustme.CA()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return ServerTls([write(tmp_path, CA, "shop.test")], protocols=("h2", "http/1.1")).context


class Answered:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.interim: list[bytes] = []
        self.body = b""
        self.trailers: dict[bytes, bytes] = {}
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers.get(b":status", b"0"))


class H2Client:
    """One connection, by h2's own client side."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answered] = defaultdict(Answered)
        self.gone: int | None = None
        """The error code of GOAWAY."""
        self.acknowledges = True
        self._rest = b""

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    async def begin(
        self, method: str = "GET", path: str = "/a?b=c", *fields: tuple[bytes, bytes], end: bool = True
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        pseudo = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"shop.test"),
            (b":path", path.encode()),
        ]
        self.h2.send_headers(number, [*pseudo, *fields], end_stream=end)
        await self.flush()
        return number

    async def send(self, number: int, body: bytes) -> None:
        """A whole body, as the window allows."""
        while body:
            count = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(body))
            if not count:
                await self.more()
                continue
            self.h2.send_data(number, body[:count])
            await self.flush()
            body = body[count:]
        self.h2.end_stream(number)
        await self.flush()

    def _without_goaway(self, data: bytes) -> bytes:
        """h2 would end all streams at it."""
        data, frames = self._rest + data, b""
        while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3], "big")):
            if data[3] == 7:
                self.gone = int.from_bytes(data[13:17], "big")
            else:
                frames += data[:end]
            data = data[end:]
        self._rest = data
        return frames

    async def more(self) -> bool:
        with trio.fail_after(10):
            try:
                data = await self.stream.receive_some(65_536)
            except trio.BrokenResourceError:
                return False
        if not data:
            return False
        for event in self.h2.receive_data(self._without_goaway(bytes(data))):
            match event:
                case h2.events.ResponseReceived():
                    self.answers[event.stream_id or 0].headers = dict(event.headers or [])
                case h2.events.InformationalResponseReceived():
                    self.answers[event.stream_id or 0].interim.append(dict(event.headers or [])[b":status"])
                case h2.events.TrailersReceived():
                    self.answers[event.stream_id or 0].trailers = dict(event.headers or [])
                case h2.events.DataReceived():
                    self.answers[event.stream_id or 0].body += event.data or b""
                    if self.acknowledges:
                        self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                case h2.events.StreamEnded():
                    self.answers[event.stream_id or 0].ended = True
                case h2.events.StreamReset():
                    self.answers[event.stream_id or 0].reset = int(event.error_code or 0)
                case _:
                    pass
        await self.flush()
        return True

    async def answer(self, number: int) -> Answered:
        answered = self.answers[number]
        while not answered.ended and answered.reset is None:
            assert await self.more(), "closed before the answer"
        return answered

    async def ask(self, method: str = "GET", path: str = "/a?b=c", *fields: tuple[bytes, bytes]) -> Answered:
        return await self.answer(await self.begin(method, path, *fields))

    async def rest(self) -> None:
        """Until the other side closes; then close."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError):
            while await self.more():
                pass
        self.close()

    def close(self) -> None:
        """Without a word."""
        self.stream.transport_stream.socket.close()


async def connect(stage: Stage) -> H2Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    wire = await stage.tls_client(context, "shop.test")
    assert isinstance(wire.stream, trio.SSLStream)
    assert wire.stream.selected_alpn_protocol() == "h2"
    client = H2Client(wire.stream)
    client.h2.initiate_connection()
    await client.flush()
    return client


async def echo(wire: Wire) -> None:
    while (request := await wire.request()) is not None:
        body = chunk(request.body) if request.body else b""
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + LAST_CHUNK)


# --- a stream is an exchange


async def test_every_stream_has_the_name_of_its_handshake_where_the_policy_reads_it(tls: ssl.SSLContext) -> None:
    async with staged(serving(answer()), tls=tls) as stage:
        client = await connect(stage)
        for needs in (Needs(sni=True), NO_NEEDS, Needs(sni=True)):
            stage.router.needs = needs
            assert (await client.ask()).status == 200
        assert [request.sni for request in stage.router.asked] == ["shop.test", "", "shop.test"]
        client.close()


async def test_a_stream_is_steered_as_a_request(tls: ssl.SSLContext) -> None:
    async def script(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            whole = answer(b"hello", "200 OK", "X-App: yes", "Connection: keep-alive")
            await wire.send(whole[:-5] if request.first.startswith(b"HEAD") else whole)

    async with staged(script, tls=tls) as stage:
        client = await connect(stage)
        answered = await client.ask("GET", "/a?b=c", (b"x-one", b"1"))
        assert (answered.status, answered.body) == (200, b"hello")
        assert answered.headers[b"x-app"] == b"yes"
        assert answered.headers[b"x-edge-region"] == b"region0"
        assert b"connection" not in answered.headers
        (asked,) = stage.router.asked
        assert (asked.host, asked.path.partition("?")[0], asked.method) == ("shop.test", "/a", "GET")
        assert stage.router.told == [("region0", Outcome.OK)]
        assert stage.proxy.counters["relayed_2xx"] == 1
        answered = await client.ask("HEAD")
        assert (answered.status, answered.body, answered.headers[b"content-length"]) == (200, b"", b"5")


async def test_many_streams_share_a_connection_and_upstreams_connections_are_reused(tls: ssl.SSLContext) -> None:
    async with staged(serving(answer()), tls=tls) as stage:
        client = await connect(stage)
        for _ in range(3):
            numbers = [await client.begin() for _ in range(30)]
            assert [(await client.answer(number)).body for number in numbers] == [b"hello"] * 30
        assert stage.proxy.counters["relayed_2xx"] == 90
        assert stage.proxy.counters["connections"] == 1
        assert stage.proxy.counters["upstream.opened"] <= 30


async def test_a_dead_endpoint_is_left_as_in_http1(tls: ssl.SSLContext) -> None:
    async with staged(resetting, serving(answer()), tls=tls) as stage:
        client = await connect(stage)
        answered = await client.ask()
        assert answered.status == 200
        assert answered.headers[b"x-edge-reason"] == b"secondary: region0 RESET"
        assert stage.proxy.counters["retries"] == 1
    async with staged(refusing(), tls=tls) as stage:
        assert (await (await connect(stage)).ask()).status == 502


async def test_bodies_pass_both_ways_whatever_their_size(tls: ssl.SSLContext) -> None:
    async with staged(echo, tls=tls) as stage:
        client = await connect(stage)
        for size in (0, 1, 70_000, 1_000_000):
            for fields in ((), ((b"content-length", str(size).encode()),)):
                number = await client.begin("POST", "/in", *fields, end=False)
                body = bytes(range(256)) * (size // 256 + 1)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, number, body[:size])
                answered = await client.answer(number)
                assert answered.body == body[:size]


async def test_trailers_pass_both_ways(tls: ssl.SSLContext) -> None:
    seen: list[bytes] = []

    async def upstream(wire: Wire) -> None:
        while b"\r\n0\r\n" not in wire.buffer or not wire.buffer.endswith(b"\r\n\r\n"):
            assert await wire.more()
        seen.append(wire.buffer)
        trailers = b"Digest: d\r\nContent-Length: 9\r\n"
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + last_chunk(trailers))
        await wire.rest()

    async with staged(upstream, tls=tls) as stage:
        client = await connect(stage)
        number = await client.begin("POST", "/in", (b"te", b"trailers"), end=False)
        client.h2.send_data(number, b"hello")
        client.h2.send_headers(number, [(b"x-checksum", b"5"), (b"host", b"evil")], end_stream=True)
        await client.flush()
        answered = await client.answer(number)
        assert (answered.body, answered.trailers, answered.reset) == (b"hello", {b"digest": b"d"}, None)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert b"\r\nTE: trailers\r\n" in head
    assert body == b"5\r\nhello\r\n0\r\nx-checksum: 5\r\n\r\n"


async def test_trailers_that_no_line_may_hold_end_the_stream(tls: ssl.SSLContext) -> None:
    async with staged(echo, tls=tls) as stage:
        client = await connect(stage)
        number = await client.begin("POST", "/in", end=False)
        client.h2.send_headers(number, [(b"x", b"a\x01b")], end_stream=True)
        await client.flush()
        assert (await client.answer(number)).reset == ErrorCodes.PROTOCOL_ERROR
        assert (await client.ask()).status == 200


async def test_an_early_answer_ends_the_upload(tls: ssl.SSLContext) -> None:
    async def refuse(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"too large", "413 Content Too Large", "Connection: close"))

    async with staged(refuse, tls=tls) as stage:
        client = await connect(stage)
        number = await client.begin("POST", "/in", end=False)
        client.h2.send_data(number, b"x" * 10_000)
        await client.flush()
        answered = await client.answer(number)
        while answered.reset is None and await client.more():
            pass
        assert (answered.status, answered.body, answered.reset) == (413, b"too large", 0)


async def test_interim_answers_and_the_question_before_a_body_pass(tls: ssl.SSLContext) -> None:
    async def asking(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert await wire.line() == b"5"
        await wire.send(answer(b"thanks"))

    async with staged(asking, tls=tls) as stage:
        client = await connect(stage)
        number = await client.begin("POST", "/in", (b"expect", b"100-continue"), end=False)
        while len(client.answers[number].interim) < 2:
            assert await client.more()
        assert client.answers[number].interim == [b"103", b"100"]
        await client.send(number, b"12345")
        assert (await client.answer(number)).body == b"thanks"


async def test_a_cut_off_response_is_a_reset_and_never_an_end(tls: ssl.SSLContext) -> None:
    async def cutting(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await trio.testing.wait_all_tasks_blocked()

    async with staged(cutting, tls=tls) as stage:
        client = await connect(stage)
        answered = await client.ask()
        assert (answered.status, answered.body, answered.ended) == (200, b"half", False)
        assert answered.reset == 2  # INTERNAL_ERROR
        assert (await client.ask()).reset == 2  # the connection goes on


async def test_what_http1_would_refuse_is_refused_and_the_connection_goes_on(tls: ssl.SSLContext) -> None:
    async with staged(serving(answer()), tls=tls) as stage:
        client = await connect(stage)
        assert (await client.ask("GET", "/a b")).status == 400
        assert (await client.ask("GET", "/", (b"content-length", b"0"), (b"content-length", b"0"))).status == 400
        assert (await client.ask()).status == 200
        assert stage.proxy.counters["rejected_400"] == 2
        assert stage.proxy.counters["reason.bad target"] == 1


# --- flow control


async def test_a_client_that_does_not_read_holds_a_window_and_nobody_else(tls: ssl.SSLContext) -> None:
    size = 4_000_000
    async with staged(serving(answer(b"x" * size)), tls=tls) as stage:
        client = await connect(stage)
        client.acknowledges = False
        number = await client.begin()
        while len(client.answers[number].body) < 65_535:
            assert await client.more()
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.answers[number].body) == 65_535  # the window, to the byte
        client.acknowledges = True
        client.h2.increment_flow_control_window(size)
        client.h2.increment_flow_control_window(size, number)
        await client.flush()
        assert len((await client.answer(number)).body) == size


async def test_a_client_that_never_reads_is_let_go(tls: ssl.SSLContext) -> None:
    limits = ProxyLimits(client_write_timeout_us=100 * MILLISECOND)
    async with staged(serving(answer(b"x" * 4_000_000)), limits=limits, tls=tls) as stage:
        client = await connect(stage)
        client.acknowledges = False
        answered = await client.ask()
        assert answered.reset is not None or not answered.ended
        assert stage.proxy.counters["client_gone"] == 1


async def test_a_client_that_only_trickles_is_let_go(tls: ssl.SSLContext) -> None:
    """Ten bytes of window at a time: never silent for long, and never done."""
    limits = ProxyLimits(client_write_timeout_us=200 * MILLISECOND, rate_bytes_per_second_min=100_000)
    async with staged(serving(answer(b"x" * 4_000_000)), limits=limits, tls=tls) as stage:
        client = await connect(stage)
        client.acknowledges = False
        number = await client.begin()
        answered = client.answers[number]
        with trio.fail_after(5):
            while answered.reset is None:
                client.h2.increment_flow_control_window(10)
                client.h2.increment_flow_control_window(10, number)
                await client.flush()
                assert await client.more()
                await trio.sleep(0.05)
        assert stage.proxy.counters["client_gone"] == 1
        client.close()


async def test_however_wide_its_window_a_client_that_does_not_read_is_waited_for(tls: ssl.SSLContext) -> None:
    """What it does not take waits in the kernel, and at its upstream; not here."""
    piece, passed = bytes(1 << 16), 0

    async def endless(wire: Wire) -> None:
        nonlocal passed
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await wire.send(piece)
            passed += len(piece)

    async with staged(endless, tls=tls) as stage:
        client = await connect(stage)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1})
        client.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
        await client.begin()
        while True:
            before = passed
            await trio.sleep(0.2)
            if before == passed > 0:
                break
            assert passed < 64 << 20
        client.close()


async def test_uploads_that_nobody_takes_give_their_window_back(tls: ssl.SSLContext) -> None:
    """Else a connection's own window was used up by those that were refused, and the next body waited for ever."""

    async def refusing_bodies(wire: Wire) -> None:
        while (head := await wire.head()) is not None:
            if head[0].startswith(b"POST /big"):
                await wire.send(answer(b"no", "413 Content Too Large", "Connection: close"))
                return
            await wire.exactly(100_000)
            await wire.send(answer(b"taken"))

    async with staged(refusing_bodies, tls=tls) as stage:
        client = await connect(stage)
        for _ in range(24):
            number = await client.begin("POST", "/big", (b"content-length", b"100000"), end=False)
            client.h2.send_data(number, bytes(16_000))
            client.h2.send_data(number, bytes(16_000))
            client.h2.send_data(number, bytes(16_000))
            client.h2.send_data(number, bytes(16_000))
            await client.flush()
            while client.answers[number].reset is None:
                assert await client.more()
            assert client.answers[number].status == 413
        number = await client.begin("POST", "/small", (b"content-length", b"100000"), end=False)
        with trio.fail_after(10):
            await client.send(number, bytes(100_000))
            assert (await client.answer(number)).body == b"taken"
        client.close()


# --- abuse


async def ended_by(client: H2Client, stage: Stage, counter: str) -> None:
    await client.rest()
    await stage.emptied()
    assert stage.proxy.counters[counter] == 1, stage.proxy.counters


async def test_rapid_reset_ends_the_connection_and_starts_no_more_than_the_limit(tls: ssl.SSLContext) -> None:
    """CVE-2023-44487."""
    async with staged(hanging, tls=tls) as stage:
        client = await connect(stage)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for _ in range(100):
                for _ in range(10):
                    number = client.h2.get_next_available_stream_id()
                    client.h2.send_headers(
                        number,
                        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")],
                        end_stream=True,
                    )
                    client.h2.reset_stream(number)
                await client.flush()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.rest()
        # Each once or, on a busy machine, again when its endpoint was silent for long.
        assert len({request.path for request in stage.router.asked}) <= STREAMS_MAX
        assert stage.proxy.counters["h2.rapid reset"] + stage.proxy.counters["h2.stream refused"] >= 1


def ping() -> bytes:
    return bytes(PingFrame(0, opaque_data=b"12345678").serialize())


def empty_settings() -> bytes:
    return bytes(SettingsFrame(0).serialize())


def empty_data() -> bytes:
    return bytes(DataFrame(1, b"").serialize())


@pytest.mark.parametrize("frame", [ping, empty_settings, empty_data])
async def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(tls: ssl.SSLContext, frame: object) -> None:
    async with staged(hanging, tls=tls) as stage:
        client = await connect(stage)
        await client.begin("POST", "/in", end=False)
        assert callable(frame)
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(30):
                await client.stream.send_all(frame() * 100)
        await client.rest()
        assert stage.proxy.counters["h2.flood"] == 1, stage.proxy.counters


async def test_a_flood_of_continuations_ends_the_connection(tls: ssl.SSLContext) -> None:
    async with staged(hanging, tls=tls) as stage:
        client = await connect(stage)
        with contextlib.suppress(trio.BrokenResourceError):
            await client.stream.send_all(
                HeadersFrame(1, b"\x82").serialize() + ContinuationFrame(1, b"").serialize() * 2_000
            )
        await ended_by(client, stage, "h2.protocol")
        assert stage.proxy.counters["requests"] == 0


async def test_a_field_list_that_grows_when_it_is_decoded_ends_the_connection(tls: ssl.SSLContext) -> None:
    """An HPACK bomb: one large entry of the table, named again and again."""
    async with staged(hanging, tls=tls) as stage:
        client = await connect(stage)
        large = (b"x-large", b"y" * 3_000)
        with contextlib.suppress(trio.BrokenResourceError, h2.exceptions.ProtocolError):
            await client.begin("GET", "/", large)
            await client.begin("GET", "/", *[large] * 50)
        await client.rest()
        assert stage.proxy.counters["h2.denialofservice"] == 1, stage.proxy.counters


async def test_more_streams_than_announced_are_refused(tls: ssl.SSLContext) -> None:
    async with staged(hanging, tls=tls) as stage:
        client = await connect(stage)
        await client.more()
        assert client.h2.remote_settings.max_concurrent_streams == STREAMS_MAX
        with contextlib.suppress(trio.BrokenResourceError):
            for number in range(1, 2 * STREAMS_MAX + 41, 2):
                block = client.h2.encoder.encode(
                    [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", f"/{number}")]
                )
                frame = HeadersFrame(number, block)
                frame.flags.add("END_HEADERS")
                frame.flags.add("END_STREAM")
                await client.stream.send_all(frame.serialize())
        await client.rest()
        # A slow machine may make them late, and somebody decide again for the same stream.
        assert len({request.path for request in stage.router.asked}) <= STREAMS_MAX


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\0" * 100, DataFrame(7, b"x").serialize(), PREFACE]
)
async def test_what_is_not_the_protocol_ends_the_connection(tls: ssl.SSLContext, junk: bytes) -> None:
    async with staged(serving(answer()), tls=tls) as stage:
        client = await connect(stage)
        await client.ask()
        await client.stream.send_all(junk)
        await client.rest()
        await stage.emptied()
        assert stage.proxy.counters["requests"] == 1


# --- the end


async def test_a_drain_says_goaway_finishes_what_is_under_way_and_begins_nothing(tls: ssl.SSLContext) -> None:
    release = trio.Event()

    async def slow(wire: Wire) -> None:
        while await wire.request() is not None:
            await release.wait()
            await wire.send(answer(b"at last"))

    async with staged(slow, tls=tls) as stage:
        client, idle = await connect(stage), await connect(stage)
        await idle.more()
        number = await client.begin()
        while not stage.router.asked:
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(stage.proxy.drain, 30 * SECOND)
            while client.gone is None:
                assert await client.more()
            assert client.gone == 0
            await idle.rest()
            assert idle.gone == 0
            release.set()
            answered = await client.answer(number)
            assert (answered.status, answered.body) == (200, b"at last")
            await client.rest()
        assert trio.current_time() - began < 15, "with the last stream the connection ends, not with the grace"


async def test_an_idle_client_is_let_go(tls: ssl.SSLContext) -> None:
    async with staged(serving(answer()), limits=ProxyLimits(idle_timeout_us=50 * MILLISECOND), tls=tls) as stage:
        client = await connect(stage)
        await client.ask()
        await client.rest()
        assert client.gone == 0


async def test_an_idle_client_gives_way_to_one_connection_too_many(tls: ssl.SSLContext) -> None:
    """It was roused, looked whether its time was over, and stayed."""
    async with staged(serving(answer()), limits=ProxyLimits(connections_max=1), tls=tls) as stage:
        client = await connect(stage)
        await client.ask()
        await trio.testing.wait_all_tasks_blocked(0.01)
        other = await connect(stage)
        assert (await other.ask()).status == 200
        await client.rest()
        assert client.gone == 0
        assert stage.proxy.counters["accept.idle_closed"] == 1
        other.close()


async def test_a_client_that_vanishes_takes_its_streams_along(tls: ssl.SSLContext) -> None:
    async with staged(hanging, limits=ProxyLimits(first_byte_timeout_us=200 * MILLISECOND), tls=tls) as stage:
        client = await connect(stage)
        for _ in range(3):
            await client.begin()
        number = await client.begin("POST", "/in", (b"content-length", b"10"), end=False)
        assert number
        while len(stage.router.asked) < 3:
            await trio.testing.wait_all_tasks_blocked()
        client.close()
        await stage.emptied()
        while stage.proxy.counters["requests"] < 4:
            await trio.testing.wait_all_tasks_blocked()
        assert stage.proxy.counters["client_gone"] == 4


@pytest.mark.usefixtures("fibers_only")
async def test_an_event_stream_that_is_reset_lets_its_upstream_go(tls: ssl.SSLContext) -> None:
    """Also before its first byte, and while nothing comes; the others of its connection go on."""
    left = 0

    async def script(wire: Wire) -> None:
        nonlocal left
        request = await wire.request()
        if request is not None and request.first.startswith(b"GET /talks"):
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n")
        await hanging(wire)
        left += 1

    async with staged(script, tls=tls) as stage:
        client = await connect(stage)
        numbers = [
            await client.begin("GET", path, (b"accept", b"text/event-stream"))
            for path in ("/talks", "/silent", "/stays")
        ]
        while not client.answers[numbers[0]].body:
            assert await client.more()
        while len(stage.router.asked) < len(numbers):
            await trio.testing.wait_all_tasks_blocked()
        for number in numbers[:2]:
            client.h2.reset_stream(number)
        await client.flush()
        with trio.fail_after(5):
            while left < 2:
                await trio.testing.wait_all_tasks_blocked()
        assert stage.proxy.counters["client_gone"] == 2
        assert left == 2
        client.close()


# --- real clients


@asynccontextmanager
async def real(tls: ssl.SSLContext) -> AsyncIterator[tuple[Stage, str]]:
    async with staged(serving(answer(b"hello")), tls=tls) as stage:
        assert stage.tls_endpoint is not None
        yield stage, f"https://127.0.0.1:{stage.tls_endpoint[1]}/a"


async def run(*command: str) -> str:
    done = await trio.to_thread.run_sync(partial(subprocess.run, command, capture_output=True, text=True, timeout=30))
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_speaks_http2_to_us(tls: ssl.SSLContext) -> None:
    async with real(tls) as (_, url):
        said = await run("curl", "-sk", "--http2", "-d", "x=1", "-w", " %{http_version} %{http_code}", url)
        assert said == "hello 2 200"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nghttp") is None, reason="nghttp is not installed")
async def test_nghttp_speaks_http2_to_us(tls: ssl.SSLContext) -> None:
    async with real(tls) as (_, url):
        said = await run("nghttp", "-nv", "--no-verify-peer", "-m5", url)
        assert said.count(":status: 200") == 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
async def test_h2load_gets_every_answer(tls: ssl.SSLContext) -> None:
    async with real(tls) as (stage, url):
        said = await run("h2load", "-n500", "-c5", "-m20", url)
        assert "500 succeeded, 0 failed" in said
        assert stage.proxy.counters["relayed_2xx"] == 500
