"""What comes behind a body goes on to the next hop, both ways, and cannot say there what a head alone may say."""

from __future__ import annotations

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.trailers import _NEVER, passed_on, trailer_list
from tests.router.traffic.upstreams import Wire, answer, staged

_NAMES = st.sampled_from([*sorted(_NEVER), b"x-edge-region", b"x-forwarded-port", b"digest", b"x-checksum", b"a"])
_VALUES = st.sampled_from([b"", b"x", b"a b", b"6.6.6.6"])


def _spelt(name: bytes, how: int) -> bytes:
    return (name, name.upper(), name.title(), name.replace(b"-", b"_"))[how]


@given(st.lists(st.tuples(_NAMES, st.integers(0, 3), _VALUES), max_size=8))
def test_of_trailers_go_on_those_that_may_in_their_order(fields: list[tuple[bytes, int, bytes]]) -> None:
    lines = [(name, b"%b: %b\r\n" % (_spelt(name, how), value)) for name, how, value in fields]
    may = b"".join(line for name, line in lines if name in (b"digest", b"x-checksum", b"a"))
    assert passed_on(b"".join(line for _, line in lines), frozenset()) == may
    assert passed_on(may, frozenset()) == may
    assert b"".join(b"%b: %b\r\n" % field for field in trailer_list(may)) == may.lower()


def test_connection_names_trailers_that_end_here() -> None:
    assert passed_on(b"A: b\r\nC: d\r\n", frozenset({b"a"})) == b"C: d\r\n"


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
