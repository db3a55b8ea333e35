"""What a warm standby saves: the time to a request's first byte over mTLS, kept ready against made for the occasion.

The pool of the data plane itself, on fibers, against an nginx that asks for our certificate. Warm: take a connection
that stands ready, write a request, read the answer's first byte. Cold: connect, handshake in full with certificates
both ways, then the same. In turns, so that the machine's noise is in both. Two clocks: `out` stops when the kernel has
the request (all that is ours), `back` when the answer's first byte is read (with nginx, the kernel and the scheduler).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio
import trustme

from lattice.types import SECOND, Endpoint
from router.site.tls_files import TlsFiles
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.upstream_pool import UpstreamPool
from router.traffic.upstream_tls import UpstreamTls
from tests.bench.proxy_rivals import BenchError, free_port, stop, wait_listening

NAME = "standby.test"
REQUEST = b"GET / HTTP/1.1\r\nHost: standby.test\r\n\r\n"


def start_standby(home: Path, ca: trustme.CA) -> tuple[Endpoint, subprocess.Popen[bytes]]:
    ca.cert_pem.write_to_path(home / "ca.crt")
    for name in (NAME, "site.test"):
        issued = ca.issue_cert(name)
        issued.private_key_pem.write_to_path(home / f"{name}.key")
        (home / f"{name}.key").chmod(0o600)
        (home / f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    port = free_port()
    (home / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3;
    ssl_certificate {home}/{NAME}.crt; ssl_certificate_key {home}/{NAME}.key;
    ssl_client_certificate {home}/ca.crt; ssl_verify_client on;
    location / {{ return 200 "hello"; }}
  }}
}}
"""
    )
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    wait_listening(("127.0.0.1", port), "the standby")
    return ("127.0.0.1", port), process


class Clock:
    """Microseconds from the decision to the request's last byte out, and to the answer's first byte back."""

    def __init__(self) -> None:
        self.out: list[float] = []
        self.back: list[float] = []

    async def ask(self, pool: UpstreamPool, endpoint: Endpoint) -> None:
        began = time.perf_counter()
        upstream = await pool.acquire(endpoint)
        if upstream.send_now(REQUEST):
            raise BenchError("the kernel did not take a request of one packet")
        out = time.perf_counter()
        answer = await upstream.receive(5 * SECOND)
        self.back.append((time.perf_counter() - began) * 1e6)
        self.out.append((out - began) * 1e6)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"the standby said {answer[:40]!r}")
        upstream.reusable = True
        pool.release(upstream, trio.current_time())

    def figures(self) -> dict[str, float]:
        figures: dict[str, float] = {"samples": len(self.out)}
        for name, values in (("out", self.out), ("back", self.back)):
            cuts = statistics.quantiles(values, n=100)
            figures |= {f"{name}_p50_us": round(cuts[49], 1), f"{name}_p99_us": round(cuts[98], 1)}
        return figures


async def measure(home: Path, endpoint: Endpoint, rounds: int) -> dict[str, object]:
    nest = NestedEpoll()
    tls = UpstreamTls(home / "ca.crt", TlsFiles(home / "site.test.crt", home / "site.test.key"), None)
    warm, cold = Clock(), Clock()
    pool = UpstreamPool(ProxyLimits(), nest)
    pool.configure({endpoint: NAME}, tls)
    done = trio.Event()

    async def run() -> None:
        for _ in range(rounds):
            fresh = UpstreamPool(ProxyLimits(), nest)  # no connection, and no ticket to resume by
            fresh.configure({endpoint: NAME}, tls)
            await cold.ask(fresh, endpoint)
            fresh.close_idle()
            for _ in range(20):
                await warm.ask(pool, endpoint)
            await nest.pause()
        done.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(nest.run)
        first = Clock()
        await first.ask(pool, endpoint)  # the one that then stands ready
        gc.collect()
        gc.freeze()
        nest.start(run())
        await done.wait()
        pool.close_idle()
        nursery.cancel_scope.cancel()
    figures = {"warm": warm.figures(), "cold": cold.figures()}
    return {
        **figures,
        "cold_over_warm": {
            f"{name}_{mark}": round(figures["cold"][f"{name}_{mark}_us"] / figures["warm"][f"{name}_{mark}_us"], 1)
            for name in ("out", "back")
            for mark in ("p50", "p99")
        },
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench tunnels", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500, help="cold connections; 20 warm requests each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        endpoint, process = start_standby(home, trustme.CA())
        try:
            result = trio.run(measure, home, endpoint, options.rounds)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            stop(process)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, figures in result.items():
            print(f"{name:15}", figures)
    return 0
