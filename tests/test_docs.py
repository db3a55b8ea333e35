"""Every command that the README and the tutorial show is run, in order, as written."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

import pytest

ROOT = Path(__file__).parent.parent
PORTS = (7946, 7947, 8080, 8081, 8180, 8181, 9001, 9002)
KEEPS_RUNNING = ("edgelattice run", "python -m router.demo.backend")
RUN_ELSEWHERE = {
    "make demo": "tests/router/demo runs the demo itself; .ci/run uses the same Makefile",
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .": "what `make` does; needs a package index",
    'export PATH="$PWD/.venv/bin:$PATH"': "the shell below starts with that PATH",
}


@dataclass
class Shell:
    """Runs a page's commands in one directory; those that keep running are waited for until they are ready."""

    directory: Path
    background: list[subprocess.Popen[str]] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)

    def do(self, command: str) -> None:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        if command.startswith(KEEPS_RUNNING):
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.directory,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.background.append(process)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready "), f"{command}: {line!r}"
            self.said.append((command, line))
            return
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=environment, capture_output=True, text=True, timeout=60
        )
        self.said.append((command, done.stdout + done.stderr))
        expected = 1 if "nearset" in command else 0
        assert done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"

    def stop(self, which: str) -> None:
        """Ctrl-C in the shell that runs it."""
        process = next(running for running in self.background if which in shlex.join(running.args))  # type: ignore[arg-type]
        process.send_signal(signal.SIGINT)
        process.wait(10)


@contextmanager
def shell(directory: Path) -> Iterator[Shell]:
    opened = Shell(directory)
    try:
        yield opened
    finally:
        for process in opened.background:
            process.send_signal(signal.SIGTERM)
        for process in opened.background:
            process.wait(15)
            if process.stdout is not None:
                process.stdout.close()


def steps(page: Path) -> list[tuple[str, str]]:
    """("file", text) for each policy shown whole, ("run", command) for each line of a console block, ("stop", name)."""
    found = []
    for language, body, stopped in re.findall(
        r"^```(\w*)\n(.*?)^```|^Stop the `(\w+)` backend with Ctrl-C", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        if stopped:
            found.append(("stop", stopped))
        elif body.startswith("edition "):
            found.append(("file", body))
        elif language == "console":
            found += [("run", line.removeprefix("$ ")) for line in body.splitlines() if line.startswith("$ ")]
    return found


@contextmanager
def the_ports() -> Iterator[None]:
    """The ports that the documentation uses, for us alone: whoever else tests on this machine has its turn later."""
    with (Path(gettempdir()) / "edgelattice-documented-ports.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for port in PORTS:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    pytest.skip(f"port {port}, which the documentation uses, is taken on this machine")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_commands_work_as_written(page: str, tmp_path: Path) -> None:
    with the_ports(), shell(tmp_path) as at:
        for kind, text in steps(ROOT / page):
            if kind == "file":
                (tmp_path / "shop.policy").write_text(text)
            elif kind == "stop":
                at.stop(f"--region {text}")
            elif text not in RUN_ELSEWHERE:
                at.do(text)
                if text.startswith("edgelattice policy publish"):
                    time.sleep(1)  # a person's pause: the policy comes into force, and the first probes answer
        everything = "\n".join(output for _, output in at.said)
        said = dict(at.said)
    assert "published default" in everything
    assert "shop.policy: holds" in everything
    if page == "README.md":
        assert "ready site=nyc" in everything
    else:
        assert "x-edge-reason: primary" in everything.lower()
        # Of whoever is quicker: the request that is refused, or a probe.
        assert re.search("x-edge-reason: secondary: fra (refused|ejected|down)", everything.lower()), (
            "the very next one"
        )
        assert re.search(r"fra +DOWN", said["edgelattice status"])
        assert "did you mean 'nearest'" in said["sed s/nearest/nearset/ shop.policy | edgelattice policy check -"]


@contextmanager
def visitors() -> Iterator[None]:
    """Users of the site that the documentation starts, as long as this lasts."""
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(0.002):
            connection = http.client.HTTPConnection("127.0.0.1", PORTS[2], timeout=10)
            for _ in range(50):
                connection.request("GET", "/", headers={"Host": "shop.example.com"})
                connection.getresponse().read()
            connection.close()

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_rollout_goes_as_its_page_says(tmp_path: Path) -> None:
    """Each command of the how-to, in order, between a publish and users that come all the time."""
    page = ROOT / "docs/how-to/roll-out-to-one-site-first.md"
    (policy,) = [text for kind, text in steps(ROOT / "README.md") if kind == "file"]
    (tmp_path / "shop.policy").write_text(policy)
    said: dict[str, str] = {}
    with the_ports(), shell(tmp_path) as at:
        at.do("edgelattice init --site ams --dir ams")
        at.do("python -m router.demo.backend --region fra --listen 127.0.0.1:9001")
        at.do("edgelattice run ams/site.toml")
        at.do("edgelattice policy publish shop.policy --key ams/operator.key")
        time.sleep(1)  # the first probes answer
        with visitors():
            for kind, command in steps(page):
                assert kind == "run"
                if command.endswith("advance --key ams/operator.key"):
                    _wait_until_it_may(at)
                at.do(command)
        said = dict(at.said)
    answers = {command.partition("rollout ")[2].partition(" ")[0]: output for command, output in said.items()}
    assert "1 site of 1 try it: ams" in answers["start"]
    assert "in force" in said["edgelattice policy rollout status"]
    assert "complete: all sites serve" in answers["advance"]
    assert "aborted: all sites serve" in answers["abort"]


def _wait_until_it_may(at: Shell) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        at.do("edgelattice policy rollout status --json")
        if '"passed":true' in at.said[-1][1]:
            return
        time.sleep(0.2)
    pytest.fail(f"92 requests did not pass it: {at.said[-1][1]}")


def test_what_is_run_elsewhere_is_still_shown() -> None:
    """The planted counterpart: an exemption that no page needs any more is an error."""
    shown = {text for page in ("README.md", "docs/tutorial.md") for kind, text in steps(ROOT / page) if kind == "run"}
    assert set(RUN_ELSEWHERE) <= shown
