"""Our node and its rivals, each started as a process in front of the same backends (edge).

Every rival gets what its manual recommends for the job: keep-alive to the backends, passive health checks, retries of
idempotent requests, standbys. A rival that is not installed is left out, and said so.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lattice.identity import public_key_of
from lattice.types import Endpoint
from router.control.body import DEFAULT_POLICY
from router.control.client import ControlClient, ControlError
from router.control.publish import publish
from router.site.config_reader import endpoint_text
from router.site.key_file import write_secret

START_SECONDS = 20.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The run cannot go on; the message says what was waited for."""


@dataclass
class Running:
    """A proxy that serves."""

    name: str
    endpoint: Endpoint
    process: subprocess.Popen[bytes]
    log: IO[bytes] | None = None
    tls: Endpoint | None = None
    """The same over TLS, when the fleet has a certificate."""

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children so far."""
        return sum(_cpu_ticks(pid) for pid in family(self.process.pid)) / CLOCK_TICKS

    def rss_kib(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    def descriptors(self) -> int:
        """Files and sockets that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> None:
        stop(self.process)


@dataclass
class Fleet:
    """Regions in order of preference: name and endpoints; and what contenders show to clients who want TLS."""

    regions: list[tuple[str, list[Endpoint]]] = field(default_factory=list)
    route: str = ""
    """More settings of our route."""
    otherwise: str = "deny 503"
    """What our route does when no region is well."""
    probe: str = '"/healthz"'
    """What our probes ask for."""
    certificate: Path | None = None
    """A PEM file with the key and the chain."""

    @property
    def primary(self) -> list[Endpoint]:
        return self.regions[0][1]

    @property
    def standbys(self) -> list[Endpoint]:
        return [endpoint for _, endpoints in self.regions[1:] for endpoint in endpoints]


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            pids += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except OSError:
            continue
    return pids


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; also what was stopped by SIGSTOP goes."""
    for sent in (signal.SIGCONT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(sent)
    try:
        process.wait(6)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_listening(endpoint: Endpoint, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(endpoint, 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"{name} does not listen on {endpoint_text(endpoint)} after {START_SECONDS:g} s")


def start_backend(
    directory: Path, name: str, *, body: str = "hello, world"
) -> tuple[Endpoint, subprocess.Popen[bytes]]:
    """An nginx that answers everything at once: never the bottleneck."""
    port = free_port()
    home = directory / name
    home.mkdir()
    (home / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ return 200 "{body}"; }} }}
}}
"""
    )
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    endpoint = ("127.0.0.1", port)
    wait_listening(endpoint, f"backend {name}")
    return endpoint, process


def start_ours(
    directory: Path, fleet: Fleet, *, python: Sequence[str] = (), extra: str = "", via: str = "http"
) -> Running:
    """A whole node, as `edgelattice run` starts it: gossip, probes, passive health, counters.

    `extra` is added to its site file; `via` is the word of its ready line that says where load goes.
    """
    home = directory / "ours"
    home.mkdir()
    author_key = os.urandom(32)
    write_secret(home / "author.key", author_key, "the benchmark's author")
    (home / "site.toml").write_text(
        f"""
[site]
name = "ams"
at = "52.31 4.76"
[cluster]
name = "bench"
insecure = true
[gossip]
listen = "127.0.0.1:0"
mdns = false
[http]
listen = ["127.0.0.1:0"]
tls_listen = [{'"127.0.0.1:0"' if fleet.certificate else ""}]
[control]
listen = "127.0.0.1:0"
[policy]
authors = ["{public_key_of(author_key).hex()}"]
{_our_tls(fleet)}{extra}"""
    )
    log = (home / "log").open("wb")
    code = "import sys; from router.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-P", *(python or ("-c", code)), "run", str(home / "site.toml")],
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        endpoint, tls = _serving(process, author_key, fleet, via)
    except BenchError as error:
        stop(process)
        raise BenchError(f"{error}\n{(home / 'log').read_text()}") from error
    return Running("ours", endpoint, process, log, tls)


