"""`edgelattice init`: a first site out of nothing, or a further one out of an existing site's file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lattice.identity import private_key_from, public_key_of
from lattice.types import Endpoint
from router.site.config_reader import endpoint_text
from router.site.key_file import write_secret
from router.site.site_config import CONTROL_LISTEN, GOSSIP_LISTEN, HTTP_LISTEN, SiteConfig

SITE_FILE = "site.toml"
CLUSTER_KEY_FILE = "cluster.key"
OPERATOR_KEY_FILE = "operator.key"

_SITE_TOML = """\
# One site of the cluster "{cluster}". Reference: docs/reference; every key not here has a default.

[site]
name = "{site}"
# at = "52.37 4.90"  # latitude longitude: what "nearest" is measured from

[cluster]
name = "{cluster}"
{key_line}

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
    """Nothing was written; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class WrittenSite:
    """What `init` wrote, in the order to show it."""

    files: tuple[Path, ...]
    control: Endpoint
    operator_key: Path | None
    """None for a site that joined: the key stays where it is."""


def init_site(
    directory: Path,
    site: str,
    cluster: str,
    joined: SiteConfig | None,
    port_offset: int,
    entropy: Callable[[int], bytes] = os.urandom,
) -> WrittenSite:
    """Write a site file and the keys it needs into `directory`, which is made if it is not there.

    `joined` is another site of the cluster to become a part of: the cluster's name, key and authors are taken from it,
    never an operator's private key. `port_offset` moves all ports, for several sites on one machine. Raises `InitError`
    before anything is written when a file is there already.
    """
    site_file, cluster_key, operator_key = (
        directory / name for name in (SITE_FILE, CLUSTER_KEY_FILE, OPERATOR_KEY_FILE)
    )
    sealed = joined is None or not joined.cluster.insecure
    files = [site_file, *([cluster_key] if sealed else []), *([operator_key] if joined is None else [])]
    there = [str(file) for file in files if file.exists() or file.is_symlink()]
    if there:
        raise InitError(f"{', '.join(there)} exists, and init replaces nothing; choose another --dir or remove it")
    control = (CONTROL_LISTEN[0], CONTROL_LISTEN[1] + port_offset)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if joined is None:
            secret, operator = private_key_from(entropy(64)), private_key_from(entropy(64))
            write_secret(operator_key, operator, "edgelattice operator: whoever has this can change policy everywhere")
            authors: tuple[bytes, ...] = (public_key_of(operator),)
        else:
            secret, authors, cluster = joined.cluster.key or b"", joined.policy.authors, joined.cluster.name
        if sealed:
            write_secret(cluster_key, secret, f"edgelattice cluster {cluster}: the same file on every site")
        text = _SITE_TOML.format(
            cluster=cluster,
            site=site,
            key_line=f'key_file = "{CLUSTER_KEY_FILE}"' if sealed else "insecure = true",
            gossip=endpoint_text((GOSSIP_LISTEN[0], GOSSIP_LISTEN[1] + port_offset)),
            http=endpoint_text((HTTP_LISTEN[0], HTTP_LISTEN[1] + port_offset)),
            control=endpoint_text(control),
            seeds=", ".join(f'"{endpoint_text(seed)}"' for seed in _seeds(joined, port_offset)),
            authors=", ".join(f'"{author.hex()}"' for author in authors),
        )
        with site_file.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InitError(f"cannot write into {directory}: {error.strerror}") from None
    return WrittenSite(tuple(files), control, operator_key if joined is None else None)


def _seeds(joined: SiteConfig | None, port_offset: int) -> tuple[Endpoint, ...]:
    """Where the joined site takes gossip, as far as its file tells."""
    if joined is None:
        return ()
    host, port = joined.gossip.listen
    wildcard = host in {"0.0.0.0", "::"}  # noqa: S104  (compared with, not listened on)
    if wildcard and port_offset:
        host, wildcard = "127.0.0.1", False  # moved ports: the other one is on this machine
    own = () if wildcard or not port else ((host, port),)
    return (*own, *joined.gossip.seeds)
