"""The data plane end to end, over real sockets: what arrives where, unchanged, and how every request ends."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import select
import socket
import struct
import termios
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lattice.types import MILLISECOND, SECOND
from router.decision.decide import Decision, Request
from router.tcp.splice import Pipe
from router.traffic import uploading
from router.traffic.concurrency import LIMIT_MIN
from router.traffic.message_body import LAST_CHUNK, chunk
from router.traffic.proxy import Outcome, ProxyLimits
from tests.router.traffic.bad_requests import BAD_BODIES, BAD_HEADS
from tests.router.traffic.upstreams import (
    GET,
    FixedRouter,
    Script,
    Stage,
    Upstream,
    Wire,
    answer,
    hanging,
    listen,
    post,
    proxied,
    refusing,
    serving,
    staged,
)


async def echo(wire: Wire) -> None:
    """Answers every request with its own body, chunked."""
    while (request := await wire.request()) is not None:
        body = chunk(request.body) if request.body else b""
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + LAST_CHUNK)


# --- one request


async def test_a_request_goes_where_it_is_steered_and_its_answer_comes_back() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", "X-App: yes", "Set-Cookie: a")))
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client("127.10.0.1")
            response = await wire.ask(GET)
            assert (response.first, response.body) == (b"HTTP/1.1 200 OK", b"hello")
            assert response.one(b"X-App") == b"yes"
            assert response.one(b"X-Edge-Site") == b"lis"
            assert response.one(b"X-Edge-Region") == b"region0"
            assert response.one(b"X-Edge-Reason") == b"primary"
            (asked,) = stage.router.asked
            assert (asked.client, asked.host, asked.path, asked.method) == (
                "127.10.0.1",
                "shop.example.com",
                "/a",
                "GET",
            )
            assert stage.router.told == [("region0", Outcome.OK)]
            assert upstream.received.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: shop.example.com\r\n")
            assert b"X-Forwarded-For: 127.10.0.1\r\n" in upstream.received
            assert stage.proxy.counters["region.region0"] == 1
        nursery.cancel_scope.cancel()


async def test_connections_persist_on_both_sides() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer()))
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client()
            for _ in range(5):
                assert (await wire.ask(GET)).status == 200
            assert len(upstream.wires) == 1
            assert stage.proxy.counters["region.region0"] == 5
            assert stage.proxy.counters["upstream.reused"] == 4
        nursery.cancel_scope.cancel()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with staged(echo) as stage:
        wire = await stage.client()
        await wire.send(b"".join(post(b"%d" % i) for i in range(20)) + GET)
        assert [(await wire.response()).body for _ in range(20)] == [b"%d" % i for i in range(20)]
        assert (await wire.response()).body == b""


@pytest.mark.parametrize(
    ("upstream_says", "method", "status", "length", "body"),
    [
        (answer(b"", "204 No Content").replace(b"Content-Length: 0\r\n", b""), "GET", 204, None, b""),
        (answer(b"", "204 No Content"), "GET", 204, None, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", "GET", 304, b"5", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200, b"5", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", 200, None, b""),
        (answer(b""), "GET", 200, b"0", b""),
        (answer(b"hello", "404 Not Found"), "GET", 404, b"5", b"hello"),
        (answer(b"hello", "299 "), "GET", 299, b"5", b"hello"),
    ],
)
async def test_bodiless_and_bodied_responses_keep_their_framing(
    upstream_says: bytes, method: str, status: int, length: bytes | None, body: bytes
) -> None:
    async with staged(serving(upstream_says)) as stage:
        wire = await stage.client()
        for _ in range(2):  # what follows is still in step
            response = await wire.ask(GET.replace(b"GET", method.encode()), method)
            assert (response.status, response.one(b"Content-Length"), response.body) == (status, length, body)
        assert stage.proxy.counters["upstream.reused"] == 1


async def test_a_body_that_ends_with_the_connection_is_chunked_for_the_client() -> None:
    async def until_close(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await wire.send(b"lo")

    async with staged(until_close) as stage:
        wire = await stage.client()
        for _ in range(2):
            response = await wire.ask(GET)
            assert (response.body, response.whole, response.one(b"Transfer-Encoding")) == (b"hello", True, b"chunked")
        assert stage.proxy.counters["upstream.reused"] == 0
        assert stage.proxy.counters["upstream.stale"] == 0, "nobody tried to"


async def test_http_1_0_clients_get_no_chunks() -> None:
    async with staged(echo) as stage:
        wire = await stage.client()
        response = await wire.ask(b"POST / HTTP/1.0\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
        assert (response.body, response.one(b"Transfer-Encoding")) == (b"hello", None)
        assert response.one(b"Connection") == b"close"


async def test_http_1_0_clients_may_persist() -> None:
    async with staged(serving(answer())) as stage:
        wire = await stage.client()
        for _ in range(2):
            response = await wire.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert response.one(b"Connection") == b"keep-alive"
        response = await wire.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert response.one(b"Connection") == b"close"
        assert await wire.rest() == b""


async def test_connection_close_is_honoured() -> None:
    async with staged(serving(answer(b"x", "200 OK", "Connection: close"))) as stage:
        wire = await stage.client()
        assert (await wire.ask(GET)).one(b"Connection") is None  # that was between us and the upstream
        response = await wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert response.one(b"Connection") == b"close"
        assert await wire.rest() == b""
        assert stage.proxy.counters["upstream.opened"] == 2


async def test_connection_close_is_honoured_behind_chunks() -> None:
    async with staged(echo) as stage:
        wire = await stage.client()
        response = await wire.ask(post(b"hello", "Connection: close"), "POST")
        assert (response.body, response.one(b"Connection")) == (b"hello", b"close")
        assert await wire.rest() == b""


async def test_denied_requests_are_answered_here() -> None:
    async with proxied(FixedRouter(denial=(503, "denied: no region is well"))) as stage:
        wire = await stage.client()
        response = await wire.ask(GET)
        assert (response.status, response.one(b"Retry-After")) == (503, b"1")
        assert response.one(b"X-Edge-Reason") == b"denied: no region is well"
        assert b"no region is well" in response.body
        assert (await wire.ask(GET.replace(b"GET", b"HEAD"), "HEAD")).status == 503
        assert (await wire.ask(post(b"x" * 1_000))).status == 503  # the body was read over
        assert stage.proxy.counters["denied"] == 3


async def test_a_request_that_went_round_is_refused() -> None:
    async with staged(serving(answer())) as stage:
        response = await stage.ask(GET.replace(b"\r\n\r\n", b"\r\nVia: 1.1 lis\r\n\r\n"))
        assert response.status == 508


# --- bodies


@given(
    body=st.binary(max_size=3_000),
    cuts=st.lists(st.integers(1, 3_000), max_size=6),
    pauses=st.booleans(),
    chunked=st.booleans(),
    headers=st.lists(
        st.tuples(
            st.from_regex(rb"X-[A-Za-z]{1,8}", fullmatch=True).filter(lambda n: not n.lower().startswith(b"x-edge")),
            st.from_regex(rb"[!-~\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,10}[!-~\x80-\xff])?", fullmatch=True),
        ),
        max_size=4,
    ),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_byte_arrives_as_it_was_sent(
    body: bytes, cuts: list[int], pauses: bool, chunked: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges) if a < b]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)

    async def mirror(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            assert [pair for pair in request.headers if pair in headers] == headers
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + lines + b"\r\n")
            for piece in pieces:
                await wire.send(chunk(piece))
            await wire.send(LAST_CHUNK)
            assert request.body == body

    async def main() -> None:
        async with staged(mirror) as stage:
            wire = await stage.client()
            whole = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(body) + lines + b"\r\n" + body
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
            await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n" + lines + b"\r\n")
            for piece in pieces:
                await wire.send(chunk(piece) if chunked else piece)
                if pauses:
                    await trio.testing.wait_all_tasks_blocked()
            if chunked:
                await wire.send(LAST_CHUNK)
            response = await wire.response("POST")
            assert (response.status, response.body, response.whole) == (200, body, True)
            assert [pair for pair in response.headers if pair in headers] == headers
            assert (await wire.ask(whole, "POST")).body == body  # the next request is in step

    trio.run(main)


async def test_large_bodies_stream_both_ways() -> None:
    body = random.Random("large").randbytes(5_000_000)
    async with staged(echo) as stage:
        wire = await stage.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send, post(body))
            response = await wire.response("POST")
        assert response.body == body
        assert (await wire.ask(GET)).status == 200


@pytest.mark.parametrize("pipes", [True, False])
async def test_a_long_body_goes_by_unseen_and_what_follows_is_the_next_request(
    monkeypatch: pytest.MonkeyPatch, pipes: bool
) -> None:
    """Without descriptors for a pipe, it is copied."""
    spliced: list[int] = []

    class Counted(Pipe):
        def __init__(self) -> None:
            if not pipes:
                raise OSError(errno.EMFILE, "no")
            super().__init__()

        def fill(self, source: socket.socket, count: int) -> int:
            spliced.append(super().fill(source, count))
            return spliced[-1]

    monkeypatch.setattr(uploading, "Pipe", Counted)
    body = random.Random("long").randbytes(1_000_000)
    async with staged(echo) as stage:
        wire = await stage.client()
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.send, post(body) + GET)
                assert (await wire.response("POST")).body == body
            assert (await wire.response()).body == b""
        assert stage.proxy.counters["upstream.opened"] == 1
        assert (1_500_000 < sum(spliced) < 2_000_000) is pipes
        await wire.send(post(body)[:-1])
        await wire.stream.aclose()
        await stage.emptied()
        assert stage.proxy.counters["client_gone"] == 1
        assert (await stage.ask(GET)).status == 200
        assert stage.proxy.counters["upstream.opened"] == 2, "half a request is on the other"


class Counting:
    """Sends without end, and counts how much was taken."""

    def __init__(self) -> None:
        self.sent = 0

    async def download(self, wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(bytes(65_536))
            self.sent += 65_536


async def test_a_slow_reader_stalls_the_upstream() -> None:
    counting = Counting()
    async with staged(counting.download) as stage:
        wire = await stage.client()
        await wire.send(GET)
        await wire.exactly(10)
        await trio.testing.wait_all_tasks_blocked(0.1)
        stalled_at = counting.sent
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert counting.sent == stalled_at  # what fits into sockets, and one buffer of ours
        assert stalled_at < 32 << 20
        wire.reset()


async def test_a_slow_upstream_stalls_the_client() -> None:
    async with staged(reads_nothing) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while True:
                await wire.send(bytes(65_536))
                sent += 65_536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.testing.wait_all_tasks_blocked(0.1)
            stalled_at = sent
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert sent == stalled_at
            assert stalled_at < 32 << 20
            nursery.cancel_scope.cancel()
        wire.reset()


async def reads_nothing(wire: Wire) -> None:
    await trio.sleep_forever()


async def test_small_responses_leave_in_one_write() -> None:
    async def in_two_parts(wire: Wire) -> None:
        while await wire.request() is not None:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with staged(in_two_parts) as stage:
        wire = await stage.client()
        await wire.send(GET)
        await wire.more()
        assert wire.received.endswith(b"\r\n\r\nhello")


# --- Expect: 100-continue


EXPECTING = post(b"hello", "Expect: 100-continue")


async def test_the_upstream_is_asked_to_continue() -> None:
    seen = []

    async def asked(wire: Wire) -> None:
        head = await wire.head()
        assert head is not None
        seen.append(dict(head[1]).get(b"Expect"))
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await wire.exactly(5) == b"hello"
        await wire.send(answer())

    async with staged(asked) as stage:
        wire = await stage.client()
        head, _, body = EXPECTING.partition(b"\r\n\r\n")
        assert (await wire.ask(head + b"\r\n\r\n")).status == 100
        response = await wire.ask(body)
        assert (response.status, response.one(b"Connection")) == (200, None)
        assert seen == [b"100-continue"]


async def test_a_final_answer_instead_of_continue_ends_the_connection() -> None:
    async def declines(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"no", "413 Content Too Large"))
        assert await wire.rest() == b""  # no body came

    async with staged(declines) as stage:
        wire = await stage.client()
        response = await wire.ask(EXPECTING.removesuffix(b"hello"))
        assert (response.status, response.one(b"Connection")) == (413, b"close")
        assert await wire.rest() == b""


async def test_a_client_need_not_wait_to_be_asked() -> None:
    async with staged(echo) as stage:  # never sends 100
        assert (await stage.ask(EXPECTING, "POST")).body == b"hello"


async def test_interim_responses_are_passed_on_but_not_to_http_1_0() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X\r\nX: y\r\n\r\n"
    async with staged(serving(hints * 2 + answer())) as stage:
        wire = await stage.client()
        for _ in range(2):
            interim = await wire.ask(GET)
            assert (interim.status, interim.one(b"Link"), interim.one(b"X")) == (103, b"</a>", None)
            assert (await wire.response()).status == 103
            assert (await wire.response()).status == 200
        assert (await stage.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 200


# --- upstreams that misbehave


async def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    async def too_large(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"no", "413 Content Too Large"))
        await trio.sleep_forever()

    async with staged(too_large) as stage:
        wire = await stage.client()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n" + bytes(1_000_000))
        response = await wire.response()
        assert (response.status, response.body, response.one(b"Connection")) == (413, b"no", b"close")
        await wire.stream.aclose()


async def test_an_answer_sent_before_a_reset_is_not_lost() -> None:
    async def busy(wire: Wire) -> None:
        await wire.send(answer(b"busy", "503 Service Unavailable", "Connection: close"))

    async with staged(busy) as stage:
        response = await stage.ask(GET)
        assert (response.status, response.body) == (503, b"busy")
        assert stage.router.told == [("region0", Outcome.SERVER_ERROR)]


@pytest.mark.parametrize(
    "raw",
    [
        b"hello there\r\n\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransf",  # and closes
    ],
)
async def test_what_is_no_response_is_502_and_never_reused_or_retried(raw: bytes) -> None:
    async def broken(wire: Wire) -> None:
        await wire.request()
        await wire.send(raw)

    async with staged(broken, serving(answer())) as stage:
        wire = await stage.client()
        await wire.send(GET)
        response = await wire.response()
        while response.status == 102:
            response = await wire.response()
        assert response.status == 502
        assert response.one(b"Connection") is None  # the client did nothing wrong
        await trio.testing.wait_all_tasks_blocked()
        assert stage.proxy.counters["retries"] == 0
        assert stage.proxy.counters["failed_502"] == 1
        assert stage.router.told[-1][1] in (Outcome.SERVER_ERROR, Outcome.TRUNCATED)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("resets", [True, False])
async def test_a_cut_off_body_is_cut_off_for_the_client_too(framing: bytes, resets: bool) -> None:
    async def truncates(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + chunk(b"x" * 50_000))
        await trio.testing.wait_all_tasks_blocked()
        if resets:
            wire.reset()

    async with staged(truncates) as stage:
        wire = await stage.client()
        response = await wire.ask(GET)
        assert not response.whole
        assert len(response.body) >= 50_000
        await trio.testing.wait_all_tasks_blocked()
        assert stage.router.told == [("region0", Outcome.OK), ("region0", Outcome.TRUNCATED)]
        await wire.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.proxy.counters["truncated"] == 1


async def test_a_cut_off_body_without_length_ends_in_a_reset_for_http_1_0() -> None:
    async def truncates(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello"))
        await trio.testing.wait_all_tasks_blocked()

    async with staged(truncates) as stage:
        wire = await stage.client()
        await wire.send(b"GET / HTTP/1.0\r\n\r\n")
        await wire.exactly(len(b"HTTP/1.1 200 OK\r\n"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await wire.rest_or_reset()


async def test_surplus_bytes_never_become_the_next_response() -> None:
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with staged(serving(answer(b"one") + surplus, answer(b"two"))) as stage:
        wire = await stage.client()
        for _ in range(3):
            assert (await wire.ask(GET)).body == b"one"
        assert stage.proxy.counters["upstream.reused"] == 0


async def test_late_surplus_bytes_never_become_the_next_response() -> None:
    async def talkative(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer(b"one"))
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(answer(b"poison"))
        await trio.sleep_forever()

    async with staged(talkative) as stage:
        wire = await stage.client()
        assert (await wire.ask(GET)).body == b"one"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await wire.ask(GET)).body == b"one"
        assert stage.proxy.counters["upstream.stale"] == 1


# --- clients that misbehave


async def refused(raw: bytes) -> tuple[int, bytes, Upstream]:
    """(status, everything after the first response, what the upstream saw)."""
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, hanging)
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client()
            # A second request rides along: it must not be served after the first was refused.
            await wire.send(raw + GET)
            response = await wire.response()
            assert response.one(b"Connection") == b"close"
            assert response.body.startswith(b"%d " % response.status)
            await wire.stream.send_eof()
            rest = await wire.rest()
            counters = stage.proxy.counters
            assert counters[f"rejected_{response.status}"] == counters["requests"] == 1
        nursery.cancel_scope.cancel()
    return response.status, rest, upstream


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_nothing_of_a_bad_request_reaches_an_upstream(name: str) -> None:
    expected, raw = BAD_HEADS[name]
    status, rest, upstream = await refused(raw)
    assert (status, rest) == (expected, b"")
    assert upstream.wires == []


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_nothing_of_a_bad_body_reaches_an_upstream(name: str) -> None:
    expected, raw = BAD_BODIES[name]
    status, rest, upstream = await refused(raw)
    assert (status, rest) == (expected, b"")
    assert upstream.wires == []


async def test_a_body_that_goes_bad_later_never_ends_for_the_upstream() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, hanging)
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client()
            await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            response = await wire.ask(b"zz\r\n0\r\n\r\n" + GET)
            assert (response.status, response.one(b"Connection")) == (400, b"close")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert upstream.received.endswith(b"\r\n\r\n5\r\nhello\r\n")
            await wire.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_random_bytes_are_answered_or_closed_and_never_raise() -> None:
    source = random.Random("noise")
    pieces = [b"GET / HTTP/1.1\r\n", b"Host: h\r\n", b"\r\n", b"\n", b"Content-Length: 3\r\n", b"A: b\r\n", b"0\r\n"]
    pieces += [b"POST ", b"/", b" HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"\x00", b" ", b":"]
    async with staged(serving(answer())) as stage:

        async def one(noise: bytes) -> None:
            wire = await stage.client()
            await wire.send(noise)
            await wire.stream.send_eof()
            said = await wire.rest()
            assert said == b"" or said.startswith(b"HTTP/1.1 ")
            await wire.stream.aclose()

        for _ in range(40):
            async with trio.open_nursery() as nursery:
                for _ in range(25):
                    some = b"".join(source.choices(pieces, k=source.randrange(12)))
                    nursery.start_soon(one, some if source.random() < 0.7 else source.randbytes(source.randrange(200)))
        assert stage.proxy.counters["internal_error"] == 0
        assert stage.proxy.counters["connections"] == 1_000


@pytest.mark.parametrize("sent", [b"GET / HTT", post(b"hello")[:-2], post(b"x" * 100_000)[:-2]])
async def test_clients_that_leave_are_counted(sent: bytes) -> None:
    async with staged(hanging) as stage:
        wire = await stage.client()
        await wire.send(sent)
        await wire.stream.aclose()
        await stage.emptied()
        counters = stage.proxy.counters
        assert counters["client_gone"] + counters["rejected_400"] == 1


async def test_a_client_that_leaves_during_the_response_ends_the_upstreams_work() -> None:
    counting = Counting()
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, counting.download)
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            wire = await stage.client()
            await wire.send(GET)
            await wire.exactly(10)
            wire.reset()
            await stage.emptied()
            assert stage.proxy.counters["client_gone"] == 1
            assert stage.router.told == [("region0", Outcome.OK)]  # no fault of the endpoint
        nursery.cancel_scope.cancel()


# --- running out


# --- WebSocket

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_a_websocket_is_bytes_both_ways_until_either_side_closes() -> None:
    heads: list[bytes] = []

    async def shouting(wire: Wire) -> None:
        head = await wire.head()
        assert head is not None
        heads.extend(name.lower() + b": " + value for name, value in head[1])
        await wire.send(SWITCHING + b"hello ")
        while await wire.more():
            await wire.send(wire.buffer.upper())
            wire.buffer = b""

    async with staged(shouting) as stage:
        wire = await stage.client()
        await wire.send(UPGRADE + b"early ")
        response = await wire.response()
        assert (response.status, response.one(b"Upgrade"), response.one(b"Connection")) == (
            101,
            b"websocket",
            b"Upgrade",
        )
        assert heads.count(b"upgrade: websocket") == heads.count(b"connection: Upgrade") == 1
        assert b"sec-websocket-version: 13" in heads
        await wire.send(b"x" * 200_000)
        assert await wire.exactly(12 + 200_000) == b"hello EARLY " + b"X" * 200_000
        await wire.stream.aclose()
        await stage.emptied()
        assert stage.proxy.counters["relayed_1xx"] == 1


async def test_an_upstream_that_closes_its_websocket_closes_the_clients() -> None:
    async def brief(wire: Wire) -> None:
        await wire.request()
        await wire.send(SWITCHING + b"bye")

    async with staged(brief) as stage:
        wire = await stage.client()
        assert (await wire.ask(UPGRADE)).status == 101
        assert await wire.rest() == b"bye"


async def test_an_upstream_may_decline_a_websocket() -> None:
    async with staged(serving(answer(b"no", "403 Forbidden"))) as stage:
        wire = await stage.client()
        assert (await wire.ask(UPGRADE)).status == 403
        assert (await wire.ask(GET)).status == 403, "still HTTP, still in step"


@pytest.mark.parametrize("switch", [SWITCHING, SWITCHING.replace(b"websocket", b"irc")])
async def test_an_upstream_that_switches_unasked_is_502(switch: bytes) -> None:
    request = GET if b"websocket" in switch else UPGRADE
    async with staged(serving(switch)) as stage:
        assert (await stage.ask(request)).status == 502


async def test_a_silent_websocket_ends(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def ticking(wire: Wire) -> None:
        await wire.request()
        await wire.send(SWITCHING)
        for _ in range(4):
            await trio.sleep(2)
            await wire.send(b"tick")
        await trio.sleep_forever()

    async with staged(ticking, limits=ProxyLimits(tunnel_idle_timeout_us=3_000 * MILLISECOND)) as stage:
        wire = await stage.client()
        assert (await wire.ask(UPGRADE)).status == 101
        assert await wire.rest() == b"tick" * 4


async def test_one_connection_too_many_is_shed() -> None:
    async with staged(serving(answer()), limits=ProxyLimits(connections_max=2)) as stage:
        first, second = await stage.client(), await stage.client()
        for wire in (first, second):  # busy: who is idle would give way
            await wire.send(GET[:-2])
        while stage.proxy.connections < 2:
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        third = await stage.client()
        response = await third.response()
        assert (response.status, response.one(b"Retry-After")) == (503, b"1")
        for wire in (first, second):
            assert (await wire.ask(GET[-2:])).status == 200
            await wire.stream.aclose()
        await stage.emptied()
        assert (await stage.ask(GET)).status == 200


async def test_for_one_connection_too_many_who_is_idle_for_longest_goes() -> None:
    """Else those who only might ask again kept everybody else out for a minute."""
    async with staged(serving(answer()), limits=ProxyLimits(connections_max=2)) as stage:
        wires = []
        for _ in range(5):
            wires.append(await stage.client())
            assert (await wires[-1].ask(GET)).status == 200
            await trio.testing.wait_all_tasks_blocked(0.01)
        for gone in wires[:3]:
            assert await gone.rest() == b""
        for kept in wires[3:]:
            assert (await kept.ask(GET)).status == 200
        assert stage.proxy.counters["accept.idle_closed"] == 3
        assert stage.proxy.counters["accept.shed"] == 0


async def test_one_address_may_not_take_all_connections() -> None:
    async with staged(serving(answer()), limits=ProxyLimits(connections_per_client_max=2)) as stage:
        wires = [await stage.client("127.0.0.9") for _ in range(3)]
        assert (await wires[0].ask(GET)).status == 200
        assert (await wires[2].response()).status == 503
        other = await stage.client("127.0.0.10")
        assert (await other.ask(GET)).status == 200
        await wires[0].stream.aclose()
        while stage.proxy.connections > 2:
            await trio.testing.wait_all_tasks_blocked()
        assert (await (await stage.client("127.0.0.9")).ask(GET)).status == 200


async def test_who_downloads_much_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece, then whoever else is ready: all of the body lies in the kernel when the other one asks."""
    monkeypatch.setattr("router.traffic.connection.RECEIVE_BYTES", 1 << 12)
    passed: list[int] = []
    big = answer(bytes(1 << 16))

    class Looking(FixedRouter):
        def decide(self, request: Request) -> Decision:
            if request.path == "/small":
                passed.append(unread(slow))
            return super().decide(request)

    async def upstream(wire: Wire) -> None:
        if (request := await wire.request()) and request.first.startswith(b"GET /a?"):
            sent = os.write(wire.socket.fileno(), big)
            os.write(quick.socket.fileno(), b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n")
            assert sent == len(big), "at once"
            await trio.sleep_forever()
        await wire.send(answer())

    def unread(wire: Wire) -> int:
        return int(struct.unpack("i", fcntl.ioctl(wire.socket.fileno(), termios.FIONREAD, bytes(4)))[0])

    async with trio.open_nursery() as nursery:
        endpoint = (await listen(nursery, upstream)).endpoint
        async with proxied(Looking(endpoint)) as stage:
            slow, quick = [await stage.client() for _ in range(2)]
            await slow.send(GET)
            assert (await quick.response()).status == 200
            assert (await slow.response()).whole
            assert passed[0] < len(big) // 2
        nursery.cancel_scope.cancel()


async def test_a_full_region_spills_and_when_all_are_full_the_answer_is_an_early_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_START", 1)
    async with staged(hanging, hanging) as stage:
        first, second, third = [await stage.client() for _ in range(3)]
        await first.send(GET)
        await second.send(GET)
        while len(stage.router.asked) < 2:
            await trio.testing.wait_all_tasks_blocked()
        response = await third.ask(GET)
        assert (response.status, response.one(b"Retry-After")) == (503, b"1")
        assert stage.proxy.counters["shed_503"] == 1


async def test_every_good_answer_widens_a_window_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_START", 1)
    let_in = 0

    async def upstream(wire: Wire) -> None:
        nonlocal let_in
        while (request := await wire.request()) is not None:
            if request.first.startswith(b"GET /hang"):
                let_in += 1
                await trio.sleep_forever()
            await wire.send(answer())

    async with staged(upstream) as stage:
        wire = await stage.client()
        for _ in range(3):  # to two with the first, to three with two more
            assert (await wire.ask(GET)).status == 200
        for _ in range(4):
            await (await stage.client()).send(b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n")
        while let_in + stage.proxy.counters["shed_503"] < 4:
            await trio.testing.wait_all_tasks_blocked()
        assert let_in == 3


@pytest.mark.parametrize(
    "other",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        answer(b"no", "500 Internal Server Error"),
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_whatever_becomes_of_a_request_its_place_in_the_window_is_free_again(
    monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    """Also when it began as the usual one."""
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_START", 1)
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_MIN", 1)
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_MAX", 1)

    async def upstream(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer())
        await wire.request()
        await wire.send(other)

    async with staged(upstream) as stage:
        for _ in range(3):
            wire = await stage.client()
            assert (await wire.ask(GET)).status == 200
            await wire.ask(GET)
            await wire.stream.aclose()
        assert stage.proxy.counters["shed_503"] == 0


async def test_a_flood_on_one_route_does_not_starve_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.traffic.concurrency.LIMIT_START", 18)

    class ByPath(FixedRouter):
        def decide(self, request: Request) -> Decision:
            return super().decide(request)._replace(route=request.path)

    async def upstream(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            if request.first.startswith(b"GET /flood"):
                await trio.sleep_forever()
            await wire.send(answer())

    async with trio.open_nursery() as nursery:
        async with proxied(ByPath((await listen(nursery, upstream)).endpoint)) as stage:
            assert (await stage.ask(b"GET /quiet HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
            for _ in range(30):
                await (await stage.client()).send(b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n")
            while len(stage.router.asked) < 31:
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            assert stage.proxy.counters["shed_503"] == 14, "16 of 18 are the flood's"
            for _ in range(3):
                assert (await stage.ask(b"GET /quiet HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
        nursery.cancel_scope.cancel()


async def test_standbys_are_held_ready(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        first, second = [await listen(nursery, serving(answer())) for _ in range(2)]
        async with proxied(FixedRouter(first.endpoint, second.endpoint)) as stage:
            assert (await stage.ask(GET)).status == 200
            await trio.sleep(1.5)
            assert len(second.wires) == 2
            assert stage.proxy.counters["upstream.warmed"] == 2
            await trio.sleep(10)
            assert len(second.wires) > 2, "renewed before they are too old"
            await trio.sleep(120)
            known = len(second.wires)
            await trio.sleep(30)
            assert len(second.wires) == known, "nobody was sent for long"
        nursery.cancel_scope.cancel()


async def test_who_said_that_this_was_all_is_not_waited_for() -> None:
    """It need not even close its own side. Who may still be sending would meet a reset, and is waited for."""
    async with staged(serving(answer()), limits=ProxyLimits(linger_timeout_us=60 * SECOND)) as stage:
        last, sending = await stage.client(), await stage.client()
        assert (await last.ask(GET[:-2] + b"Connection: close\r\n\r\n")).one(b"Connection") == b"close"
        await sending.send(post(b"all", "Connection: close") + b"and more")
        assert (await sending.response()).status == 200
        assert await last.rest() == await sending.rest() == b""
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert stage.proxy.connections == 1
        await sending.send(b"and more")
        await sending.stream.aclose()
        await stage.emptied()


def failing_accepts(stage: Stage, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]) -> None:
    """From now on every accept of the proxy's begins with `fail`, once somebody is there to be accepted."""
    original = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if self.getsockname() == stage.endpoint and select.select([self], [], [], 0)[0]:
            fail()
        return original(self)

    monkeypatch.setattr(socket.socket, "accept", accept)


async def test_failing_accepts_shed_the_longest_idle_and_never_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [errno.EMFILE] * 3 + [errno.ECONNABORTED]

    def fail() -> None:
        if failures:
            raise OSError(failures.pop(0), "no")

    async with staged(serving(answer()), limits=ProxyLimits(accept_pause_us=10 * MILLISECOND)) as stage:
        idle = await stage.client()
        assert (await idle.ask(GET)).status == 200
        failing_accepts(stage, monkeypatch, fail)
        assert (await stage.ask(GET)).status == 200
        assert (await stage.ask(GET)).status == 200
        counters = stage.proxy.counters
        assert (counters["accept.failed"], counters["accept.aborted"]) == (3, 1)
        assert counters["accept.idle_closed"] >= 1
        assert await idle.rest() == b""


async def test_while_accepts_fail_they_are_tried_at_a_pace_and_who_waits_is_served_in_the_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    failed, short = 0, True

    def fail() -> None:
        nonlocal failed
        if short and failed < 1_000:  # one that spins would not let time pass
            failed += 1
            raise OSError(errno.EMFILE, "no")

    async with staged(serving(answer()), limits=ProxyLimits(accept_pause_us=100 * MILLISECOND)) as stage:
        assert (await stage.ask(GET)).status == 200
        failing_accepts(stage, monkeypatch, fail)
        waiting = await stage.client()
        began = trio.current_time()
        await trio.sleep(10)
        passed = trio.current_time() - began
        assert 0 < failed <= passed / 0.1 + 1
        short = False
        assert (await waiting.ask(GET)).status == 200
        assert stage.proxy.counters["accept.failed"] == failed


async def test_an_accept_that_fails_lets_go_of_what_is_kept_and_of_who_was_idle_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = [errno.EMFILE]

    def fail() -> None:
        if failures:
            raise OSError(failures.pop(), "no")

    async with staged(serving(answer())) as stage:
        older, newer = await stage.client(), await stage.client()
        for wire in (older, newer):
            assert (await wire.ask(GET)).status == 200
            await trio.testing.wait_all_tasks_blocked(0.01)
        opened = stage.proxy.counters["upstream.opened"]
        failing_accepts(stage, monkeypatch, fail)
        await stage.client()
        with trio.fail_after(5):
            assert await older.rest() == b""
        assert (await newer.ask(GET)).status == 200
        assert stage.proxy.counters["accept.idle_closed"] == 1
        assert stage.proxy.counters["upstream.opened"] == opened + 1, "no connection was kept"


async def test_an_endpoint_that_takes_no_connection_in_time_is_504(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*arguments: object) -> object:
        raise trio.TooSlowError

    monkeypatch.setattr("router.traffic.upstream_pool.connect", slow)
    async with staged(refusing()) as stage:
        assert (await stage.ask(GET)).status == 504
        assert stage.router.told == [("region0", Outcome.TIMEOUT)]


async def test_a_region_that_fails_is_asked_less_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    connections = 0

    async def ill(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        await wire.request()
        if connections == 1:
            wire.reset()
        else:
            await trio.sleep_forever()

    async with staged(ill, serving(answer(b"spilled")), limits=ProxyLimits(hedge_share_pct=0, hedge_spare=0)) as stage:
        assert (await stage.ask(GET)).body == b"spilled", "rescued"
        for _ in range(LIMIT_MIN):
            await (await stage.client()).send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        assert (await stage.ask(GET)).body == b"spilled"
        assert trio.current_time() - began < 0.5, "before anybody knows that it hangs"


async def test_no_descriptors_for_upstreams_is_503_and_nobody_elses_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async def exhausted(*arguments: object) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("router.traffic.upstream_pool.connect", exhausted)
    async with staged(refusing()) as stage:
        response = await stage.ask(GET)
        assert (response.status, response.one(b"Retry-After")) == (503, b"1")
        assert stage.router.told == []
        assert stage.proxy.counters["shed_503"] == 1


async def test_a_bug_of_ours_ends_one_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    script: Script = serving(answer())
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, script)
        router = FixedRouter(upstream.endpoint)
        async with proxied(router) as stage:
            broken = await stage.client()
            router.denial = (999, "no such status")
            await broken.send(GET)
            with pytest.raises(trio.BrokenResourceError):
                await broken.stream.receive_some()
            router.denial = None
            assert (await stage.ask(GET)).status == 200
            assert stage.proxy.counters["internal_error"] == 1
            assert "internal error" in caplog.text
            stage.bugs = 1
        nursery.cancel_scope.cancel()


async def test_trace_context_is_passed_on_and_the_edge_says_its_share() -> None:
    async with trio.open_nursery() as nursery:
        upstream = await listen(nursery, serving(answer(b"hello", "200 OK", "Server-Timing: db;dur=5")))
        async with proxied(FixedRouter(upstream.endpoint)) as stage:
            parent = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1,b=2\r\n"
            response = await stage.ask(GET.replace(b"\r\n\r\n", b"\r\n" + parent + b"\r\n"))
            assert parent in upstream.received
            db, edge = response.all(b"Server-Timing")
            assert db == b"db;dur=5"
            name, _, dur = edge.partition(b";dur=")
            assert (name, 0 <= float(dur) < 60_000) == (b"edge", True)
        nursery.cancel_scope.cancel()


async def test_a_load_report_of_nobody_in_particular_is_counted_and_goes_no_further() -> None:
    reports = itertools.cycle(["endpoint-load-metrics: TEXT cpu_utilization=0.5", "Endpoint-Load-Metrics: BIN aaaa"])

    async def loaded(wire: Wire) -> None:
        while await wire.request() is not None:
            await wire.send(answer(b"hello", "200 OK", next(reports)))

    async with staged(loaded) as stage:
        wire = await stage.client()
        for _ in range(2):
            assert (await wire.ask(GET)).all(b"endpoint-load-metrics") == []
        assert stage.router.loads == []
        assert (stage.proxy.counters["load.unproven"], stage.proxy.counters["load.unread"]) == (1, 1)


async def test_the_edges_share_is_without_the_upstreams(autojump_clock: trio.testing.MockClock) -> None:
    """Also of an answer that does not come as the usual one."""
    autojump_clock.autojump_threshold = 0.02
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello") + LAST_CHUNK
    error = answer(b"no", "500 Internal Server Error")

    async def slow(wire: Wire) -> None:
        for reply in (answer(), answer(), answer(), answer(), chunked, error):
            await wire.request()
            await trio.sleep(0.8)
            await wire.send(reply)

    async with staged(slow) as stage:
        wire = await stage.client()
        for request in (GET, post(b"hello"), GET, GET, GET, GET):
            response = await wire.ask(request)
            share = response.one(b"Server-Timing")
            assert share is not None
            assert float(share.removeprefix(b"edge;dur=")) < 400
