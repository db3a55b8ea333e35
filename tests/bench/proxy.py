"""CPU per proxied keep-alive GET, requests a second and latency, beside the rivals that are installed.

Every contender is one worker in front of the same nginx backend, and gets the same load from wrk, in turns: ours,
rival, rival, ours, … so that a noisy machine is noisy for all. Medians of the rounds; ratios are what to look at. Then
the same over TLS on the clients' side, with a connection for each request, and last the relay of TCP mode
(`python -m tests.bench relay`).
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import trustme

from lattice.types import Endpoint
from tests.bench import relay
from tests.bench.proxy_rivals import BenchError, Fleet, Running, start_backend, start_ours, stop
from tests.bench.rivals import RIVALS, contenders

_UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Round:
    rps: float
    cpu_us: float
    p99_ms: float
    errors: int


def measure(
    running: Running,
    seconds: float,
    connections: int,
    scheme: str = "http",
    endpoint: Endpoint | None = None,
    *,
    short: bool = False,
) -> Round:
    """One wrk run; `short`, with a connection for each request."""
    host, port = endpoint or running.endpoint
    before = running.cpu_seconds()
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--latency",
            *(("-H", "Connection: close") if short else ()),
            f"{scheme}://{host}:{port}/a/path?and=query",
        ],
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


def in_turns(
    running: Sequence[Running], rounds: int, seconds: float, connections: int, *, tls: bool = False, short: bool = False
) -> dict[str, list[Round]]:
    """Every contender's rounds, after a second to warm up."""

    def once(one: Running, length: float) -> Round:
        return measure(one, length, connections, *(("https", one.tls) if tls else ()), short=short)

    results: dict[str, list[Round]] = {one.name: [] for one in running}
    for one in running:
        once(one, 1)
    for turn in range(rounds):
        for one in running if turn % 2 == 0 else reversed(running):
            results[one.name].append(once(one, seconds))
    return results


Results: TypeAlias = Mapping[str, Sequence[Round]]


def run(rounds: int, seconds: float, connections: int, names: Sequence[str]) -> tuple[Results, Results, Results]:
    """Plain, over TLS, and with a connection for each request."""
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        directory = Path(text)
        certificate = directory / "certificate.pem"
        certificate.touch(0o600)
        trustme.CA().issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        endpoint, backend = start_backend(directory, "backend")
        running: list[Running] = []
        try:
            fleet = Fleet([("fra", [endpoint])], certificate=certificate)
            running.extend(
                start_ours(directory, fleet) if name == "ours" else RIVALS[name](directory, fleet) for name in names
            )
            plain = in_turns(running, rounds, seconds, connections)
            secure = in_turns(running, rounds, seconds, connections, tls=True)
            short = in_turns(running, rounds, seconds, connections, short=True)
        finally:
            for one in running:
                one.stop()
            stop(backend)
    return plain, secure, short


def medians(results: Results, what: str, digits: int) -> dict[str, float]:
    return {
        name: round(statistics.median(getattr(one, what) for one in many), digits) for name, many in results.items()
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench proxy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--relay-rounds", type=int, default=5, help="of the TCP mode's relay; 0 leaves it out")
    parser.add_argument("--only", default="", help="names, comma-separated")
    options = parser.parse_args(argv)
    if not (shutil.which("wrk") and shutil.which("nginx")):
        print("proxy: needs wrk (load) and nginx (backend): apt-get install wrk nginx-light", file=sys.stderr)
        return 2
    try:
        plain, secure, short = run(options.rounds, options.seconds, options.connections, contenders(options.only))
        relayed = relay.run(options.relay_rounds)["l4_cpu_s_per_gb"] if options.relay_rounds else {}
    except BenchError as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    rps = medians(plain, "rps", 0)
    result = {
        "rps": rps,
        "cpu_us_per_request": medians(plain, "cpu_us", 1),
        "p99_ms": medians(plain, "p99_ms", 2),
        "ratio_haproxy": round(rps["ours"] / rps["haproxy"], 3) if {"ours", "haproxy"} <= rps.keys() else None,
        "tls": medians(secure, "cpu_us", 1),
        "short": medians(short, "cpu_us", 1),
        "l4_cpu_s_per_gb": relayed,
    }
    errors = {name: sum(one.errors for one in (*plain[name], *secure[name], *short[name])) for name in plain}
    if any(errors.values()):
        print(f"proxy: not all answers were good: {errors}", file=sys.stderr)
    print(json.dumps(result) if options.json else table(result, plain, secure, short))
    return 0


def table(result: Mapping[str, object], plain: Results, secure: Results, short: Results) -> str:
    """Columns of figures, each beside ours divided by it."""
    columns = {
        "req/s": medians(plain, "rps", 0),
        "CPU us": medians(plain, "cpu_us", 1),
        "p99 ms": medians(plain, "p99_ms", 2),
        "TLS CPU us": medians(secure, "cpu_us", 1),
        "short CPU us": medians(short, "cpu_us", 1),
    }
    lines = [f"{'':10}" + "".join(f"{title:>13}{'ours/it':>9}" for title in columns)]
    for name in plain:
        cells = [
            f"{figures[name]:13g}{figures['ours'] / figures[name]:9.2f}"
            if figures.get("ours") and figures[name]
            else f"{figures[name]:13g}{'':9}"
            for figures in columns.values()
        ]
        lines.append(f"{name:10}" + "".join(cells))
    spread = {name: [round(one.cpu_us, 1) for one in many] for name, many in plain.items()}
    lines += [f"CPU us of each round: {spread}", f"TCP relay, CPU s/GB: {result['l4_cpu_s_per_gb']}"]
    return "\n".join(lines)
