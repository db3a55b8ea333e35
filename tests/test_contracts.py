"""The import contracts in pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PLANTED = {
    "lattice knows nothing of the router": ("lattice/view.py", "import router.decision.decide"),
    "Pure modules: no clock, socket, thread, log, event loop or screen": ("router/decision/decide.py", "import trio"),
    "Only edges and the node import the lattice's edges": ("router/decision/plan.py", "import lattice.driver"),
    "Only edges import the router's edges": ("router/decision/rendezvous.py", "import router.site.site_config"),
    "The command line is the composition root: nobody imports it": ("router/process.py", "import router.cli"),
    "msgpack only in the codec": ("lattice/engine.py", "import msgpack"),
    "pycrdt only in the policy store": ("lattice/wire.py", "import pycrdt"),
    "cryptography only in identity, certificates and sealing": ("lattice/health.py", "import cryptography"),
    "zeroconf only in discovery": ("lattice/driver.py", "import zeroconf"),
    "lark only in the policy parser": ("router/policy/check.py", "import lark"),
    "httptools only in the HTTP modules": ("router/control/api.py", "import httptools"),
    "wasmtime only in the host of a policy's module": ("router/decision/decide.py", "import wasmtime"),
    "sim: lattice pure and router pure only; never trio, edges, wall clock": ("sim/stage.py", "import trio"),
    "Only the command runs the simulator's edge": ("sim/sweep.py", "import sim.parallel"),
}
"""A line in a file that breaks the contract of that name."""


def lint(directory: Path) -> str:
    """What import-linter says of the packages in `directory`."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert "Contracts" in ran.stdout, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("lattice", "router", "sim"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds_and_can_fail(copy: Path) -> None:
    said = lint(copy)
    assert [name for name in PLANTED if f"{name} KEPT" not in said] == []
    assert f"Contracts: {len(PLANTED)} kept, 0 broken." in said

    for file, line in PLANTED.values():
        with (copy / file).open("a") as planted:
            planted.write(f"\n{line}\n")
    said = lint(copy)
    assert [name for name in PLANTED if f"{name} BROKEN" not in said] == []
