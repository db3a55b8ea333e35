"""`edgelattice init`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lattice.types import Micros
from router.commands.failing import EXIT_USAGE, CommandError
from router.commands.shared import load_site
from router.site.bundle import BUNDLE_BYTES_MAX, bundle_text, parse_bundle
from router.site.config_reader import ConfigError, NotExpected, endpoint_text, site_name
from router.site.key_file import KeyFileError, read_private, replace_file
from router.site.site_init import (
    CERTIFICATE_FILE,
    SITE_FILE,
    InitError,
    Joined,
    WrittenSite,
    bundle_of,
    init_site,
    joined_site,
)


@click.command()
@click.option("--site", required=True, metavar="NAME", help="1 to 32 of a-z, 0-9 and -.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=Path(), help="Where to write.  [default: .]"
)
@click.option("--cluster", default=None, metavar="NAME", help="What the sites together are called.  [default: edge]")
@click.option(
    "--join",
    type=click.Path(path_type=Path),
    metavar="SITE",
    help="Another site's directory or site.toml, or a bundle: become a site of the same cluster.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write what sites on other machines need to join, too (holds the cluster's keys).",
)
@click.option(
    "--port-offset",
    type=click.IntRange(0, 50_000),
    default=0,
    metavar="N",
    help="Add N to every port: several sites on one machine.",
)
def init(
    site: str, directory: Path, cluster: str | None, join: Path | None, bundle: Path | None, port_offset: int
) -> None:
    """Write a site file and its keys.

    Never replaces a file.

    \b
    The first site makes the cluster, its keys, its CA, and an operator's key for policy:
        edgelattice init --site ams --dir ams --bundle edge.bundle
    The next one joins it (here on the same machine, so on other ports):
        edgelattice init --site fra --dir fra --join ams --port-offset 1
    One on another machine, where the bundle was carried:
        edgelattice init --site iad --dir iad --join edge.bundle
    """
    _check_name("--site", site)
    if cluster is not None:
        if join is not None:
            raise CommandError("--cluster: a site that joins takes the name of its cluster; drop one", EXIT_USAGE)
        _check_name("--cluster", cluster)
    try:
        if bundle is not None:
            _check_bundle(bundle)
        joined = None if join is None else _joined(join, port_offset)
        written = init_site(directory, site, cluster or "edge", joined, port_offset, Micros(time.time_ns() // 1_000))
        if bundle is not None:
            write_bundle(written.files[0], bundle)
    except InitError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(_next_steps(directory, written, moved=port_offset != 0))


def _joined(join: Path, port_offset: int) -> Joined:
    """The cluster of a site's directory or file, or of a bundle."""
    if join.is_dir() or join.suffix == ".toml":
        return joined_site(load_site(join / SITE_FILE if join.is_dir() else join), port_offset)
    try:
        content, _ = read_private(join, "bundle", BUNDLE_BYTES_MAX)
        return Joined(parse_bundle(str(join), content), None)
    except (KeyFileError, ConfigError) as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def write_bundle(site_file: Path, out: Path) -> None:
    """Write a site's bundle for its owner alone. Never replaces a file."""
    _check_bundle(out)
    bundle = bundle_of(load_site(site_file))
    try:
        replace_file(out, bundle_text(bundle).encode(), 0o600)
    except OSError as error:
        raise InitError(f"cannot write {out}: {error.strerror}") from None


def _check_bundle(out: Path) -> None:
    if out.exists():
        raise InitError(f"{out} exists, and nothing is replaced; choose another name or remove it")
    if not out.parent.is_dir():
        raise InitError(f"cannot write {out}: there is no directory {out.parent}")


def _check_name(option: str, name: str) -> None:
    try:
        site_name(name)
    except NotExpected as wrong:
        hint = f"; {wrong.hint}" if wrong.hint else ""
        raise CommandError(f"{option} {name!r}: expected {wrong.expected}{hint}", EXIT_USAGE) from None


def _next_steps(directory: Path, written: WrittenSite, *, moved: bool) -> str:
    control = f" --control http://{endpoint_text(written.control)}" if moved else ""
    lines = ["Wrote " + ", ".join(map(str, written.files)) + ".", "", "Next:", f"  edgelattice run {written.files[0]}"]
    if written.request is not None:
        certificate = written.request.with_name(CERTIFICATE_FILE)
        lines[3:] = [
            f"  carry {written.request} to where the CA is, and there:",
            f"  edgelattice ca issue --role node --request {written.request.name} --out {certificate.name}",
            f"  carry {certificate.name} back to {certificate}, and here:",
            f"  edgelattice run {written.files[0]}",
        ]
    if written.operator_key is None:
        return "\n".join([*lines, f"  edgelattice status{control}"])
    return "\n".join(
        [
            *lines,
            f"  edgelattice policy publish FILE --key {written.operator_key}{control}",
            f"  edgelattice status{control}",
            f"  edgelattice init --site NAME --dir DIR --join {directory}     # a second site",
            "",
            f"Whoever has {written.operator_key} can change policy on every site, and whoever has",
            f"{written.ca_key} can make nodes and operators: keep both off the sites.",
        ]
    )
