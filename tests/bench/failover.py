"""What users see when a whole region fails under load, beside the rivals that are installed.

Three backends in the primary region, three in the standby; 500 GETs a second in open loop for 8 s, and after 3 s all of
the primary crashes (SIGKILL), hangs (SIGSTOP), answers 503, answers 503 every other time, or answers 800 ms late. The
load generator is this process (Python, one epoll): at 500 requests a second it takes a tenth of a core. Latency counts
from the scheduled time. With --compiled it is h2load, which is never late itself (`compiled_load`): for crashes.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lattice.types import Endpoint
from tests.bench import compiled_load
from tests.bench.compiled_load import Answer
from tests.bench.proxy_rivals import BenchError, Fleet, Running, free_port, start_ours, stop, wait_listening
from tests.bench.rivals import RIVALS, contenders

MODES = {
    "crash": signal.SIGKILL,
    "hang": signal.SIGSTOP,
    "error": signal.SIGUSR1,
    "half": signal.SIGUSR2,
    "slow": signal.SIGHUP,
}
KEYS = ("failed", "slow", "max_ms", "p99_ms", "ms_to_standby")
SLOW_SECONDS = 0.1
TIMEOUT_SECONDS = 5.0
REGIONS = ("fra", "iad")
REQUEST = b"GET /some/path HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


class Load:
    """Requests when the schedule says, each on an idle keep-alive connection or a new one."""

    def __init__(self, target: Endpoint, rate: int, seconds: float) -> None:
        self._target = target
        self._rate = rate
        self._total = int(rate * seconds)
        self._epoll = select.epoll()
        self._idle: list[socket.socket] = []
        self._busy: dict[int, tuple[socket.socket, float, bytearray]] = {}
        self.answers: list[Answer] = []
        self.late = 0.0
        """By how much the latest request left after its time: the load's own share of the greatest latencies."""

    def run(self, at: float, act: object) -> float:
        """Run to the end; `act()` is called at second `at`. Returns when that was."""
        assert callable(act)
        began = time.monotonic()
        acted = 0.0
        sent = 0
        while len(self.answers) < self._total:
            now = time.monotonic()
            if not acted and now - began >= at:
                act()
                acted = time.monotonic()
            while sent < self._total and began + sent / self._rate <= now:
                self._send(began + sent / self._rate)
                self.late = max(self.late, time.monotonic() - began - sent / self._rate)
                sent += 1
            due = began + sent / self._rate if sent < self._total else now + 0.05
            for fd, _ in self._epoll.poll(max(0.0, min(due - time.monotonic(), 0.05))):
                self._receive(fd)
            for fd in [fd for fd, (_, scheduled, _) in self._busy.items() if now - scheduled > TIMEOUT_SECONDS]:
                self._end(fd, ok=False, reuse=False)
        for sock in self._idle:
            sock.close()
        return acted

    def _send(self, scheduled: float) -> None:
        while self._idle:
            sock = self._idle.pop()
            try:
                sock.send(REQUEST)
            except OSError:
                sock.close()
                continue
            break
        else:
            sock = socket.create_connection(self._target, TIMEOUT_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)
            sock.send(REQUEST)
        self._busy[sock.fileno()] = (sock, scheduled, bytearray())

    def _receive(self, fd: int) -> None:
        if fd not in self._busy:
            for sock in self._idle:
                if sock.fileno() == fd:  # closed between two requests
                    self._idle.remove(sock)
                    sock.close()
                    return
            return
        sock, _, buffer = self._busy[fd]
        try:
            data = sock.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._end(fd, ok=False, reuse=False)
            return
        buffer += data
        head, found, body = bytes(buffer).partition(b"\r\n\r\n")
        if not found:
            return
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) >= int(lines.get(b"content-length", b"0")):
            reuse = lines.get(b"connection", b"") != b"close"
            self._end(fd, ok=head.split(b" ", 2)[1] == b"200", reuse=reuse, region=lines.get(b"x-region", b"").decode())

    def _end(self, fd: int, *, ok: bool, reuse: bool, region: str = "") -> None:
        sock, scheduled, _ = self._busy.pop(fd)
        self.answers.append(Answer(scheduled, time.monotonic(), ok, region))
        if reuse:
            self._idle.append(sock)
        else:
            sock.close()


