"""The PROXY protocol: what is written is read, in any pieces; hostile bytes are refused or waited for, nothing else."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import Endpoint
from router.traffic.proxy_protocol import (
    SIGNATURE,
    V1_BYTES_MAX,
    V2_BYTES_MAX,
    BadProxyHeaderError,
    ProxyHeader,
    proxy_header_v2,
    read_proxy_header,
)

PORTS = st.integers(0, 65_535)
V4 = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6 = st.tuples(st.ip_addresses(v=6).map(str), PORTS)
ENDPOINTS = V4 | V6


def as_mapped(endpoint: Endpoint) -> Endpoint:
    return (str(ipaddress.ip_address(f"::ffff:{endpoint[0]}")), endpoint[1]) if "." in endpoint[0] else endpoint


@given(ENDPOINTS, ENDPOINTS, st.text("abc.-", max_size=200), st.binary(max_size=20))
def test_what_is_written_is_read(source: Endpoint, destination: Endpoint, authority: str, after: bytes) -> None:
    header = proxy_header_v2(source, destination, authority)
    if (":" in source[0]) != (":" in destination[0]):
        source, destination = as_mapped(source), as_mapped(destination)
    assert read_proxy_header(header + after) == ProxyHeader(source, destination, len(header))


@given(V4, V6, st.data())
def test_every_beginning_wants_more(source: Endpoint, destination: Endpoint, data: st.DataObject) -> None:
    for header in (proxy_header_v2(source, destination, "a.test"), v1(source, source)):
        cut = data.draw(st.integers(0, len(header) - 1))
        assert read_proxy_header(header[:cut]) is None


def v1(source: Endpoint, destination: Endpoint) -> bytes:
    family = "TCP4" if "." in source[0] else "TCP6"
    return f"PROXY {family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


@given(V4, V4, V6, V6)
def test_version_1(source: Endpoint, destination: Endpoint, source6: Endpoint, destination6: Endpoint) -> None:
    for ends in ((source, destination), (source6, destination6)):
        header = v1(*ends)
        assert read_proxy_header(header + b"GET /") == ProxyHeader(*ends, len(header))


@given(st.binary(max_size=300))
def test_hostile_bytes_are_refused_or_wait(data: bytes) -> None:
    for candidate in (data, SIGNATURE + data, b"PROXY " + data, SIGNATURE + b"\x21\x11" + data):
        with contextlib.suppress(BadProxyHeaderError):
            found = read_proxy_header(candidate)
            assert found is None or found.size <= len(candidate)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
        SIGNATURE + b"\x20\x00\x00\x00",  # LOCAL: the hop's own health check
        SIGNATURE + b"\x20\x11\x00\x0c" + bytes(12),  # LOCAL with addresses: to be ignored
        SIGNATURE + b"\x21\x00\x00\x03" + b"\x04\x00\x00",  # unspecified, with an extension
        SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12),  # UDP
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),  # Unix
    ],
)
def test_a_hop_that_speaks_for_itself(header: bytes) -> None:
    assert read_proxy_header(header + b"more") == ProxyHeader(None, None, len(header))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "no PROXY header"),
        (b"\x16\x03\x01", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "version 1 header"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "version 1 header"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "version 1 header"),
        (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", "version 1 header"),
        (b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", "none of IPv4"),
        (b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n", "none of IPv6"),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "address"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1\n", "without CR LF"),
        (b"PROXY UNKNOWN " + b"x" * V1_BYTES_MAX, "without CR LF"),
        (SIGNATURE + b"\x11\x11\x00\x0c", "version and command 0x11"),
        (SIGNATURE + b"\x22\x11\x00\x0c", "version and command 0x22"),
        (SIGNATURE + b"\x21\x41\x00\x0c", "family and transport 0x41"),
        (SIGNATURE + b"\x21\x13\x00\x0c", "family and transport 0x13"),
        (SIGNATURE + b"\x21\x11\x00\x0b", "11 bytes of addresses, where 12 belong"),
        (SIGNATURE + b"\x21\x11\xff\xff", f"at most {V2_BYTES_MAX}"),
    ],
)
def test_what_is_no_header(data: bytes, complaint: str) -> None:
    with pytest.raises(BadProxyHeaderError, match=complaint):
        read_proxy_header(data)
