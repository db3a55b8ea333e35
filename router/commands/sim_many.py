"""`edgelattice sim sweep` and `soak`: many runs, on all processors, or on a Dask cluster.

A finished case is written down before the next is awaited, so a sweep that is killed loses none and goes on from there.
Whatever has the interface of `concurrent.futures.Executor` can run the cases.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    as_completed,
    wait,
)
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import click

from router.commands.failing import EXIT_USAGE, CommandError, complain
from router.commands.numbers import Number
from router.commands.sim_options import EXIT_HELD, EXIT_VIOLATED, files_in, load_scenario, make_folder, set_option
from router.commands.sim_processes import Processes
from router.commands.sim_progress import Progress
from sim.faults import KINDS
from sim.outcome import rerun_line
from sim.quantities import ConfigError
from sim.stage import ScenarioError
from sim.sweep import Case, Soaked, cases, finished, run_case, seeds_of, soak_seed, summarise
from sim.sweep_report import html

Result = TypeVar("Result")

CASES_FILE = "cases.jsonl"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "index.html"
WAITING_PER_JOB = 2
"""Seeds handed out ahead of each process, so that none waits for the next."""

jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 256), default=None, help="Processes.  [default: one a processor]"
)


@click.command()
@click.argument("scenario")
@click.option("--seeds", help="0:100 (the end is not in it), or a list as 3,7.  [default: the scenario's, or 0:10]")
@click.option(
    "--grid",
    "axes",
    multiple=True,
    metavar="A.B=1,2",
    help="An axis of the grid. Repeatable.  [default: the scenario's]",
)
@jobs_option
@click.option(
    "--executor",
    "kind",
    type=click.Choice(("processes", "dask")),
    default="processes",
    show_default=True,
    help="Where the cases run; dask needs edgelattice[dask], here and on its workers.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of the Dask cluster, as tcp://10.0.0.1:8786.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR",
    help="Where finished cases and the page go.",
)  # fmt: skip
@set_option
def sweep(
    scenario: str,
    seeds: str | None,
    axes: tuple[str, ...],
    jobs: int | None,
    kind: str,
    scheduler: str | None,
    out: Path,
    sets: tuple[str, ...],
) -> int:
    """Run a grid of overrides times seeds. Started again with the same --out, it leaves out what is done."""
    if (kind == "dask") != (scheduler is not None):
        raise click.UsageError("--executor dask and --scheduler ADDRESS go together.")
    found = load_scenario(scenario, sets)
    settings = found.sweep
    try:
        wanted = cases(scenario, seeds_of(settings.seeds if seeds is None else seeds), axes or settings.grid, sets)
    except ConfigError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    make_folder(out)
    file = out / CASES_FILE
    with files_in(file):
        done = finished(iter(file.read_text(errors="replace").splitlines())) if file.exists() else {}
        file.open("a").close()
    missing = [case for case in wanted if not case.is_among(done)]
    complain(f"{len(wanted)} cases, {len(wanted) - len(missing)} done before{_others(missing, done)}")
    progress = Progress()
    running: list[Future[dict[str, Any]]] = []

    def stopped() -> str:
        there = sum(case.is_among(done) for case in wanted)
        return f"{there} of {len(wanted)} cases are in {out}; the same command goes on from there"

    with (
        files_in(file),
        file.open("a") as kept,
        _told(progress, stopped),
        _executor(kind, jobs, scheduler, running) as pool,
    ):
        running.extend(pool.submit(run_case, case) for case in missing)
        for number, future in enumerate(as_completed(running), 1):
            one = _result(future, scenario)
            done[one["case"]] = one
            kept.write("\n" * (file.stat().st_size > 0 and number == 1) + json.dumps(one) + "\n")
            kept.flush()
            progress.say(partial(_rate, progress.spent_s, number, len(missing)), now=number == len(missing))
    progress.clear()
    rows = summarise([done[case.key] for case in wanted])
    with files_in(out):
        (out / SUMMARY_FILE).write_text(json.dumps(rows, indent=2) + "\n")
        page = write_sweep_page(out)
    for row in rows:
        click.echo(", ".join(f"{name} {_said(value)}" for name, value in row.items() if value is not None))
    click.echo(page)
    broken = [one for one in (done[case.key] for case in wanted) if one["verdict"] != found.expect]
    for one in broken[:10]:
        complain(f"again: {rerun_line(scenario, one['seed'], one['set'])}")
    return EXIT_VIOLATED if broken else EXIT_HELD


def _others(missing: Sequence[Case], done: Mapping[str, object]) -> str:
    again = sum(case.key in done for case in missing)
    return f", {again} of another scenario of that name, and so done again" if again else ""


def _said(value: object) -> str:
    return f"{value[0]:g}–{value[1]:g}" if isinstance(value, tuple) else str(value)


def write_sweep_page(directory: Path) -> Path:
    """A sweep's folder as one page: every finished case in it."""
    done = list(finished(iter((directory / CASES_FILE).read_text(errors="replace").splitlines())).values())
    page = directory / PAGE_FILE
    page.write_text(html(done[0]["scenario"] if done else "nothing", summarise(done), done))
    return page


