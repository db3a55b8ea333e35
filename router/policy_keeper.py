"""The policy in force at this node: the last one that compiled.

The lattice elects a version; this node compiles it, and only then is it in force and said to be. A version that does
not compile here (another edition, a limit) changes nothing: the last good one stays, and the refusal is there to see.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lattice.types import VersionId
from router.decision.program import Program, compile_policy
from router.policy import PolicyError, parse


@dataclass(frozen=True, slots=True)
class InForce:
    """A compiled policy, and since when it serves here."""

    version: VersionId
    text: str
    program: Program
    applied_ms: int


def compile_text(text: str, name: str) -> Program:
    """Compile a policy. Pure, and slow for a large one: call it off the loop. Raises `PolicyError`."""
    return compile_policy(parse(text, name))


def load_grammar() -> None:
    """Build the parser now (some 35 ms of CPU), rather than when the first policy arrives."""
    with suppress(PolicyError):
        parse("edition 1")


def complaint(error: PolicyError) -> str:
    """One line about a version that does not compile."""
    first = error.diagnostics[0]
    more = len(error.diagnostics) - 1
    return f"line {first.line}: {first.message}{f' (and {more} more)' if more else ''}"
