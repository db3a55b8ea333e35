"""`edgelattice sim`: experiments on thousands of nodes in one process.

The simulator itself reads no clock; this module does, to say how fast a run is and how long it will take.
"""

from __future__ import annotations

import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import click

from lattice.types import SECOND
from router.commands.failing import EXIT_USAGE, CommandError, complain
from router.commands.sim_many import CASES_FILE, soak, sweep, write_sweep_page
from router.commands.sim_options import (
    EXIT_HELD,
    EXIT_VIOLATED,
    files_in,
    json_option,
    load_scenario,
    make_folder,
    seed_option,
    set_option,
)
from router.commands.sim_plots import FORMATS
from router.commands.sim_plots import export as export_plots
from router.commands.sim_progress import Progress
from sim.baselines import ITEM_BYTES
from sim.compare import FLOOD_NODES_MAX, baselines, floor_us, ours, stretched, table_lines, theory
from sim.difference import first_divergence
from sim.experiment import Experiment, Result
from sim.faults import KINDS
from sim.files import is_directory, is_file, named
from sim.obstacles import PAYS_HOSTS
from sim.outcome import Cost, as_json, lines, read_token, rerun_line, token_of
from sim.parallel import run_by
from sim.promises import ALL_CHECKS
from sim.run_folder import REPORT_FILE, Kept, read_folder, read_report, write_folder
from sim.scenario import Scenario, shipped
from sim.shrink import TRIES_MAX, shrink
from sim.stage import ScenarioError
from sim.toml_text import toml_text

JOURNAL_FILE = "events.jsonl"


@click.group()
def sim() -> None:
    """Experiments: thousands of real engines in one process, under a virtual clock.

    \b
        edgelattice sim list
        edgelattice sim run smoke
        edgelattice sim run halves --seed 7 --set topology.nodes=100 --out halves-7
        edgelattice sim replay halves-7

    Exit status: 0 every promise held; 1 one was broken; 2 wrong usage, or a scenario that cannot be read.
    """


@sim.command(name="list")
@json_option
def list_(as_one: bool) -> None:
    """The scenarios that come with the simulator."""
    known = shipped()
    if as_one:
        click.echo(json.dumps([{"name": name, "purpose": purpose} for name, purpose in known]))
        return
    width = max(len(name) for name, _ in known)
    for name, purpose in known:
        click.echo(f"{name:{width}}  {purpose}")


@sim.command()
@click.argument("scenario")
@set_option
def validate(scenario: str, sets: tuple[str, ...]) -> None:
    """Check a scenario, by name or file, without running it."""
    found = load_scenario(scenario, sets)
    click.echo(f"{found.source}: {len(found.timeline('0'))} acts on {found.topology.nodes} nodes")


@sim.command(short_help="A scenario as it is read; or every act and promise.")
@click.argument("scenario", required=False)
@set_option
def explain(scenario: str | None, sets: tuple[str, ...]) -> None:
    """A scenario after `extends` and overrides; without one, every act and every promise there is."""
    if scenario is not None:
        click.echo(toml_text(load_scenario(scenario, sets).table), nl=False)
        return
    click.echo("Acts, for [[timeline]]:")
    for name, kind in KINDS.items():
        click.echo(f"  {name:18} {kind.purpose}")
    click.echo("\nPromises:")
    for check in ALL_CHECKS:
        click.echo(f"  {check.name:18} {check.promise}{' (after healing)' if check.liveness else ''}")


@sim.command()
@click.argument("scenario")
@seed_option
@set_option
@json_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Leave a run folder here.")
@click.option("--journal", is_flag=True, help="With --out: keep every input as a line of JSON (large); one process.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=None,
    help="Processes, with the same result.  [default: one a processor, of a large world]",
)  # fmt: skip
def run(
    scenario: str, seed: str, sets: tuple[str, ...], as_one: bool, out: Path | None, journal: bool, jobs: int | None
) -> int:
    """Run a scenario, by name or file."""
    if journal and out is None:
        raise click.UsageError("--journal needs --out, where its file goes.")
    found = load_scenario(scenario, sets)
    if out is not None:
        make_folder(out)
    result, cost = _run(found, seed, quiet=as_one, lines_to=out / JOURNAL_FILE if journal and out else None, jobs=jobs)
    if as_one:
        click.echo(json.dumps(as_json(result, cost)))
    else:
        for line in lines(result, cost):
            click.echo(line)
    if out is not None:
        with files_in(out):
            write_folder(out, result, cost, list(sets))
        if not as_one:
            click.echo(f"  {out}/report.html")
    if result.verdict != found.expect:
        complain(f"again: {rerun_line(scenario, seed, sets)}")
        complain(f"or:    edgelattice sim replay {token_of(scenario, seed, sets)}")
        return EXIT_VIOLATED
    return EXIT_HELD


