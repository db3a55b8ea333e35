"""`edgelattice decide`."""

from __future__ import annotations

import click
import msgspec

from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError
from router.commands.shared import client_for, control_option
from router.commands.status_screen import console, decision_screen
from router.control.client import ControlError


@click.command()
@click.option("--client", required=True, metavar="ADDRESS", help="The user's IP address.")
@click.option("--host", required=True, help="The host asked for.")
@click.option("--path", default="/", show_default=True, help="The path asked for.")
@click.option("--method", default="GET", show_default=True)
@control_option
@click.option("--json", "as_json", is_flag=True, help="The decision as JSON.")
def decide(client: str, host: str, path: str, method: str, control: str | None, as_json: bool) -> None:
    """Ask where a request would go, and why.

    What the node would do with it now, and what it would try next. Sends nothing.

    \b
        edgelattice decide --client 203.0.113.7 --host shop.example.com --path /cart
    """
    try:
        decision = client_for(control).decide(client, host, path, method)
    except ControlError as error:
        raise CommandError(str(error), EXIT_USAGE if error.status == 400 else EXIT_FAILED) from None
    if as_json:
        click.echo(msgspec.json.encode(decision))
    else:
        console().print(decision_screen(decision))
