"""The name a TLS client asks for: of real clients, in pieces, and of what only looks like one."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.tcp.client_hello import HELLO_BYTES_MAX, ClientHello, NotTlsError, read_client_hello


def hello_of(name: str | None, alpn: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello_of("shop.example.com", ("h2", "http/1.1"))


def refragmented(hello: bytes, sizes: list[int]) -> bytes:
    """The same handshake message in records of these sizes, and a last one with the rest."""
    body, out = hello[5:], b""
    for size in [*sizes, len(body)]:
        part, body = body[:size], body[size:]
        if part:
            out += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
    return out


def test_the_name_openssl_sends() -> None:
    assert read_client_hello(HELLO) == ClientHello("shop.example.com")
    assert read_client_hello(hello_of("SHOP.Example.COM")) == ClientHello("shop.example.com")


def test_no_name_is_no_error() -> None:
    assert read_client_hello(hello_of(None)) == ClientHello("")


@given(st.integers(0, len(HELLO) - 1))
def test_every_beginning_wants_more(count: int) -> None:
    assert read_client_hello(HELLO[:count]) is None


@given(st.lists(st.integers(1, 200), max_size=20), st.binary(max_size=50))
def test_fragments_and_what_follows_change_nothing(sizes: list[int], more: bytes) -> None:
    assert read_client_hello(refragmented(HELLO, sizes) + more) == ClientHello("shop.example.com")


@given(st.binary(max_size=400))
def test_hostile_bytes_are_refused_or_wait(data: bytes) -> None:
    for candidate in (data, b"\x16\x03\x01" + data, HELLO[:5] + data):
        with contextlib.suppress(NotTlsError):
            read_client_hello(candidate)


@given(st.integers(0, len(HELLO) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_raises_anything_else(at: int, flip: int) -> None:
    damaged = bytearray(HELLO)
    damaged[at] ^= flip
    with contextlib.suppress(NotTlsError):
        read_client_hello(bytes(damaged))


def with_name(name: bytes, kind: int = 0, times: int = 1) -> bytes:
    """A minimal ClientHello that asks for `name`."""
    entry = bytes([kind]) + len(name).to_bytes(2, "big") + name
    listed = len(entry).to_bytes(2, "big") + entry
    extensions = (b"\x00\x00" + len(listed).to_bytes(2, "big") + listed) * times
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def test_the_minimal_hello_is_one() -> None:
    assert read_client_hello(with_name(b"a.test")) == ClientHello("a.test")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "record type 71"),
        (b"\x16\x02", "record version 2"),
        (b"\x16\x03\x01\x00\x00", "a record of 0 bytes"),
        (b"\x16\x03\x01\x40\x01", "a record of 16385 bytes"),
        (b"\x16\x03\x01\x00\x04\x02", "handshake message 2"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", f"more than {HELLO_BYTES_MAX} bytes"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", "a length of 34 where 1 bytes are left"),
        (with_name(b"a b"), "is no host name"),
        (with_name(b""), "is no host name"),
        (with_name("ä.test".encode()), "is no host name"),
        (with_name(b"a..test"), "is no host name"),
        (with_name(b"a.test", kind=1), "not one host name"),
        (with_name(b"a.test", times=2), "two server_name"),
    ],
)
def test_what_is_no_client_hello(data: bytes, complaint: str) -> None:
    with pytest.raises(NotTlsError, match=complaint):
        read_client_hello(data)


def test_records_of_one_byte_cannot_outgrow_the_limit() -> None:
    """The planted trap: a parser that counts the message alone would read headers for ever."""
    endless = b"\x16\x03\x01\x00\x04\x01\x00\x30\x00" + b"\x16\x03\x01\x00\x01\x00" * HELLO_BYTES_MAX
    assert read_client_hello(endless[: HELLO_BYTES_MAX - 10]) is None
    with pytest.raises(NotTlsError, match="more than"):
        read_client_hello(endless)