def _serving(
    process: subprocess.Popen[bytes], author_key: bytes, fleet: Fleet, via: str
) -> tuple[Endpoint, Endpoint | None]:
    """Where our node serves, and where over TLS, once it does by this fleet's policy."""
    assert process.stdout is not None
    words = dict(word.partition("=")[::2] for word in process.stdout.readline().decode().split()[1:])
    if via not in words:
        raise BenchError("our node did not start:")
    host, _, port = words[via].rpartition(":")
    client = ControlClient(f"http://{words['control']}", 5.0)
    try:
        publish(client, author_key, DEFAULT_POLICY, policy_text(fleet), "bench", time.time_ns() // 1_000_000)
    except ControlError as error:
        raise BenchError(f"our node did not take the policy: {error}") from error
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            view = client.view()
        except ControlError:
            view = None
        if view is not None and sum(region.effective == "HEALTHY" for region in view.regions) == len(fleet.regions):
            tls_host, _, tls_port = words.get("https", "").rpartition(":")
            return (host, int(port)), (tls_host, int(tls_port)) if tls_port else None
        time.sleep(0.1)
    raise BenchError("our node does not find every region healthy:")


def _our_tls(fleet: Fleet) -> str:
    return f'[[tls.certificates]]\nchain = "{fleet.certificate}"\n' if fleet.certificate else ""


def policy_text(fleet: Fleet) -> str:
    blocks = ["edition 1\n"]
    for place, (name, endpoints) in enumerate(fleet.regions):
        lines = "".join(f"  endpoint {endpoint_text(endpoint)}\n" for endpoint in endpoints)
        blocks.append(f"region {name} {{\n  at {50 - 5 * place}.0 8.0\n{lines}}}\n")
    blocks.append(
        f"health default {{ probe {fleet.probe} every 250ms timeout 200ms  latency above 400ms  errors above 20% "
        " fail after 3  recover after 2s  unknown as healthy }\n"
    )
    tiers = "  primary " + fleet.regions[0][0]
    if len(fleet.regions) > 1:
        tiers += "  secondary " + ", ".join(name for name, _ in fleet.regions[1:])
    blocks.append(f'route all for "*" path "/**" {{ {tiers}  {fleet.route}  otherwise {fleet.otherwise} }}\n')
    return "\n".join(blocks)


def start_nginx(directory: Path, fleet: Fleet) -> Running:
    home, port, tls_port = directory / "nginx", free_port(), free_port()
    home.mkdir()
    pem = fleet.certificate
    tls = f"listen 127.0.0.1:{tls_port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};" if pem else ""
    servers = "".join(f"server {endpoint_text(e)} max_fails=1 fail_timeout=1s; " for e in fleet.primary)
    servers += "".join(f"server {endpoint_text(e)} backup max_fails=1 fail_timeout=1s; " for e in fleet.standbys)
    (home / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  upstream up {{ {servers} keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    {tls}
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_connect_timeout 1s; proxy_read_timeout 1s;
      proxy_next_upstream error timeout http_502 http_503 http_504; proxy_next_upstream_tries 3;
    }}
  }}
}}
"""
    )
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    running = Running("nginx", ("127.0.0.1", port), process, tls=("127.0.0.1", tls_port) if pem else None)
    wait_listening(running.endpoint, "nginx")
    return running


def start_haproxy(directory: Path, fleet: Fleet) -> Running:
    home, port, tls_port = directory / "haproxy", free_port(), free_port()
    home.mkdir()
    pem = fleet.certificate
    checks = "check inter 250ms fall 3 observe layer7 error-limit 3 on-error mark-down"
    servers = "".join(f"  server p{i} {endpoint_text(e)} {checks}\n" for i, e in enumerate(fleet.primary))
    servers += "".join(f"  server s{i} {endpoint_text(e)} {checks} backup\n" for i, e in enumerate(fleet.standbys))
    (home / "haproxy.cfg").write_text(
        f"""
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 1s
  timeout http-keep-alive 300s
  option redispatch 1
  retries 3
  retry-on all-retryable-errors
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  {f"bind 127.0.0.1:{tls_port} ssl crt {pem}" if pem else ""}
  option forwardfor
  default_backend up
backend up
  option allbackups
  option httpchk GET /healthz
{servers}"""
    )
    log = (home / "log").open("wb")
    process = subprocess.Popen(["haproxy", "-f", str(home / "haproxy.cfg")], stdout=log, stderr=log)
    running = Running("haproxy", ("127.0.0.1", port), process, log, ("127.0.0.1", tls_port) if pem else None)
    wait_listening(running.endpoint, "haproxy")
    return running
