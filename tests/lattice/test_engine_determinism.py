"""The same construction, inputs and times give the same effects, byte for byte, in whatever process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lattice import wire
from tests.lattice.scripted import scenario

ROOT = Path(__file__).parents[2]


def in_processes_with_other_hashes(*arguments: str) -> set[str]:
    """What the scenario prints under two hash seeds, in two processes at once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lattice.scripted", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1")
    ]
    printed = set()
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        printed.add(out.strip())
    return printed


def test_one_seed_is_one_history_in_every_process() -> None:
    assert in_processes_with_other_hashes() == {scenario()}


def test_the_short_way_for_what_carries_nothing_is_the_same_history(monkeypatch: pytest.MonkeyPatch) -> None:
    history = scenario()
    monkeypatch.setattr(wire, "bare", lambda body: None)  # every message is made
    assert scenario() == history


def test_the_check_above_can_fail() -> None:
    """An engine that iterates a set of ids into its effects is found out."""
    assert len(in_processes_with_other_hashes("planted")) == 2
