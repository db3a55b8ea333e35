"""How commands fail: in words for people, and with an exit status. Every command line loads this, so it is light."""

from __future__ import annotations

import click

EXIT_FAILED = 1
EXIT_USAGE = 2


class CommandError(click.ClickException):
    """A command could not do what was asked. Each line of the message goes to standard error as it is."""

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


def complain(text: str) -> None:
    """Say something to people, apart from what the command was asked for."""
    for line in text.splitlines():
        click.echo(f"edgelattice: {line}", err=True)


def why(error: OSError) -> str:
    """What the system says of it, in lower case, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside however many groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
