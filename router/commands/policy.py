"""`edgelattice policy`: check and publish here, the tools beside it in `policy_tools`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from lattice.policy_content import check_policy_name
from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain
from router.commands.operator import operator_of
from router.commands.policy_files import counted, policy_text
from router.commands.policy_tools import compile_command, diff, explain_command, fmt, simulate_command, test
from router.commands.policy_versions import compact_command, resolve_command, said
from router.commands.shared import client_for, control_option
from router.control.author_chain import AuthorChain
from router.control.body import DEFAULT_POLICY, DiagnosticBody, diagnostic_bodies
from router.control.client import ControlError
from router.control.publish import compact, publish
from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.decision.scenario_run import run_tests
from router.policy import PolicyError, parse
from router.policy.errors import Diagnostic


@click.group()
def policy() -> None:
    """Check, format, test and publish a policy."""


class CheckedBody(msgspec.Struct, frozen=True):
    """`policy check --json`."""

    ok: bool
    file: str
    diagnostics: list[DiagnosticBody]
    left_out: int
    """How many more there are than the first fifty."""


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help='{"ok": bool, "diagnostics": [...]}')
def check(file: Path, as_json: bool) -> int:
    """Say all that is wrong with a policy.

    Each mistake with its place, what was expected there, and how to mend it. What holds is then proved: that every rule
    is reached, every `never` kept in every state of health, and that losing a region leaves the others enough room.
    FILE may be - for standard input, and JSON (as `policy compile` writes it) in place of text. Exit status 0 when the
    policy holds, 1 when it does not.
    """
    text, error = "", None
    try:
        text = policy_text(file)
    except CommandError as wrong:  # no text at all; an editor that asked for JSON gets JSON
        if not as_json or wrong.status != EXIT_FAILED:
            raise
        error = PolicyError(
            [Diagnostic("", 1, 1, wrong.message, "a policy, as text in UTF-8 or as JSON", file=str(file))]
        )
    else:
        error = _mistakes(text, str(file))
    if as_json:
        left_out = 0 if error is None else error.left_out
        click.echo(msgspec.json.encode(CheckedBody(error is None, str(file), diagnostic_bodies(error), left_out)))
    elif error is None:
        click.echo(f"{file}: holds")
    else:
        click.echo(error.render(text), err=True)
        complain(counted(error))
    return 0 if error is None else EXIT_FAILED


@policy.command("publish")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The operator's private key; it stays here.",
)
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
    text = policy_text(file)
    mistakes = _mistakes(text, str(file))
    if mistakes is not None:
        click.echo(mistakes.render(text), err=True)
        raise CommandError(f"{counted(mistakes)}; nothing was published")
    failed = [one for _, failures in run_tests(compile_policy(parse(text, str(file)))) for one in failures]
    if failed:
        for one in failed:
            complain(f"{file}:{one.span.line}:{one.span.column}: test {one.test}: {one.message}")
        raise CommandError("its own tests fail; nothing was published")
    client = client_for(control)
    try:
        now_ms = time.time_ns() // 1_000_000
        published, cluster = publish(
            client, operator.private_key, name, text, message, now_ms, AuthorChain(key_file), operator.grant
        )
    except (ControlError, ValueError, OSError) as error:
        if isinstance(error, ControlError) and error.body is not None and error.body.rendered:
            click.echo(error.body.rendered, err=True)
        raise CommandError(f"nothing was published: {error}") from None
    click.echo(
        f"published {published.policy} {published.version[:8]} to cluster {cluster} in {published.ops} ops; "
        "`edgelattice status` shows where it is in force"
    )
    try:
        shortened = compact(client, operator.private_key, now_ms, AuthorChain(key_file), operator.grant, if_due=True)
    except (ControlError, ValueError, OSError) as error:
        complain(f"warning: history was not shortened, which is due: {error}; `edgelattice policy compact` tries again")
    else:
        if shortened is not None:
            complain(f"history shortened: {said(shortened)}")


def _mistakes(text: str, name: str) -> PolicyError | None:
    """Everything wrong with a policy; when nothing is, everything that can be proved against it."""
    try:
        proved = prove(compile_policy(parse(text, name)))
    except PolicyError as error:
        return error
    return PolicyError(proved) if proved else None


for _tool in (resolve_command, compact_command, fmt, test, diff, simulate_command, explain_command, compile_command):
    policy.add_command(_tool)
