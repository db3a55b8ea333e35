"""`edgelattice cache`: what sites keep of answers."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lattice.identity import Ed25519Signer, author_id_of, public_key_of
from lattice.purges import sign_purge
from router.commands.failing import EXIT_USAGE, CommandError
from router.commands.operator import key_option, operator_of
from router.commands.shared import client_for, control_option
from router.control.body import DEFAULT_POLICY
from router.control.client import ControlError
from router.policy.values import BadValueError, read_host_pattern, read_path_pattern


@click.group()
def cache() -> None:
    """Forget what sites have cached."""


@cache.command()
@click.argument("host")
@click.argument("path", default="/**")
@key_option
@control_option
def purge(host: str, path: str, key_file: Path, control: str | None) -> None:
    """Drop what is cached of HOST and PATH, at every site.

    Both are patterns as in a policy: shop.example.com, *.example.com or "*"; /cart, "/img/*" or "/img/**". PATH covers
    every query. It is signed here and handed to one node; the sites pass it on to each other, and one that is cut off
    hears it within a day.

    \b
        edgelattice cache purge shop.example.com "/img/**" --key ams/operator.key
    """
    try:
        host, path = read_host_pattern(host), read_path_pattern(path)
    except BadValueError as error:
        raise CommandError(f"{error.message}: expected {error.expected}", EXIT_USAGE) from None
    operator = operator_of(key_file)
    client = client_for(control)
    try:
        cluster = client.head(DEFAULT_POLICY, author_id_of(public_key_of(operator.private_key))).cluster
        signer = Ed25519Signer(operator.private_key, cluster, operator.grant)
        client.submit_purges([sign_purge(signer, time.time_ns() // 1_000_000, host, path).data])
    except ControlError as error:
        raise CommandError(f"nothing was purged: {error}") from None
    click.echo(f"purged {host} {path} at the node, which tells the others of cluster {cluster}")
