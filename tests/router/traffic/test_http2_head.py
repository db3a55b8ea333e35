"""HTTP/2 field lists as HTTP/1.1 heads: what they mean, and what must not get through."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.http1 import RequestReader, parse_response
from router.traffic.http2_frames import FRAME_BYTES_MAX, GOAWAY, PREFACE, FrameError, Frames
from router.traffic.http2_head import request_head, response_headers
from router.traffic.strict import BadRequestError

GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"shop.test"), (b":path", b"/a?b=c")]


def test_a_request_means_what_it_would_by_http1() -> None:
    head = request_head(
        [*GET, (b"accept", b"*/*"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers")],
        RequestReader(),
        has_body=False,
    )
    assert (head.method, head.target, head.host, head.minor) == (b"GET", b"/a?b=c", b"shop.test", 1)
    assert [(key, value) for key, _, value in head.fields] == [
        (b"host", b"shop.test"),
        (b"accept", b"*/*"),
        (b"te", b"trailers"),
        (b"cookie", b"a=1; b=2"),
    ]
    assert not head.chunked
    assert head.keep_alive


@pytest.mark.parametrize(
    ("fields", "has_body", "chunked", "length"),
    [
        ([], False, False, None),
        ([], True, True, None),
        ([(b"content-length", b"5")], True, False, 5),
        ([(b"content-length", b"0")], False, False, 0),
    ],
)
def test_a_body_without_a_length_is_chunked(
    fields: list[tuple[bytes, bytes]], has_body: bool, chunked: bool, length: int | None
) -> None:
    head = request_head([(b":method", b"POST"), *GET[1:], *fields], RequestReader(), has_body=has_body)
    assert (head.chunked, head.content_length) == (chunked, length)


def replaced(name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
    return [(key, value if key == name else old) for key, old in GET if key != name or value is not None]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ([*GET, (b"x", b"1\r\nTransfer-Encoding: chunked")], 400, "bad field value"),
        ([*GET, (b"x", b"1\nhost: evil")], 400, "bad field value"),
        ([*GET, (b"x", b"nul\x00")], 400, "bad field value"),
        ([*GET, (b"x", b" padded")], 400, "bad field value"),
        ([*GET, (b"x: y\r\nz", b"1")], 400, "bad field name"),
        ([*GET, (b"X-Upper", b"1")], 400, "bad field name"),
        ([*GET, (b"", b"1")], 400, "bad field name"),
        ([*GET, (b"transfer-encoding", b"chunked")], 400, "connection-specific field"),
        ([*GET, (b"connection", b"close")], 400, "connection-specific field"),
        ([*GET, (b"upgrade", b"websocket")], 400, "connection-specific field"),
        ([*GET, (b"te", b"gzip")], 400, "connection-specific field"),
        ([*GET, (b"host", b"evil.test")], 400, "Host is not the authority"),
        ([*GET, (b"content-length", b"1"), (b"content-length", b"2")], 400, "more than one Content-Length"),
        ([*GET, (b"content-length", b"+1")], 400, "bad Content-Length"),
        ([*GET, (b":path", b"/")], 400, "bad pseudo-header"),
        ([*GET[:3], (b"x", b"1"), GET[3]], 400, "bad pseudo-header"),
        ([*GET, (b":protocol", b"websocket")], 400, "bad pseudo-header"),
        (replaced(b":path", b"/ HTTP/1.1\r\nHost: evil"), 400, "bad target"),
        (replaced(b":path", b"/a b"), 400, "bad target"),
        (replaced(b":path", b"http://evil/"), 400, "bad target"),
        (replaced(b":path", b""), 400, "bad target"),
        (replaced(b":method", b"GET / HTTP/1.1\r\n"), 400, "bad pseudo-header"),
        ([(b":method", b"CONNECT"), (b":authority", b"shop.test:443")], 405, "method not allowed"),
        (replaced(b":method", b"TRACE"), 405, "method not allowed"),
        (replaced(b":authority", b"a\r\nX: y"), 400, "bad Host"),
        (replaced(b":authority", b"user@shop.test"), 400, "bad Host"),
        (replaced(b":authority", None), 400, "no Host"),
        (replaced(b":scheme", None), 400, "bad pseudo-header"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    headers: list[tuple[bytes, bytes]], status: int, reason: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        request_head(headers, RequestReader(), has_body=False)
    assert (caught.value.status, caught.value.reason) == (status, reason)


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=6), st.booleans())
def test_whatever_passes_has_exactly_the_fields_that_were_sent(
    fields: list[tuple[bytes, bytes]], has_body: bool
) -> None:
    """Nothing can be smuggled into a line of its own."""
    try:
        head = request_head([*GET, *fields], RequestReader(), has_body=has_body)
    except BadRequestError:
        return
    sent = [(name, value) for name, value in fields if name not in (b"host", b"cookie")]
    got = sorted((key, value) for key, _, value in head.fields if key not in (b"cookie", b"transfer-encoding"))
    assert got == sorted([*sent, (b"host", b"shop.test")])


@given(st.lists(st.tuples(st.integers(0, 10), st.binary(max_size=40)), max_size=8), st.data())
def test_frames_are_whole_however_their_bytes_arrive(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    frames = [len(body).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 1]) + body for kind, body in sent]
    wire = PREFACE + b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    reader = Frames()
    got, left = b"", False
    for begin, end in itertools.pairwise([0, *cuts, len(wire)]):
        piece, leaves = reader.feed(wire[begin:end])
        got, left = got + piece, left or leaves
    assert got == PREFACE + b"".join(frame for frame in frames if frame[3] != GOAWAY)
    assert left is any(kind == GOAWAY for kind, _ in sent)


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n", PREFACE + b"GET / HTTP", PREFACE + (FRAME_BYTES_MAX + 1).to_bytes(3, "big") + bytes(6)],
)
def test_what_begins_no_frame_is_refused_before_it_is_kept(junk: bytes) -> None:
    with pytest.raises(FrameError):
        Frames().feed(junk)


def test_a_response_loses_what_is_its_connections_own() -> None:
    head = parse_response(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nKeep-Alive: 5\r\nX-App: Yes\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    assert response_headers(head) == [
        (b":status", b"200"),
        (b"content-length", b"5"),
        (b"x-app", b"Yes"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]


def test_a_refused_head_leaves_nothing_behind_for_the_next() -> None:
    """They share a reader, which knows fields that come again."""
    reader = RequestReader()
    first = request_head([*GET, (b"accept", b"*/*")], reader, has_body=False)
    with pytest.raises(BadRequestError):
        request_head([*GET, (b"content-length", b"5, 5")], reader, has_body=True)
    again = request_head([*GET[:3], (b":path", b"/other"), (b"accept", b"*/*")], reader, has_body=False)
    assert again.target == b"/other"
    assert again.fields is first.fields
