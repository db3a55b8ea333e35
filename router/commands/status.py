"""`edgelattice status`."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.live import Live

from router.commands.failing import CommandError
from router.commands.shared import client_for, control_option
from router.commands.status_screen import console, status_screen
from router.control.client import ControlClient, ControlError

WATCH_SECONDS = 1.0


@click.command()
@click.argument("site_toml", type=click.Path(path_type=Path), required=False)
@control_option
@click.option("--json", "as_json", is_flag=True, help="The whole view, one JSON object a line.")
@click.option("--watch", is_flag=True, help="Again every second until Ctrl-C.")
def status(site_toml: Path | None, control: str | None, as_json: bool, watch: bool) -> None:
    """Show what a node knows.

    Regions and who witnessed what of them, members, policies, and what happened last.

    \b
        edgelattice status                                  the node on this machine
        edgelattice status ams/site.toml                    the node of that site file
        edgelattice status --control 127.0.0.1:8181 --watch
        edgelattice status --json | jq '.regions[] | {region, effective}'
    """
    client = client_for(control, site_toml)
    try:
        if as_json:
            _json(client, watch)
        elif watch:
            _live(client)
        else:
            console().print(status_screen(client.view()))
    except ControlError as error:
        raise CommandError(str(error)) from None


def _json(client: ControlClient, watch: bool) -> None:
    click.echo(client.view_json().strip())
    while watch:
        time.sleep(WATCH_SECONDS)
        click.echo(client.view_json().strip())


def _live(client: ControlClient) -> None:
    screen = console()
    with Live(status_screen(client.view()), console=screen, screen=screen.is_terminal, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(status_screen(client.view()), refresh=True)
