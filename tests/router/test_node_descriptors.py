"""A real node that runs out of file descriptors: it sheds, does not spin, blames no region, and recovers."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from lattice.types import SECOND, Endpoint
from router.site.site_config import BoundEndpoints
from router.tcp.tcp_limits import DESCRIPTORS_EACH, TcpLimits
from router.traffic.proxy_limits import DESCRIPTORS_BESIDE, ProxyLimits
from tests.router.test_node import Backend, Site, policy_text, site_config, until

pytestmark = pytest.mark.slow

SPARE = 24
"""Descriptors that the node has left."""
BUSY_MAX = 0.25
"""Of a core, in the stall. A spin takes all it can get; gossip, probes and timers some hundredths."""


@asynccontextmanager
async def node_process(site_toml: Path, files_max: int | None = None) -> AsyncIterator[tuple[Site, trio.Process]]:
    """`edgelattice run` as users run it, where so many files may be open."""
    command = [sys.executable, "-m", "router", "run", str(site_toml), "--until-stdin-closes", "--log-level", "error"]
    if files_max is not None:
        command = ["prlimit", f"--nofile={files_max}", *command]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        said = dict(word.partition("=")[::2] for word in line.decode().split()[1:])
        where = {name: _endpoint(said[name]) for name in ("gossip", "http", "control")}
        bound = BoundEndpoints(where["gossip"], (where["http"],), (), (), where["control"])
        yield Site(bound, trio.Event()), process
        await process.stdin.aclose()
        with trio.fail_after(10):
            assert await process.wait() == 0
    finally:
        process.kill()


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return host, int(port)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def test_out_of_descriptors(tmp_path: Path) -> None:
    config, fra = site_config(tmp_path / "ams", "ams"), Backend("fra")
    async with AsyncExitStack() as clients, trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with node_process(config.path) as (ams, process):
            patient = policy_text(fra).replace("every 100ms timeout 80ms", "every 500ms timeout 450ms")
            assert await ams.publish(patient) == 200
            await until(partial(_serves, ams))
            taken = descriptors(process.pid)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (taken + SPARE,) * 2)
            began, spent = trio.current_time(), cpu_seconds(process.pid)
            held = []
            for _ in range(2 * SPARE):  # heads without an end: an idle connection would be let go
                stream = await clients.enter_async_context(await trio.open_tcp_stream(*ams.bound.http[0]))
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n")
                held.append(stream)
            await trio.sleep(2)
            stalled = trio.current_time() - began
            assert (cpu_seconds(process.pid) - spent) / stalled < BUSY_MAX

            with trio.fail_after(5):
                for stream in held[: SPARE // 2]:  # accepted, and hardly anything is left for a way to the region
                    await stream.send_all(b"\r\n")
                    assert (await stream.receive_some()).split()[1] in (b"200", b"503")
            for stream in held:
                await stream.aclose()
            await until(partial(_serves, ams))

            view = await ams.view()
            counters, pause_seconds = view["counters"], ProxyLimits().accept_pause_us / SECOND
            assert 1 <= counters["proxy accept.failed"] <= (trio.current_time() - began) / pause_seconds + 1
            assert counters["probe probes_impossible"] >= 1
            assert [event["new"] for event in view["events"] if event["kind"] == "region"] == ["HEALTHY"]
        regions.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("files_max", "http", "tcp"),
    [
        (-1, (16_384, 1_024), (4_096, 512)),
        (1 << 20, (16_384, 1_024), (4_096, 512)),
        (4_096, (2_688, 1_024), (112, 56)),
        (1_024, (640, 320), (26, 13)),
        (10, (1, 1), (1, 1)),
    ],
)
def test_clients_leave_descriptors_to_upstreams_and_one_leaves_half_to_the_others(
    files_max: int, http: tuple[int, int], tcp: tuple[int, int]
) -> None:
    """Of HTTP two thirds are clients', of TCP mode a sixth, with both sides of each; never are all of them in use."""
    limits = ProxyLimits().within(files_max), TcpLimits().within(files_max)
    assert [(each.connections_max, each.connections_per_client_max) for each in limits] == [http, tcp]
    if files_max > 100:
        assert http[0] + DESCRIPTORS_EACH * tcp[0] < files_max - DESCRIPTORS_BESIDE


async def test_whoever_is_let_in_is_served_where_few_files_may_be_open(tmp_path: Path) -> None:
    config, fra = site_config(tmp_path / "ams", "ams"), Backend("fra")
    room = ProxyLimits().within(128).connections_max
    async with AsyncExitStack() as clients, trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with node_process(config.path, 128) as (ams, _):
            assert await ams.publish(policy_text(fra)) == 200
            await until(partial(_serves, ams))
            held = []
            for number in range(2 * room):
                source = f"127.0.0.{number % 2 + 1}"
                stream = await trio.open_tcp_stream(*ams.bound.http[0], local_address=source)
                held.append(await clients.enter_async_context(stream))
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n")
            with trio.fail_after(10):
                for stream in held[room:]:
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 503 ")
                for stream in held[:room]:
                    await stream.send_all(b"\r\n")
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        regions.cancel_scope.cancel()


async def _serves(site: Site) -> bool:
    return (await site.get())[0] == 200
