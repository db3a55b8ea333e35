"""The table of what upstreams do wrong: what the client gets, that the connection is never used again, and that nothing
of one request is ever in another's answer."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from lattice.types import SECOND
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.proxy import Outcome, ProxyLimits
from router.traffic.upstream_pool import Upstream
from tests.router.traffic.upstreams import GET, Wire, answer, post, serving, staged

LIMITS = ProxyLimits(
    first_byte_timeout_us=6 * SECOND,
    response_head_timeout_us=2 * SECOND,
    response_body_timeout_us=7 * SECOND,
    upstream_idle_timeout_us=600 * SECOND,
)
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE, RESET, STAY = "closes", "resets", "stays"


@dataclass(frozen=True, slots=True)
class Broken:
    says: bytes | tuple[bytes, ...]
    """In pieces that arrive one by one."""
    then: str
    status: int
    """What the client gets."""
    whole: bool = True
    """And whether it can tell that it has all of it."""
    request: bytes = GET
    reads: bool = True
    """The upstream waits for the whole request first."""
    told: Outcome | None = None
    """The last word about it to the node, where there is one beside the answer."""


_CUT = Outcome.TRUNCATED
_BAD = Outcome.SERVER_ERROR
_HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
_HALF = post(bytes(300_000))[:-1]  # the client keeps the last byte to itself

TABLE = {
    # no answer
    "closes at once": Broken(b"", CLOSE, 502, told=Outcome.RESET),
    "resets at once": Broken(b"", RESET, 502, told=Outcome.RESET),
    "closes in the head": Broken(b"HTTP/1.1 200 OK\r\nConte", CLOSE, 502, told=_CUT),
    "resets in the head": Broken(b"HTTP/1.1 200 OK\r\nConte", RESET, 502, told=_CUT),
    "closes behind an interim answer": Broken(b"HTTP/1.1 103 Early Hints\r\n\r\n", CLOSE, 502, told=_CUT),
    "says nothing": Broken(b"", STAY, 504, told=Outcome.TIMEOUT),
    "slow head": Broken(OK, STAY, 504, told=Outcome.TIMEOUT),
    "a head byte by byte": Broken(tuple(b"%c" % byte for byte in answer()), STAY, 504, told=Outcome.TIMEOUT),
    "nothing behind an interim answer": Broken(b"HTTP/1.1 100 Continue\r\n\r\n", STAY, 504, told=Outcome.TIMEOUT),
    "1xx storm": Broken(b"HTTP/1.1 102 Processing\r\n\r\n" * 20, STAY, 502, told=_BAD),
    "1xx storm, drop by drop": Broken((b"HTTP/1.1 102 Processing\r\n\r\n",) * 20, STAY, 502, told=_BAD),
    # no HTTP
    "words": Broken(b"hello there\r\n\r\n", STAY, 502, told=_BAD),
    "HTTP/0.9": Broken(b"<html>hello</html>", CLOSE, 502, told=_BAD),
    "HTTP/2": Broken(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", STAY, 502, told=_BAD),
    "TLS": Broken(b"\x15\x03\x01\x00\x02\x02\x16", CLOSE, 502, told=_BAD),
    "another protocol, unasked": Broken(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + POISON, STAY, 502, told=_BAD),
    "bare LF": Broken(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", STAY, 502, told=_BAD),
    "a folded line": Broken(OK + b"X: a\r\n b\r\n\r\n", STAY, 502, told=_BAD),
    "NUL": Broken(OK + b"X: a\x00b\r\n\r\n", STAY, 502, told=_BAD),
    "status of two digits": Broken(b"HTTP/1.1 20 OK\r\n\r\n", STAY, 502, told=_BAD),
    "status 600": Broken(b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n", STAY, 502, told=_BAD),
    "two lengths": Broken(OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", STAY, 502, told=_BAD),
    "a negative length": Broken(OK + b"Content-Length: -5\r\n\r\nhello", STAY, 502, told=_BAD),
    "length and chunks": Broken(
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", STAY, 502, told=_BAD
    ),
    "chunks in 1.0": Broken(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", STAY, 502, told=_BAD),
    "an unknown coding": Broken(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", STAY, 502, told=_BAD),
    "a head without end": Broken(OK + b"X: " + b"x" * 70_000, STAY, 502, told=_BAD),
    "fields without end": Broken(OK + b"X: y\r\n" * 200 + b"\r\n", STAY, 502, told=_BAD),
    # truncated
    "closes in a length": Broken(OK + b"Content-Length: 9\r\n\r\nhello", CLOSE, 200, whole=False, told=_CUT),
    "resets in a length": Broken(OK + b"Content-Length: 9\r\n\r\nhello", RESET, 200, whole=False, told=_CUT),
    "stops in a length": Broken(OK + b"Content-Length: 9\r\n\r\nhello", STAY, 200, whole=False, told=_CUT),
    "closes in chunks": Broken(CHUNKED + b"9\r\nhello", CLOSE, 200, whole=False, told=_CUT),
    "closes before the last chunk": Broken(CHUNKED + chunk(b"hello"), CLOSE, 200, whole=False, told=_CUT),
    "closes in the trailers": Broken(CHUNKED + b"0\r\nA: b", CLOSE, 200, whole=False, told=_CUT),
    "resets in chunks": Broken(CHUNKED + chunk(b"hello"), RESET, 200, whole=False, told=_CUT),
    "stops in chunks": Broken(CHUNKED + chunk(b"hello"), STAY, 200, whole=False, told=_CUT),
    # framed wrongly; seen at once it is 502, once bytes went out the client's answer is cut off
    "a bad chunk size": Broken(CHUNKED + b"xyz\r\n", STAY, 502, told=_CUT),
    "a chunk longer than its size": Broken(CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", STAY, 502, told=_CUT),
    "a bad chunk later": Broken((CHUNKED + chunk(b"hello"), b"xyz\r\n"), STAY, 200, whole=False, told=_CUT),
    "a chunk of 2^64": Broken(CHUNKED + b"10000000000000000\r\n", STAY, 502, told=_CUT),
    "bad trailers": Broken(CHUNKED + b"0\r\nA b\r\n\r\n", STAY, 502, told=_CUT),
    "trailers without end": Broken((CHUNKED + b"0\r\nA: ", b"b" * 9_000), STAY, 200, whole=False, told=_CUT),
    # surplus
    "surplus behind a length": Broken(answer(b"one") + POISON, STAY, 200),
    "surplus behind chunks": Broken(CHUNKED + chunk(b"one") + LAST_CHUNK + POISON, STAY, 200),
    "surplus behind no content": Broken(b"HTTP/1.1 204 No Content\r\n\r\n" + POISON, STAY, 204),
    "surplus behind not modified": Broken(b"HTTP/1.1 304 Not Modified\r\n\r\n" + POISON, STAY, 304),
    "a body for HEAD": Broken(answer(b"poison"), STAY, 200, request=_HEAD),
    "chunks for HEAD": Broken(CHUNKED + chunk(b"poison") + LAST_CHUNK, STAY, 200, request=_HEAD),
    "surplus later": Broken((answer(b"one"), POISON), STAY, 200),
    "half a head later": Broken((answer(b"one"), b"HTTP/1.1 2"), STAY, 200),
    "closes later": Broken(answer(b"one"), CLOSE, 200),
    "resets later": Broken(answer(b"one"), RESET, 200),
    "says that it closes, and does not": Broken(answer(b"one", "200 OK", "Connection: close"), STAY, 200),
    "says that it closes behind chunks, and does not": Broken(
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"one") + LAST_CHUNK, STAY, 200
    ),
    "1.0 without length": Broken(b"HTTP/1.0 200 OK\r\n\r\none", CLOSE, 200),
    "1.0 with a length": Broken(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none", STAY, 200),
    # early
    "an early refusal": Broken(answer(b"no", "413 Content Too Large"), STAY, 413, request=_HALF, reads=False),
    "an early refusal, and closes": Broken(answer(b"no", "413 No"), CLOSE, 413, request=_HALF, reads=False),
    "an early answer of 200": Broken(answer(b"one"), STAY, 200, request=_HALF, reads=False),
    "an early answer in chunks": Broken(CHUNKED + chunk(b"one") + LAST_CHUNK, STAY, 200, request=_HALF, reads=False),
    "an early answer, cut off": Broken(
        OK + b"Content-Length: 9\r\n\r\nhello", CLOSE, 200, whole=False, request=_HALF, reads=False, told=_CUT
    ),
}


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.01)


@pytest.mark.parametrize("name", TABLE)
async def test_a_broken_upstream(name: str, clock: trio.testing.MockClock) -> None:
    await check_broken(TABLE[name], kept=False)


@pytest.mark.parametrize(
    "name", [name for name, broken in TABLE.items() if broken.request == GET and broken.told is not Outcome.RESET]
)
async def test_an_upstream_that_breaks_later(name: str, clock: trio.testing.MockClock) -> None:
    """A kept connection's second request goes another way (`plain_way`), and must come to the same. Who closes it
    without a word is in `test_proxy_left`."""
    await check_broken(TABLE[name], kept=True)


async def check_broken(broken: Broken, *, kept: bool) -> None:
    connections = 0

    async def upstream(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await wire.request()
            await wire.send(answer(b"clean"))
            return
        if kept:
            await wire.request()
            await wire.send(answer(b"first"))
        await (wire.request() if broken.reads else wire.head())
        for piece in (broken.says,) if isinstance(broken.says, bytes) else broken.says:
            await wire.send(piece)
            await trio.sleep(1)
        if broken.then == RESET:
            wire.reset()
        while broken.then == STAY and await wire.more():
            pass

    async with staged(upstream, limits=LIMITS) as stage:
        wire = await stage.client()
        if kept:
            assert (await wire.ask(GET)).body == b"first"
        await wire.send(broken.request)
        response = await wire.response(broken.request.split()[0].decode())
        while response.status < 200:
            response = await wire.response()
        assert (response.status, response.whole) == (broken.status, broken.whole)
        assert stage.router.told[-1][1] is (broken.told or Outcome.OK)
        await trio.sleep(2)
        second = await stage.ask(GET)
        assert (second.status, second.body) == (200, b"clean")
        assert connections == 2, "never used again"
        assert b"poison" not in wire.received
        assert stage.proxy.counters["retries"] == 0


async def test_what_a_kept_connection_refuses_at_once_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """So even a POST is sent again, by a new connection, however much that one had been sent before."""
    send_now, asked = Upstream.send_now, 0

    def refuses(self: Upstream, data: bytes | memoryview) -> bytes | memoryview:
        nonlocal asked
        asked += 1
        if asked == 2:
            self.sock.shutdown(socket.SHUT_RDWR)
            raise BrokenPipeError(errno.EPIPE, "the peer is gone")
        return send_now(self, data)

    monkeypatch.setattr(Upstream, "send_now", refuses)
    async with staged(serving(answer(b"first")), serving(answer(b"second")), limits=LIMITS) as stage:
        wire = await stage.client()
        assert (await wire.ask(GET)).body == b"first"
        assert (await wire.ask(post(b"hello"), "POST")).body == b"first"
        assert (stage.proxy.counters["renewed"], stage.proxy.counters["retries"]) == (1, 0)


@pytest.mark.parametrize("sent", ["nothing", "half", "refused"])
async def test_a_kept_connection_that_does_not_take_the_whole_request(
    sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may be full, or say only now that the connection is lost: what follows is as for a fresh one."""
    send_now, asked = Upstream.send_now, 0

    def stingy(self: Upstream, data: bytes | memoryview) -> bytes | memoryview:
        nonlocal asked
        asked += 1
        if asked != 2:  # the second request's first try
            return send_now(self, data)
        if sent == "refused":
            self.sock.shutdown(socket.SHUT_RDWR)
            raise BrokenPipeError(errno.EPIPE, "the peer is gone")
        return bytes(data) if sent == "nothing" else send_now(self, data[:20]) or bytes(data[20:])

    monkeypatch.setattr(Upstream, "send_now", stingy)
    requests: list[bytes] = []

    async def upstream(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            requests.append(request.first)
            await wire.send(answer(b"%d" % len(requests)))

    async with staged(upstream, upstream, limits=LIMITS) as stage:
        wire = await stage.client()
        with trio.fail_after(5):
            assert [(await wire.ask(GET)).body for _ in range(3)] == [b"1", b"2", b"3"]
        assert requests == [b"GET /a?b=c HTTP/1.1"] * 3
        assert stage.proxy.counters["renewed"] == (sent == "refused")
        assert stage.proxy.counters["retries"] == 0
