"""Where bodies end: chunked framing read strictly, from any pieces, with nothing lost and nothing taken too much."""

from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.traffic.http1 import parse_request, parse_response
from router.traffic.message_body import (
    ChunkedBody,
    Framing,
    FramingError,
    LengthBody,
    NoBody,
    UntilClose,
    chunk,
    last_chunk,
    request_framing,
    response_framing,
)
from tests.router.traffic.bad_requests import BAD_BODIES, get
from tests.router.traffic.test_http1 import cut, response

_CUTS = st.lists(st.integers(0, 2_000), max_size=12)


def feed(framing: Framing, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """(payload, surplus) of all pieces."""
    payload = surplus = b""
    for piece in pieces:
        if framing.complete:
            surplus += piece
            continue
        got, more = framing.feed(piece)
        payload += got
        surplus += more
    return payload, surplus


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.binary(max_size=40), _CUTS, st.booleans())
def test_chunks_come_out_as_they_went_in(payloads: list[bytes], surplus: bytes, at: list[int], dressed: bool) -> None:
    dressing = b';a=b ; c="d\\"e"' if dressed else b""
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(p), dressing, p) for p in payloads)
    trailers = b"Trailer: x\r\nB:\r\n" if dressed else b""
    end = b"000" + dressing + last_chunk(trailers)[1:]
    framing = ChunkedBody()
    assert feed(framing, cut(chunks + end + surplus, at)) == (b"".join(payloads), surplus)
    assert framing.complete
    assert framing.end()
    assert framing.trailers == trailers


@given(st.binary(max_size=300), st.binary(max_size=40), _CUTS)
def test_a_length_is_counted_exactly(body: bytes, surplus: bytes, at: list[int]) -> None:
    framing = LengthBody(len(body))
    assert feed(framing, cut(body + surplus, at)) == (body, surplus)
    assert framing.complete


@given(
    st.lists(
        st.sampled_from([b"5\r\n", b"hello", b"\r\n", b"0\r\n", b"\n", b"\r", b";", b"a", b"A:b\r\n"]), max_size=9
    ),
    _CUTS,
)
@settings(max_examples=300)
def test_what_is_let_in_h11_reads_the_same_way(parts: list[bytes], at: list[int]) -> None:
    raw = b"".join(parts)
    framing = ChunkedBody()
    try:
        payload, surplus = feed(framing, cut(raw, at))
    except FramingError:
        with pytest.raises(FramingError):
            feed(ChunkedBody(), [raw, b"\r\n\r\n"])  # cutting it otherwise does not make it good
        return
    if not framing.complete:
        return
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert isinstance(oracle.next_event(), h11.Request)
    read = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        read += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert read == payload
    assert oracle.trailing_data[0] == surplus


@given(st.binary(max_size=300), _CUTS)
def test_random_bytes_raise_nothing_else(data: bytes, at: list[int]) -> None:
    with contextlib.suppress(FramingError):
        feed(ChunkedBody(), cut(data, at))


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_chunks_are_refused_however_they_arrive(name: str) -> None:
    body = BAD_BODIES[name][1].partition(b"\r\n\r\n")[2]
    with pytest.raises(FramingError):
        feed(ChunkedBody(), [body])
    with pytest.raises(FramingError):
        feed(ChunkedBody(), [body[i : i + 1] for i in range(len(body))])


def test_extensions_are_bounded_in_sum() -> None:
    with pytest.raises(FramingError, match="extensions"):
        feed(ChunkedBody(), [b"1;" + b"a" * 200 + b"\r\nx\r\n"] * 100)


def test_an_empty_payload_is_no_chunk() -> None:
    with pytest.raises(AssertionError):
        chunk(b"")


def test_a_cut_off_body_is_not_complete() -> None:
    for framing in (ChunkedBody(), LengthBody(5)):
        framing.feed(b"5\r\n")
        assert not framing.end()
    until_close = UntilClose()
    assert until_close.feed(b"abc") == (b"abc", b"")
    assert until_close.end()
    assert until_close.complete


def test_requests_are_framed_by_rfc_9112() -> None:
    assert isinstance(request_framing(parse_request(get(b"Host: h"))), NoBody)
    assert isinstance(request_framing(parse_request(get(b"Host: h", b"Content-Length: 0"))), NoBody)
    assert isinstance(request_framing(parse_request(get(b"Host: h", b"Content-Length: 5"))), LengthBody)
    assert isinstance(request_framing(parse_request(get(b"Host: h", b"Transfer-Encoding: chunked"))), ChunkedBody)


@pytest.mark.parametrize(
    ("method", "first", "lines", "kind"),
    [
        (b"GET", b"HTTP/1.1 200 OK", [b"Content-Length: 5"], LengthBody),
        (b"GET", b"HTTP/1.1 200 OK", [b"Content-Length: 0"], LengthBody),
        (b"GET", b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], ChunkedBody),
        (b"GET", b"HTTP/1.1 200 OK", [], UntilClose),
        (b"GET", b"HTTP/1.0 200 OK", [], UntilClose),
        (b"HEAD", b"HTTP/1.1 200 OK", [b"Content-Length: 5"], NoBody),
        (b"HEAD", b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], NoBody),
        (b"GET", b"HTTP/1.1 204 No Content", [], NoBody),
        (b"GET", b"HTTP/1.1 304 Not Modified", [b"Content-Length: 5"], NoBody),
        (b"GET", b"HTTP/1.1 103 Early Hints", [], NoBody),
    ],
)
def test_responses_are_framed_by_rfc_9112(method: bytes, first: bytes, lines: list[bytes], kind: type) -> None:
    assert isinstance(response_framing(parse_response(response(*lines, first=first)), method), kind)
