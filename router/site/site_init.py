"""`edgelattice init`: a first site out of nothing, or a further one out of an existing site's file or a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lattice.certificates import make_request
from lattice.grants import Role
from lattice.identity import private_key_from, public_key_of
from lattice.key_ring import KeyRing
from lattice.types import Endpoint, Micros
from router.site.bundle import Bundle
from router.site.ca_dir import CA_CERTIFICATE_FILE, CA_KEY_FILE, CaDir, CaError
from router.site.config_reader import endpoint_text
from router.site.key_file import KeyFileError, replace_file, write_key_ring, write_secret
from router.site.site_config import CONTROL_LISTEN, GOSSIP_LISTEN, HTTP_LISTEN, REQUEST_FILE, SiteConfig
from router.site.state_dir import node_key_in

SITE_FILE = "site.toml"
CLUSTER_KEYS_FILE = "cluster.keys"
OPERATOR_KEY_FILE = "operator.key"
CERTIFICATE_FILE = "node.crt"

_SITE_TOML = """\
# One site of the cluster "{cluster}". Reference: docs/reference; every key not here has a default.

[site]
name = "{site}"
# at = "52.37 4.90"  # latitude longitude: what "nearest" is measured from

[cluster]
name = "{cluster}"
{secrets}

[gossip]
listen = "{gossip}"
mdns = true          # finds the other sites of this network by itself; seeds are for all others
seeds = [{seeds}]

[http]
listen = ["{http}"]

[control]            # `edgelattice status` and policy; loopback only
listen = "{control}"

[policy]
authors = [{authors}]
"""


class InitError(Exception):
    """Nothing was written, or what the message says; it says why and what to do."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The cluster to become a part of."""

    bundle: Bundle
    ca: CaDir | None
    """Where its CA's key is at hand."""


@dataclass(frozen=True, slots=True)
class WrittenSite:
    """What `init` wrote, in the order to show it."""

    files: tuple[Path, ...]
    control: Endpoint
    operator_key: Path | None
    """None for a site that joined: the key stays where it is."""
    ca_key: Path | None
    request: Path | None
    """What the CA's keeper has to certify before the site can run; None when it is certified, or there is no CA."""


def joined_site(config: SiteConfig, port_offset: int) -> Joined:
    """The cluster of an existing site, as far as its files tell. Raises `InitError`."""
    directory = config.path.parent
    try:
        ca = CaDir(directory) if (directory / CA_KEY_FILE).exists() else None
    except CaError as error:
        raise InitError(str(error)) from None
    return Joined(bundle_of(config, port_offset), ca)


def bundle_of(config: SiteConfig, port_offset: int = 0) -> Bundle:
    """What another site must know to join this one's cluster. Raises `InitError`."""
    cluster = config.cluster
    try:
        ca_pem = None if cluster.certificates is None else cluster.certificates.ca.read_bytes()
    except OSError as error:
        raise InitError(f"{error.filename}: {error.strerror}") from None
    return Bundle(cluster.name, cluster.keys, config.policy.authors, _seeds(config, port_offset), ca_pem)


