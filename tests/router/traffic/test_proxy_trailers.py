"""Trailers end to end, both ways."""

from __future__ import annotations

import pytest
import trio.testing

from tests.router.traffic.upstreams import Wire, answer, staged

_CHUNKS = b"5\r\nhello\r\n0\r\n"
_MIXED = b"Digest: d\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nServer-Timing: db;dur=1\r\n\r\n"
_KEPT = b"Digest: d\r\nServer-Timing: db;dur=1\r\n\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n" + _CHUNKS + _MIXED


async def _until(wire: Wire, end: bytes) -> bytes:
    while not wire.buffer.endswith(end):
        assert await wire.more(), wire.buffer
    return wire.buffer


@pytest.mark.parametrize("pieces", [1, 30])
async def test_a_request_s_trailers_reach_the_upstream(pieces: int) -> None:
    sent = _POST + _CHUNKS + _MIXED
    seen: list[bytes] = []

    async def upstream(wire: Wire) -> None:
        seen.append(await _until(wire, b"\r\n" + _KEPT))
        await wire.send(answer())
        await wire.rest()

    async with staged(upstream) as stage:
        wire = await stage.client()
        size = -(-len(sent) // pieces)
        for at in range(0, len(sent), size):
            await wire.send(sent[at : at + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await wire.response()).status == 200
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert b"\r\nTrailer: Digest\r\n" in head
    assert body.endswith(b"\r\n0\r\n" + _KEPT)


async def test_a_response_s_trailers_reach_the_client_and_both_connections_go_on() -> None:
    seen: list[bytes] = []

    async def upstream(wire: Wire) -> None:
        for reply in (_CHUNKED, answer(b"next")):
            assert await wire.request() is not None
            await wire.send(reply)
        seen.append(wire.received)
        await wire.rest()

    async with staged(upstream) as stage:
        wire = await stage.client()
        await wire.send(b"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
        head, _, body = (await _until(wire, _KEPT)).partition(b"\r\n\r\n")
        assert b"\r\nTrailer: Digest\r\n" in head
        assert body == _CHUNKS + _KEPT
        wire.buffer = b""
        assert (await wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).body == b"next"
    (both,) = seen
    assert both.count(b"Connection: TE\r\nTE: trailers\r\n") == 1, "the second did not ask for them"


async def test_where_the_framing_has_no_place_for_trailers_they_go() -> None:
    heads: list[bytes] = []

    async def upstream(wire: Wire) -> None:
        await wire.request()
        heads.append(wire.received)
        await wire.send(_CHUNKED)

    async with staged(upstream) as stage:
        wire = await stage.client()
        await wire.send(b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n")
        assert (await wire.rest()).partition(b"\r\n\r\n")[2] == b"hello"
    assert b"TE:" not in heads[0]
