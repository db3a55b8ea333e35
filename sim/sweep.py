"""Many runs: a grid of overrides times seeds, finished cases kept as they come, what is done already left out.

The cases go to whatever has the interface of `concurrent.futures.Executor`; this module starts no process. A case that
is finished is one line of JSON in the file of cases, so that a sweep that is killed loses none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sim.experiment import Experiment
from sim.metrics import percentile
from sim.outcome import Cost, as_json
from sim.quantities import ConfigError, Problem
from sim.scenario import load

CASES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a sweep."""

    scenario: str
    seed: str
    sets: tuple[str, ...]

    @property
    def key(self) -> str:
        return json.dumps([self.scenario, self.seed, list(self.sets)])


def grid(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """``a.b=1,2`` and ``c=x,y`` -> every combination. Raises `ConfigError`."""
    choices = []
    for axis in axes:
        key, equals, values = axis.partition("=")
        if not equals or not key or not values:
            raise ConfigError("--grid", (Problem("", None, f"{axis!r}: expected a.b=1,2,3"),))
        choices.append([f"{key}={value.strip()}" for value in values.split(",")])
    return list(product(*choices))


def seeds_of(text: str) -> list[str]:
    """ "0:100" (the end is not in it) or "3,7,x". Raises `ConfigError`."""
    first, colon, last = text.partition(":")
    if colon and first.isdigit() and last.isdigit() and int(last) - int(first) <= CASES_MAX:
        return [str(seed) for seed in range(int(first), int(last))]
    if colon or not text:
        raise ConfigError("--seeds", (Problem("", None, f"{text!r}: expected 0:100, or a list as 3,7"),))
    return [seed.strip() for seed in text.split(",")]


def cases(scenario: str, seeds: Sequence[str], axes: Sequence[str], sets: Sequence[str]) -> list[Case]:
    """Every case, seeds innermost. Raises `ConfigError` if any combination is no scenario."""
    found = []
    for chosen in grid(axes):
        load(scenario, [*sets, *chosen])
        found += [Case(scenario, seed, (*sets, *chosen)) for seed in seeds]
    return found


def run_case(case: Case) -> dict[str, Any]:
    """One case, in whatever process."""
    result = Experiment(load(case.scenario, case.sets), case.seed).run()
    return {"case": case.key, "set": list(case.sets), **as_json(result, Cost())}


def finished(lines: Iterator[str]) -> dict[str, dict[str, Any]]:
    """By key, the cases that a file of cases holds; a last line that was cut off is left out."""
    done = {}
    for line in lines:
        try:
            case = json.loads(line)
            done[str(case["case"])] = case
        except (ValueError, KeyError, TypeError):
            continue
    return done


def summarise(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a combination: how many held, and the median and worst of what they measured."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for case in done:
        groups.setdefault(tuple(case["set"]), []).append(case)
    rows = []
    for sets, members in sorted(groups.items()):
        row: dict[str, Any] = {"set": " ".join(sets) or "-", "runs": len(members)}
        row["held"] = sum(member["verdict"] == "held" for member in members)
        for name, values in {
            "p50_s": [member["convergence"]["p50_s"] for member in members],
            "p99_s": [member["convergence"]["p99_s"] for member in members],
            "copies": [member["copies_per_node"] for member in members],
            "idle_bytes": [member["idle_bytes_per_node_s"] for member in members],
        }.items():
            known = sorted(value for value in values if value is not None)
            row[f"{name} median"] = percentile(known, 50)
            row[f"{name} worst"] = known[-1] if known else None
        rows.append(row)
    return rows
