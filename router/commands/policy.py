"""`edgelattice policy`: what there is, and where."""

from __future__ import annotations

from typing import Final

import click

from router.commands.lazy_group import LazyGroup, Place

TOOLS: Final = "router.commands.policy_tools"
VERSIONS: Final = "router.commands.policy_versions"
COMMANDS: Final = {
    "check": Place("router.commands.policy_check", "check", "Say all that is wrong with a policy."),
    "compact": Place(
        VERSIONS, "compact_command", "Forget history: sign a checkpoint of what still lives of this key's policies."
    ),
    "compile": Place(
        TOOLS,
        "compile_command",
        "Write a policy in another form: JSON, a WebAssembly module that decides as a node does, or text.",
    ),
    "diff": Place(TOOLS, "diff", "Say which users and requests a change of policy would move, and where."),
    "explain": Place(TOOLS, "explain_command", "Say which rule decides a request, what each tier keeps, and why."),
    "fmt": Place(TOOLS, "fmt", "Lay a policy out, comments and all."),
    "publish": Place("router.commands.policy_publish", "publish_command", "Sign a policy and hand it to one node."),
    "resolve": Place(
        VERSIONS,
        "resolve_command",
        "End a conflict: two versions of a policy that were published without knowing of each other.",
    ),
    "rollout": Place(
        "router.commands.rollout",
        "rollout",
        "Bring a version of the policy to a few sites first, and to all if it proves good there.",
    ),
    "simulate": Place(TOOLS, "simulate_command", "Say where a policy would send recorded traffic."),
    "test": Place(TOOLS, "test", "Run the test blocks of a policy, on their virtual clock."),
}


@click.group(cls=LazyGroup, commands_in=COMMANDS)
def policy() -> None:
    """Check, format, test and publish a policy."""
