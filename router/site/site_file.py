"""site.toml, read: the file and the keys it names, and every mistake of them in one `ConfigError`."""

from __future__ import annotations

import ipaddress
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path

from lattice.identity import public_key_of
from lattice.key_ring import KeyRing
from lattice.types import MILLISECOND, SECOND, Endpoint
from router.decision.failback import FAILBACK_US_MAX, RAMP_US
from router.site.config_reader import (
    ConfigError,
    NotExpected,
    Problem,
    Section,
    duration,
    duration_text,
    endpoint_text,
    hex_bytes,
    listen_endpoint,
    network,
    numeric_address,
    place,
    remote_endpoint,
    site_name,
    size,
    text,
    truth,
)
from router.site.key_file import KeyFileError, read_key_ring, read_secret
from router.site.site_config import (
    CACHE_BYTES,
    CACHE_OBJECT_BYTES,
    CONTROL_LISTEN,
    DRAIN_US,
    GOSSIP_LISTEN,
    HTTP_LISTEN,
    WORKERS_MAX,
    CachePart,
    CertificateFiles,
    ClusterPart,
    ControlPart,
    GeoPart,
    GossipPart,
    HttpPart,
    PolicyPart,
    SiteConfig,
    SitePart,
    TcpPart,
    TimingConfig,
    TlsPart,
    UpstreamPart,
)
from router.site.tls_files import TlsFiles
from router.traffic.proxy_limits import BODY_BYTES_MAX

CONFIG_BYTES_MAX = 1024 * 1024
"""A site file is a page; a megabyte leaves room for every seed of a large cluster."""

_TIMING: dict[str, Callable[[object], int]] = {
    "swim_interval": duration(10 * MILLISECOND, 60 * SECOND),
    "swim_timeout": duration(5 * MILLISECOND, 30 * SECOND),
    "suspicion": duration(50 * MILLISECOND, 600 * SECOND),
    "row_refresh": duration(100 * MILLISECOND, 600 * SECOND),
    "confirm_delay": duration(0, 60 * SECOND),
    "metrics_delay": duration(0, 60 * SECOND),
    "overrule": duration(100 * MILLISECOND, 60 * SECOND),
    "reconcile_delay": duration(0, 10 * SECOND),
    "redial": duration(10 * MILLISECOND, 60 * SECOND),
}


def load_site_config(path: Path) -> SiteConfig:
    """Read and check a site file and the key files it names.

    Relative paths in it start at its own directory. Raises `ConfigError` with every mistake found; nothing is created
    or changed.
    """
    table = _read_toml(path)
    problems: list[Problem] = []
    warnings: list[str] = []
    top = Section("", table, problems)
    directory = path.parent

    site = _read_site(top.section("site"), directory)
    cluster = _read_cluster(top.section("cluster"), directory, warnings)
    gossip = _read_gossip(top.section("gossip"))
    http = _read_http(top.section("http"), directory)
    tls = _read_tls(top.section("tls"), directory, needed=bool(http.tls_listen))
    upstream = _read_upstream(top.section("upstream"), directory)
    tcp = _read_tcp(top.section("tcp"))
    control = _read_control(top.section("control"), cluster.certificates is not None)
    policy = _read_policy(top.section("policy"), directory, cluster.certificates is not None, warnings)
    geo = _read_geo(top.section("geo"), directory)
    cache = _read_cache(top.section("cache"))
    timing = _read_timing(top.section("timing"))
    top.close()

    if problems:
        raise ConfigError(str(path), tuple(problems))
    return SiteConfig(
        path, site, cluster, gossip, http, tls, upstream, tcp, control, policy, geo, cache, timing, tuple(warnings)
    )


def _read_toml(path: Path) -> dict[str, object]:
    def refuse(expected: str, hint: str = "") -> ConfigError:
        return ConfigError(str(path), (Problem("", None, expected, hint),))

    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise refuse("no such file", "`edgelattice init --site NAME` writes one") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None
    if len(content) > CONFIG_BYTES_MAX:
        raise refuse(f"larger than {CONFIG_BYTES_MAX} bytes", "this is no site file")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refuse(f"not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}") from None
    except tomllib.TOMLDecodeError as error:
        raise refuse(f"not TOML: {error}") from None
    except RecursionError:
        raise refuse("not a site file: nested too deep") from None


def _read_site(section: Section, directory: Path) -> SitePart:
    name = section.require("name", site_name, "unnamed")
    at_e6 = section.take("at", place, None)
    state_dir = section.take("state_dir", text, f"{name}.state")
    section.close()
    return SitePart(name, at_e6, directory / state_dir)


