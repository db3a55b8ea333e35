"""HTTP/2 towards clients (RFC 9113): many requests on a connection, each the exchange it would be in HTTP/1.1 (edge).

h2 keeps the protocol's state; this module moves its bytes and gives every stream what an `Exchange` knows: a client.
The exchange reads a body and writes a response as HTTP/1.1 would have them; `Http2Stream` translates at the edge, so
that decisions, retries, hedges, limits and counters are written once.

    reader    the connection's own coroutine: bytes → h2 → events; begins an exchange for each request
    stream    a fiber each (or a task, when it uploads): waits for body, for window, for room in the connection
    writer    a fiber that lives while the kernel takes less than there is

Bounded: a stream buffers its window of body (64 KiB), a connection 1 MiB of all bodies, less than one frame of what
came, and 64 KiB of what it sends, plus answers to control frames, which end the connection when they pile up. An
exchange whose client has reset its stream counts as open until it has ended, so streams that are begun and reset in a
row (CVE-2023-44487) cost no more than streams that stay, and some hundreds of them end the connection. Frames that
carry nothing (pings, settings, empty DATA; CVE-2019-9512, -9515, -9518) are paid for from a bucket that useful frames
fill. The size of a field list, and HEADERS and CONTINUATION frames in a row (CVE-2024-27919), are bounded by h2.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from router.traffic.ending import After, Ending
from router.traffic.exchange import serve
from router.traffic.field_blocks import FieldEncoder
from router.traffic.http1 import RequestHead, RequestReader
from router.traffic.http2_frames import FrameError, Frames
from router.traffic.http2_head import HeaderList, request_head, trailer_lines
from router.traffic.http2_stream import Http2Stream
from router.traffic.plane import Plane
from router.traffic.reply import refuse
from router.traffic.request_body import Client
from router.traffic.strict import BadRequestError

STREAMS_MAX: Final = 100
"""Exchanges under way on one connection. RFC 9113 6.5.2 recommends no fewer; Envoy's edge list, and nginx's 128."""
STREAM_WINDOW_BYTES: Final = 65_535
CONNECTION_WINDOW_BYTES: Final = 1 << 20
FIELDS_BYTES_MAX: Final = 32_768
"""Of a field list, as HPACK counts it; the bound of an HTTP/1.1 head."""
OUT_BYTES_MAX: Final = 65_536
"""Waiting for the kernel; streams wait for room before they add to it."""
OUT_BYTES_FLOOD: Final = 4 * OUT_BYTES_MAX
"""With so many answers to control frames unread, the peer does not read."""
NOISE_MAX: Final = 1_000
NOISE_REFILL: Final = 50.0
"""A second."""
RESETS_MAX: Final = 200
"""Streams the client may reset beyond one in two of those it has begun."""

_log = logging.getLogger(__name__)


class Http2Connection:
    """One client connection after ALPN said "h2". `run` it once."""

    def __init__(self, plane: Plane, client: Client) -> None:
        self.client = client
        self.nest = plane.nest
        self._plane = plane
        # The gate of `http2_head` judges what comes in, and asks for more; what goes out has passed `strict`.
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.encoder = FieldEncoder()
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: FIELDS_BYTES_MAX,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )
        self._frames = Frames()
        self._reader = RequestReader()  # of one connection: it knows a head whose fields are those of the last
        self._streams: dict[int, Http2Stream] = {}  # whose exchanges have not ended
        self._chunked: set[int] = set()  # of those, whose bodies go on as chunks
        self._owed: dict[int, int] = {}  # bytes of window to give back once a body is read
        self._out = bytearray()
        self._writing = False
        self._over = False
        self._leaving = False
        self._last = 0  # the newest stream that was begun
        self._resets = 0
        self._noise = float(NOISE_MAX)
        self._noise_at = self.nest.time()

    # --- the connection's own coroutine

    async def run(self) -> After:
        """Until the client leaves, misbehaves, or is idle, or a drain is through."""
        limits, client, nest = self._plane.limits, self.client, self.nest
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - STREAM_WINDOW_BYTES)
        self.flush()
        try:
            while not self._over:
                if self._plane.draining:
                    self.go_away()
                if self._leaving and not self._streams and not self._out:
                    return After.CLOSE
                try:
                    data = client.receive_now()
                except OSError:
                    return After.ABORT
                if data:
                    if not self._receive(data):
                        return After.CLOSE
                    await nest.pause()
                elif data is not None:
                    return After.CLOSE
                elif not await self._wait(limits.idle_timeout_us):
                    self.go_away()
            return After.ABORT
        finally:
            self._over = True
            client.idle_since = None
            for stream in list(self._streams.values()):
                stream.lose()

    async def _wait(self, idle_timeout_us: int) -> bool:
        """For bytes, or for somebody to rouse us. False if the client was idle for too long."""
        client = self.client
        if self._streams:
            client.idle_since = None
        elif client.idle_since is None:
            client.idle_since = self.nest.time()  # from here on the proxy's sweep may rouse us
        elif self.nest.time() - client.idle_since >= idle_timeout_us / 1e6:
            return False
        with contextlib.suppress(trio.TooSlowError, trio.ClosedResourceError):
            await client.readable(idle_timeout_us)
        return True

    def _receive(self, data: bytes) -> bool:
        """Take bytes in. False if the connection must end."""
        try:
            frames, left = self._frames.feed(data)
            events = self._h2.receive_data(frames)
        except FrameError as error:
            self._count(str(error))
            self.go_away(ErrorCodes.FRAME_SIZE_ERROR)
            return False
        except ProtocolError as error:
            self._count(type(error).__name__.removesuffix("Error"))
            self.flush()
            return False
        self._leaving = self._leaving or left  # the client begins no more; what it has begun goes on
        begun: list[tuple[Http2Stream, RequestReceived]] = []
        for event in events:
            self._take(event, begun)
        for stream, request in begun:
            self._begin(stream, request)
        why = self._misbehaves()
        if why:
            self._count(why)
            self.go_away(ErrorCodes.ENHANCE_YOUR_CALM)
            return False
        self.flush()
        return not self._over

    def _take(self, event: Event, begun: list[tuple[Http2Stream, RequestReceived]]) -> None:
        match event:
            case RequestReceived():
                self._noise += 10
                if (stream := self._admit(event)) is not None:
                    begun.append((stream, event))
            case DataReceived():
                self._noise += 2 if event.data else -1
                length = event.flow_controlled_length or 0
                taker = self._streams.get(event.stream_id or 0)
                if taker is None or taker.gone:
                    self._give_back(event.stream_id or 0, length)
                    return
                self._owed[taker.number] = self._owed.get(taker.number, 0) + length
                taker.feed(bytes(event.data or b""), chunked=taker.number in self._chunked)
            case StreamEnded():
                if (ended := self._streams.get(event.stream_id or 0)) is not None:
                    ended.end(chunked=ended.number in self._chunked)
            case TrailersReceived():
                self._noise -= 1
                self._take_trailers(event)
            case StreamReset():
                if (reset := self._streams.get(event.stream_id or 0)) is not None and not reset.gone:
                    self._resets += 1
                    reset.lose()
            case WindowUpdated() | RemoteSettingsChanged():
                self._noise -= 1
                self._tell_room()
            case _:
                self._noise -= 1

    def _take_trailers(self, trailers: TrailersReceived) -> None:
        """For a body that goes on in chunks; elsewhere is no place for them."""
        number = trailers.stream_id or 0
        if (stream := self._streams.get(number)) is None or number not in self._chunked:
            return
        try:
            stream.trailers = trailer_lines([(bytes(name), bytes(value)) for name, value in trailers.headers or []])
        except BadRequestError as error:
            self._count(error.reason)
            self._reset(number, ErrorCodes.PROTOCOL_ERROR)
            stream.lose()

    def _admit(self, request: RequestReceived) -> Http2Stream | None:
        number = request.stream_id or 0
        if self._leaving:
            self._reset(number, ErrorCodes.REFUSED_STREAM)
            return None
        self._last = number
        if len(self._streams) >= STREAMS_MAX:  # those that were reset and have not ended are among them
            self._count("stream refused")
            self._resets += 1
            self._reset(number, ErrorCodes.REFUSED_STREAM)
            return None
        stream = self._streams[number] = Http2Stream(self, number)
        headers = request.headers or []
        ended = request.stream_ended is not None
        if not ended and not any(name == b"content-length" for name, _ in headers):
            self._chunked.add(number)
        return stream

    def _begin(self, stream: Http2Stream, request: RequestReceived) -> None:
        body = self._serve(stream, [(bytes(name), bytes(value)) for name, value in request.headers or []])
        start = self.nest.start if self._plane.fast else self.nest.start_task
        start(body)

    async def _serve(self, stream: Http2Stream, headers: HeaderList) -> None:
        """A request, to its one counted ending."""
        kind = "abandoned"
        try:
            try:
                ending = await self._answer(stream, headers)
                kind = ending.kind
                self._finish(stream, ending)
            except Exception:  # noqa: BLE001 -- a bug met by one stream must not take the others down
                kind = "internal_error"
                _log.exception("internal error while serving %s", self.client.address)
                self._reset(stream.number, ErrorCodes.INTERNAL_ERROR)
        finally:
            self._plane.counters["requests"] += 1
            self._plane.counters[kind] += 1
            self._plane.counters["h2.requests"] += 1
            self._forget(stream)

    async def _answer(self, stream: Http2Stream, headers: HeaderList) -> Ending:
        stream.method = next((value for name, value in headers if name == b":method"), b"")
        head: RequestHead | None = None
        try:
            has_body = stream.number in self._chunked or not stream.ended
            head = request_head(headers, self._reader, has_body=has_body)
        except BadRequestError as error:
            return await refuse(self._plane, stream, error)
        return await serve(self._plane, stream, head)

    def _finish(self, stream: Http2Stream, ending: Ending) -> None:
        if stream.gone or self._over:
            return
        if not stream.whole:
            self._reset(stream.number, ErrorCodes.INTERNAL_ERROR)  # what the client has is not the whole
        elif not stream.ended:
            self._reset(stream.number, ErrorCodes.NO_ERROR)  # 8.1: an early answer; the rest is not wanted
        self.flush()

    def _forget(self, stream: Http2Stream) -> None:
        stream.gone = True
        self._streams.pop(stream.number, None)
        self._chunked.discard(stream.number)
        self._give_back(stream.number, self._owed.pop(stream.number, 0))
        if not self._over:
            self.flush()
            if not self._streams:
                self.rouse()

    # --- leaving

    def go_away(self, why: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Begin no more streams; those under way end in their time. (h2's own way would end them at once.)"""
        if not self._leaving:
            self._leaving = True
            self._out += GoAwayFrame(stream_id=0, last_stream_id=self._last, error_code=why).serialize()
        self.flush()

    def rouse(self) -> None:
        """Let the reader look whether it is time to leave."""
        if self.client.read_waiter is not None:
            self.client.read_waiter.nudge()
        elif not self._plane.fast:
            trio.lowlevel.notify_closing(self.client.sock)

    def _misbehaves(self) -> str:
        now = self.nest.time()
        self._noise = min(float(NOISE_MAX), self._noise + (now - self._noise_at) * NOISE_REFILL)
        self._noise_at = now
        if self._noise < 0:
            return "flood"
        if self._resets > RESETS_MAX + self._last // 4:  # a client's streams have odd numbers
            return "rapid reset"
        if len(self._out) > OUT_BYTES_FLOOD:
            return "unread"
        return ""

    def _count(self, what: str) -> None:
        self._plane.counters[f"h2.{what.lower()}"] += 1

    # --- what streams do

    def send_head(self, stream: Http2Stream, headers: HeaderList, *, end: bool) -> None:
        self._check(stream)
        try:
            self._h2.send_headers(stream.number, headers, end_stream=end)
        except ProtocolError as error:
            raise ConnectionResetError(str(error)) from None

    def send_body(self, stream: Http2Stream, data: memoryview, *, last: bool) -> int:
        """As much as window and room allow at once: 0 means wait. All of the `last` piece ends the stream."""
        self._check(stream)
        room = OUT_BYTES_MAX - len(self._out)
        try:
            count = min(
                len(data), room, self._h2.local_flow_control_window(stream.number), self._h2.max_outbound_frame_size
            )
            if count <= 0:
                return 0
            self._h2.send_data(stream.number, bytes(data[:count]), end_stream=last and count == len(data))
        except ProtocolError as error:
            raise ConnectionResetError(str(error)) from None
        self._noise += 2
        self.flush()
        return count

    def send_end(self, stream: Http2Stream, trailers: HeaderList) -> None:
        self._check(stream)
        try:
            if trailers:
                self._h2.send_headers(stream.number, trailers, end_stream=True)
            else:
                self._h2.end_stream(stream.number)
        except ProtocolError as error:
            raise ConnectionResetError(str(error)) from None

    def consumed(self, number: int) -> None:
        """A body was read so far: give the window back."""
        self._give_back(number, self._owed.pop(number, 0))
        self.flush()

    def _check(self, stream: Http2Stream) -> None:
        if stream.gone or self._over:
            raise ConnectionResetError("the stream is over")

    def _give_back(self, number: int, length: int) -> None:
        if length and not self._over:
            with contextlib.suppress(ProtocolError):  # the connection is over
                self._h2.acknowledge_received_data(length, number)

    def _reset(self, number: int, why: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):  # over already
            self._h2.reset_stream(number, why)

    def _tell_room(self) -> None:
        for stream in list(self._streams.values()):
            stream.may_send()

    # --- bytes out

    def flush(self) -> None:
        """Send what the kernel takes; the rest is the writer's."""
        self._out += self._h2.data_to_send()
        if self._writing or self._over or not self._out:
            return
        try:
            left = self.client.send_now(bytes(self._out))
        except OSError:
            self._fail()
            return
        self._out[:] = left
        if left:
            self._writing = True
            start = self.nest.start if self._plane.fast else self.nest.start_task
            start(self._write())

    async def _write(self) -> None:
        """Until there is nothing left to send."""
        limits = self._plane.limits
        try:
            while self._out and not self._over:
                # The same bytes again, as TLS wants them after it was refused; more may have come behind them.
                left = self.client.send_now(bytes(self._out))
                count = len(self._out) - len(left)
                del self._out[:count]
                if count:
                    self._tell_room()
                if self._out:
                    await self.client.writable(limits.client_write_timeout_us)
        except (OSError, trio.TooSlowError):
            self._fail()
        finally:
            self._writing = False
        if self._leaving and not self._streams:
            self.rouse()

    def _fail(self) -> None:
        self._over = True
        for stream in list(self._streams.values()):
            stream.lose()
        self.rouse()
