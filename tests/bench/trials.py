"""How often a site's trial of a policy version is wrong, and how long it takes: the sequential tests on drawn outcomes.

*A/A*: a version under which as many requests fail as under a good one (one in a thousand); how many sites condemn it.
*Bad*: a share of all requests fails, or one route is dead; how often it is condemned, and after how many requests
and failures. Counts of seeded draws: the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lattice.rollouts import RolloutId
from router.sequential_test import P0_PPM, P1_PPM, Judgement
from router.trial import Trial

REQUESTS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """What users ask for, and what fails of it."""

    routes: int
    failing_ppm: int
    dead: bool = False
    """The first route fails always; it has one request in a hundred."""


CASES = {
    "A/A, one route": Case(1, P0_PPM),
    "A/A, ten routes": Case(10, P0_PPM),
    "5 % fail": Case(1, P1_PPM),
    "10 % fail": Case(1, 100_000),
    "all fail": Case(1, 1_000_000),
    "one route of ten is dead, with 1 % of all requests": Case(10, 0, dead=True),
}


def one(case: Case, draw: Random) -> Trial:
    """A site's trial, until nothing more can come of it."""
    trial = Trial(RolloutId(bytes(8)), 0)
    for _ in range(REQUESTS_MAX):
        if case.dead:
            number = 0 if draw.random() < 0.01 else 1 + int(draw.random() * (case.routes - 1))
            trial.hear(str(number), failed=number == 0)
        else:
            failed = draw.random() * 1_000_000 < case.failing_ppm
            trial.hear(str(int(draw.random() * case.routes)), failed=failed)
        if trial.judgement is Judgement.CONDEMNED or (trial.over and len(trial.routes) == case.routes):
            break
    return trial


def measure(case: Case, runs: int, seed: str) -> dict[str, object]:
    draw = Random(seed)
    trials = [one(case, draw) for _ in range(runs)]
    condemned = [trial for trial in trials if trial.judgement is Judgement.CONDEMNED]
    return {
        "runs": runs,
        "condemned": len(condemned),
        "requests_median": statistics.median(trial.requests for trial in condemned) if condemned else None,
        "failures_median": statistics.median(trial.failures for trial in condemned) if condemned else None,
        "failures_max": max((trial.failures for trial in condemned), default=None),
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench trials", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args(argv)
    result = {name: measure(case, options.runs, f"{options.seed}/{name}") for name, case in CASES.items()}
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {found}" for name, found in result.items()))
    return 0
