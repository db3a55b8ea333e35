"""Every bound of the data plane in time and number, with its precedent. Those on heads are in `strict`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lattice.types import MILLISECOND, SECOND

DESCRIPTORS_BESIDE: Final = 64
"""What a process has open beside its users' connections: listeners, databases, probes, operators, links to workers."""
BODY_BYTES_MAX: Final = 1 << 62
"""No bound."""


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """Times in microseconds."""

    connections_max: int = 16_384
    """Client connections; for one more whoever is idle for longest goes, or it gets 503. A connection costs two
    descriptors at most."""
    connections_per_client_max: int = 1_024
    """Of one address; one more gets 503. Generous, for a whole office or carrier may share an address."""
    attempts_max: int = 8
    """Endpoints tried for one request, never one twice."""
    replay_bytes_max: int = 65_536
    """A request body up to this is kept, so that another endpoint can be tried. nginx buffers 16 KiB, Envoy 64 KiB."""
    body_bytes_max: int = BODY_BYTES_MAX
    """Of a request's body; a larger one gets 413. The site file says: nothing of it is held here, so it is the
    application's to want less. nginx 1 MiB, Envoy and HAProxy none."""
    interim_max: int = 8
    """Interim (1xx) responses to one request; more is a storm. curl gives up on header floods likewise."""
    idle_per_endpoint_max: int = 64
    """Kept upstream connections. nginx's `keepalive` is usually 16 to 64."""
    warm_per_standby: int = 2
    """Connections held ready to every standby that was decided lately, so that a failover costs no handshake."""

    handshakes_max: int = 512
    """TLS handshakes under way; one more is closed, or the oldest of an address that has more of them. Each costs some
    50 KiB and a signature."""

    handshake_timeout_us: int = 5 * SECOND
    """From accept to the end of the TLS handshake. Two round trips around the world and a lost packet; nginx 60 s."""
    idle_timeout_us: int = 60 * SECOND
    """Between two requests. nginx 75 s, AWS load balancers 60 s."""
    first_request_us: int = 2 * SECOND
    """What is left to a client that has connected and not asked yet when a drain begins: some round trips around the
    world, or one and a stall of whoever asks."""
    last_request_us: int = SECOND // 2
    """The same for one that has asked before: a busy one asks again within it, and is told that this was the last.
    nginx's `keepalive_min_timeout`, which is off by default."""
    head_timeout_us: int = 10 * SECOND
    """From a request's first byte to the end of its head: 408. HAProxy's usual http-request timeout."""
    body_timeout_us: int = 30 * SECOND
    """Between two reads of a request body: 408. nginx 60 s."""
    client_write_timeout_us: int = 30 * SECOND
    """A client that takes no byte for this long is gone. nginx's send_timeout is 60 s."""
    rate_bytes_per_second_min: int = 1_024
    """Of a request body, or of a response that the client reads, beyond the timeouts above: who feeds us a byte every
    few seconds holds memory for nothing. Apache's mod_reqtimeout asks for 500 bytes a second."""
    linger_timeout_us: int = 2 * SECOND
    """How long a closing connection is still read, so that no reset overtakes the answer. nginx 5 s between reads."""
    linger_bytes_max: int = 1 << 20

    connect_timeout_us: int = 2 * SECOND
    """One lost SYN (1 s, RFC 6298) and a round trip around the world. Envoy 5 s."""
    upstream_write_timeout_us: int = 30 * SECOND
    """An upstream that takes no byte for this long: 504."""
    first_byte_timeout_us: int = 30 * SECOND
    """From the last byte of a request to the first of its response: 504. HAProxy's usual server timeout."""
    waiting_timeout_us: int = 300 * SECOND
    """The same for a request that says it may wait (`Prefer: wait=`, or for events): long polls are answered when there
    is news; RFC 6202 (5.5) knows of 30 to 120 s, and who asks to wait longer mostly gives up first."""
    response_head_timeout_us: int = 10 * SECOND
    """From the first byte of a response to the end of its head: 504."""
    response_body_timeout_us: int = 60 * SECOND
    """Between two reads of a response body. nginx's proxy_read_timeout."""
    events_idle_timeout_us: int = 600 * SECOND
    """The same for server-sent events, as for a WebSocket; most applications send a comment every 15 s."""
    tunnel_idle_timeout_us: int = 600 * SECOND
    """A WebSocket on which neither side says anything. nginx 60 s, AWS load balancers 350 s; most applications ping."""
    tunnel_close_us: int = SECOND
    """In which the client of a WebSocket answers our Close before a drain ends: some round trips around the world."""
    upstream_idle_timeout_us: int = 4 * SECOND
    """Below the 5 s after which Node, uvicorn and Apache close, so that we close first and never race them."""

    collapse_timeout_us: int = 5 * SECOND
    """How long a request waits for who is fetching the same for the cache. nginx's proxy_cache_lock_timeout."""

    retry_share_pct: int = 20
    retry_spare: int = 100
    """Retries, and rescues from a hang, of the requests of the last seconds (see `budget`). Envoy and Finagle: 20 %."""
    hedge_share_pct: int = 5
    hedge_spare: int = 20
    """The same for late first bytes. "The Tail at Scale" hedges 5 %."""
    hedge_connect_timeout_us: int = 250 * MILLISECOND
    """A hedge that takes longer to connect than this is none."""

    accept_pause_us: int = 50 * MILLISECOND
    """After a failed accept (out of descriptors or memory): shed, wait, try again, never spin."""

    def within(self, descriptors: int) -> ProxyLimits:
        """These, as far as a process goes that may open so many files (negative: any number): a third is left for
        upstreams, of which a client has none while it is idle, and for TCP mode. With every descriptor a client's,
        nobody is served; nor with all of them one client's, who has half."""
        if descriptors < 0:
            return self
        room = max(1, (descriptors - DESCRIPTORS_BESIDE) * 2 // 3)
        most = min(self.connections_per_client_max, max(1, room // 2))
        return replace(self, connections_max=min(self.connections_max, room), connections_per_client_max=most)
