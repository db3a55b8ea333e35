"""`edgelattice explain`: why a live node sends a request where it does."""

from __future__ import annotations

import time

import click

from lattice.types import Endpoint, Level
from router.commands.policy_tools import policy_table, read_headers, show_explanation
from router.commands.shared import CommandError, client_for, control_option
from router.control.body import DEFAULT_POLICY, ViewBody
from router.control.client import ControlError
from router.decision.program import compile_policy
from router.decision.request import Request
from router.policy import PolicyError, parse


@click.command()
@click.option("--client", required=True, metavar="ADDRESS", help="The user's IP address.")
@click.option("--host", required=True)
@click.option("--path", default="/", show_default=True)
@click.option("--method", default="GET", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated.")
@click.option("--country", default="", help="The user's country, where zones or rules ask for it.")
@click.option("--continent", default="")
@click.option("--asn", default=0)
@click.option("--at", "place", default="0 0", metavar="'LAT LON'", help="Where the deciding site is.")
@click.option("--time", "moment", metavar="ISO8601", help="When; now unless given.")
@click.option("--json", "as_json", is_flag=True)
@control_option
def explain(
    client: str,
    host: str,
    path: str,
    method: str,
    headers: tuple[str, ...],
    country: str,
    continent: str,
    asn: int,
    place: str,
    moment: str | None,
    as_json: bool,
    control: str | None,
) -> None:
    """Say which rule decides a request, what each tier keeps and why, by a node's policy and view.

    The decision is worked out here, from the policy in force there and the levels and ejections it knows.

    \b
        edgelattice explain --client 203.0.113.7 --host shop.example.com --path /cart --at "52.3 4.8"
    """
    node = client_for(control)
    try:
        text, view = node.policy_text(DEFAULT_POLICY), node.view()
        program = compile_policy(parse(text, DEFAULT_POLICY))
    except ControlError as error:
        raise CommandError(str(error)) from None
    except PolicyError as error:
        raise CommandError(f"the node's policy is not known to this version: {error}") from None
    levels = {region.region: Level[region.effective] for region in view.regions if region.region in program.regions}
    table = policy_table(program, place, levels, moment)
    request = Request(client, host, path, method, read_headers(headers), country, continent, asn)
    show_explanation(table, request, as_json, frozenset(_endpoints(view)))
    if as_json:
        return
    for region in view.regions:
        if levels.get(region.region, Level.HEALTHY) > Level.HEALTHY:
            since = time.strftime("%H:%M:%SZ", time.gmtime(region.since_ms // 1_000))
            witnesses = ", ".join(sorted({witness.site for witness in region.witnesses}))
            click.echo(f"  {region.region} {region.effective} since {since}: {region.reason} (witnesses {witnesses})")


def _endpoints(view: ViewBody) -> list[Endpoint]:
    pairs = [text.rpartition(":") for text in view.ejected]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]
