"""Many runs: a grid of overrides times seeds, finished cases kept as they come, what is done already left out.

The cases go to whatever has the interface of `concurrent.futures.Executor`; this module starts no process. A case that
is finished is one line of JSON in the file of cases, so that a sweep that is killed loses none.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any, Final

from lattice.prng import Prng
from sim.experiment import Experiment
from sim.files import Unreadable, content, named
from sim.metrics import percentile
from sim.outcome import Cost, as_json, lines
from sim.quantities import ConfigError, Problem
from sim.scenario import Scenario, load, with_files
from sim.stage import ScenarioError
from sim.toml_text import toml_text

CASES_MAX = 1_000_000
VALUES_MIN = 3
RESAMPLES = 1_000


FIGURES: Final[Mapping[str, tuple[str, ...]]] = {
    "p50_s": ("convergence", "p50_s"),
    "p99_s": ("convergence", "p99_s"),
    "stretch": ("convergence", "stretch_p99"),
    "copies": ("copies_per_node",),
    "idle_bytes": ("idle_bytes_per_node_s",),
    "false_positives": ("false_positives",),
    "availability": ("users", "availability"),
}
"""What a sweep compares, and where a case has it."""
THE_MORE_THE_BETTER: Final = frozenset({"availability"})


def figure_of(case: Mapping[str, Any], name: str) -> float | None:
    """One figure of one case; None when it was not measured."""
    value: Any = case
    for key in FIGURES[name]:
        value = value[key]
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a sweep."""

    scenario: str
    seed: str
    sets: tuple[str, ...]
    of: str
    """A digest of the scenario as it is read with these overrides, and of the files that it reads: any of them may say
    something else tomorrow."""

    @property
    def key(self) -> str:
        return json.dumps([self.scenario, self.seed, list(self.sets)])

    def is_among(self, done: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether this very case is one of these."""
        return self.key in done and done[self.key]["of"] == self.of


def grid(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """``a.b=1,2`` and ``c=x,y`` -> every combination. Raises `ConfigError`."""
    choices = []
    keys = [axis.partition("=")[0] for axis in axes]
    for axis in axes:
        key, equals, values = axis.partition("=")
        if not equals or not key or not values:
            raise ConfigError("--grid", (Problem("", None, f"{axis!r}: expected a.b=1,2,3"),))
        chosen = [value.strip() for value in values.split(",")]
        _once("--grid", axis, chosen)
        choices.append([f"{key}={value}" for value in chosen])
    _once("--grid", " ".join(axes), keys)
    return list(product(*choices))


def seeds_of(text: str) -> list[str]:
    """ "0:100" (the end is not in it) or "3,7,x". Raises `ConfigError`."""
    first, colon, last = text.partition(":")
    if colon and first.isdecimal() and last.isdecimal() and 0 < int(last) - int(first) <= CASES_MAX:
        return [str(seed) for seed in range(int(first), int(last))]
    if colon or not text:
        raise ConfigError("--seeds", (Problem("", None, f"{text!r}: expected 0:100, or a list as 3,7"),))
    seeds = [seed.strip() for seed in text.split(",")]
    _once("--seeds", text, seeds)
    return seeds


def _once(option: str, text: str, values: Sequence[str]) -> None:
    """A run that counts twice makes an interval too narrow, and of an axis that is there twice the first is lost."""
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ConfigError(option, (Problem("", None, f"{text!r}: {twice!r} is there twice"),))


def cases(scenario: str, seeds: Sequence[str], axes: Sequence[str], sets: Sequence[str]) -> list[Case]:
    """Every case, seeds innermost. Raises `ConfigError` if any combination is no scenario."""
    found = []
    digest_of = cache(_digest_of)
    for chosen in grid(axes):
        of = _digest(load(scenario, [*sets, *chosen]), digest_of)
        found += [Case(scenario, seed, (*sets, *chosen), of) for seed in seeds]
    return found


def _digest(scenario: Scenario, digest_of: Callable[[Path], str]) -> str:
    """Where its files are is no part of it: on another machine they may be elsewhere."""
    return blake2b(toml_text(with_files(scenario.table, digest_of)).encode(), digest_size=8).hexdigest()


def _digest_of(path: Path) -> str:
    try:
        return blake2b(content(path), digest_size=8).hexdigest()
    except Unreadable as error:
        raise ConfigError(named(path), (Problem("", None, error.reason),)) from None


def run_case(case: Case) -> dict[str, Any]:
    """One case, in whatever process. Raises `ScenarioError` if it is no longer what it was when the sweep began."""
    try:
        scenario = load(case.scenario, case.sets)
        of = _digest(scenario, _digest_of)
    except ConfigError as error:
        raise ScenarioError(f"since the sweep began: {error}") from None
    if of != case.of:
        raise ScenarioError("it, or a file that it reads, was edited since the sweep began; begin it again")
    result = Experiment(scenario, case.seed).run()
    return {"case": case.key, "of": case.of, "set": list(case.sets), **as_json(result, Cost())}


def finished(written: Iterator[str]) -> dict[str, dict[str, Any]]:
    """By key, the cases that a file of cases holds, the last of each; a line that was cut off is left out, and one of
    a version that measured something else."""
    done = {}
    for line in written:
        try:
            case = json.loads(line)
            if all(isinstance(case[name], str) for name in ("case", "of", "scenario", "seed", "verdict")):
                _ = [*case["set"], *(figure_of(case, name) for name in FIGURES)]
                done[case["case"]] = case
        except (ValueError, KeyError, TypeError):
            continue
    return done


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the median, by bootstrap (Efron, 1979): the percentiles of the medians of
    resamples. The same values give the same interval. None with fewer than three."""
    if len(values) < VALUES_MIN:
        return None
    prng = Prng.seeded(f"bootstrap {sorted(values)}")
    medians = sorted(statistics.median(values[prng.below(len(values))] for _ in values) for _ in range(RESAMPLES))
    return medians[RESAMPLES * 25 // 1_000], medians[RESAMPLES * 975 // 1_000 - 1]


def summarise(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a combination: how many held, and the median and worst of what they measured."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for case in done:
        groups.setdefault(tuple(case["set"]), []).append(case)
    rows = []
    for sets, members in sorted(groups.items(), key=lambda item: _by_number(item[0])):
        row: dict[str, Any] = {"set": " ".join(sets) or "-", "runs": len(members)}
        row["held"] = sum(member["verdict"] == "held" for member in members)
        for name in FIGURES:
            known = sorted(value for member in members if (value := figure_of(member, name)) is not None)
            row[f"{name} median"] = percentile(known, 50)
            row[f"{name} worst"] = known[0 if name in THE_MORE_THE_BETTER else -1] if known else None
            row[f"{name} interval"] = interval(known)
        rows.append(row)
    return rows


_NUMBER: Final = re.compile(r"(.*?)((?<==)-?\d+(?:\.\d+)?|\d+(?:\.\d+)?|$)", re.ASCII | re.DOTALL)
"""What stands before a number, and the number; a minus is one's only where a value begins."""


def _by_number(sets: Sequence[str]) -> list[tuple[str, float]]:
    """For sorting: 50 nodes before 200, and a loss of 0.05 before one of 0.5."""
    return [(before, float(number or 0)) for before, number in _NUMBER.findall(" ".join(sets))]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of one seed of a soak."""

    seed: int
    verdict: str
    acts: tuple[str, ...]
    """Every kind of act that was done, as often as it was."""
    dropped: Mapping[str, int]
    """Packets that the network lost, by why, and what engines refused."""
    lines: tuple[str, ...]
    """What a person wants to know of a seed that did not hold."""


def soak_seed(scenario: str, seed: int, sets: Sequence[str]) -> Soaked:
    """One seed, in whatever process."""
    found = load(scenario, sets)
    result = Experiment(found, str(seed)).run()
    said = tuple(lines(result, Cost())) if result.verdict != found.expect else ()
    dropped, refused = result.figures["dropped"], result.figures["refused"]
    assert isinstance(dropped, dict)
    assert isinstance(refused, dict)
    return Soaked(seed, result.verdict, tuple(what for _, _, what, _ in result.acts), dropped | refused, said)
