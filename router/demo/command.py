"""`edgelattice demo`: sites and regions on this machine, real traffic, and a region that dies under it."""

from __future__ import annotations

import json
import math
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import trio
from rich.console import Console

from router.demo import scenario as play_book
from router.demo.conductor import DemoError, play
from router.demo.figures import Figures, Recording, figures
from router.demo.processes import ChildError
from router.demo.scenario import Scenario, ScenarioError
from router.demo.screen import Board, LineShow, LiveShow, Show, summary

SECONDS_DEFAULT = 20
RATE_DEFAULT = 200


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(play_book.SECONDS_MIN, play_book.SECONDS_MAX),
    default=SECONDS_DEFAULT,
    show_default=True,
    help="How long users send requests.",
)
@click.option("--sites", type=click.IntRange(1, play_book.SITES_MAX), default=3, show_default=True, help="Edge nodes.")
@click.option(
    "--regions", type=click.IntRange(1, play_book.REGIONS_MAX), default=3, show_default=True, help="Region backends."
)
@click.option(
    "--rate",
    type=click.IntRange(1, play_book.RATE_MAX),
    default=RATE_DEFAULT,
    show_default=True,
    help="Requests a second, over all zones.",
)
@click.option(
    "--kill",
    "kills",
    multiple=True,
    metavar="REGION@SECONDS",
    help="SIGKILL that region then; it comes back a quarter of the run later. May be given several times. "
    "[default: the first region, at 40 % of the run]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object of figures on the last line; all else to stderr."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Leave the configurations, the policy and the logs in this directory, which must be new or empty.",
)
def demo(
    seconds: float, sites: int, regions: int, rate: int, kills: tuple[str, ...], as_json: bool, keep: Path | None
) -> int:
    """Play a region's death under real traffic, on this machine.

    Starts region backends and edge nodes as processes on loopback. The nodes find each other by mDNS; the policy is
    published to one of them and reaches the others. Users of every zone then send requests to their site at a steady
    rate, whatever happens; a region is killed with SIGKILL and returns. Prints what was measured.

    Exit status: 0, 1 if any request failed or a figure could not be had, 2 for a wrong option, 130 after Ctrl-C.
    """
    if math.isnan(seconds):  # which is neither below nor above any bound
        raise click.BadParameter("nan is not a number of seconds.", param_hint="--seconds")
    try:
        scenario = play_book.compose(seconds, rate, sites, regions, kills)
    except ScenarioError as error:
        raise click.BadParameter(f"{error}.", param_hint="--kill") from error
    with _directory(keep) as directory:
        board = Board(scenario)
        console = Console(stderr=as_json)
        with _show(board, console) as show:
            recording, signal_number = _run(scenario, directory, board, show)
    if recording is None:
        click.echo("interrupted; every process was stopped", err=True)
        return 128 + signal_number
    result = figures(recording)
    _tell(recording, result, as_json)
    return 0 if result.complete else 1


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="edgelattice-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        used = any(keep.iterdir())
    except OSError as error:
        raise click.BadParameter(f"{keep}: {error.strerror}", param_hint="--keep") from error
    if used:
        raise click.BadParameter(f"{keep} is not empty: name a new directory", param_hint="--keep")
    yield keep.resolve()


@contextmanager
def _show(board: Board, console: Console) -> Iterator[Show]:
    # Asked of the file, for rich calls a pipe a terminal when FORCE_COLOR is set.
    if console.is_dumb_terminal or not console.file.isatty():
        yield LineShow(board, _writer(console.stderr))
        return
    with LiveShow(board, console) as live:
        yield live


def _writer(err: bool) -> Callable[[str], None]:
    return lambda line: click.echo(line, err=err)


def _run(scenario: Scenario, directory: Path, board: Board, show: Show) -> tuple[Recording | None, int]:
    """The recording, or None and the signal that ended the run early."""
    try:
        return trio.run(_play_until_signal, scenario, directory, board, show)
    except (ChildError, DemoError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        return None, signal.SIGINT


async def _play_until_signal(
    scenario: Scenario, directory: Path, board: Board, show: Show
) -> tuple[Recording | None, int]:
    received: list[int] = []
    recording: Recording | None = None
    failure: Exception | None = None
    watched = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a closed terminal is no reason to end
        watched.append(signal.SIGHUP)
    with trio.open_signal_receiver(*watched) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for number in signals:
                    received.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            try:
                recording = await play(scenario, directory, board, show)
            except (ChildError, DemoError, OSError) as error:  # OSError: our output's reader has gone, the disk is full
                failure = error
            nursery.cancel_scope.cancel()
    if received:
        return None, received[0]
    if failure is not None:
        raise failure
    return recording, 0


def _tell(recording: Recording, result: Figures, as_json: bool) -> None:
    for line in ("", *summary(recording, result)):
        click.echo(line, err=as_json)
    for key, why in result.missing.items():
        click.echo(f"{key} cannot be given: {why}", err=True)
    if as_json:
        click.echo(json.dumps(dict(result.values)))
