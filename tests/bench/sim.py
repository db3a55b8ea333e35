"""`python -m tests.bench sim [--json] [--quick] [--large]`: how fast the simulator is, and whether it tells the truth.

Rates are events (inputs that an engine handled, real codec), cheap checks at every step as always, building and
beginning included: `one_core` over the processor time of one process, `all_cores` over wall time by as many processes
as there are processors, of a world so large that `sim run` shares it. A machine's own speed is told beside them: a bare
heap loop, an event of which is one push, one pop and one call. The swarm's thousand seeds are extrapolated from fewer,
over all processors, as `sim soak` runs them. `--large` adds 10,000 nodes over 60 virtual seconds (`wan-10000`, but one
change), which takes a minute or two and 0.7 GB.

The truth: the same changes on five production processes over loopback, whose datagrams wait as long as the simulated
links take (`tests.bench.sim_processes`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from heapq import heappop, heappush
from multiprocessing import get_context

from sim.experiment import Experiment
from sim.obstacles import PAYS_HOSTS
from sim.parallel import run_by
from sim.scenario import load
from tests.bench.sim_processes import on_processes, simulated

LOOP_EVENTS = 300_000
ONE_CHANGE = 'timeline=[{at="2s", do="publish"}]'


def heap_loop_per_s() -> float:
    """What this machine makes of the least that any simulator in Python does for an event."""
    heap: list[tuple[int, int]] = [(index * 7_919 % 4_096, index) for index in range(4_096)]
    heap.sort()
    started = time.process_time()
    for number in range(LOOP_EVENTS):
        at, _ = heappop(heap)
        heappush(heap, (at + 1 + number % 4_096, number))
    return LOOP_EVENTS / (time.process_time() - started)


def rate(scenario: str, nodes: int, seconds: int, jobs: int) -> dict[str, object]:
    """One publish among so many nodes, over so many virtual seconds, by so many processes."""
    sets = [f"topology.nodes={nodes}", f"duration={seconds}s", ONE_CHANGE]
    wall, cpu = time.monotonic(), time.process_time()
    result, why = run_by(lambda: Experiment(load(scenario, sets), "0"), jobs)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    assert result.verdict == "held", result.violations
    assert jobs == 1 or why is None, why
    took = cpu if jobs == 1 else wall
    peak_kb = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "processes": jobs,
        "nodes": nodes,
        "digest": result.digest,
        "events": result.events,
        "events_per_s": round(result.events / took),
        "times_real_time": round(result.virtual_us / 1e6 / took, 2),
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "peak_mb": peak_kb // 1024,
    }


def one_seed(seed: int) -> str:
    return Experiment(load("swarm"), str(seed)).run().verdict


def apart(scenario: str, nodes: int, seconds: int) -> dict[str, object]:
    """`rate` by one process and by all processors, each in a process of its own, so that its memory is its own."""
    figures: dict[str, object] = {}
    jobs = len(os.sched_getaffinity(0))
    for name, by in (("one_core", 1), ("all_cores", jobs)):
        if by == 1 or nodes >= PAYS_HOSTS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures[name] = pool.submit(rate, scenario, nodes, seconds, by).result()
    return figures


def swarm(seeds: int) -> dict[str, object]:
    """So many seeds of the five-node swarm on all processors."""
    jobs = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(one_seed, range(jobs)))  # imports are not measured
        wall, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        verdicts = list(pool.map(one_seed, range(seeds), chunksize=4))
        wall = time.monotonic() - wall
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = now.ru_utime - cpu.ru_utime
    return {
        "seeds": seeds,
        "held": verdicts.count("held"),
        "wall_s": round(wall, 1),
        "wall_s_per_1000": round(wall / seeds * 1_000, 1),
        "cpu_s_per_1000": round(cpu_s / seeds * 1_000, 1),
        "jobs": jobs,
    }


def truth(changes: int, seed: str = "0") -> dict[str, object]:
    """The p50 of convergence in the simulator and on five processes."""
    told, script, delays_us, places = simulated(changes, seed)
    real = on_processes(script, delays_us, places, changes)
    return {
        "changes": changes,
        "sim_p50_s": round(told.p50, 4),
        "real_p50_s": round(real.p50, 4),
        "real_over_sim": round(real.p50 / told.p50, 3),
        "missing": real.missing,
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench sim", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--large", action="store_true", help="10,000 nodes, 60 virtual seconds, too")
    options = parser.parse_args(argv)
    share = 10 if options.quick else 1
    figures: dict[str, object] = {"heap_loop_per_s": round(heap_loop_per_s())}
    steps = {
        "nodes_100": partial(apart, "wan-1000", 100, 60 // share),
        "nodes_1000": partial(apart, "wan-1000", 1_000, max(4, 20 // share)),
        "swarm_5": partial(swarm, 100 // share),
        "five_processes": partial(truth, 20 // share),
    }
    if options.large:
        steps["nodes_10000"] = partial(apart, "wan-10000", 10_000, 60)
    for name, step in steps.items():
        figures[name] = step()
        if not options.json:
            print(f"{name}: {figures[name]}", flush=True)
    if options.json:
        print(json.dumps(figures))
    return 0
