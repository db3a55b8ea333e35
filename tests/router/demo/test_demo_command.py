"""`edgelattice demo` as people call it: wrong options, and the whole run with real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router.cli import main

KEYS = {
    "requests",
    "errors",
    "p50_ms",
    "p99_ms",
    "failover_ms",
    "health_converged_ms",
    "policy_converged_ms",
    "nearest_share",
    "sites",
    "regions",
    "failed_back",
    "failback_ms",
}
DEMO = [sys.executable, "-c", "import sys; from router.cli import main; sys.exit(main())", "demo"]
PATIENCE_SECONDS = 240


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--kill", "lon@4"], "there is no region 'lon'; this run has fra, iad, nrt"),
        (["--kill", "nrt@4", "--regions", "2"], "there is no region 'nrt'"),
        (["--kill", "fra"], "'fra' is not REGION@SECONDS"),
        (["--kill", "fra@20"], "must lie within the run"),
        (["--kill", "fra@4", "--kill", "fra@5"], "dead until 9 s"),
        (["--seconds", "1"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--sites", "0"], "--sites"),
        (["--sites", "9"], "--sites"),
        (["--regions", "9"], "--regions"),
        (["--rate", "0"], "--rate"),
        (["--rate", "1001"], "--rate"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_starts(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    told = capsys.readouterr()
    assert complaint in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_directory_in_use_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    assert main(["demo", "--keep", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def processes_of(directory: Path) -> list[str]:
    """The command lines of all living processes that were started with this directory as temporary one."""
    mark = f"TMPDIR={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has just ended, or is not ours to look at
    return found


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory)}


@pytest.mark.slow
def test_a_whole_run_loses_no_request_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = subprocess.run(
        [*DEMO, "--seconds", "8", "--kill", "fra@2", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    (line,) = run.stdout.splitlines()  # nothing but the object
    result = json.loads(line)
    assert set(result) == KEYS
    assert result["requests"] == 1_600
    assert result["errors"] == 0
    assert (result["sites"], result["regions"]) == (3, 3)
    assert result["failed_back"] is True
    assert "fra killed with SIGKILL" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_in_order(tmp_path: Path, number: int, status: int) -> None:
    with subprocess.Popen(
        [*DEMO, "--seconds", "600"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "requests a second" in line:
                break
        assert len(processes_of(tmp_path)) >= 1 + 3 + 3 + 1
        run.send_signal(number)
        _, errors = run.communicate(timeout=PATIENCE_SECONDS)

    assert run.returncode == status, errors
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_conductor_may_be_killed_and_everything_still_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "--seconds", "600", "--keep", str(tmp_path / "kept")],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "requests a second" in line:
                break
        descriptors = [os.pidfd_open(pid) for pid in children_of(run.pid)]
        run.kill()
        run.wait(PATIENCE_SECONDS)
    try:
        for descriptor in descriptors:
            assert ended(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert processes_of(tmp_path) == []
    assert {path.name for path in (tmp_path / "kept").glob("*.toml")} == {"ams.toml", "nyc.toml", "kix.toml"}


def children_of(parent: int) -> list[int]:
    """Of all its threads: the kernel counts a child as the thread's that started it."""
    return [
        int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def ended(descriptor: int) -> bool:
    """Waits until the process of a pidfd has ended, or patience has."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(PATIENCE_SECONDS * 1_000))
