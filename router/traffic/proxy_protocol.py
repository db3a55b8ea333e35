"""The PROXY protocol, versions 1 and 2: who really connected, said by a hop before the connection's first byte. Pure.

haproxy.org/download/3.0/doc/proxy-protocol.txt::

    1   PROXY TCP4 192.0.2.1 198.51.100.7 40001 443 CR LF        (or TCP6, or UNKNOWN and anything), 107 bytes at most
    2   signature/12 | 2 << 4 | command | family << 4 | transport | length/2 | addresses | (type | length/2 | value) ...

Section 2.2 calls a header that breaks off a reason to close, and forbids to guess whether there is one: who sends it is
configured, and from whoever does not it is never believed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from lattice.types import Endpoint

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V1_BYTES_MAX: Final = 107
"""The specification's worst case, with its CR LF."""
V2_BYTES_MAX: Final = 4_096
"""Of a header with its extensions; a client certificate's common name and an ALPN list fit a tenth of it."""

_V1: Final = b"PROXY "
_FIXED: Final = 16
_LOCAL, _PROXY = 0, 1
_ADDRESS_BYTES: Final = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}
"""Of a family's addresses and ports: unspecified, IPv4, IPv6, Unix."""
_STREAM: Final = 1
_AUTHORITY: Final = 0x02
"""PP2_TYPE_AUTHORITY: the host name the client asked for, as in SNI."""
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")


class BadProxyHeaderError(Exception):
    """These bytes begin with no PROXY header; the text says where they go wrong."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    source: Endpoint | None
    """The client; None when the hop speaks for itself (a health check), or does not know."""
    destination: Endpoint | None
    """Where the client connected to."""
    size: int
    """The bytes of the header; what follows is the connection's own."""


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None while more of it must come.

    Raises `BadProxyHeaderError` as soon as no continuation could make it one.
    """
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if data.startswith(_V1):
        return _read_v1(data)
    if SIGNATURE.startswith(data) or _V1.startswith(data):
        return None
    raise BadProxyHeaderError("no PROXY header where one is required")


def proxy_header_v2(source: Endpoint, destination: Endpoint, authority: str = "") -> bytes:
    """A version 2 header for a stream. Addresses are numeric; IPv4 beside IPv6 goes as mapped (RFC 4291 2.5.5.2)."""
    ends = [ipaddress.ip_address(host) for host, _ in (source, destination)]
    if len({end.version for end in ends}) == 2:
        ends = [ipaddress.ip_address(f"::ffff:{end}") if end.version == 4 else end for end in ends]
    addresses = b"".join(end.packed for end in ends)
    addresses += b"".join(port.to_bytes(2, "big") for _, port in (source, destination))
    name = authority.encode("utf-8")
    extension = bytes([_AUTHORITY]) + len(name).to_bytes(2, "big") + name if name else b""
    family = 0x1 if ends[0].version == 4 else 0x2
    length = (len(addresses) + len(extension)).to_bytes(2, "big")
    return SIGNATURE + bytes([2 << 4 | _PROXY, family << 4 | _STREAM]) + length + addresses + extension


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:V1_BYTES_MAX].partition(b"\r\n")
    if not end:
        if len(data) >= V1_BYTES_MAX or b"\n" in line:
            raise BadProxyHeaderError(f"a version 1 header without CR LF in {V1_BYTES_MAX} bytes")
        return None
    size = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(None, None, size)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeaderError(f"version 1 header {line[:40]!r}")
    version = 4 if words[1] == b"TCP4" else 6
    source, destination = ((_address(words[at], version), _port(words[at + 2])) for at in (2, 3))
    return ProxyHeader(source, destination, size)


def _address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise BadProxyHeaderError(f"address {word[:40]!r}") from None
    if address.version != version or getattr(address, "scope_id", None):
        raise BadProxyHeaderError(f"address {word[:40]!r} is none of IPv{version}")
    return str(address)


def _port(word: bytes) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65_535:
        raise BadProxyHeaderError(f"port {word[:10]!r}")
    return int(word)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    length = int.from_bytes(data[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise BadProxyHeaderError(f"version and command 0x{data[12]:02x}")
    if family not in _ADDRESS_BYTES or transport > 2:
        raise BadProxyHeaderError(f"family and transport 0x{data[13]:02x}")
    if length < _ADDRESS_BYTES[family]:
        raise BadProxyHeaderError(f"{length} bytes of addresses, where {_ADDRESS_BYTES[family]} belong")
    size = _FIXED + length
    if size > V2_BYTES_MAX:
        raise BadProxyHeaderError(f"a header of {size} bytes; at most {V2_BYTES_MAX} are taken")
    if len(data) < size:
        return None
    if command == _LOCAL or family not in (0x1, 0x2) or transport != _STREAM:
        return ProxyHeader(None, None, size)  # 2.2: take the connection's own addresses, skip the rest
    width = 4 if family == 0x1 else 16
    hosts = [str(ipaddress.ip_address(data[at : at + width])) for at in (_FIXED, _FIXED + width)]
    ports = [int.from_bytes(data[at : at + 2], "big") for at in (_FIXED + 2 * width, _FIXED + 2 * width + 2)]
    return ProxyHeader((hosts[0], ports[0]), (hosts[1], ports[1]), size)
