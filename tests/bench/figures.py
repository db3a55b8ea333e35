"""`python -m tests.bench figures [--nodes 100] [--seeds 3] [--json]`: the lattice's own figures, from the simulator.

Each line is one goal of the lattice: what is asked for, what came out as the median over the seeds and as the worst of
them. All in virtual time, so the figures depend on the seeds and not on the machine. Sites lie around the world's
exchanges (`sim.topology`); links jitter by 1 ms and 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from sim.experiment import Experiment, Result
from sim.scenario import load

PUBLISH = '{at="3s", do="publish"}'
DOWN = '{at="3s", do="health", region="frankfurt", level="down"}'
Figure = Callable[[Result], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked for, and where a run shows whether it was reached."""

    name: str
    most: float
    unit: str
    timeline: str
    sets: tuple[str, ...]
    figure: str
    """A key of the first change's figures, or of all figures."""

    def of(self, result: Result) -> float | None:
        found = result.changes[0] if result.changes and self.figure in result.changes[0] else result.figures
        value = found[self.figure] if self.figure in found else _detection(result, self.figure)
        return float(value) if isinstance(value, int | float) else None


LOSSY = ("link.loss=5%",)
CRASHES = ", ".join(f'{{at="{second}s", do="crash", nodes=1}}' for second in range(3, 8))
"""How long one takes is when it meets its first probe: with one a run three seeds say little."""
GONE = f'{{at="2900ms", do="crash", nodes="2%"}}, {PUBLISH}'
"""Of 10,000 that is 200, and two million findings that one is dead: other goals are about those, so a run that is about
nobody's having noticed ends when all have the publish."""
GOALS = (
    Goal("a publish over the unicast floor, p99", 1.3, "×", PUBLISH, (), "stretch_p99"),
    Goal("a region's death over the floor, p99", 1.3, "×", DOWN, (), "stretch_p99"),
    Goal("a publish, 5 % loss and 2 % dead unnoticed, p99", 0.6, "s", GONE, LOSSY, "p99_s"),
    Goal("the same, everybody", 1.0, "s", GONE, LOSSY, "p100_s"),
    Goal("payload copies a node, 1 % loss", 1.10, "", PUBLISH, ("link.loss=1%",), "copies_per_node"),
    Goal("idle bytes a node and second", 2_000, "B/s", PUBLISH, (), "idle_bytes_per_node_s"),
    Goal("a region's death, probed every 200 ms, to 99 %", 0.4, "s", DOWN, ("regions.probe=200ms",), "p99_s"),
    Goal("crashes, to everybody's knowing, median of five", 2.5, "s", CRASHES, (), "all_p50_s"),
    Goal("the slowest of them", 5.0, "s", CRASHES, (), "all_max_s"),
    Goal("nodes called dead that were not, 1 % loss", 0, "", PUBLISH, ("link.loss=1%",), "false_positives"),
)


def _detection(result: Result, figure: str) -> object:
    detection = result.figures["detection"]
    return detection.get(figure) if isinstance(detection, Mapping) else None


def run(nodes: int, timeline: str, sets: Sequence[str], seed: int) -> Result:
    """One run; crashes are given time to be found. Without what would be large and is not asked for."""
    duration, off = {CRASHES: ("16s", ""), GONE: ("4s", ', "all-know-all"')}.get(timeline, ("6s", ""))
    given = [f"topology.nodes={nodes}", f"duration={duration}", "settle=30s", f"timeline=[{timeline}]", *sets]
    result = Experiment(load("wan-1000", [*given, f'checks.off=["replay-is-nothing"{off}]']), str(seed)).run()
    return replace(result, announced=[], learned=[], curves=[])


def measure(nodes: int, seeds: int, jobs: int) -> list[dict[str, object]]:
    """Every goal, each distinct run once."""
    wanted = dict.fromkeys((goal.timeline, goal.sets, seed) for goal in GOALS for seed in range(seeds))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {one: pool.submit(run, nodes, *one) for one in wanted}
        results = {one: future.result() for one, future in running.items()}
    rows: list[dict[str, object]] = []
    for goal in GOALS:
        runs = [results[goal.timeline, goal.sets, seed] for seed in range(seeds)]
        values = [value for value in map(goal.of, runs) if value is not None]
        held = sum(result.verdict == "held" for result in runs)
        row: dict[str, object] = {
            "goal": goal.name,
            "at_most": goal.most,
            "unit": goal.unit,
            "runs": seeds,
            "held": held,
        }
        row["median"] = round(statistics.median(values), 3) if values else None
        row["worst"] = round(max(values), 3) if len(values) == seeds else None
        row["reached"] = len(values) == seeds and statistics.median(values) <= goal.most
        rows.append(row)
    return rows


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench figures", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    options = parser.parse_args(argv)
    rows = measure(options.nodes, options.seeds, options.jobs)
    if options.json:
        print(json.dumps({"nodes": options.nodes, "figures": rows}))
        return 0
    print(f"{options.nodes} nodes, {options.seeds} seeds: goal, median, worst")
    for row in rows:
        mark = "reached" if row["reached"] else "MISSED"
        print(f"  {row['goal']:52} ≤ {row['at_most']:g} {row['unit']}: {row['median']}, {row['worst']}  {mark}")
    return 0
