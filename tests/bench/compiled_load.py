"""The same open-loop load by h2load, which is compiled: what it says is late was late.

Twenty-five keep-alive connections, begun one after another, each ask at their own steady rate, so that requests leave
evenly spread. h2load logs when each left and how long its answer took. A request that has to wait for its connection's
last answer leaves late, which nobody sees here: at 500 a second that takes a stall of more than 50 ms, so this is for
crashes. It does not say where an answer came from.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from lattice.types import Endpoint
from tests.bench.proxy_rivals import BenchError

CONNECTIONS: Final = 25


class Answer(NamedTuple):
    """Times in seconds, of the clock that `time.time` reads."""

    scheduled: float
    ended: float
    ok: bool
    region: str = ""
    """Where it came from; "" when whoever asked did not look."""


def available() -> bool:
    return shutil.which("h2load") is not None


def run(target: Endpoint, rate: int, seconds: float, at: float, act: Callable[[], None]) -> tuple[list[Answer], float]:
    """The answers, and when `act` was called: at second `at`."""
    every = CONNECTIONS / rate
    count = int(rate * seconds) // CONNECTIONS
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        log = Path(directory) / "answers.tsv"
        arguments = ["h2load", "--h1", f"-n{count * CONNECTIONS}", f"-c{CONNECTIONS}", "-t1", f"--log-file={log}"]
        arguments += [f"--rps={1 / every:g}", "-r1", f"--rate-period={1_000 // rate}ms"]
        began = time.time()
        load = subprocess.Popen([*arguments, f"http://{target[0]}:{target[1]}/some/path"], stdout=subprocess.DEVNULL)
        time.sleep(max(0.0, began + at - time.time()))
        acted = time.time()
        act()
        load.wait(timeout=seconds + 60)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    answers = [
        Answer(int(start) / 1e6, (int(start) + int(took)) / 1e6, status == "200") for start, status, took in lines
    ]
    if not answers:
        raise BenchError("h2load logged no answers")
    # What is lost without an answer is not logged: it failed, and nobody knows when.
    lost = count * CONNECTIONS - len(answers)
    return [*answers, *[Answer(acted, acted, ok=False)] * lost], acted
