"""The name a TLS client asks for, read from its first bytes without touching them. Pure.

A connection opens with records (RFC 8446 5.1) of type handshake, whose contents strung together begin with one
ClientHello (4.1.2)::

    record       22 | 03 xx | length/2 | fragment
    handshake     1 | length/3 | body
    body         version/2 | random/32 | session id <1> | cipher suites <2> | compression <1> | extensions <2>
    server_name  type 0 /2 | length/2 | list <2> of (name type 0 | name <2>)               (RFC 6066 3)

`<n>` is a vector behind a length of n bytes. Whoever breaks this is no TLS client, and is told apart from one that has
not said everything yet. The name of an Encrypted Client Hello is not to be had; its outer one is what is routed by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HELLO_BYTES_MAX: Final = 16_384
"""Of a ClientHello with its records' headers. nginx's preread_buffer_size; post-quantum key shares need some 2 KiB."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_FRAGMENT_BYTES_MAX: Final = 1 << 14
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")


class NotTlsError(Exception):
    """These bytes begin no TLS connection; the text says where they go wrong."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    server_name: str
    """In lower case; "" if the client named none."""


def read_client_hello(data: bytes) -> ClientHello | None:
    """What the client's first bytes say; None while more of them must come.

    Raises `NotTlsError` as soon as no continuation could make them a ClientHello of `HELLO_BYTES_MAX` bytes.
    """
    handshake = bytearray()
    at = 0
    while len(handshake) < 4 or len(handshake) < 4 + _length(handshake):
        header = data[at : at + 5]
        _check_header(header)
        length = int.from_bytes(header[3:5], "big")
        if at + 5 + length > HELLO_BYTES_MAX:
            raise NotTlsError(f"a ClientHello of more than {HELLO_BYTES_MAX} bytes")
        fragment = data[at + 5 : at + 5 + length]
        handshake += fragment
        if handshake and handshake[0] != _CLIENT_HELLO:
            raise NotTlsError(f"handshake message {handshake[0]} where a ClientHello belongs")
        if len(handshake) >= 4 and 4 + _length(handshake) > HELLO_BYTES_MAX:
            raise NotTlsError(f"a ClientHello of more than {HELLO_BYTES_MAX} bytes")
        if len(header) < 5 or len(fragment) < length:
            return None
        at += 5 + length
    return _read_body(_Vector(bytes(handshake[4 : 4 + _length(handshake)])))


def _check_header(header: bytes) -> None:
    if header[:1] not in (b"", bytes([_HANDSHAKE])):
        raise NotTlsError(f"record type {header[0]}, not handshake")
    if header[1:2] not in (b"", b"\x03"):
        raise NotTlsError(f"record version {header[1]}")
    if len(header) == 5 and not 0 < int.from_bytes(header[3:5], "big") <= _FRAGMENT_BYTES_MAX:
        raise NotTlsError(f"a record of {int.from_bytes(header[3:5], 'big')} bytes")


def _length(handshake: bytearray) -> int:
    return int.from_bytes(handshake[1:4], "big")


def _read_body(body: _Vector) -> ClientHello:
    body.take(2 + 32)
    body.vector(1)
    if len(body.vector(2)) < 2:
        raise NotTlsError("no cipher suites")
    body.vector(1)
    name = ""
    extensions = body.vector(2) if len(body) else _Vector(b"")
    while len(extensions):
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if name:
                raise NotTlsError("two server_name extensions")
            name = _read_server_name(content)
    if len(body):
        raise NotTlsError(f"{len(body)} bytes after the extensions")
    return ClientHello(name)


def _read_server_name(content: _Vector) -> str:
    names = content.vector(2)
    kind, name = names.number(1), names.vector(2).rest()
    if kind != _HOST_NAME or len(names) or len(content):
        raise NotTlsError("a server_name that is not one host name")  # no other type of name was ever defined
    text = name.decode("ascii", "replace").lower()
    if not _NAME.fullmatch(text):
        raise NotTlsError(f"{text[:80]!a} is no host name")
    return text


class _Vector:
    """A cursor over length-prefixed bytes. Raises `NotTlsError` when they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > len(self):
            raise NotTlsError(f"a length of {count} where {len(self)} bytes are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Vector:
        return _Vector(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self))
