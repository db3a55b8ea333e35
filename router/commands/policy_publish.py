"""`edgelattice policy publish`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lattice.policy_content import check_policy_name
from router.commands.failing import EXIT_USAGE, CommandError, complain
from router.commands.operator import key_option, operator_of
from router.commands.policy_check import publishable
from router.commands.policy_versions import said
from router.commands.publishing import not_done
from router.commands.shared import client_for, control_option
from router.control.author_chain import AuthorChain
from router.control.body import DEFAULT_POLICY, RolloutBody
from router.control.client import ControlClient, ControlError
from router.control.publish import compact, publish


@click.command("publish")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@key_option
@control_option
@click.option("--name", default=DEFAULT_POLICY, show_default=True, help="Which policy; sites serve the default one.")
@click.option("-m", "--message", default="", help="Why, for those who read the history.")
def publish_command(file: Path, key_file: Path, control: str | None, name: str, message: str) -> None:
    """Sign a policy and hand it to one node.

    It is checked, its own tests are played, and it is signed here; the sites pass it on to each other.

    \b
        edgelattice policy publish shop.policy --key ams/operator.key -m "open asia"
    """
    try:
        check_policy_name(name)
    except ValueError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    operator = operator_of(key_file)
    text = publishable(file, "nothing was published")
    client = client_for(control)
    ends = _under_way(client, name)
    try:
        now_ms = time.time_ns() // 1_000_000
        published, cluster = publish(
            client, operator.private_key, name, text, message, now_ms, AuthorChain(key_file), operator.grant
        )
    except (ControlError, ValueError, OSError) as error:
        if isinstance(error, ControlError) and error.body is not None and error.body.rendered:
            click.echo(error.body.rendered, err=True)
        raise not_done("published", error, key_file) from None
    click.echo(
        f"published {published.policy} {published.version[:8]} to cluster {cluster} in {published.ops} ops; "
        "`edgelattice status` shows where it is in force"
    )
    for rollout in ends:
        complain(f"rollout {rollout.id[:8]} is over: all sites serve what was published")
    try:
        shortened = compact(client, operator.private_key, now_ms, AuthorChain(key_file), operator.grant, if_due=True)
    except (ControlError, ValueError, OSError) as error:
        complain(f"warning: shortening the history, which is due: {not_done('shortened', error, key_file)}")
    else:
        if shortened is not None:
            complain(f"history shortened: {said(shortened)}")


def _under_way(client: ControlClient, name: str) -> list[RolloutBody]:
    """What a publish ends. If the node does not say, publishing will tell why."""
    try:
        return [each for each in client.view().rollouts if each.policy == name and each.state == "under way"]
    except ControlError:
        return []