def play(
    name: str, mode: str, rate: int, seconds: float, at: float, *, compiled: bool = False
) -> dict[str, float | int | None]:
    """One contender through one failure."""
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        directory = Path(text)
        backends: dict[str, list[subprocess.Popen[bytes]]] = {region: [] for region in REGIONS}
        fleet = Fleet()
        contender: Running | None = None
        try:
            for region in REGIONS:
                endpoints: list[Endpoint] = []
                for _ in range(3):
                    endpoint = ("127.0.0.1", free_port())
                    arguments = [sys.executable, "-m", "tests.bench.failover_backend", str(endpoint[1]), region]
                    backends[region].append(subprocess.Popen(arguments))
                    wait_listening(endpoint, f"a backend of {region}")
                    endpoints.append(endpoint)
                fleet.regions.append((region, endpoints))
            contender = start_ours(directory, fleet) if name == "ours" else RIVALS[name](directory, fleet)
            time.sleep(1.0)

            def fail() -> None:
                for backend in backends[REGIONS[0]]:
                    backend.send_signal(MODES[mode])

            late: float | None = None
            if compiled:
                answers, failed_at = compiled_load.run(contender.endpoint, rate, seconds, at, fail)
            else:
                load = Load(contender.endpoint, rate, seconds)
                failed_at = load.run(at, fail)
                answers, late = load.answers, round(load.late * 1e3, 1)
        finally:
            if contender is not None:
                contender.stop()
            for backend in [backend for many in backends.values() for backend in many]:
                stop(backend)
    return {**figures(answers, failed_at), "load_late_ms": late}


def figures(answers: Sequence[Answer], failed_at: float) -> dict[str, float | int | None]:
    latencies = sorted(answer.ended - answer.scheduled for answer in answers)
    standby = [answer.ended for answer in answers if _is_standbys(answer, failed_at)]
    return {
        "failed": sum(not answer.ok for answer in answers),
        "slow": sum(latency > SLOW_SECONDS for latency in latencies),
        "slow_before": sum(a.ended - a.scheduled > SLOW_SECONDS for a in answers if a.ended < failed_at),
        "slow_after_1s": sum(a.ended - a.scheduled > SLOW_SECONDS for a in answers if a.scheduled > failed_at + 1),
        "max_ms": round(latencies[-1] * 1e3, 1),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 1),
        "ms_to_standby": round((min(standby) - failed_at) * 1e3, 1) if standby else None,
        "requests": len(answers),
    }


def _is_standbys(answer: Answer, failed_at: float) -> bool:
    if answer.region:
        return answer.region == REGIONS[1] and answer.ended > failed_at
    return answer.ok and answer.scheduled > failed_at  # of a region that does not answer, or not well


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench failover", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--at", type=float, default=3.0)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--compiled", action="store_true", help="h2load asks, in place of this process; for crashes")
    parser.add_argument("--only", default="", help="names, comma-separated")
    options = parser.parse_args(argv)
    names = contenders(options.only)
    if options.compiled and not compiled_load.available():
        print("failover: --compiled needs h2load: apt-get install nghttp2-client", file=sys.stderr)
        return 2
    result: dict[str, dict[str, dict[str, float | int | None]]] = {name: {} for name in names}
    try:
        for mode in options.modes.split(","):
            for name in names:
                result[name][mode] = one = play(
                    name, mode, options.rate, options.seconds, options.at, compiled=options.compiled
                )
                if not options.json:
                    print(
                        f"{name:8} {mode:6} failed {one['failed']:5} slow {one['slow']:5} p99 {one['p99_ms']:7} ms "
                        f"max {one['max_ms']:7} ms to standby {one['ms_to_standby']} ms  slow after 1 s "
                        f"{one['slow_after_1s']}, before {one['slow_before']}, load late by {one['load_late_ms']} ms",
                        flush=True,
                    )
    except BenchError as error:
        print(f"failover: {error}", file=sys.stderr)
        return 1
    if options.json:
        shown = {
            name: {mode: {key: one[key] for key in KEYS} for mode, one in modes.items()}
            for name, modes in result.items()
        }
        print(json.dumps(shown))
    return 0
