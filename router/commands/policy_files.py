"""Policies from files, with their mistakes said as people need them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from router.commands.failing import EXIT_USAGE, CommandError, why
from router.decision.program import Program, compile_policy
from router.policy import PolicyError, parse
from router.policy.json_form import JSON_BYTES_MAX, JsonPolicyError, from_json, is_json
from router.policy.printer import print_policy

POLICY_FILE_BYTES_MAX = JSON_BYTES_MAX + 1
"""Read so much and let the parser refuse what is too long, with its own words."""


def policy_text(file: Path) -> str:
    """A policy's text; of one in its JSON form, the text that says the same. - is standard input.

    Raises `CommandError`.
    """
    written = written_text(file)
    if not is_json(written):
        return written
    try:
        return print_policy(from_json(written))
    except JsonPolicyError as error:
        raise CommandError(f"{file}: {error}") from None


def written_text(file: Path) -> str:
    """What a file says, text or JSON. Raises `CommandError`."""
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(POLICY_FILE_BYTES_MAX)
        else:
            with file.open("rb") as opened:
                content = opened.read(POLICY_FILE_BYTES_MAX)
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {why(error)}", EXIT_USAGE) from None
    try:
        return content.decode("utf-8", "strict" if len(content) < POLICY_FILE_BYTES_MAX else "ignore")
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise CommandError(f"{file}: not UTF-8 text: {wrong}; save it as UTF-8") from None


def compiled(file: Path) -> Program:
    """A policy, compiled, from text or JSON; its mistakes go to standard error. Raises `CommandError`."""
    text = policy_text(file)
    try:
        return compile_policy(parse(text, str(file)))
    except PolicyError as error:
        click.echo(error.render(text), err=True)
        raise CommandError(counted(error)) from None


def counted(error: PolicyError) -> str:
    count = len(error.diagnostics) + error.left_out
    return f"the policy has {count} {'mistake' if count == 1 else 'mistakes'}"
