"""The command `edgelattice`: the one composition root.

Every failure is one line or a few on standard error that say what to do next, and an exit status:

    0    done
    1    what was asked for failed: a policy that does not hold, a node that does not answer, a run that broke
    2    it was asked for wrongly: usage, site file, key file
    130  interrupted (Ctrl-C)
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import click

from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain, leaves
from router.commands.lazy_group import LazyGroup, Place

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

TRACEBACK_ENVIRONMENT = "EDGELATTICE_TRACEBACK"

COMMANDS: Final = {
    "ca": Place("router.commands.ca", "ca", "Certify nodes and people, and take it back."),
    "cache": Place("router.commands.cache", "cache", "Forget what sites have cached."),
    "decide": Place("router.commands.decide", "decide", "Ask where a request would go, and why."),
    "demo": Place("router.demo.command", "demo", "Play a region's death under real traffic, on this machine."),
    "explain": Place(
        "router.commands.explain",
        "explain",
        "Say which rule decides a request, what each tier keeps and why, by a node's policy and view.",
    ),
    "init": Place("router.commands.init", "init", "Write a site file and its keys."),
    "keys": Place("router.commands.keys", "keys", "Change the cluster's keys, no frame lost."),
    "policy": Place("router.commands.policy", "policy", "Check, format, test and publish a policy."),
    "run": Place("router.commands.run", "run", "Run one node."),
    "signal": Place("router.commands.signal", "signal", "Say how a region is, signed with its own key."),
    "sim": Place(
        "router.commands.sim", "sim", "Experiments: thousands of real engines in one process, under a virtual clock."
    ),
    "status": Place("router.commands.status", "status", "Show what a node knows."),
}


@click.group(cls=LazyGroup, commands_in=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("edgelattice"), message="%(prog)s %(version)s")
def edgelattice() -> None:
    """An edge compute router: every site knows which regions are well, and no coordinator tells it.

    \b
    See it work on this machine:   edgelattice demo
    Your own first site:           edgelattice init --site ams --dir ams
                                   edgelattice run ams/site.toml
    Give it a policy:              edgelattice policy publish shop.policy --key ams/operator.key
    See what it knows:             edgelattice status

    Exit status: 0 done; 1 what was asked for failed; 2 it was asked for wrongly (usage, site file, keys);
    130 interrupted.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. The entry point of `edgelattice`."""
    try:
        result = edgelattice.main(args=argv, prog_name="edgelattice", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # a group alone: its message is the whole help
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        complain(f"{error.format_message()} See {error.ctx.command_path if error.ctx else 'edgelattice'} --help.")
        return EXIT_USAGE
    except CommandError as error:
        complain(error.message)
        return error.status
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Standard output is given away, or Python complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  (the last resort: a user never meets a traceback by surprise)
        return _mistake_of_ours(error)
    return result if isinstance(result, int) else 0


def _mistake_of_ours(error: Exception) -> int:
    for leaf in leaves(error):
        complain(f"{type(leaf).__name__}: {leaf}")
    if os.environ.get(TRACEBACK_ENVIRONMENT):
        traceback.print_exception(error)
    else:
        complain(f"this is a mistake of ours; {TRACEBACK_ENVIRONMENT}=1 shows where, for a report")
    return EXIT_FAILED
