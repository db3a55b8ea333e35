"""Yrs updates by hand (lib0 v1), and what must never reach the library: most of it ends or bloats the process."""

from __future__ import annotations

from typing import Final


def uvarint(number: int) -> bytes:
    """Seven bits a byte, least significant first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def entry(key: bytes, value: bytes, root: bytes = b"blocks", info: int = 0x28) -> bytes:
    """The block that sets root[key] to one encoded value."""
    return bytes([info]) + uvarint(1) + uvarint(len(root)) + root + uvarint(len(key)) + key + uvarint(1) + value


def client(client_id: int, *blocks: bytes, clock: int = 0) -> bytes:
    return uvarint(len(blocks)) + uvarint(client_id) + uvarint(clock) + b"".join(blocks)


def map_entry(client_id: int, clock: int, key: bytes, value: bytes, root: bytes = b"blocks") -> bytes:
    """An update that sets one key, as `client_id` at `clock`."""
    return uvarint(1) + client(client_id, entry(key, value, root), clock=clock) + uvarint(0)


def nested(depth: int) -> bytes:
    """[[[…null…]]]: deep enough, decoding it overflows the native stack."""
    return b"\x75\x01" * depth + b"\x7e"


def buffer(data: bytes) -> bytes:
    return b"\x74" + uvarint(len(data)) + data


CLIENT: Final = 5
_GOOD = entry(b"k", buffer(b"v"))

HAZARDS: Final[dict[str, tuple[int, bytes]]] = {
    "nested twice": (CLIENT, map_entry(CLIENT, 0, b"k", nested(2))),
    "nested 8,000 deep, within the size": (CLIENT, map_entry(CLIENT, 0, b"k", nested(8_000))),
    "nested 26,000 deep": (CLIENT, map_entry(CLIENT, 0, b"k", nested(13_000))),
    "nested 60,000 deep": (CLIENT, map_entry(CLIENT, 0, b"k", nested(60_000))),
    "nine bytes that claim 200,000,000 clients": (CLIENT, uvarint(200_000_000) + b"\x01\x05\x00\x00\x00"),
    "2^53 blocks claimed": (CLIENT, uvarint(1) + uvarint(2**53 - 1) + uvarint(CLIENT) + b"\0"),
    "a value that claims 2^53 bytes": (CLIENT, map_entry(CLIENT, 0, b"k", b"\x74" + uvarint(2**53 - 1))),
    "a key that claims 2^53 bytes": (CLIENT, b"\x01\x01\x05\x00\x28\x01\x06blocks" + uvarint(2**53 - 1)),
    "another's client id": (CLIENT, map_entry(CLIENT + 1, 0, b"k", buffer(b"v"))),
    "two clients": (CLIENT, uvarint(2) + client(CLIENT, _GOOD) + client(CLIENT + 1, _GOOD) + b"\0"),
    "no client": (CLIENT, b"\0\0"),
    "nothing": (CLIENT, b""),
    "no block": (CLIENT, uvarint(1) + client(CLIENT) + b"\0"),
    "a clock that leaves a gap": (CLIENT, map_entry(CLIENT, 1, b"k", buffer(b"v"))),
    "a garbage-collected block": (CLIENT, uvarint(1) + client(CLIENT, b"\0" + uvarint(1)) + b"\0"),
    "a skip": (CLIENT, uvarint(1) + client(CLIENT, b"\x0a" + uvarint(2**40)) + b"\0"),
    "a nested map type": (CLIENT, uvarint(1) + client(CLIENT, entry(b"k", b"\x01", info=0x27)) + b"\0"),
    "a block with an origin": (
        CLIENT,
        uvarint(1) + client(CLIENT, b"\xa8" + uvarint(9) + b"\0\x01" + nested(0)) + b"\0",
    ),
    "a parent that is no root": (
        CLIENT,
        uvarint(1) + client(CLIENT, b"\x28\x00" + uvarint(9) + b"\0\x01k\x01\x7e") + b"\0",
    ),
    "an unknown root": (CLIENT, map_entry(CLIENT, 0, b"k", buffer(b"v"), root=b"p")),
    "two values for a key": (CLIENT, b"\x01\x01\x05\x00\x28\x01\x06blocks\x01k\x02" + buffer(b"v") * 2 + b"\0"),
    "a key twice": (CLIENT, uvarint(1) + client(CLIENT, _GOOD, _GOOD) + b"\0"),
    "a delete set": (CLIENT, uvarint(1) + client(CLIENT, _GOOD) + b"\x01\x05\x01\x00\x01"),
    "a delete set alone": (CLIENT, b"\x00\x01\x05\x01\x00\x01"),
    "a delete set that claims 2^31 clients": (CLIENT, uvarint(1) + client(CLIENT, _GOOD) + uvarint(2**31)),
    "a byte after the end": (CLIENT, map_entry(CLIENT, 0, b"k", buffer(b"v")) + b"\0"),
    "a number with needless bytes": (CLIENT, b"\x81\x00" + map_entry(CLIENT, 0, b"k", buffer(b"v"))[1:]),
    "a number of 2^53": (CLIENT, b"\x01\x01" + uvarint(2**53) + b"\x00" + _GOOD + b"\0"),
    "a number without end": (CLIENT, b"\xff" * 64),
    "a name that is not UTF-8": (CLIENT, map_entry(CLIENT, 0, b"\xff\xfe", buffer(b"v"))),
    "text for a value": (CLIENT, map_entry(CLIENT, 0, b"k", b"\x77\x06forged")),
    "an integer for a value": (CLIENT, map_entry(CLIENT, 0, b"k", b"\x7d\x05")),
}
"""name -> (the client id that may write, the update)"""
