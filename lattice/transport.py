"""Where a node is reached, and what time it is there (edge)."""

from __future__ import annotations

import socket as stdlib_socket
import struct
import time
from contextlib import suppress

import trio

from lattice.types import SECOND, Endpoint, Micros

SEGMENT_BYTES_MAX = 1_220
"""What every IPv6 link carries (1,280 bytes: RFC 8200, 5) beside two headers, as our datagrams do. A path that is
narrower than its ends and says nothing (a tunnel whose ICMP is filtered) would let these pass, and no large frame."""


SO_MEMINFO = 55
MEMINFO = struct.Struct("9I")
"""Linux's account of a socket's memory (socket(7) has no word of it; `sock_diag.h`, SK_MEMINFO_DROPS is the ninth)."""

MAPPED = "::ffff:"
ALL_OF_BOTH = "::"
"""Whoever listens on this is reached by IPv4, too."""


def came_from(source: tuple[str, int, int, int]) -> Endpoint:
    """Where something came from by IPv6, as whoever has its own way there may send to it.

    A link-local address has its scope, which Python tells apart from it. One of IPv4 that a socket on all addresses of
    both kinds sees mapped (RFC 4291, 2.5.5.2) is what it is for everybody else: peers with IPv4 alone have no way to
    "::ffff:10.0.0.2".
    """
    host, port, _, scope = source
    if scope:
        with suppress(OSError):  # the interface may be gone
            host = f"{host}%{stdlib_socket.if_indextoname(scope)}"
    return host.removeprefix(MAPPED), port


class Clock:
    """`Micros` since the Unix epoch that never go back: the wall clock's reading at the start, then trio's clock."""

    def __init__(self) -> None:
        self._seconds = trio.lowlevel.current_clock().current_time  # `trio.current_time` looks for it every time
        self._offset_us = time.time_ns() // 1_000 - round(self._seconds() * SECOND)

    def now(self) -> Micros:
        return Micros(round(self._seconds() * SECOND) + self._offset_us)

    def at(self, seconds: float) -> Micros:
        """A moment of trio's, in our time."""
        return Micros(round(seconds * SECOND) + self._offset_us)

    def trio_time(self, at: Micros) -> float:
        """The same moment in trio's seconds."""
        return (at - self._offset_us) / SECOND


class Transport:
    """A UDP socket, and a TCP listener on the same port."""

    def __init__(self, udp: trio.socket.SocketType, tcp: trio.SocketListener) -> None:
        self.udp = udp
        self.tcp = tcp

    @property
    def endpoint(self) -> Endpoint:
        """The address that is bound; its host may be a wildcard."""
        host, port = self.udp.getsockname()[:2]
        return host, port

    @property
    def datagrams_dropped(self) -> int:
        """How many the kernel had no room for, because they were not read in time; 0 where it does not say."""
        try:
            told = self.udp.getsockopt(stdlib_socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
            return int(MEMINFO.unpack(told)[-1])
        except (OSError, struct.error):
            return 0

    def close(self) -> None:
        self.udp.close()
        self.tcp.socket.close()


async def bind(host: str, port: int) -> Transport:
    """Bind both sockets; port 0 lets the kernel choose one that is free for both. Raises OSError."""
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    for attempt in range(20):
        udp = trio.socket.socket(family, stdlib_socket.SOCK_DGRAM)
        tcp = trio.socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            if host == ALL_OF_BOTH:
                for sock in (udp, tcp):
                    sock.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 0)
            await udp.bind((host, port))
            tcp.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            tcp.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_MAXSEG, SEGMENT_BYTES_MAX)  # both ways
            await tcp.bind((host, udp.getsockname()[1]))
            tcp.listen(128)
        except OSError:
            udp.close()
            tcp.close()
            if port or attempt == 19:
                raise
        else:
            return Transport(udp, trio.SocketListener(tcp))
    raise AssertionError("the last attempt returns or raises")
