"""What is said when a publish, a resolution or a checkpoint did not come to its end: nothing that is not so."""

from __future__ import annotations

from pathlib import Path

from router.commands.failing import CommandError
from router.control.author_chain import AuthorChain
from router.control.publish import UnconfirmedError


def not_done(what: str, error: Exception, key_file: Path) -> CommandError:
    """Why nothing was `what` ("published"), or may not have been; and what to do."""
    if isinstance(error, UnconfirmedError):
        if error.status == 409:
            return CommandError(f"kept, but not in force: {error}")
        memory = AuthorChain(key_file).path
        return CommandError(
            f"not confirmed: {error}\nWhat was signed stays in {memory}, and goes along with whatever you publish next"
        )
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or key_file
        return CommandError(
            f"nothing was {what}: {place}: {error.strerror.lower()}; what is signed is remembered there, so it must be "
            "possible to write it"
        )
    return CommandError(f"nothing was {what}: {error}")
