"""What site.toml says: everything one node is told before it starts. `site_file` reads it.

What a key means, its default and its bounds stand beside it; `docs/` quotes them.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lattice.config import Config
from lattice.key_ring import KeyRing
from lattice.types import SECOND, Endpoint
from router.decision.failback import RAMP_US
from router.site.tls_files import TlsFiles
from router.traffic.proxy_limits import BODY_BYTES_MAX
from router.traffic.trusted_hops import Forwarders, TrustedHops

GOSSIP_LISTEN: Endpoint = ("0.0.0.0", 7946)  # noqa: S104  (peers are elsewhere; frames are sealed). memberlist's port
HTTP_LISTEN: Endpoint = ("0.0.0.0", 8080)  # noqa: S104  (users are elsewhere)
CONTROL_LISTEN: Endpoint = ("127.0.0.1", 8180)
"""Loopback: whoever reaches the control API may change what users get."""

DRAIN_US = 5 * SECOND
WORKERS_MAX = 256
CACHE_BYTES = 64 << 20
CACHE_OBJECT_BYTES = 1 << 20
"""Varnish keeps 100 MB unless told otherwise, Squid 256 MB in memory and objects up to 512 KB of it."""


@dataclass(frozen=True, slots=True)
class SitePart:
    name: str
    """Shown to people, put in headers and mDNS: 1 to 32 of a-z, 0-9 and -."""
    at_e6: tuple[int, int] | None
    """(latitude, longitude) in millionths of a degree; None when the file does not say."""
    state_dir: Path
    """The node's key and database. Default: NAME.state beside the file."""


@dataclass(frozen=True, slots=True)
class ClusterPart:
    name: str
    """Bound into every datagram and signature."""
    insecure: bool
    """Datagrams go unsealed, and whoever reaches the port may speak as anybody."""
    keys: KeyRing | None
    """What all nodes of the cluster share; None exactly when `insecure`."""
    key_file: Path | None
    """Where `keys` came from, to look for others while the node runs."""
    certificates: CertificateFiles | None
    """None: stream frames go sealed by the cluster's key alone."""


REQUEST_FILE = "node.csr"
"""For a certificate: beside the site file, where `init` wrote it, or in the state directory."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """What the node shows its peers, and what it holds theirs against. Read again whenever one changes."""

    ca: Path
    certificate: Path
    revoked: Path
    """Statements to pass on to all nodes. May be missing: what is known of them is kept in the state directory."""


@dataclass(frozen=True, slots=True)
class GossipPart:
    listen: Endpoint
    """UDP and TCP."""
    seeds: tuple[Endpoint, ...]
    """Peers to begin with; the host may be a DNS name, to be resolved again and again."""
    mdns: bool
    mdns_interfaces: tuple[str, ...]
    """Addresses of the interfaces to use; empty for all."""


@dataclass(frozen=True, slots=True)
class HttpPart:
    listen: tuple[Endpoint, ...]
    unix_listen: tuple[Path, ...]
    """Unix sockets, for whoever serves users on this machine in front of us."""
    tls_listen: tuple[Endpoint, ...]
    """Where clients speak TLS; `tls` says with which certificates."""
    http2: bool
    """Whether HTTP/2 is offered there."""
    workers: int
    """Processes that serve users; 1: the node itself."""
    proxy_from: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    """Whose connections begin with a PROXY protocol header, which says who the client is."""
    forwarded_from: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    """Hops in front of us that say in a header for whom they speak."""
    by_forwarded: bool
    """That header is `Forwarded`, not `X-Forwarded-For`."""
    body_bytes_max: int = BODY_BYTES_MAX
    """Of a request's body; a larger one is refused."""

    def forwarders(self) -> Forwarders | None:
        return (
            Forwarders(TrustedHops(self.forwarded_from), by_forwarded=self.by_forwarded)
            if self.forwarded_from
            else None
        )


@dataclass(frozen=True, slots=True)
class TlsPart:
    certificates: tuple[TlsFiles, ...]
    """Which one a client gets is by the name it asks for; the first is everybody else's."""
    minimum: ssl.TLSVersion


