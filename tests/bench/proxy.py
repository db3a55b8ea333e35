"""CPU per proxied keep-alive GET, requests a second and latency, beside the rivals that are installed.

Every contender is one worker in front of the same nginx backend, and gets the same load from wrk, in turns: ours,
rival, rival, ours, … so that a noisy machine is noisy for all. Medians of the rounds; ratios are what to look at.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.proxy_rivals import (
    RIVALS,
    BenchError,
    Fleet,
    Running,
    installed,
    start_backend,
    start_ours,
    stop,
)

_UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Round:
    rps: float
    cpu_us: float
    p99_ms: float
    errors: int


def measure(running: Running, seconds: float, connections: int) -> Round:
    """One wrk run."""
    url = f"http://{running.endpoint[0]}:{running.endpoint[1]}/some/path?and=query"
    before = running.cpu_seconds()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", url],
        capture_output=True,
        text=True,
        check=True,
    )
    cpu = running.cpu_seconds() - before
    requests = int(_found(r"(\d+) requests in", done.stdout))
    p99 = re.search(r"99%\s+([0-9.]+)(us|ms|s)", done.stdout)
    errors = sum(
        map(int, re.findall(r"(?:Non-2xx or 3xx responses: |connect |read |write |timeout )(\d+)", done.stdout))
    )
    return Round(
        rps=float(_found(r"Requests/sec:\s+([0-9.]+)", done.stdout)),
        cpu_us=cpu / max(1, requests) * 1e6,
        p99_ms=float(p99[1]) * _UNIT_MS[p99[2]] if p99 else 0.0,
        errors=errors,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"wrk said nothing about {pattern}:\n{text}")
    return match[1]


def run(rounds: int, seconds: float, connections: int, names: Sequence[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        directory = Path(text)
        endpoint, backend = start_backend(directory, "backend")
        contenders: list[Running] = []
        try:
            fleet = Fleet([("fra", [endpoint])])
            if "ours" in names:
                contenders.append(start_ours(directory, fleet))
            contenders += [RIVALS[name](directory, fleet) for name in names if name in RIVALS]
            results: dict[str, list[Round]] = {running.name: [] for running in contenders}
            for running in contenders:
                measure(running, 1, connections)  # warm
            for turn in range(rounds):
                for running in contenders if turn % 2 == 0 else reversed(contenders):
                    results[running.name].append(measure(running, seconds, connections))
        finally:
            for running in contenders:
                running.stop()
            stop(backend)
    rps = {name: statistics.median(one.rps for one in many) for name, many in results.items()}
    cpu = {name: round(statistics.median(one.cpu_us for one in many), 1) for name, many in results.items()}
    return {
        "rounds": rounds,
        "seconds": seconds,
        "connections": connections,
        "rps": rps,
        "cpu_us_per_request": cpu,
        "cpu_us_rounds": {name: [round(one.cpu_us, 1) for one in many] for name, many in results.items()},
        "p99_ms": {name: statistics.median(one.p99_ms for one in many) for name, many in results.items()},
        "errors": {name: sum(one.errors for one in many) for name, many in results.items()},
        "ratio_haproxy": round(rps["ours"] / rps["haproxy"], 3) if {"ours", "haproxy"} <= rps.keys() else None,
        "tls": {},  # no TLS termination yet
        "l4_cpu_s_per_gb": {},  # no TCP mode yet
        "cpu_ratio": {
            name: round(cpu["ours"] / cpu[name], 2) for name in cpu if "ours" in cpu and name != "ours" and cpu[name]
        },
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench proxy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default="", help="names, comma-separated")
    options = parser.parse_args(argv)
    if not (shutil.which("wrk") and shutil.which("nginx")):
        print("proxy: needs wrk (load) and nginx (backend): apt-get install wrk nginx-light", file=sys.stderr)
        return 2
    names = options.only.split(",") if options.only else ["ours", *installed()]
    try:
        result = run(options.rounds, options.seconds, options.connections, names)
    except BenchError as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else table(result))
    return 0


def table(result: dict[str, object]) -> str:
    lines = [f"{'':10} {'req/s':>9} {'CPU us':>8} {'p99 ms':>8} {'errors':>7}"]
    rps, cpu, p99, errors = (result[key] for key in ("rps", "cpu_us_per_request", "p99_ms", "errors"))
    assert isinstance(rps, dict)
    assert isinstance(cpu, dict)
    assert isinstance(p99, dict)
    assert isinstance(errors, dict)
    lines += [f"{name:10} {rps[name]:9.0f} {cpu[name]:8.1f} {p99[name]:8.2f} {errors[name]:7d}" for name in rps]
    lines.append(f"ours / rival, CPU: {result['cpu_ratio']}; requests/s, ours / haproxy: {result['ratio_haproxy']}")
    return "\n".join(lines)
