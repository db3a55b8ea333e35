"""Who holds connections for nothing: memory of idle ones, and what a good client notices of slowhttptest.

Ten thousand keep-alive connections that have each been answered once, from addresses of 127.0.0.0/8; then the four
modes of slowhttptest (slow head, slow body, range, slow read), 900 connections each, beside a good client: 500 requests
a second by h2load, evenly. Each time it is alone first, when the last connection of others is closed. All rounds are
shown, and what slowhttptest had open by its own account.

Nobody's attacker runs on the attacked machine, and slowhttptest takes a third of a processor, for milliseconds at a
time. So it has one of its own; the good client, the node and its backend share another, alone as well as attacked.
(A good client that asks as fast as it can would fill that, and feel whoever else runs at all: so does one of nginx.)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.bench import compiled_load
from tests.bench.proxy_rivals import BenchError, Fleet, Running, start_backend, start_ours, stop
from tests.bench.rivals import RIVALS

MODES = {"slow head": "-H", "slow body": "-B", "range": "-R", "slow read": "-X"}
_AGAIN = 'end=$(($(date +%s) + $0)); while left=$((end - $(date +%s))); [ $left -gt 0 ]; do "$@" $left; done'
"""The command again and again for so many seconds, told last how many are left."""

PER_ADDRESS = 500
ATTACKING = 900
"""Connections: with the good client's, from the same address, fewer than a client may have (1,024)."""
GOOD_RATE = 500
SETTLED_SECONDS = 30.0


class Good(NamedTuple):
    """What a good client noticed."""

    p99_ms: float
    failed: int


class Attack(NamedTuple):
    """By slowhttptest's own account: connections it held at a time, and whether its probe was always served."""

    held: int
    available: bool


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


class Round(NamedTuple):
    """One of a mode: the good client alone, and while we are attacked."""

    alone: Good
    beside: Good
    attack: Attack


def good_client(running: Running, seconds: int) -> Good:
    answers, _ = compiled_load.run(running.endpoint, GOOD_RATE, seconds, 0.0, lambda: None)
    took = sorted(answer.ended - answer.scheduled for answer in answers)
    return Good(round(took[len(took) * 99 // 100] * 1e3, 3), sum(not answer.ok for answer in answers))


def beside(running: Running, flag: str, seconds: int, attackers: set[int]) -> tuple[Good, Attack]:
    """A good client while slowhttptest runs on these processors: begun again whenever it ends, which in some modes is
    at once."""
    host, port = running.endpoint
    command = ["slowhttptest", flag, "-c", str(ATTACKING), "-r", str(ATTACKING // 2), "-i", "2", "-p", "2"]
    attack = subprocess.Popen(
        ["/bin/sh", "-c", _AGAIN, str(seconds + 3), *command, "-u", f"http://{host}:{port}/", "-l"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, attackers),
    )
    try:
        time.sleep(2.5)  # by then it has opened what it will
        good = good_client(running, seconds)
        said, _ = attack.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(attack.pid, signal.SIGKILL)
        attack.wait()
    return good, account(said)


def account(said: str) -> Attack:
    """What slowhttptest says of itself, in colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    held = [int(number) for number in re.findall(r"^connected:\s*(\d+)", plain, re.MULTILINE)]
    return Attack(max(held, default=0), re.search(r"^service available:\s*NO", plain, re.MULTILINE) is None)


def alone(running: Running, descriptors: int, seconds: int) -> Good:
    """A good client with nobody else: closing a thousand connections takes its time too."""
    until = time.monotonic() + SETTLED_SECONDS
    while running.descriptors() > descriptors:
        if time.monotonic() > until:
            raise BenchError(f"{running.descriptors() - descriptors} connections stay open after their clients left")
        time.sleep(0.1)
    return good_client(running, seconds)


def run(name: str, connections: int, seconds: int, rounds: int) -> dict[str, object]:
    processors = os.sched_getaffinity(0)
    ours = {max(processors)}
    if ours == processors:
        raise BenchError("an attacker wants a processor of its own: there is but one")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        directory = Path(text)
        os.sched_setaffinity(0, ours)
        endpoint, backend = start_backend(directory, "backend")
        running: Running | None = None
        try:
            running = (start_ours if name == "ours" else RIVALS[name])(directory, Fleet([("fra", [endpoint])]))
            good_client(running, 1)  # what it keeps towards its backend is open by then
            descriptors = running.descriptors()
            kib = memory(running, connections)
            played: dict[str, list[Round]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode, flag in MODES.items():
                    quiet = alone(running, descriptors, seconds)
                    played[mode].append(Round(quiet, *beside(running, flag, seconds, processors - ours)))
        finally:
            if running is not None:
                running.stop()
            stop(backend)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.sched_setaffinity(0, processors)
    return {
        "name": name,
        "connections": connections,
        "kib_each": round(kib, 1),
        "p99_ms": {
            mode: {"alone": _p99(of.alone for of in all_of), "attacked": _p99(of.beside for of in all_of)}
            for mode, all_of in played.items()
        },
        "failed": sum(of.alone.failed + of.beside.failed for all_of in played.values() for of in all_of),
        "ratio": {mode: _ratio([(of.beside, of.alone) for of in all_of]) for mode, all_of in played.items()},
        "held": {mode: [of.attack.held for of in all_of] for mode, all_of in played.items()},
        "available": {mode: all(of.attack.available for of in all_of) for mode, all_of in played.items()},
    }


def _p99(goods: Iterable[Good]) -> list[float]:
    return [good.p99_ms for good in goods]


def _ratio(pairs: Sequence[tuple[Good, Good]]) -> float:
    """Of medians: a single round of either may have been a bad moment of the machine."""
    ours, theirs = (statistics.median(good.p99_ms for good in goods) for goods in zip(*pairs, strict=True))
    return float(round(ours / theirs, 2))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench idle", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--of", choices=("ours", *RIVALS), default="ours", help="whom to measure")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    packages = {"h2load": "nghttp2-client", "nginx": "nginx", "slowhttptest": "slowhttptest"}
    missing = [name for name in packages if shutil.which(name) is None]
    if missing:
        wanted = " ".join(packages[name] for name in missing)
        print(f"idle: needs {', '.join(missing)}: apt-get install {wanted}", file=sys.stderr)
        return 2
    try:
        result = run(options.of, options.connections, options.seconds, options.rounds)
    except (BenchError, OSError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0