def init_site(
    directory: Path,
    site: str,
    cluster: str,
    joined: Joined | None,
    port_offset: int,
    now: Micros,
    entropy: Callable[[int], bytes] = os.urandom,
) -> WrittenSite:
    """Write a site file and the keys it needs into `directory`, which is made if it is not there.

    The first site makes the cluster: its keys, its CA and an operator's key. One that joins takes the cluster's name,
    keys, CA certificate and authors from `joined`, never anybody's private key; it is certified at once if the CA's
    key is at hand, else a request is written. `port_offset` moves all ports, for several sites on one machine. Raises
    `InitError` before anything is written when a file is there already; of what it wrote before another mistake showed
    nothing is left but the node's key, so that it can simply be tried again.
    """
    bundle = joined.bundle if joined else None
    sealed = bundle is None or bundle.keys is not None
    certified = bundle is None or bundle.ca_pem is not None
    at_hand = joined is None or joined.ca is not None
    names = [SITE_FILE]
    names += [CLUSTER_KEYS_FILE] if sealed else []
    names += [CA_CERTIFICATE_FILE, CERTIFICATE_FILE if at_hand else REQUEST_FILE] if certified else []
    names += [OPERATOR_KEY_FILE, CA_KEY_FILE] if joined is None else []
    files = {name: directory / name for name in names}
    there = [str(file) for file in files.values() if file.exists() or file.is_symlink()]
    if there:
        raise InitError(f"{', '.join(there)} exists, and init replaces nothing; choose another --dir or remove it")
    control = (CONTROL_LISTEN[0], CONTROL_LISTEN[1] + port_offset)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        node_key = node_key_in(directory / f"{site}.state")
        ca = joined.ca if joined else None
        if bundle is None:
            operator = private_key_from(entropy(64))
            write_secret(
                files[OPERATOR_KEY_FILE],
                operator,
                "edgelattice operator: whoever has this can change policy everywhere",
            )
            ca = CaDir.create(directory, cluster, now, entropy)
            ring = KeyRing.of(private_key_from(entropy(64)))
            bundle = Bundle(cluster, ring, (public_key_of(operator),), (), ca.authority.pem)
        elif bundle.ca_pem is not None:
            replace_file(files[CA_CERTIFICATE_FILE], bundle.ca_pem, 0o644)
        if bundle.keys is not None:
            write_key_ring(files[CLUSTER_KEYS_FILE], bundle.keys, bundle.cluster)
        if certified and ca is not None:
            certificate = ca.issue(public_key_of(node_key), Role.NODE, site, now, entropy=entropy)
            replace_file(files[CERTIFICATE_FILE], certificate.pem, 0o644)
        elif certified:
            replace_file(files[REQUEST_FILE], make_request(node_key, site), 0o644)
        text = _site_toml(bundle, site, port_offset, control)
        with files[SITE_FILE].open("x", encoding="utf-8") as file:
            file.write(text)
    except (OSError, CaError, KeyFileError) as error:
        for made in files.values():  # none of them was there before
            with suppress(OSError):
                made.unlink(missing_ok=True)
        said = f"cannot write into {directory}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise InitError(said) from None
    return WrittenSite(
        tuple(files.values()), control, files.get(OPERATOR_KEY_FILE), files.get(CA_KEY_FILE), files.get(REQUEST_FILE)
    )


def _site_toml(bundle: Bundle, site: str, port_offset: int, control: Endpoint) -> str:
    secrets = "insecure = true" if bundle.keys is None else f'key_file = "{CLUSTER_KEYS_FILE}"'
    if bundle.ca_pem is not None:
        secrets += f'\nca = "{CA_CERTIFICATE_FILE}"\ncertificate = "{CERTIFICATE_FILE}"'
    return _SITE_TOML.format(
        cluster=bundle.cluster,
        site=site,
        secrets=secrets,
        gossip=endpoint_text((GOSSIP_LISTEN[0], GOSSIP_LISTEN[1] + port_offset)),
        http=endpoint_text((HTTP_LISTEN[0], HTTP_LISTEN[1] + port_offset)),
        control=endpoint_text(control),
        seeds=", ".join(f'"{endpoint_text(seed)}"' for seed in bundle.seeds),
        authors=", ".join(f'"{author.hex()}"' for author in bundle.authors),
    )


def _seeds(joined: SiteConfig, port_offset: int) -> tuple[Endpoint, ...]:
    """Where the joined site takes gossip, as far as its file tells."""
    host, port = joined.gossip.listen
    wildcard = host in {"0.0.0.0", "::"}  # noqa: S104  (compared with, not listened on)
    if wildcard and port_offset:
        host, wildcard = "127.0.0.1", False  # moved ports: the other one is on this machine
    own = () if wildcard or not port else ((host, port),)
    return (*own, *joined.gossip.seeds)
