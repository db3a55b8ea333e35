"""`edgelattice run`."""

from __future__ import annotations

import gc
import logging
import sys
from functools import partial
from pathlib import Path

import click
import trio

from router.commands.failing import CommandError, complain, leaves
from router.commands.shared import load_site
from router.errors import StartError
from router.process import run_until_told
from router.site.config_reader import endpoint_text
from router.site.site_config import BoundEndpoints
from router.starting import run_node


@click.command()
@click.argument("site_toml", type=click.Path(path_type=Path))
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="Leave when standard input ends (supervisors).")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What goes to standard error.",
)
def run(site_toml: Path, until_stdin_closes: bool, log_level: str) -> None:
    """Run one node.

    Until Ctrl-C or SIGTERM: then it takes no new requests, finishes those in flight, and tells its peers.

    \b
    When everything listens, one line on standard output has the addresses:
        ready site=ams gossip=0.0.0.0:7946 http=0.0.0.0:8080 control=127.0.0.1:8180
    """
    config = load_site(site_toml)
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for warning in config.warnings:
        complain(f"warning: {warning}")

    def ready(bound: BoundEndpoints) -> None:
        traffic = {"http": bound.http, "https": bound.https, "tcp": bound.tcp}
        listening = "".join(f"{kind}={','.join(map(endpoint_text, at))} " for kind, at in traffic.items() if at)
        click.echo(
            f"ready site={config.site.name} gossip={endpoint_text(bound.gossip)} "
            f"{listening}control={endpoint_text(bound.control)}"
        )
        sys.stdout.flush()
        gc.freeze()  # what is loaded by now stays; a full collection that walked it would keep users waiting for 0.1 s

    node = partial(run_until_told, run_node, config, ready=ready, told=complain, until_stdin_closes=until_stdin_closes)
    try:
        trio.run(node)
    except Exception as error:
        refusals = leaves(error)
        if not all(isinstance(refusal, StartError | OSError) for refusal in refusals):
            raise
        raise CommandError("\n".join(_said(refusal) for refusal in refusals)) from None


def _said(error: BaseException) -> str:
    """An error in the machine's own words, with what it was about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}{f': {error.filename}' if error.filename else ''}"
    return str(error)