@dataclass(frozen=True, slots=True)
class UpstreamPart:
    """How endpoints are connected to."""

    ca: Path | None
    """Who signs the certificates of those the policy declares TLS; None for the system's authorities."""
    certificate: TlsFiles | None
    """Shown to those that ask for one; None for the node's own, if it has one."""
    allow: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    """Of the addresses that are otherwise refused (see `upstream_address`)."""
    unix: tuple[tuple[Endpoint, Path], ...] = ()
    """Endpoints of the policy that this site reaches by a Unix socket, whatever their address."""


@dataclass(frozen=True, slots=True)
class TcpPart:
    listen: tuple[Endpoint, ...]
    """Routed by the port that connections come in at."""
    tls_listen: tuple[Endpoint, ...]
    """Routed by the name that TLS clients ask for."""
    proxy_protocol: bool
    """Endpoints hear who the client is by a PROXY header of version 2."""
    proxy_from: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Whose connections begin with such a header, of either version."""


@dataclass(frozen=True, slots=True)
class ControlPart:
    listen: Endpoint
    tls: bool
    """Mutual TLS: whoever asks shows a certificate of the cluster's CA, and may what its role may."""
    allow_remote: bool
    host_names: tuple[str, ...]
    """Names, beside IP addresses and localhost, by which requests may call this API (see control_gate)."""
    unsigned_signals: bool
    """Whether `POST /update` is taken from whoever reaches this API, of a region that has not signed lately."""


@dataclass(frozen=True, slots=True)
class PolicyPart:
    authors: tuple[bytes, ...]
    """Ed25519 public keys, 32 bytes each, of those who may write policy without a CA's word; sorted."""
    author_key: bytes | None = field(repr=False)
    """A private key kept here, so that this node accepts policy as plain text and signs it itself."""


@dataclass(frozen=True, slots=True)
class GeoPart:
    database: Path | None
    """A MaxMind database: where clients are. Read again whenever it changes; None: nobody is anywhere."""


@dataclass(frozen=True, slots=True)
class CachePart:
    """For the routes that say `cache`."""

    bytes_max: int
    """Of all stored responses together; 0 to store none."""
    object_bytes_max: int
    """Of the body of one."""


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """Durations in microseconds; None leaves the engine's default (lattice/config.py says what and why)."""

    swim_interval_us: int | None = None
    swim_timeout_us: int | None = None
    suspicion_us: int | None = None
    row_refresh_us: int | None = None
    confirm_delay_us: int | None = None
    metrics_delay_us: int | None = None
    overrule_us: int | None = None
    reconcile_delay_us: int | None = None
    redial_us: int | None = None
    drain_us: int = DRAIN_US
    """How long requests in flight may take to end once the node was told to stop."""
    failback_us: int = RAMP_US
    """From a region's recovery until all of its users are back."""

    def engine_config(self) -> Config:
        """The engine's configuration, with what the file says in place of the defaults."""
        told: dict[str, Any] = {
            "swim_interval_us": self.swim_interval_us,
            "ack_timeout_us": self.swim_timeout_us,
            "suspicion_us": self.suspicion_us,
            "row_refresh_us": self.row_refresh_us,
            "confirm_delay_us": self.confirm_delay_us,
            "metrics_delay_us": self.metrics_delay_us,
            "overrule_us": self.overrule_us,
            "reconcile_delay_us": self.reconcile_delay_us,
            "redial_us": self.redial_us,
        }
        return replace(Config(), **{name: value for name, value in told.items() if value is not None})


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """A whole site file, checked."""

    path: Path
    site: SitePart
    cluster: ClusterPart
    gossip: GossipPart
    http: HttpPart
    tls: TlsPart
    upstream: UpstreamPart
    tcp: TcpPart
    control: ControlPart
    policy: PolicyPart
    geo: GeoPart
    cache: CachePart
    timing: TimingConfig
    warnings: tuple[str, ...]
    """What works but should be known: show each to whoever starts the node."""


@dataclass(frozen=True, slots=True)
class BoundEndpoints:
    """Where a node really listens, once it does: ports that were 0 are known."""

    gossip: Endpoint
    http: tuple[Endpoint, ...]
    https: tuple[Endpoint, ...]
    tcp: tuple[Endpoint, ...]
    """Those of `tcp.listen`, then those of `tcp.tls_listen`."""
    control: Endpoint
