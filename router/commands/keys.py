"""`edgelattice keys`: change the cluster's keys while everybody goes on hearing everybody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from lattice.key_ring import KeyRing, KeyRingError, cluster_named, key_id
from router.commands.failing import EXIT_USAGE, CommandError, complain
from router.commands.shared import client_for, control_option, load_site
from router.commands.status_screen import console, keys_screen
from router.control.body import PeerKeysBody
from router.control.client import ControlError
from router.site.key_file import KeyFileError, read_key_ring, read_private, write_key_ring
from router.site.site_config import SiteConfig
from router.site.site_init import SITE_FILE

SECRET_BYTES = 32
PRESENT = ("alive", "suspect")


@click.group()
def keys() -> None:
    """Change the cluster's keys, no frame lost.

    \b
    On every site, each step finished everywhere before the next begins:
        edgelattice keys add ams --label 2027-01        makes a key (on the first site)
        edgelattice keys add fra --from ams             the same key, on the others
        edgelattice keys use ams 7f3a                   seal with it
        edgelattice keys remove ams 01c4                do not open what the old one seals any more
    Running nodes take it up within a second; what `keys list` shows as lagging has missed a step, and `use` and
    `remove` wait for it.
    """


def _site_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("site", type=click.Path(path_type=Path))(command)


@keys.command()
@_site_argument
@click.option("--label", default=None, metavar="TEXT", help="What to call a new key, as 2027-01.")
@click.option(
    "--from",
    "other",
    type=click.Path(path_type=Path),
    metavar="SITE",
    help="Take the keys that another site's directory, or a cluster.keys file of it, has and this one has not.",
)
def add(site: Path, label: str | None, other: Path | None) -> None:
    """Add a key: it opens, and does not seal yet.

    SITE is a site's directory or site.toml.
    """
    if (label is None) == (other is None):
        raise CommandError("give either --label, for a new key, or --from, for another site's", EXIT_USAGE)
    config, ring = _ring(site)
    if label is not None:
        ring = _changed(ring.add, os.urandom(SECRET_BYTES), label)
        added = [ring.keys[-1]]
    else:
        assert other is not None
        added = [key for key in _other_ring(other, config.cluster.name).keys if key not in ring.keys]
        for key in added:
            ring = _changed(ring.add, key.secret, key.label)
    _write(config, ring)
    for key in added:
        click.echo(f"{config.site.name}: added {key.id.hex()} ({key.label})")
    if not added:
        click.echo(f"{config.site.name}: has all of them already")
    else:
        click.echo(f"Add it on every other site, then: edgelattice keys use {site} {added[-1].id.hex()}")


def _anyway_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--anyway", is_flag=True, help="Even if sites lag behind: they are not heard until they do theirs."
    )(command)


@keys.command()
@_site_argument
@click.argument("key", metavar="ID")
@control_option
@_anyway_option
def use(site: Path, key: str, control: str | None, anyway: bool) -> None:
    """Seal with a key that every site has already.

    The running node is asked whether they have; where none runs, nobody is.
    """
    config, ring = _ring(site)
    old = ring.used.id.hex()
    ring = _changed(lambda: ring.use(key_id(key)))
    lag = [] if anyway or ring.used.id.hex() == old else [peer for peer in _peers(site, control) if not peer.has_ours]
    _wait_for(lag, f"have other keys than this site: add {ring.used.id.hex()} there first")
    _write(config, ring)
    _warn_of(lag, f"have other keys: who has no {ring.used.id.hex()} is not heard when it is back; add it there")
    click.echo(f"{config.site.name}: seals with {ring.used.id.hex()} ({ring.used.label})")
    if old != ring.used.id.hex():
        click.echo(f"Use it on every other site, then: edgelattice keys remove {site} {old}")


@keys.command()
@_site_argument
@click.argument("key", metavar="ID")
@control_option
@_anyway_option
def remove(site: Path, key: str, control: str | None, anyway: bool) -> None:
    """Remove a key that no site seals with any more.

    The running node is asked whether any does; where none runs, nobody is.
    """
    config, ring = _ring(site)
    ring = _changed(lambda: ring.remove(key_id(key)))
    lag = [] if anyway else [peer for peer in _peers(site, control) if peer.key == key_id(key).hex()]
    _wait_for(lag, f"seal with {key.lower()} still: use {ring.used.id.hex()} there first")
    _write(config, ring)
    _warn_of(lag, f"sealed with {key.lower()} when last heard, and are not heard until they use {ring.used.id.hex()}")
    click.echo(f"{config.site.name}: removed {key.lower()}; what is sealed with it is refused")


@keys.command("list")
@click.argument("site", type=click.Path(path_type=Path), required=False)
@control_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(site: Path | None, control: str | None, as_json: bool) -> None:
    """Show a running node's keys, and which peers lag behind.

    \b
        edgelattice keys list                                  the node on this machine
        edgelattice keys list --control 127.0.0.1:8181
    """
    site_file = None if site is None else _site_file(site)
    try:
        found = client_for(control, site_file).keys()
    except ControlError as error:
        raise CommandError(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        console().print(keys_screen(found))


def _peers(site: Path, control: str | None) -> list[PeerKeysBody]:
    """What the running node knows of its peers' keys; nothing where none runs."""
    try:
        found = client_for(control, _site_file(site)).keys()
    except (ControlError, CommandError) as error:
        if control is not None:
            raise CommandError(str(error)) from None
        complain(f"no node was asked who lags behind ({error})")
        return []
    return found.peers


def _wait_for(lag: list[PeerKeysBody], why: str) -> None:
    """For those who are there: who is away might never come back."""
    sites = sorted(peer.site for peer in lag if peer.state in PRESENT)
    if sites:
        raise CommandError(
            f"{', '.join(sites)}: {why}. Nothing was changed; running nodes take a step up within a second, and "
            "--anyway does this one all the same"
        )


def _warn_of(lag: list[PeerKeysBody], why: str) -> None:
    if lag:
        complain(f"{', '.join(sorted(peer.site for peer in lag))} (away): {why}")


def _site_file(site: Path) -> Path:
    return site / SITE_FILE if site.is_dir() else site


def _ring(site: Path) -> tuple[SiteConfig, KeyRing]:
    config = load_site(_site_file(site))
    if config.cluster.keys is None:
        raise CommandError(f"{config.path}: cluster.insecure is true: there are no keys to change", EXIT_USAGE)
    return config, config.cluster.keys


def _other_ring(other: Path, cluster: str) -> KeyRing:
    if other.is_dir() or other.suffix == ".toml":
        config, ring = _ring(other)
        if config.cluster.name != cluster:
            raise CommandError(
                f"{config.path}: of cluster {config.cluster.name!r}, and this site is of {cluster!r}", EXIT_USAGE
            )
        return ring
    try:
        content, _ = read_private(other, "cluster key")
        if not content.startswith("#") or "\nuse " not in content:
            raise KeyFileError(f"{other}: a bare key may be anybody's; name the site, or its cluster.keys")
        named = cluster_named(content)
        if named not in {None, cluster}:
            raise KeyFileError(f"{other}: the keys of cluster {named!r}, and this site is of {cluster!r}")
        return read_key_ring(other)[0]
    except KeyFileError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def _changed(change: Callable[..., KeyRing], *arguments: Any) -> KeyRing:
    try:
        return change(*arguments)
    except KeyRingError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def _write(config: SiteConfig, ring: KeyRing) -> None:
    path = config.cluster.key_file
    assert path is not None
    try:
        write_key_ring(path, ring, config.cluster.name)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; nothing was changed") from None
