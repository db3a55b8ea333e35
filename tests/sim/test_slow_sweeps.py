"""Sweeps as they are in life: killed in the midst of it, and on another machine's processes. And against real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from sim.sweep import finished
from tests.bench.sim_processes import on_processes, simulated

pytestmark = pytest.mark.slow


def sweep(out: Path, *words: str, seeds: str = "0:12") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "router", "sim", "sweep", "smoke", "--seeds", seeds, "--jobs", "2"]
    command = [*command, "--set", "topology.nodes=4", "--out", str(out), *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def kept(out: Path) -> dict[str, object]:
    file = out / "cases.jsonl"
    return dict(finished(iter(file.read_text().splitlines()))) if file.exists() else {}


def test_a_sweep_killed_with_kill_9_goes_on_where_it_was(tmp_path: Path) -> None:
    killed = sweep(tmp_path)
    while len(kept(tmp_path)) < 3 and killed.poll() is None:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = kept(tmp_path)
    assert 3 <= len(before) < 12, "it was killed in the midst of it"
    again = sweep(tmp_path)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert f"12 cases, {len(before)} done before" in said
    after = kept(tmp_path)
    assert len(after) == 12
    assert all(after[key] == case for key, case in before.items()), "nothing finished was done again"


@pytest.mark.parametrize("as_a_terminal_does", [True, False])
def test_a_sweep_that_is_interrupted_does_not_go_on_for_hours(tmp_path: Path, as_a_terminal_does: bool) -> None:
    """What had not begun was run to its end, and was in no file."""
    stopped = sweep(tmp_path, seeds="0:5000")
    while len(kept(tmp_path)) < 3 and stopped.poll() is None:
        time.sleep(0.02)
    if as_a_terminal_does:
        os.killpg(stopped.pid, signal.SIGINT)
    else:
        stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert said.splitlines()[-1] == "edgelattice: interrupted"
    assert "Traceback" not in said
    assert len(kept(tmp_path)) < 500
    told = re.search(r"(\d+) of 5000 cases are in (\S+); the same command goes on from there", said)
    assert told is not None
    assert (int(told[1]), told[2]) == (len(kept(tmp_path)), str(tmp_path))


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_ended_alone_leaves_no_process_behind(tmp_path: Path, by: signal.Signals) -> None:
    """They waited for their next case for ever."""
    ended = sweep(tmp_path, seeds="0:5000")
    while len(kept(tmp_path)) < 3 and ended.poll() is None:
        time.sleep(0.02)
    ended.send_signal(by)
    try:
        ended.communicate(timeout=20)  # which ends with the last process that might write there
    except subprocess.TimeoutExpired:
        os.killpg(ended.pid, signal.SIGKILL)
        raise
    assert ended.returncode == -by


def test_a_soak_that_is_interrupted_says_what_held() -> None:
    command = [sys.executable, "-m", "router", "sim", "soak", "--budget", "100", "--jobs", "1", "--from", "7"]
    with subprocess.Popen([*command, "--set", "topology.nodes=2"], stderr=subprocess.PIPE, text=True) as soaking:
        assert soaking.stderr is not None
        far = soaking.stderr.readline()
        soaking.send_signal(signal.SIGINT)
        _, said = soaking.communicate(timeout=60)
    assert soaking.returncode == 130
    told = re.search(r"(\d+) seeds held until then, from 7 on, in \d+ s\n", said)
    assert told is not None, said
    assert int(told[1]) >= int(far.split()[0]) > 0
    assert "Traceback" not in said


def test_who_interrupts_before_the_processes_are_there_is_shown_no_traceback(tmp_path: Path) -> None:
    """One that still imported told of its KeyboardInterrupt."""
    stopped = sweep(tmp_path, seeds="0:5000")
    children = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children")
    while len(children.read_text().split()) < 2:  # the first is multiprocessing's own
        time.sleep(0.001)
    time.sleep(0.1)
    os.killpg(stopped.pid, signal.SIGINT)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert said.splitlines()[-1] == "edgelattice: interrupted"
    assert "Traceback" not in said


@pytest.mark.extras
def test_a_dask_cluster_runs_the_same_cases(tmp_path: Path) -> None:
    if find_spec("distributed") is None:
        pytest.skip("Dask is not installed: the extra is `dask`")
    ports = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli"]
    scheduler = subprocess.Popen(
        [*dask[:2], "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
         "--scheduler-file", str(ports)], **quiet,  # type: ignore[call-overload]
    )  # fmt: skip
    worker = None
    try:
        deadline = time.monotonic() + 30
        while not ports.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(ports.read_text())["address"]
        worker = subprocess.Popen(
            [*dask[:2], "distributed.cli.dask_worker", address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard",
             "--local-directory", str(tmp_path)], **quiet,  # type: ignore[call-overload]
        )  # fmt: skip
        there = sweep(tmp_path / "there", "--executor", "dask", "--scheduler", address)
        _, said = there.communicate(timeout=180)
        assert there.returncode == 0, said
        here = sweep(tmp_path / "here")
        here.communicate(timeout=180)
        assert kept(tmp_path / "there") == kept(tmp_path / "here"), "the same cases, digests and all"
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.terminate()
                process.wait(timeout=30)


@pytest.mark.extras
def test_a_scheduler_that_does_not_answer_is_said(tmp_path: Path) -> None:
    if find_spec("distributed") is None:
        pytest.skip("Dask is not installed: the extra is `dask`")
    nowhere = sweep(tmp_path, "--executor", "dask", "--scheduler", "tcp://127.0.0.1:9")
    _, said = nowhere.communicate(timeout=120)
    assert nowhere.returncode == 2
    assert "no Dask scheduler at tcp://127.0.0.1:9" in said


def test_five_real_processes_take_as_long_as_the_simulator_says() -> None:
    """Row 61 of the test matrix: the same changes over the same distances, convergence p50 within 25 %."""
    told, script, delays_us, places = simulated(6, "0")
    real = on_processes(script, delays_us, places, 6)
    assert (told.missing, real.missing) == (0, 0)
    assert 0.75 < real.p50 / told.p50 < 1.25, f"real {real.p50:.4f} s, simulated {told.p50:.4f} s"
