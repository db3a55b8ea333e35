"""What a warm standby saves: the time to a request's first byte over mTLS, kept ready against made for the occasion.

The pool of the data plane itself, on fibers, against an nginx that asks for our certificate. Warm: take a connection
that stands ready, write a request, read the answer's first byte. Cold: connect, handshake in full with certificates
both ways, then the same. Bare: what Python's own `ssl` and one blocking socket need for a request that nothing decides
about, the bound of whatever is written in Python. It waits a moment before, as requests do: the standby's processor
sleeps by then, and to wake it is most of a `send`. In turns, some hundred at a time, so that the machine's noise is in
all of them and a handshake's emptied caches in few that had none. Two clocks: `out` stops when the kernel has the
request (all that is ours), `back` when the answer's first byte is read (with nginx, the kernel and the scheduler).

A standby is another machine, so between us lies a link where root and `ip` can make one: a pair of virtual interfaces,
whose far end another processor serves (receive packet steering). By loopback our `send` would do all of the other
side's receiving. Still: a loop that counts, about as long as a bare request and turn by turn with them.
What its slowest hundredth lost, the machine took, from us as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
COLD_AT_ONCE, WARM_AT_ONCE = 20, 400
BETWEEN_SECONDS = 50e-6
COUNT = 700
REQUEST = b"GET / HTTP/1.1\r\nHost: standby.test\r\n\r\n"


HERE, THERE = "198.18.0.1", "198.18.0.2"
"""The ends of the link (RFC 2544: for measurements of devices)."""


@dataclass(frozen=True)
class Place:
    """Where the standby runs: what comes before its command, its address, and what that is called."""

    command: tuple[str, ...]
    host: str
    said: str


@contextmanager
def beyond_a_link() -> Iterator[Place]:
    """Another network namespace, if one can be made; else this one."""
    namespace = f"tunnels{os.getpid()}"
    near, inside = f"tn{os.getpid()}", ("ip", "-n", namespace)
    if (why_not := _no_link(namespace)) is not None:
        yield Place((), "127.0.0.1", f"loopback: {why_not}")
        return
    far = 1 << max(os.sched_getaffinity(0))
    enter = ("ip", "netns", "exec", namespace)
    with ExitStack() as stack:
        stack.callback(_run, "ip", "netns", "delete", namespace)  # and the link with it
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", "far", "netns", namespace)
        _run("ip", "address", "add", f"{HERE}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run(*inside, "address", "add", f"{THERE}/30", "dev", "far")
        _run(*inside, "link", "set", "far", "up")
        _run(*enter, "sh", "-c", f"echo {far:x} > /sys/class/net/far/queues/rx-0/rps_cpus")
        yield Place(enter, THERE, "a link between network namespaces, received by another processor")


def _no_link(namespace: str) -> str | None:
    """Make the namespace; or why there is none."""
    if os.geteuid() or shutil.which("ip") is None or len(os.sched_getaffinity(0)) < 2:
        return "a link needs root, `ip` and two processors"
    try:
        _run("ip", "netns", "add", namespace)
    except BenchError as error:
        return str(error)
    return None


def _run(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode:
        raise BenchError(f"`{' '.join(words)}`: {ran.stderr.strip()}")


def start_standby(home: Path, ca: trustme.CA, place: Place) -> tuple[Endpoint, subprocess.Popen[bytes]]:
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
    listen {place.host}:{port} ssl; ssl_protocols TLSv1.3;
    ssl_certificate {home}/{NAME}.crt; ssl_certificate_key {home}/{NAME}.key;
    ssl_client_certificate {home}/ca.crt; ssl_verify_client on;
    location / {{ return 200 "hello"; }}
  }}
}}
"""
    )
    command = (*place.command, "nginx", "-p", str(home), "-c", "nginx.conf")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_listening((place.host, port), "the standby")
    return (place.host, port), process


