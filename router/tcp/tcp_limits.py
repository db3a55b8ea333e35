"""Every bound of TCP mode in time and number, with its precedent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lattice.types import SECOND
from router.traffic.proxy_limits import DESCRIPTORS_BESIDE

DESCRIPTORS_EACH: Final = 6
"""Of a connection: two sockets and a pipe each way."""


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """Times in microseconds."""

    connections_max: int = 4_096
    """One more is closed at once."""
    connections_per_client_max: int = 512
    """Of one address."""
    attempts_max: int = 8
    """Endpoints tried for one connection, never one twice."""
    hello_timeout_us: int = 5 * SECOND
    """From accept to the end of the ClientHello. HAProxy's usual inspect-delay; nginx's preread_timeout is 30 s."""
    connect_timeout_us: int = 2 * SECOND
    """As for HTTP (`ProxyLimits`). While there is somebody else to ask it is less: max(50 ms, 3 x the p99 of connects
    to that region), and 1 s before that is known."""
    idle_timeout_us: int = 600 * SECOND
    """Neither side sends, or takes, a byte. nginx's proxy_timeout; HAProxy's usual tunnel timeout is an hour."""

    def within(self, descriptors: int) -> TcpLimits:
        """These, as far as a process goes that may open so many files (negative: any number): a sixth of them is TCP
        mode's, for HTTP's clients have two thirds (`ProxyLimits.within`) and its upstreams what is left. One address
        has half of that."""
        if descriptors < 0:
            return self
        room = max(1, (descriptors - DESCRIPTORS_BESIDE) // 6 // DESCRIPTORS_EACH)
        most = min(self.connections_per_client_max, max(1, room // 2))
        return replace(self, connections_max=min(self.connections_max, room), connections_per_client_max=most)
