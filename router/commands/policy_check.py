"""`edgelattice policy check`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from router.commands.failing import EXIT_FAILED, CommandError, complain
from router.commands.policy_files import counted, policy_text
from router.control.body import DiagnosticBody
from router.control.diagnostics import diagnostic_bodies
from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.decision.scenario_run import run_tests
from router.policy import PolicyError, parse
from router.policy.errors import Diagnostic


class CheckedBody(msgspec.Struct, frozen=True):
    """`policy check --json`."""

    ok: bool
    file: str
    diagnostics: list[DiagnosticBody]
    left_out: int
    """How many more there are than the first fifty."""


@click.command()
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
        error = mistakes(text, str(file))
    if as_json:
        left_out = 0 if error is None else error.left_out
        click.echo(msgspec.json.encode(CheckedBody(error is None, str(file), diagnostic_bodies(error), left_out)))
    elif error is None:
        click.echo(f"{file}: holds")
    else:
        click.echo(error.render(text), err=True)
        complain(counted(error))
    return 0 if error is None else EXIT_FAILED


def mistakes(text: str, name: str) -> PolicyError | None:
    """Everything wrong with a policy; when nothing is, everything that can be proved against it."""
    try:
        proved = prove(compile_policy(parse(text, name)))
    except PolicyError as error:
        return error
    return PolicyError(proved) if proved else None


def publishable(file: Path, otherwise: str) -> str:
    """A policy's text, if it holds and its own tests pass. Raises `CommandError`, which says what is so `otherwise`."""
    text = policy_text(file)
    wrong = mistakes(text, str(file))
    if wrong is not None:
        click.echo(wrong.render(text), err=True)
        raise CommandError(f"{counted(wrong)}; {otherwise}")
    failed = [one for _, failures in run_tests(compile_policy(parse(text, str(file)))) for one in failures]
    if failed:
        for one in failed:
            complain(f"{file}:{one.span.line}:{one.span.column}: test {one.test}: {one.message}")
        raise CommandError(f"its own tests fail; {otherwise}")
    return text