@contextmanager
def _executor(
    kind: str, jobs: int | None, scheduler: str | None, running: Collection[Future[Result]]
) -> Iterator[Executor]:
    """Something that runs cases; whoever is interrupted waits for none of them. Raises `CommandError` when Dask is not
    installed or does not answer."""
    if kind == "processes":
        with Processes(jobs) as pool:
            yield pool
        return
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise CommandError("Dask is not installed: pip install 'edgelattice[dask]'", EXIT_USAGE) from None
    try:
        client = distributed.Client(scheduler, timeout="10s")
    except OSError as error:
        raise CommandError(f"no Dask scheduler at {scheduler}: {error}", EXIT_USAGE) from None
    with client, client.get_executor(pure=False) as pool, _given_up(running):
        yield pool


@contextmanager
def _given_up(running: Collection[Future[Result]]) -> Iterator[None]:
    """What has not begun when somebody interrupts does not begin: it would be in no file."""
    try:
        yield
    except BaseException:
        for future in running:
            future.cancel()
        raise


@contextmanager
def _told(progress: Progress, stopped: Callable[[], str]) -> Iterator[None]:
    """Whoever interrupts is told what has come of it."""
    try:
        yield
    except KeyboardInterrupt:
        progress.clear()
        complain(stopped())
        raise


def _rate(spent_s: float, number: int, of: int) -> str:
    return f"{number} of {of} cases, {number / spent_s:.1f}/s, {spent_s / number * (of - number):.0f} s left"


@click.command()
@click.argument("scenario", default="swarm")
@click.option(
    "--budget", type=Number(0), default=60.0, show_default=True, metavar="SECONDS", help="Real time to spend."
)
@click.option("--from", "first", type=int, default=0, show_default=True, help="First seed.")
@jobs_option
@set_option
def soak(scenario: str, budget: float, first: int, jobs: int | None, sets: tuple[str, ...]) -> int:
    """Seed after seed, until the time is spent or a promise is broken.

    The scenario is `swarm` if none is named.
    """
    found = load_scenario(scenario, sets)
    jobs = jobs or len(os.sched_getaffinity(0))
    progress = Progress()
    seeds = count(first)
    held: list[Soaked] = []

    def stopped() -> str:
        return f"{len(held)} seeds held until then, from {first} on, in {progress.spent_s:.0f} s"

    with _told(progress, stopped), Processes(jobs) as pool:
        waiting = {pool.submit(soak_seed, scenario, next(seeds), sets) for _ in range(jobs * WAITING_PER_JOB)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for soaked in sorted((_result(one, scenario) for one in done), key=lambda each: each.seed):
                if soaked.verdict != found.expect:
                    progress.clear()
                    for line in soaked.lines:
                        click.echo(line)
                    complain(f"again: {rerun_line(scenario, str(soaked.seed), sets)}")
                    pool.shutdown(cancel_futures=True)
                    return EXIT_VIOLATED
                held.append(soaked)
                if progress.spent_s < budget:
                    waiting.add(pool.submit(soak_seed, scenario, next(seeds), sets))
            progress.say(partial(_soaking, progress.spent_s, len(held), budget))
    progress.clear()
    spent = progress.spent_s
    last = max((soaked.seed for soaked in held), default=first)
    click.echo(f"{len(held)} seeds held, {first} to {last}, in {spent:.1f} s ({len(held) / spent:.1f}/s)")
    for line in _covered(found.swarm.kinds if found.swarm.faults_max else (), held):
        click.echo(line)
    return EXIT_HELD


def _soaking(spent_s: float, held: int, budget_s: float) -> str:
    return f"{held} seeds held, {held / spent_s:.1f}/s, {max(0, budget_s - spent_s):.0f} s left"


def _result(future: Future[Result], scenario: str) -> Result:
    """Raises `CommandError` where the scenario asks for what its cluster has not, or whoever ran it is no more."""
    try:
        return future.result()
    except ScenarioError as error:
        raise CommandError(f"{scenario}: {error}", EXIT_USAGE) from None
    except BrokenExecutor:
        said = f"{scenario}: a process that ran a case was killed (is there memory for so many at once? see --jobs)"
        raise CommandError(said, EXIT_USAGE) from None


def _covered(kinds: Sequence[str], held: Sequence[Soaked]) -> list[str]:
    """What the seeds did to the cluster, and what they never did: a promise that nothing tried to break says little."""
    done: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for soaked in held:
        done.update(what for what in soaked.acts if KINDS[what].is_fault)
        dropped.update(soaked.dropped)
    lines = []
    if done:
        lines.append("faults: " + ", ".join(f"{name} {number}" for name, number in sorted(done.items())))
    never = sorted(set(kinds) - set(done))
    if never:
        lines.append("never:  " + ", ".join(never))
    if dropped:
        lines.append("drops:  " + ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items())))
    return lines
