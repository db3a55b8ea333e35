"""What a site must know to join a cluster, as one file to carry to another machine.

It holds the cluster's keys, so it is for the owner's eyes alone; it holds no private key of the CA, of an operator or
of a node. Pure: text in, values out.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field

from lattice.certificates import Authority, CertificateError
from lattice.key_ring import KeyRing, KeyRingError, parse_ring, ring_text
from lattice.types import Endpoint
from router.site.config_reader import (
    ConfigError,
    NotExpected,
    Problem,
    Section,
    endpoint_text,
    hex_bytes,
    remote_endpoint,
    site_name,
)

BUNDLE_BYTES_MAX = 256 * 1024
"""Keys, one certificate, and every seed and author of a large cluster."""

_BUNDLE = """\
# What another site needs to join cluster "{cluster}": edgelattice init --site NAME --dir DIR --join THIS-FILE
# It holds the cluster's keys: carry it as you would carry a password, and remove it when the site has joined.

[bundle]
cluster = "{cluster}"
authors = [{authors}]
seeds = [{seeds}]
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    cluster: str
    keys: KeyRing | None = field(repr=False)
    """None: the cluster is insecure."""
    authors: tuple[bytes, ...]
    seeds: tuple[Endpoint, ...]
    ca_pem: bytes | None
    """None: the cluster has no CA."""


def bundle_text(bundle: Bundle) -> str:
    """The bundle as `parse_bundle` reads it."""
    parts = [
        _BUNDLE.format(
            cluster=bundle.cluster,
            authors=", ".join(f'"{author.hex()}"' for author in bundle.authors),
            seeds=", ".join(f'"{endpoint_text(seed)}"' for seed in bundle.seeds),
        )
    ]
    if bundle.keys is not None:
        parts.append(f"keys = '''\n{ring_text(bundle.keys, bundle.cluster)}'''\n")
    if bundle.ca_pem is not None:
        parts.append(f"ca = '''\n{bundle.ca_pem.decode('ascii')}'''\n")
    return "".join(parts)


def parse_bundle(source: str, content: str) -> Bundle:
    """The bundle in a file's text; `source` names the file in what is wrong with it. Raises `ConfigError`."""
    try:
        table = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError):
        problem = Problem("", None, "no bundle", "`edgelattice ca bundle` writes one")  # the text is never quoted
        raise ConfigError(source, (problem,)) from None
    problems: list[Problem] = []
    top = Section("", table, problems)
    section = top.section("bundle")
    cluster = section.require("cluster", site_name, "unnamed")
    authors = section.take_each("authors", hex_bytes(32, "an Ed25519 public key"), ())
    seeds = section.take_each("seeds", remote_endpoint, ())
    ring_file, ca = section.take("keys", _lines, None), section.take("ca", _lines, None)
    keys, ca_pem = None, None
    try:
        keys = None if ring_file is None else parse_ring(ring_file)
    except KeyRingError as error:
        section.note("keys", str(error))
    try:
        ca_pem = None if ca is None else Authority(ca.encode("latin-1", "replace")).pem
    except CertificateError as error:
        section.note("ca", str(error))
    section.close()
    top.close()
    if problems:
        raise ConfigError(source, tuple(problems))
    return Bundle(cluster, keys, authors, seeds, ca_pem)


def _lines(value: object) -> str:
    if not isinstance(value, str) or not all(line.isprintable() for line in value.splitlines()):
        raise NotExpected("printable lines in quotes")
    return value
