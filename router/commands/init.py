"""`edgelattice init`."""

from __future__ import annotations

from pathlib import Path

import click

from router.commands.shared import EXIT_USAGE, CommandError, load_site
from router.site.config_reader import NotExpected, endpoint_text, site_name
from router.site.site_init import SITE_FILE, InitError, WrittenSite, init_site


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
    help="Another site's directory or site.toml: become a site of the same cluster.",
)
@click.option(
    "--port-offset",
    type=click.IntRange(0, 50_000),
    default=0,
    metavar="N",
    help="Add N to every port: several sites on one machine.",
)
def init(site: str, directory: Path, cluster: str | None, join: Path | None, port_offset: int) -> None:
    """Write a site file and its keys.

    Never replaces a file.

    \b
    The first site makes the cluster, its key, and an operator's key for policy:
        edgelattice init --site ams --dir ams
    The next one joins it (here on the same machine, so on other ports):
        edgelattice init --site fra --dir fra --join ams --port-offset 1
    """
    _check_name("--site", site)
    if cluster is not None:
        if join is not None:
            raise CommandError("--cluster: a site that joins takes the name of its cluster; drop one", EXIT_USAGE)
        _check_name("--cluster", cluster)
    joined = None if join is None else load_site(join / SITE_FILE if join.is_dir() else join)
    try:
        written = init_site(directory, site, cluster or "edge", joined, port_offset)
    except InitError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(_next_steps(directory, written, moved=port_offset != 0))


def _check_name(option: str, name: str) -> None:
    try:
        site_name(name)
    except NotExpected as wrong:
        hint = f"; {wrong.hint}" if wrong.hint else ""
        raise CommandError(f"{option} {name!r}: expected {wrong.expected}{hint}", EXIT_USAGE) from None


def _next_steps(directory: Path, written: WrittenSite, *, moved: bool) -> str:
    control = f" --control http://{endpoint_text(written.control)}" if moved else ""
    lines = ["Wrote " + ", ".join(map(str, written.files)) + ".", "", "Next:", f"  edgelattice run {written.files[0]}"]
    if written.operator_key is None:
        return "\n".join([*lines, f"  edgelattice status{control}"])
    return "\n".join(
        [
            *lines,
            f"  edgelattice policy publish FILE --key {written.operator_key}{control}",
            f"  edgelattice status{control}",
            f"  edgelattice init --site NAME --dir DIR --join {directory}     # a second site",
            "",
            f"Whoever has {written.operator_key} can change policy on every site: keep it off the sites.",
        ]
    )
