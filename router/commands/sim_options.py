"""What the commands of `edgelattice sim` share: options, exit statuses, and how a scenario is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from router.commands.failing import EXIT_USAGE, CommandError, why
from sim.files import named
from sim.quantities import ConfigError
from sim.scenario import Scenario, load

EXIT_HELD = 0
EXIT_VIOLATED = 1

set_option = click.option(
    "--set", "sets", multiple=True, metavar="A.B=C", help="Override a key, as topology.nodes=50. Repeatable."
)
seed_option = click.option("--seed", default="0", show_default=True, help="Any word; the same one, the same history.")
json_option = click.option("--json", "as_one", is_flag=True, help="One JSON object on standard output, nothing else.")


def load_scenario(scenario: str, sets: Sequence[str]) -> Scenario:
    """A scenario by name or file. Raises `CommandError` with everything that is wrong."""
    try:
        return load(scenario, sets)
    except ConfigError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def make_folder(out: Path) -> None:
    """Make the folder of `--out` before what fills it takes its minutes. Raises `CommandError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {named(out)}: {why(error)}", EXIT_USAGE) from None


@contextmanager
def files_in(out: Path) -> Iterator[None]:
    """What the system refuses is said with the file's name, or with that of the folder: a disk that is full names
    none. Raises `CommandError`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads our output has enough
    except OSError as error:
        raise CommandError(f"{error.filename or out}: {why(error)}", EXIT_USAGE) from None
