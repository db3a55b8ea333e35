"""Who holds connections for nothing: memory of idle ones, and what a good client notices of slowhttptest.

Ten thousand keep-alive connections that have each been answered once, from addresses of 127.0.0.0/8; then the four
modes of slowhttptest (slow head, slow body, range, slow read), a thousand connections each, beside a good client. It is
alone before and after each mode, when the last connection of others is closed, so that a machine whose speed changes
does so for both; all rounds are shown.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.proxy import measure
from tests.bench.proxy_rivals import BenchError, Fleet, Running, start_backend, start_ours, stop
from tests.bench.rivals import RIVALS

MODES = {"slow head": "-H", "slow body": "-B", "range": "-R", "slow read": "-X"}
PER_ADDRESS = 500
SETTLED_SECONDS = 30.0


def hold(running: Running, count: int) -> list[socket.socket]:
    """Connections that were answered once and are kept."""
    held = []
    for number in range(count):
        sock = socket.socket()
        held.append(sock)
        sock.bind((f"127.0.{number // PER_ADDRESS + 1}.1", 0))
        sock.connect(running.endpoint)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: bench\r\nAccept: */*\r\nCookie: a=%d\r\n\r\n" % number)
        if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
            raise BenchError(f"connection {number} was not answered")
    return held


def memory(running: Running, count: int) -> float:
    """KiB of the node's memory for each idle connection; what the kernel keeps is not in it."""
    before = running.rss_kib()
    held = hold(running, count)
    time.sleep(0.5)
    after = running.rss_kib()
    for sock in held:
        sock.close()
    return (after - before) / count


def beside(running: Running, flag: str, seconds: int) -> tuple[float, bool]:
    """A good client's p99 in ms while slowhttptest is at it, and whether the latter always found the node available."""
    url = f"http://{running.endpoint[0]}:{running.endpoint[1]}/"
    slow = subprocess.Popen(
        ["slowhttptest", flag, "-c", "1000", "-r", "500", "-i", "2", "-l", str(seconds + 3), "-p", "2", "-u", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        time.sleep(2.5)
        p99 = measure(running, seconds, 2).p99_ms
    finally:
        said, _ = slow.communicate(timeout=60)
    return p99, re.search(r"service available:\s*.{0,16}NO", said) is None


def alone(running: Running, descriptors: int, seconds: int) -> float:
    """A good client's p99 in ms, with nobody else: closing a thousand connections takes its time too."""
    until = time.monotonic() + SETTLED_SECONDS
    while running.descriptors() > descriptors:
        if time.monotonic() > until:
            raise BenchError(f"{running.descriptors() - descriptors} connections stay open after their clients left")
        time.sleep(0.1)
    return measure(running, seconds, 2).p99_ms


def run(name: str, connections: int, seconds: int, rounds: int) -> dict[str, object]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        directory = Path(text)
        endpoint, backend = start_backend(directory, "backend")
        running: Running | None = None
        try:
            running = (start_ours if name == "ours" else RIVALS[name])(directory, Fleet([("fra", [endpoint])]))
            measure(running, 1, 2)  # what it keeps towards its backend is open by then
            descriptors = running.descriptors()
            kib = memory(running, connections)
            quiet, during = [alone(running, descriptors, seconds)], dict[str, list[tuple[float, float, bool]]]()
            for _ in range(rounds):
                for mode, flag in MODES.items():
                    p99, available = beside(running, flag, seconds)
                    quiet.append(alone(running, descriptors, seconds))
                    during.setdefault(mode, []).append((p99, 2 * p99 / sum(quiet[-2:]), available))
        finally:
            if running is not None:
                running.stop()
            stop(backend)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "name": name,
        "connections": connections,
        "kib_each": round(kib, 1),
        "p99_ms_alone": quiet,
        "p99_ms": {mode: [p99 for p99, _, _ in all_of] for mode, all_of in during.items()},
        "ratios": {mode: [round(ratio, 2) for _, ratio, _ in all_of] for mode, all_of in during.items()},
        "ratio": {
            mode: round(statistics.median(ratio for _, ratio, _ in all_of), 2) for mode, all_of in during.items()
        },
        "available": {mode: all(always for _, _, always in all_of) for mode, all_of in during.items()},
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench idle", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--of", choices=("ours", *RIVALS), default="ours", help="whom to measure")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    missing = [name for name in ("wrk", "nginx", "slowhttptest") if shutil.which(name) is None]
    if missing:
        print(f"idle: needs {', '.join(missing)}: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    try:
        result = run(options.of, options.connections, options.seconds, options.rounds)
    except (BenchError, OSError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0