def _read_cluster(section: Section, directory: Path, warnings: list[str]) -> ClusterPart:
    name = section.require("name", site_name, "unnamed")
    insecure = section.take("insecure", truth, False)
    key_file = section.take("key_file", text, None)
    ca = section.take("ca", text, None)
    certificate = section.take("certificate", text, None)
    revoked = section.take("revoked", text, "ca.revoked")
    keys = None
    certificates = None
    if ca is not None and certificate is not None:
        certificates = CertificateFiles(directory / ca, directory / certificate, directory / revoked)
    elif (ca is None) != (certificate is None):
        missing, given = ("ca", "certificate") if ca is None else ("certificate", "ca")
        section.note(missing, f"is missing, and {given} is set", "set both or neither; `edgelattice ca` makes them")
    if insecure:
        if key_file is not None:
            section.note("insecure", "is true, and key_file is set", "remove one of the two")
        warnings.append(
            "cluster.insecure: datagrams are not sealed; whoever reaches the gossip port can speak as anyone"
        )
    elif key_file is not None:
        keys = _read_ring(section, "key_file", directory / key_file, warnings)
    elif not section.has("key_file"):
        section.note(
            "key_file",
            "is missing: expected the file that holds the cluster's key",
            "`edgelattice init` makes one; insecure = true does without, for trials",
        )
    if certificates is None and not insecure:
        warnings.append(
            "cluster.ca is not set: whoever holds the cluster's keys can speak as any number of sites; `edgelattice ca "
            "init` makes a CA"
        )
    section.close()
    return ClusterPart(name, insecure, keys, directory / key_file if key_file is not None else None, certificates)


def _read_gossip(section: Section) -> GossipPart:
    part = GossipPart(
        listen=section.take("listen", listen_endpoint, GOSSIP_LISTEN),
        seeds=section.take_each("seeds", remote_endpoint, ()),
        mdns=section.take("mdns", truth, True),
        mdns_interfaces=section.take_each("mdns_interfaces", numeric_address, ()),
    )
    section.close()
    return part


def _read_http(section: Section, directory: Path) -> HttpPart:
    tls_listen = section.take_each("tls_listen", listen_endpoint, ())
    unix_listen = tuple(directory / path for path in section.take_each("unix_listen", text, ()))
    listen = section.take_each("listen", listen_endpoint, () if tls_listen or unix_listen else (HTTP_LISTEN,))
    if section.has("listen") and not listen and not tls_listen and not unix_listen:
        section.note("listen", "expected at least one address:port")
    _refuse_repeated(section, "listen", listen)
    _refuse_repeated(section, "tls_listen", (*listen, *tls_listen))
    http2 = section.take("http2", truth, True)
    workers = section.take("workers", _count(1, WORKERS_MAX), 1)
    proxy_from = section.take_each("proxy_from", network, ())
    forwarded_from = section.take_each("forwarded_from", network, ())
    by_forwarded = section.take("forwarded_by", _forwarded_by, False)
    if section.has("forwarded_by") and not forwarded_from and not section.has("forwarded_from"):
        section.note("forwarded_from", "is missing, and forwarded_by is set", "name the hops whose word is taken")
    body_size = section.take("body_size", size(0, BODY_BYTES_MAX), BODY_BYTES_MAX)
    section.close()
    return HttpPart(
        listen, unix_listen, tls_listen, http2, workers, proxy_from, forwarded_from, by_forwarded, body_size
    )


def _forwarded_by(value: object) -> bool:
    """Whether it is `Forwarded`."""
    if not isinstance(value, str) or value.lower() not in ("forwarded", "x-forwarded-for"):
        raise NotExpected('"X-Forwarded-For" or "Forwarded"')
    return value.lower() == "forwarded"


def _read_tls(section: Section, directory: Path, *, needed: bool) -> TlsPart:
    certificates = []
    for each in section.take_sections("certificates"):
        chain = each.require("chain", text, "")
        key = each.take("key", text, chain)
        each.close()
        certificates.append(TlsFiles(directory / chain, directory / key))
    minimum = section.take("min_version", _tls_version, ssl.TLSVersion.TLSv1_2)
    if needed and not certificates and not section.has("certificates"):
        section.note(
            "certificates",
            "is missing, and http.tls_listen is set",
            'write [[tls.certificates]] and below it chain = "FILE" and key = "FILE"',
        )
    section.close()
    return TlsPart(tuple(certificates), minimum)


def _read_upstream(section: Section, directory: Path) -> UpstreamPart:
    ca = section.take("ca", text, None)
    certificate = section.take("certificate", text, None)
    key = section.take("key", text, certificate)
    if key is not None and certificate is None:
        section.note("certificate", "is missing, and key is set", "set both or neither")
    allow = section.take_each("allow", network, ())
    unix = []
    for each in section.take_sections("unix"):
        endpoint = each.require("endpoint", listen_endpoint, ("", 0))
        path = each.require("path", text, "")
        each.close()
        unix.append((endpoint, directory / path))
    section.close()
    return UpstreamPart(
        directory / ca if ca is not None else None,
        TlsFiles(directory / certificate, directory / (key or certificate)) if certificate is not None else None,
        allow,
        tuple(unix),
    )