class Clock:
    """Microseconds from the decision to the request's last byte out, and to the answer's first byte back."""

    def __init__(self) -> None:
        self.out: list[float] = []
        self.back: list[float] = []

    async def ask(self, pool: UpstreamPool, endpoint: Endpoint) -> None:
        now = trio.current_time()  # a request's, which had it before
        began = time.perf_counter()
        upstream = pool.take(endpoint, now) or await pool.acquire(endpoint)  # as an exchange does
        if upstream.send_now(REQUEST):
            raise BenchError("the kernel did not take a request of one packet")
        out = time.perf_counter()
        answer = await upstream.receive(5 * SECOND)
        self._stop(began, out, answer)
        upstream.reusable = True
        pool.release(upstream, trio.current_time())

    def ask_bare(self, sock: ssl.SSLSocket) -> None:
        due = time.perf_counter() + BETWEEN_SECONDS
        while time.perf_counter() < due:
            pass
        began = time.perf_counter()
        sock.send(REQUEST)
        out = time.perf_counter()
        self._stop(began, out, sock.recv(65_536))

    def count(self) -> None:
        began = time.perf_counter()
        for _ in range(COUNT):
            pass
        self.out.append((time.perf_counter() - began) * 1e6)

    def _stop(self, began: float, out: float, answer: bytes) -> None:
        self.back.append((time.perf_counter() - began) * 1e6)
        self.out.append((out - began) * 1e6)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"the standby said {answer[:40]!r}")

    def figures(self) -> dict[str, float]:
        figures: dict[str, float] = {"samples": len(self.out)}
        for name, values in (("out", self.out), ("back", self.back)):
            if not values:
                continue
            cuts = statistics.quantiles(values, n=100)
            figures |= {f"{name}_p50_us": round(cuts[49], 1), f"{name}_p99_us": round(cuts[98], 1)}
        return figures


@contextmanager
def apart_from(pid: int) -> Iterator[None]:
    """We on one processor and they on another, which never sleeps: where both share one, the kernel lets them run
    inside our `send`, and to wake a virtual processor costs its sender up to 150 us, which no other machine would."""
    before = sorted(os.sched_getaffinity(0))
    if len(before) == 1:
        yield
        return
    os.sched_setaffinity(pid, before[1:])
    idler = subprocess.Popen([sys.executable, "-c", _SPIN, *map(str, before[1:])])
    os.sched_setaffinity(0, before[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        idler.kill()
        idler.wait()


_SPIN = """
import os, sys
os.sched_setaffinity(0, map(int, sys.argv[1:]))
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # whenever there is nothing else to do
while True: pass
"""


async def measure(home: Path, endpoint: Endpoint, rounds: int) -> dict[str, object]:
    nest = NestedEpoll()
    tls = UpstreamTls(home / "ca.crt", TlsFiles(home / "site.test.crt", home / "site.test.key"), None)
    warm, cold, bare, still = Clock(), Clock(), Clock(), Clock()
    pool = UpstreamPool(ProxyLimits(), nest)
    pool.configure({endpoint: NAME}, tls)
    done = trio.Event()

    async def run() -> None:
        for _ in range(rounds):
            for _ in range(COLD_AT_ONCE):
                fresh = UpstreamPool(ProxyLimits(), nest)  # no connection, and no ticket to resume by
                fresh.configure({endpoint: NAME}, tls)
                await cold.ask(fresh, endpoint)
                fresh.close_idle()
            for _ in range(WARM_AT_ONCE):
                await warm.ask(pool, endpoint)
            for _ in range(WARM_AT_ONCE):
                bare.ask_bare(plain)
            for _ in range(WARM_AT_ONCE):
                still.count()
            await nest.pause()
        done.set()

    plain = tls.context("http/1.1").wrap_socket(socket.create_connection(endpoint), server_hostname=NAME)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(nest.run)
        first = Clock()
        await first.ask(pool, endpoint)  # the one that then stands ready
        gc.collect()
        gc.freeze()
        nest.start(run())
        await done.wait()
        pool.close_idle()
        plain.close()
        nursery.cancel_scope.cancel()
    figures = {"warm": warm.figures(), "cold": cold.figures(), "bare": bare.figures(), "still": still.figures()}
    return {
        **figures,
        "cold_over_warm": _ratios(figures["cold"], figures["warm"]),
        "warm_over_bare": _ratios(figures["warm"], figures["bare"]),
    }


def _ratios(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {
        f"{name}_{mark}": round(one[f"{name}_{mark}_us"] / other[f"{name}_{mark}_us"], 2)
        for name in ("out", "back")
        for mark in ("p50", "p99")
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench tunnels", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=25, help=f"of {COLD_AT_ONCE} cold connections and {WARM_AT_ONCE} warm requests"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        try:
            with beyond_a_link() as place:
                endpoint, process = start_standby(home, trustme.CA(), place)
                try:
                    with apart_from(process.pid):
                        result = trio.run(measure, home, endpoint, options.rounds)
                finally:
                    stop(process)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
    result["over"] = place.said
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, figures in result.items():
            print(f"{name:15}", figures)
    return 0
