"""One scenario and one seed are one history: in two processes, under any hash seed, on more than one Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.sim.runs import run, table

ROOT = Path(__file__).parent.parent.parent
OTHER_PYTHON = "EDGELATTICE_OTHER_PYTHON"
"""An interpreter of another version that has the packages, when it is not `python3.13` on the path."""
PROGRAM = """
import sys
from sim.experiment import Experiment
from sim.parallel import run_by
from sim.scenario import load
for seed in ("1", "2", "9"):
    sets = ["topology.nodes=7", "users.rate=20", "link.loss=5%", "link.corrupt=1%"]
    result = Experiment(load("swarm", sets), seed).run()
    sys.stdout.write(f"{result.verdict} {result.events} {result.digest}\\n")
for jobs in map(int, sys.argv[1:]):
    wan = load("wan-1000", ["topology.nodes=70", "duration=7s", "users.rate=20"])
    result, why = run_by(lambda: Experiment(wan, "3"), jobs)
    sys.stdout.write(f"{result.verdict} {result.events} {result.digest} {result.figures}\\n")
    assert (why is None) == (jobs > 1), why
"""


def history(python: str, hash_seed: str, jobs: int) -> str:
    """What the program says; its last run by so many processes."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [python, "-c", PROGRAM, str(jobs)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@cache
def here() -> str:
    return history(sys.executable, "0", 1)


@pytest.mark.parametrize("hash_seed", ["1", "12345"])
def test_the_same_history_under_another_hash_seed(hash_seed: str) -> None:
    assert here().count("\n") == 4
    assert history(sys.executable, hash_seed, 2) == here()


@pytest.mark.extras
def test_the_same_history_on_another_python() -> None:
    other = os.environ.get(OTHER_PYTHON) or shutil.which("python3.13")
    if other is None:
        pytest.skip(f"no python3.13 here; {OTHER_PYTHON} may name another interpreter")
    probe = subprocess.run(
        [other, "-c", "import msgpack, mmh3, pycrdt, cryptography, lark"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip(f"{other} cannot import the packages: {(probe.stderr.strip() or '?').splitlines()[-1]}")
    assert history(other, "7", 2) == here()


def test_another_seed_is_another_history() -> None:
    scenario = table({"at": "1s", "do": "publish"})
    assert run(scenario, "0").digest == run(scenario, "0").digest
    assert run(scenario, "0").digest != run(scenario, "1").digest


def test_watching_changes_nothing() -> None:
    """Looking at whole nodes more or less often, or not at all, is no part of the history."""
    often = table({"at": "1s", "do": "publish"}, checks={"every": 1})
    rarely = table({"at": "1s", "do": "publish"}, checks={"every": 1_000})
    never = table({"at": "1s", "do": "publish"}, checks={"off": ["view-agrees", "bounded", "rows-rise"]})
    assert len({run(scenario).digest for scenario in (often, rarely, never)}) == 1
