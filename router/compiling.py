"""A policy's text made into a program, for whoever serves by it."""

from __future__ import annotations

from contextlib import suppress

from router.decision.program import Program, compile_policy
from router.policy import PolicyError, parse
from router.policy.errors import Diagnostic


def compile_text(text: str, name: str) -> Program:
    """Compile a policy. Pure, and slow for a large one: call it off the loop. Raises `PolicyError`.

    Of a mistake of ours too, with it as the cause: a text that one node stumbles over is given to all of them.
    """
    try:
        return compile_policy(parse(text, name))
    except PolicyError:
        raise
    except Exception as error:
        said = f"{type(error).__name__} while it was compiled: a mistake of ours"
        raise PolicyError([Diagnostic("E000", 1, 1, said, "a policy that compiles here", file=name)]) from error


def load_grammar() -> None:
    """Build the parser now (some 35 ms of CPU), rather than when the first policy arrives."""
    with suppress(PolicyError):
        parse("edition 1")


def complaint(error: PolicyError) -> str:
    """One line about a version that does not compile."""
    first = error.diagnostics[0]
    more = len(error.diagnostics) - 1
    return f"line {first.line}: {first.message}{f' (and {more} more)' if more else ''}"