def _count(least: int, most: int) -> Callable[[object], int]:
    def reading(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise NotExpected(f"a whole number from {least} to {most}")
        return value

    return reading


def _tls_version(value: object) -> ssl.TLSVersion:
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    if not isinstance(value, str) or value not in versions:
        raise NotExpected('"1.2" or "1.3"')
    return versions[value]


def _read_tcp(section: Section) -> TcpPart:
    listen = section.take_each("listen", listen_endpoint, ())
    tls_listen = section.take_each("tls_listen", listen_endpoint, ())
    _refuse_repeated(section, "listen", listen)
    _refuse_repeated(section, "tls_listen", (*listen, *tls_listen))
    proxy_protocol = section.take("proxy_protocol", truth, False)
    proxy_from = section.take_each("proxy_from", network, ())
    section.close()
    return TcpPart(listen, tls_listen, proxy_protocol, proxy_from)


def _refuse_repeated(section: Section, key: str, listen: tuple[Endpoint, ...]) -> None:
    repeated = {endpoint for endpoint in listen if endpoint[1] and listen.count(endpoint) > 1}
    for endpoint in sorted(repeated):
        section.note(key, f"{endpoint_text(endpoint)} stands there more than once", "remove one")


def _read_control(section: Section, certified: bool) -> ControlPart:
    listen = section.take("listen", listen_endpoint, CONTROL_LISTEN)
    tls = section.take("tls", truth, False)
    allow_remote = section.take("allow_remote", truth, False)
    host_names = section.take_each("host_names", text, ())
    if tls and not certified:
        section.note("tls", "without a CA nobody has a certificate to show", "set cluster.ca and cluster.certificate")
    if not allow_remote and not tls and not ipaddress.ip_address(listen[0]).is_loopback:
        section.note(
            "listen",
            f"{endpoint_text(listen)} can be reached from other machines, and nobody is asked who he is",
            "use 127.0.0.1, or set tls = true, or allow_remote = true behind a firewall",
        )
    unsigned_signals = section.take("unsigned_signals", truth, not (certified and (tls or allow_remote)))
    if unsigned_signals and allow_remote and certified and not tls:
        section.note(
            "unsigned_signals",
            "with allow_remote any other machine could speak in a region's name",
            "leave it out, and sign: `edgelattice signal`",
        )
    if not unsigned_signals and not certified:
        section.note(
            "unsigned_signals",
            "without a CA no region can sign, so no signal would ever be taken",
            "set cluster.ca and cluster.certificate, or leave it out",
        )
    section.close()
    return ControlPart(listen, tls, allow_remote, tuple(name.lower() for name in host_names), unsigned_signals)


def _read_policy(section: Section, directory: Path, certified: bool, warnings: list[str]) -> PolicyPart:
    authors = section.take_each("authors", hex_bytes(32, "an Ed25519 public key"), ())
    author_key_file = section.take("author_key", text, None)
    author_key = None
    if author_key_file is not None:
        author_key = _read_key(section, "author_key", directory / author_key_file, "author key", warnings)
    if author_key is not None and public_key_of(author_key) not in authors:
        section.note(
            "author_key",
            "its public key is not among policy.authors, so nobody would accept what it signs",
            f'add "{public_key_of(author_key).hex()}" there, on every site',
        )
    if not authors and not section.has("authors") and not certified:
        warnings.append("policy.authors is empty, and there is no CA: this node will accept no policy from anyone")
    section.close()
    return PolicyPart(tuple(sorted(set(authors))), author_key)


def _read_geo(section: Section, directory: Path) -> GeoPart:
    database = section.take("database", text, None)
    section.close()
    return GeoPart(directory / database if database is not None else None)


def _read_cache(section: Section) -> CachePart:
    part = CachePart(
        bytes_max=section.take("size", size(0, 1 << 40), CACHE_BYTES),
        object_bytes_max=section.take("object_size", size(1, 1 << 30), CACHE_OBJECT_BYTES),
    )
    section.close()
    return part


def _read_timing(section: Section) -> TimingConfig:
    told = {f"{key}_us": section.take(key, reading, None) for key, reading in _TIMING.items()}
    drain_us = section.take("drain", duration(0, 600 * SECOND), DRAIN_US)
    failback_us = section.take("failback", duration(0, FAILBACK_US_MAX), RAMP_US)
    section.close()
    timing = TimingConfig(**told, drain_us=drain_us, failback_us=failback_us)
    engine = timing.engine_config()
    if engine.ack_timeout_us >= engine.probe_us:
        section.note(
            "swim_timeout",
            f"{duration_text(engine.ack_timeout_us)} leaves no time in a probe's "
            f"{duration_text(engine.probe_us)} to ask others",
            "make it half of that at most",
        )
    return timing


def _read_ring(section: Section, key: str, path: Path, warnings: list[str]) -> KeyRing | None:
    try:
        ring, warning = read_key_ring(path)
    except KeyFileError as error:
        section.note(key, str(error))
        return None
    if warning is not None:
        warnings.append(warning)
    return ring


def _read_key(section: Section, key: str, path: Path, what: str, warnings: list[str]) -> bytes | None:
    try:
        secret, warning = read_secret(path, what)
    except KeyFileError as error:
        section.note(key, str(error))
        return None
    if warning is not None:
        warnings.append(warning)
    return secret
