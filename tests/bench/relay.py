"""TCP mode: CPU seconds per GB relayed, beside HAProxy with and without kernel splicing.

A file is fetched by plain HTTP/1.0 through each contender from the same nginx, which sends it with sendfile; the
client discards it in the kernel (MSG_TRUNC). So neither end costs much, and what is measured is the relay. In turns,
medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lattice.types import Endpoint
from tests.bench.proxy_rivals import BenchError, Fleet, Running, free_port, start_ours, stop, wait_listening

FILE_BYTES = 256 << 20
GB = 1e9
_BUFFER = bytearray(1 << 22)
"""Never written to: MSG_TRUNC of a TCP socket only counts (tcp(7))."""


def start_file_server(directory: Path) -> tuple[Endpoint, subprocess.Popen[bytes]]:
    home, port = directory / "files", free_port()
    (home / "www").mkdir(parents=True)
    with (home / "www" / "big").open("wb") as big:
        big.truncate(FILE_BYTES)
    temporary = "".join(f"{kind}_temp_path {home}/{kind}; " for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"""
user root; daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; client_body_temp_path {home}/body; {temporary}
  server {{ listen 127.0.0.1:{port}; location / {{ root {home}/www; }} location /healthz {{ return 200 "ok"; }} }}
}}
"""
    )
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    wait_listening(("127.0.0.1", port), "the file server")
    return ("127.0.0.1", port), process


def start_haproxy(directory: Path, name: str, backend: Endpoint, options: str) -> Running:
    home, port = directory / name, free_port()
    home.mkdir()
    (home / "haproxy.cfg").write_text(
        f"""
global
  nbthread 1
defaults
  mode tcp
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  {options}
listen relay
  bind 127.0.0.1:{port}
  server up {backend[0]}:{backend[1]}
"""
    )
    log = (home / "log").open("wb")
    process = subprocess.Popen(["haproxy", "-f", str(home / "haproxy.cfg")], stdout=log, stderr=log)
    running = Running(name, ("127.0.0.1", port), process, log)
    wait_listening(running.endpoint, name)
    return running


def fetch(endpoint: Endpoint) -> int:
    """How many bytes came."""
    received = 0
    with socket.create_connection(endpoint, 10) as sock:
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        while count := sock.recv_into(_BUFFER, len(_BUFFER), socket.MSG_TRUNC):
            received += count
    return received


def measure(running: Running) -> tuple[float, float]:
    """CPU seconds and seconds per GB."""
    cpu, began = running.cpu_seconds(), time.monotonic()
    received = fetch(running.endpoint)
    if received < FILE_BYTES:
        raise BenchError(f"{running.name} relayed {received} of {FILE_BYTES} bytes")
    return (running.cpu_seconds() - cpu) / received * GB, (time.monotonic() - began) / received * GB


def run(rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as text:
        directory = Path(text)
        backend, server = start_file_server(directory)
        contenders: list[Running] = []
        try:
            contenders.append(
                start_ours(directory, Fleet([("fra", [backend])]), extra='[tcp]\nlisten = ["127.0.0.1:0"]\n', via="tcp")
            )
            if shutil.which("haproxy"):
                contenders.append(start_haproxy(directory, "haproxy", backend, ""))
                contenders.append(start_haproxy(directory, "haproxy_splice", backend, "option splice-auto"))
            results: dict[str, list[tuple[float, float]]] = {running.name: [] for running in contenders}
            for running in contenders:
                measure(running)
            for turn in range(rounds):
                for running in contenders if turn % 2 == 0 else reversed(contenders):
                    results[running.name].append(measure(running))
        finally:
            for running in contenders:
                running.stop()
            stop(server)
    cpu = {name: round(statistics.median(one for one, _ in many), 3) for name, many in results.items()}
    return {
        "rounds": rounds,
        "file_bytes": FILE_BYTES,
        "l4_cpu_s_per_gb": cpu,
        "s_per_gb": {name: round(statistics.median(one for _, one in many), 3) for name, many in results.items()},
        "cpu_ratio": {name: round(cpu["ours"] / cpu[name], 2) for name in cpu if name != "ours" and cpu[name]},
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench relay", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    if not shutil.which("nginx"):
        print("relay: needs nginx (file server), and haproxy as a rival: apt-get install nginx-light", file=sys.stderr)
        return 2
    try:
        result = run(options.rounds)
    except BenchError as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else table(result))
    return 0


def table(result: dict[str, object]) -> str:
    cpu, took = result["l4_cpu_s_per_gb"], result["s_per_gb"]
    assert isinstance(cpu, dict)
    assert isinstance(took, dict)
    lines = [f"{'':15} {'CPU s/GB':>9} {'s/GB':>7}", *(f"{name:15} {cpu[name]:9.3f} {took[name]:7.3f}" for name in cpu)]
    return "\n".join([*lines, f"ours / rival, CPU: {result['cpu_ratio']}"])
