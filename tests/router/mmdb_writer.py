"""Writes small MaxMind databases, after the format's specification 2.0: enough for tests, and no more."""

from __future__ import annotations

from ipaddress import ip_network
from struct import pack
from typing import Any

_METADATA = b"\xab\xcd\xefMaxMind.com"


def encoded(value: Any) -> bytes:
    """One value of the data section."""
    if isinstance(value, str):
        return _head(2, len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return _head(7, len(value)) + b"".join(encoded(key) + encoded(each) for key, each in value.items())
    if isinstance(value, list):
        return bytes([len(value), 4]) + b"".join(map(encoded, value))
    if isinstance(value, float):
        return bytes([3 << 5 | 8]) + pack(">d", value)
    assert isinstance(value, int)
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([(6 << 5) | len(data)]) + data  # an unsigned integer of 32 bits


def _head(kind: int, size: int) -> bytes:
    assert size < 29 + 256
    return bytes([kind << 5 | size]) if size < 29 else bytes([kind << 5 | 29, size - 29])


def database(records: dict[str, Any]) -> bytes:
    """A database of these blocks, none inside another."""
    nodes: list[list[int | bytes | None]] = [[None, None]]
    data = b""
    for block, record in records.items():
        network = ip_network(block)
        version4 = network.version == 4
        bits = network.prefixlen + (96 if version4 else 0)
        address = int(network.network_address)
        node = 0
        for depth in range(bits):
            side = address >> (127 - depth) & 1
            if depth == bits - 1:
                nodes[node][side] = len(data).to_bytes(4, "big")
                break
            if nodes[node][side] is None:
                nodes.append([None, None])
                nodes[node][side] = len(nodes) - 1
            following = nodes[node][side]
            assert isinstance(following, int), "no block may lie inside another"
            node = following
        data += encoded(record)
    count = len(nodes)

    def slot(target: int | bytes | None) -> bytes:
        if target is None:
            number = count
        elif isinstance(target, bytes):
            number = count + 16 + int.from_bytes(target, "big")
        else:
            number = target
        return number.to_bytes(4, "big")

    tree = b"".join(slot(side) for pair in nodes for side in pair)
    metadata: dict[str, Any] = {
        "node_count": count,
        "record_size": 32,
        "ip_version": 6,
        "database_type": "Test",
        "languages": ["en"],
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1_700_000_000,
        "description": {"en": "made by a test"},
    }
    written = b"".join(encoded(key) + _metadatum(key, value) for key, value in metadata.items())
    return tree + bytes(16) + data + _METADATA + _head(7, len(metadata)) + written


def _metadatum(key: str, value: int | str | list[str] | dict[str, str]) -> bytes:
    """The C library wants the specification's very types."""
    if not isinstance(value, int):
        return encoded(value)
    if key == "build_epoch":
        return bytes([8, 2]) + value.to_bytes(8, "big")  # an extended type: 9, an unsigned integer of 64 bits
    if key in ("record_size", "ip_version", "binary_format_major_version", "binary_format_minor_version"):
        return bytes([5 << 5 | 2]) + value.to_bytes(2, "big")  # an unsigned integer of 16 bits
    return encoded(value)
