"""The demo's backend: HTTP/1.1, small and correct."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.demo.backend import Connection
from router.demo.exchange import ResponseReader

REQUEST = b"GET /item/1 HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


def answer(raw: bytes) -> tuple[ResponseReader, Connection]:
    connection = Connection("fra")
    reader = ResponseReader()
    reader.feed(connection.receive(raw))
    return reader, connection


@pytest.mark.parametrize(
    ("raw", "status", "body", "closing"),
    [
        (REQUEST, 200, b"fra here\n", False),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"ok\n", False),
        (b"GET /healthz?deep=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"ok\n", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200, b"fra here\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, b"fra here\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", 200, b"fra here\n", True),
        (b"\x16\x03\x01\x02\x00", 400, b"malformed request\n", True),
    ],
)
def test_one_request(raw: bytes, status: int, body: bytes, closing: bool) -> None:
    reader, connection = answer(raw)

    assert (reader.status, bytes(reader.body), connection.closing) == (status, body, closing)
    assert reader.complete
    assert reader.headers["x-region"] == "fra"


def test_head_has_the_length_of_the_body_that_it_leaves_out() -> None:
    out = Connection("fra").receive(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b"Content-Length: 9\r\n" in out
    assert out.endswith(b"\r\n\r\n")


@given(st.integers(1, 5), st.data())
def test_requests_are_answered_in_order_however_they_are_cut(requests: int, data: st.DataObject) -> None:
    raw = REQUEST * requests
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)))
    connection = Connection("fra")
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    out = b"".join(connection.receive(piece) for piece in pieces)
    assert out == Connection("fra").receive(REQUEST) * requests
    assert not connection.closing