@sim.command(short_help="Write the page of a run or a sweep again.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
@click.option("--export", type=click.Choice(FORMATS), help="Pictures as files, too; needs edgelattice[plots].")
def report(directory: Path, export: str | None) -> None:
    """Write a run folder's report.html, or a sweep's index.html, again."""
    if is_file(directory / CASES_FILE):
        if export is not None:
            raise click.UsageError("--export is for run folders: a sweep has its page only.")
        with files_in(directory):
            written = [write_sweep_page(directory)]
        click.echo(written[0])
        return
    try:
        story, page = read_report(directory)
    except ValueError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    with files_in(directory):
        (directory / REPORT_FILE).write_text(page)
        written = [directory / REPORT_FILE, *(export_plots(story, directory, export) if export else ())]
    for path in written:
        click.echo(path)


@sim.command(short_help="Run a run folder or token again, and compare.")
@click.argument("what", metavar="DIR|TOKEN")
@json_option
def replay(what: str, as_one: bool) -> int:
    """Run again what a run folder or a token says, and see that it comes to the same."""
    folder = Path(what)
    kept: Kept | None = None
    try:
        if what and is_directory(folder):
            kept = read_folder(folder)
            found, seed = replace(load_scenario(str(kept.path), ()), name=kept.name), kept.seed
        else:
            name, seed, sets = read_token(what)
            found = load_scenario(name, sets)
    except ValueError as error:
        said = (
            str(error)
            if what and is_directory(folder)
            else f"{named(what) or 'nothing'}: no run folder, and no token: {error}"
        )
        raise CommandError(said, EXIT_USAGE) from None
    result, cost = _run(found, seed, quiet=as_one)
    if as_one:
        click.echo(json.dumps(as_json(result, cost)))
    else:
        for line in lines(result, cost):
            click.echo(line)
    if kept is not None and kept.digest != result.digest:
        complain(f"the history differs: digest {result.digest}, the folder has {kept.digest}; the engine has changed")
        return EXIT_VIOLATED
    return EXIT_HELD if result.verdict == found.expect else EXIT_VIOLATED


@sim.command(short_help="Our engine beside what others do, and theory.")
@click.argument("scenario", default="wan")
@seed_option
@set_option
@json_option
def compare(scenario: str, seed: str, sets: tuple[str, ...], as_one: bool) -> None:
    """One publish on a scenario's links: our engine beside what others do, and beside the theory.

    The scenario is `wan` if none is named.
    """
    found = load_scenario(scenario, sets)
    if found.topology.nodes < 2:
        raise CommandError("topology.nodes = 1: nobody is told anything; compare two nodes or more", EXIT_USAGE)
    rows = []
    progress = Progress(as_one)
    try:
        for name, strategy in (("ours", "default"), ("ours, random 4", "random")):
            other = load_scenario(scenario, [*sets, f"protocol.strategy={strategy}"])
            rows.append(ours(other, seed, name, progress.of_run(f"{name}: ")))
        floor = floor_us(found, seed)
        rows = stretched([*rows, *baselines(found, seed)], floor)
    except ScenarioError as error:
        raise CommandError(f"{found.source}: {error}", EXIT_USAGE) from None
    finally:
        progress.clear()
    promised = theory(found.topology.nodes, found.link.loss_ppm)
    if as_one:
        click.echo(json.dumps({"rows": rows, "floor_p99_s": floor / SECOND, "theory": promised}))
        return
    click.echo(
        f"one publish of about {ITEM_BYTES} bytes, {found.topology.nodes} nodes, links of {scenario}, seed {seed}"
    )
    for line in table_lines(rows):
        click.echo(line)
    click.echo(f"stretch: p99 over that of one direct packet to everybody, {floor / SECOND} s")
    if found.topology.nodes > FLOOD_NODES_MAX:
        click.echo(f"flood is left out: among more than {FLOOD_NODES_MAX} nodes it is a million messages")
    if any(row["bytes_per_node"] is None for row in rows):
        click.echo("ours: what the publish cost is less than what these links have repaired in the same seconds")
    click.echo("theory: " + ", ".join(f"{name} {value}" for name, value in promised.items()))
    click.echo("baselines carry neither membership nor signatures: their bytes are a lower bound")


@sim.command(name="shrink", short_help="The smallest run that still breaks a promise.")
@click.argument("scenario")
@seed_option
@set_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where the scenario goes.  [default: standard output]",
)  # fmt: skip
def shrink_(scenario: str, seed: str, sets: tuple[str, ...], out: Path | None) -> int:
    """Make a run that breaks a promise as small as it can be and still break it."""
    if out is not None and not is_directory(out.parent):
        raise CommandError(f"--out {named(out)}: there is no directory {named(out.parent)}", EXIT_USAGE)
    progress = Progress()

    def smaller(said: str) -> None:
        progress.clear()
        complain(said)

    def tried(runs: int) -> None:
        progress.say(lambda: f"{runs} runs of at most {TRIES_MAX}, {runs / progress.spent_s:.1f}/s")

    try:
        found = shrink(load_scenario(scenario, sets), seed, smaller, tried)
    except ScenarioError as error:
        raise CommandError(f"{scenario}: {error}", EXIT_USAGE) from None
    finally:
        progress.clear()
    if found is None:
        complain(
            "this run breaks no promise: there is nothing to shrink; `edgelattice sim soak` looks for a seed that does"
        )
        return EXIT_HELD
    complain(f"{found.check}: {found.said}, after {found.tries} runs")
    if out is None:
        click.echo(toml_text(found.table), nl=False)
    else:
        try:
            with files_in(out):
                out.write_text(toml_text(found.table))
        except CommandError:
            click.echo(toml_text(found.table), nl=False)
            raise
        complain(f"again: {rerun_line(str(out), seed, [])}")
    return EXIT_VIOLATED


