"""`python -m tests.bench crashes [--nodes 1000] [--seeds 12] [--after 3] [--json]`: where a crash's time goes.

Sites lie around the world's exchanges, links jitter by 1 ms and 2 %; five sites crash, one a second, in each run. Of
each crash: when a ping first goes to who is no more, when somebody first suspects it, when somebody first has heard as
many voices as make its suspicion as short as it gets, when it is first called down, and when everybody has called it
down. All in virtual time, so the figures depend on the seeds and not on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from lattice.events import Effect, Input, MemberChanged, Notification, SendDatagram, TimerFired
from lattice.types import SECOND, NodeId
from sim import inside
from sim.cluster import INPUTS
from sim.experiment import Experiment
from sim.host import Host
from sim.metrics import percentile
from sim.scenario import load

CRASHES = 5
"""How many a run, one a second."""
FOUND_WITHIN_S = 9
STEPS = ("probed", "suspected", "agreed", "down", "known")


@dataclass(slots=True)
class Trail:
    """What happened after one crash; moments in virtual microseconds."""

    died: int
    moments: dict[str, int] = field(default_factory=dict)

    def see(self, step: str, now: int) -> None:
        self.moments.setdefault(step, now)


class Trails:
    """Follows every crash of a run."""

    def __init__(self, experiment: Experiment) -> None:
        cluster = self._cluster = experiment.cluster
        self._voices = cluster.maker.config.confirmations + 1
        self.of: dict[NodeId, Trail] = {}
        cluster.listeners.append(self)
        for kind in INPUTS:
            cluster.watchers[kind].append(self._stepped)

    def _stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        for at, index in self._cluster.deaths[len(self.of) :]:
            self.of[self._cluster.hosts[index].node] = Trail(at)
        for node, trail in self.of.items():
            if "probed" not in trail.moments and isinstance(event, TimerFired):
                there = self._cluster.by_node[node].endpoint
                if any(isinstance(effect, SendDatagram) and effect.target == there for effect in effects):
                    trail.see("probed", self._cluster.now)
            if "agreed" not in trail.moments and inside.voices_against(host.engine, node) >= self._voices:
                trail.see("agreed", self._cluster.now)

    def heard(self, host: Host, notification: Notification) -> None:
        match notification:
            case MemberChanged(node, _, "suspect") if node in self.of:
                self.of[node].see("suspected", self._cluster.now)
            case MemberChanged(node, _, "down") if node in self.of:
                self.of[node].see("down", self._cluster.now)
                self.of[node].moments["known"] = self._cluster.now


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run."""

    after_us: list[dict[str, int]]
    """Of each crash, how long after it each of `STEPS` came."""
    false_positives: int
    idle_bytes_per_node_s: int | None
    events: int


def run(nodes: int, after_s: int, sets: Sequence[str], seed: int) -> Outcome:
    """One run, in which the first site crashes after so many seconds."""
    crashes = ", ".join(f'{{at="{after_s + turn}s", do="crash", nodes=1}}' for turn in range(CRASHES))
    duration = f"{after_s + CRASHES + FOUND_WITHIN_S}s"
    given = [f"topology.nodes={nodes}", f"duration={duration}", "settle=30s", f"timeline=[{crashes}]", *sets]
    experiment = Experiment(load("wan-1000", given), str(seed))
    trails = Trails(experiment)
    result = experiment.run()
    assert result.verdict == "held", result.violations
    after = [{step: moment - each.died for step, moment in each.moments.items()} for each in trails.of.values()]
    metrics = experiment.metrics
    return Outcome(after, metrics.false_positives, metrics.idle_bytes_per_node_s(nodes), result.events)


def row(name: str, samples: Sequence[int]) -> dict[str, object]:
    """Seconds, of samples in microseconds."""
    found = sorted(samples)
    mean = sum(found) / max(1, len(found))
    spread = {f"p{percent}": round((percentile(found, percent) or 0) / SECOND, 3) for percent in (50, 90, 99)}
    return {"step": name, "mean": round(mean / SECOND, 3), **spread, "samples": len(found)}


def measure(nodes: int, seeds: int, after_s: int, sets: Sequence[str], jobs: int) -> dict[str, object]:
    """All runs, and what came out over all crashes."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(partial(run, nodes, after_s, sets), range(seeds)))
    every = [each for outcome in outcomes for each in outcome.after_us]
    rows = []
    for before, step in zip(("", *STEPS), STEPS, strict=False):
        rows.append(row(step, [each[step] - each.get(before, 0) for each in every if step in each]))
    rows.append(row("in all", [each["known"] for each in every if "known" in each]))
    idle = [outcome.idle_bytes_per_node_s for outcome in outcomes if outcome.idle_bytes_per_node_s is not None]
    return {
        "nodes": nodes,
        "crashes": len(every),
        "steps": rows,
        "false_positives": sum(outcome.false_positives for outcome in outcomes),
        "idle_bytes_per_node_s": sorted(idle)[len(idle) // 2] if idle else None,
        "events": sum(outcome.events for outcome in outcomes),
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench crashes", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--after", type=int, default=3, help="how many seconds the cluster runs before the first crash")
    parser.add_argument("--set", action="append", default=[], help="as `edgelattice sim run --set`")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    options = parser.parse_args(argv)
    figures = measure(options.nodes, options.seeds, options.after, options.set, options.jobs)
    if options.json:
        print(json.dumps(figures))
        return 0
    steps = figures.pop("steps")
    print(*(f"{key}={value}" for key, value in figures.items()))
    assert isinstance(steps, list)
    for step in steps:
        print(*(f"{key}={value}" for key, value in step.items()))
    return 0