@sim.command(short_help="Where two runs part.")
@click.argument("one", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
def diff(one: Path, other: Path) -> int:
    """Where two runs part: folders that `run --journal --out` has left."""
    for folder in (one, other):
        if not is_file(folder / JOURNAL_FILE):
            raise CommandError(f"{folder / JOURNAL_FILE}: was the run made with --journal?", EXIT_USAGE)
    with (
        files_in(one),
        (one / JOURNAL_FILE).open(errors="replace") as left,
        (other / JOURNAL_FILE).open(errors="replace") as right,
    ):
        parted = first_divergence(left, right)
    for said in _unlike(one, other):
        complain(said)
    if parted is None:
        click.echo("the same history")
        return EXIT_HELD
    for line in parted:
        click.echo(line)
    return EXIT_VIOLATED


def _unlike(one: Path, other: Path) -> list[str]:
    """That two folders are not of one run, as far as they say whose they are."""
    try:
        kept = [read_folder(folder) for folder in (one, other)]
        tables = [load_scenario(str(each.path), ()).table for each in kept]
    except (ValueError, CommandError):
        return []
    names = [f"{each.name}, seed {each.seed}" for each in kept]
    if names[0] != names[1]:
        return [f"not the same run: {names[0]}; and {names[1]}"]
    return [] if tables[0] == tables[1] else [f"not the same scenario, though both are {names[0]}"]


def _run(
    scenario: Scenario, seed: str, quiet: bool, lines_to: Path | None = None, jobs: int | None = None
) -> tuple[Result, Cost]:
    started = time.monotonic()
    progress = Progress(quiet)
    tell = progress.of_run()
    why: str | None = "its journal is one"
    try:
        if lines_to is None:
            wanted = jobs or (len(os.sched_getaffinity(0)) if scenario.topology.nodes >= PAYS_HOSTS else 1)
            result, why = run_by(lambda: Experiment(scenario, seed, progress=tell), wanted)
        else:
            with files_in(lines_to), lines_to.open("w") as file:
                result = Experiment(scenario, seed, lines=file, progress=tell).run()
    except ScenarioError as error:
        raise CommandError(f"{scenario.source}: {error}", EXIT_USAGE) from None
    finally:
        progress.clear()
    if why is not None and jobs is not None and jobs > 1:
        complain(f"one process: {why}")
    peak_kb = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return result, Cost(time.monotonic() - started, peak_kb // 1024)


sim.add_command(sweep)
sim.add_command(soak)
