"""Whole nodes in one trio process: real sockets, real regions that die, real policy between two sites."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from lattice.authoring import compose
from lattice.identity import Ed25519Signer, author_id_of, public_key_of
from lattice.policy_store import PolicyStore
from lattice.types import Endpoint
from router.control.answers import head_of
from router.control.body import HeadBody
from router.demo.backend import serve
from router.errors import StartError
from router.listening import listen
from router.site.config_reader import endpoint_text
from router.site.key_file import write_secret
from router.site.site_config import BoundEndpoints, SiteConfig
from router.site.site_file import load_site_config
from router.starting import run_node

AUTHOR_KEY = bytes(range(32))


class Site:
    """A running node, and how to talk to it."""

    def __init__(self, bound: BoundEndpoints, stop: trio.Event) -> None:
        self.bound = bound
        self.stop = stop

    async def get(self, path: str = "/", host: str = "shop.test") -> tuple[int, dict[str, str], bytes]:
        return await exchange(self.bound.http[0], f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")

    async def control(self, request: str, content_type: str = "", body: bytes = b"") -> tuple[int, Any]:
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        if content_type:
            head += f"Content-Type: {content_type}\r\n"
        status, headers, answer = await exchange(self.bound.control, head + "\r\n", body)
        return status, json.loads(answer) if headers.get("content-type", "").startswith("application/json") else answer

    async def view(self) -> Any:
        return (await self.control("GET /v1/view"))[1]

    async def publish(self, text: str) -> int:
        status, answer = await self.control("POST /v1/policy", "text/plain", text.encode())
        assert status < 500, answer
        return status

    async def region_served(self) -> str:
        status, headers, _ = await self.get()
        return headers.get("x-edge-region", str(status))


async def exchange(endpoint: Endpoint, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(*endpoint) as stream:
            with suppress(trio.BrokenResourceError):  # an answer may come, and the peer close, before all is sent
                await stream.send_all(head.encode() + body)
            data = b"".join([bytes(part) async for part in stream])
    top, _, content = data.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, content


async def until(done: Callable[[], Any]) -> None:
    """Wait for an async condition about a node, which no event tells of. Workers start slowly beside many others."""
    with trio.fail_after(60):
        while not await done():  # noqa: ASYNC110  (what is waited for is the state of a node, which no event tells of)
            await trio.sleep(0.02)


class Backend:
    """A region that can die and come back on its port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.endpoint: Endpoint = ("127.0.0.1", 0)
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED) -> None:
        socket = listen(self.endpoint, "test")
        self.endpoint = ("127.0.0.1", socket.getsockname()[1])
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket))
        with trio.CancelScope() as self._scope:
            await trio.serve_listeners(partial(serve, self.name), [listener], task_status=task_status)

    def kill(self) -> None:
        """Every socket closes; what is asked of it from now on is refused."""
        self._scope.cancel()


def site_config(directory: Path, name: str, seeds: tuple[Endpoint, ...] = (), author: bool = True) -> SiteConfig:
    directory.mkdir()
    write_secret(directory / "cluster.key", bytes(32), "test")
    write_secret(directory / "author.key", AUTHOR_KEY, "test")
    quoted = ", ".join(f'"{endpoint_text(seed)}"' for seed in seeds)
    (directory / "site.toml").write_text(
        f"""
[site]
name = "{name}"
at = "52.37 4.90"
[cluster]
name = "test"
key_file = "cluster.key"
[gossip]
listen = "127.0.0.1:0"
mdns = false
seeds = [{quoted}]
[http]
listen = ["127.0.0.1:0"]
[control]
listen = "127.0.0.1:0"
[policy]
authors = ["{public_key_of(AUTHOR_KEY).hex()}"]
{'author_key = "author.key"' if author else ""}
[timing]
swim_interval = "200ms"
swim_timeout = "80ms"
confirm_delay = "100ms"
metrics_delay = "100ms"
drain = "500ms"
failback = "1s"
"""
    )
    return load_site_config(directory / "site.toml")


@asynccontextmanager
async def running(config: SiteConfig, hangups: trio.MemoryReceiveChannel[None] | None = None) -> AsyncIterator[Site]:
    """A node until the block ends; then it drains and leaves as on SIGTERM."""
    stop, ready = trio.Event(), trio.Event()
    bound: list[BoundEndpoints] = []

    def on_ready(endpoints: BoundEndpoints) -> None:
        bound.append(endpoints)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_node, config, ready=on_ready, stop=stop, hangups=hangups))
        await ready.wait()
        yield Site(bound[0], stop)
        stop.set()


def policy_text(*backends: Backend) -> str:
    regions = "".join(
        f"region {backend.name} {{\n  at {50 - place * 10} 8\n  endpoint {endpoint_text(backend.endpoint)}\n}}\n"
        for place, backend in enumerate(backends)
    )
    rules = 'health default {\n  probe "/healthz" every 100ms timeout 80ms\n  recover after 300ms\n}\n'
    return f'edition 1\n{rules}{regions}route shop for "*" path "/**" {{\n  primary any\n}}\n'


async def everybody_back(site: Site, region: str) -> bool:
    """Whether all of a region's users may go to it."""
    return not any(each["away_ppm"] for each in (await site.view())["steering"] if each["region"] == region)


async def test_before_a_policy_there_is_a_reason(tmp_path: Path) -> None:
    async with running(site_config(tmp_path / "ams", "ams")) as ams:
        status, headers, _ = await ams.get()
        assert status == 503
        assert headers["x-edge-reason"] == "no policy in force yet"


async def test_a_region_dies_and_comes_back(tmp_path: Path) -> None:
    fra, iad = Backend("fra"), Backend("iad")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        await regions.start(iad.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            assert await ams.publish(policy_text(fra, iad)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            fra.kill()
            for _ in range(20):
                status, headers, body = await ams.get()
                assert (status, headers["x-edge-region"], body) == (200, "iad", b"iad here\n")
            await until(lambda: _is(partial(level, ams, "fra"), "DOWN"))
            view = await ams.view()
            assert view["traffic"]["errors"] == 0
            assert {event["kind"] for event in view["events"]} >= {"eject", "region", "policy"}
            regions.start_soon(fra.run)
            await until(lambda: _is(partial(everybody_back, ams, "fra"), False))
            await until(lambda: _is(ams.region_served, "fra"))
            assert await level(ams, "fra") == "HEALTHY"
            await until(lambda: _is(partial(everybody_back, ams, "fra"), True))
        regions.cancel_scope.cancel()


async def test_tcp_mode_routes_by_port_and_by_name_and_survives_a_region(tmp_path: Path) -> None:
    fra, iad = Backend("fra"), Backend("iad")
    config = site_config(tmp_path / "ams", "ams")
    text = (tmp_path / "ams" / "site.toml").read_text()
    text += '[tcp]\nlisten = ["127.0.0.1:0"]\ntls_listen = ["127.0.0.1:0"]\n'
    (tmp_path / "ams" / "site.toml").write_text(text)
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        await regions.start(iad.run)
        async with running(load_site_config(config.path)) as ams:
            assert await ams.publish(policy_text(fra, iad)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            by_port, by_name = ams.bound.tcp
            question = "GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n"
            assert (await exchange(by_port, question))[2] == b"fra here\n"
            fra.kill()
            assert (await exchange(by_port, question))[2] == b"iad here\n", "the very next connection"
            with pytest.raises(trio.BrokenResourceError):
                await exchange(by_name, question)
            counters = (await ams.view())["counters"]
            assert counters["tcp relayed"] == 2
            assert counters["tcp not tls"] == 1
        regions.cancel_scope.cancel()


async def level(site: Site, region: str) -> str:
    return next((seen["effective"] for seen in (await site.view())["regions"] if seen["region"] == region), "")


async def _is(ask: Callable[[], Any], wanted: object) -> bool:
    return bool(await ask() == wanted)


async def test_two_sites_share_policy_and_verdict_and_a_restart_keeps_the_policy(tmp_path: Path) -> None:
    fra, iad = Backend("fra"), Backend("iad")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        await regions.start(iad.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            config = site_config(tmp_path / "nyc", "nyc", seeds=(ams.bound.gossip,), author=False)
            async with running(config) as nyc:
                assert await ams.publish(policy_text(fra, iad)) == 200
                await until(lambda: _is(nyc.region_served, "fra"))
                assert await nyc.publish("edition 1\n") in {403, 422}, "a node without an author's key signs nothing"
                fra.kill()
                for site in (ams, nyc):
                    await until(partial(verdict_is, site, "fra", "DOWN"))
                    view = await site.view()
                    seen = next(region for region in view["regions"] if region["region"] == "fra")
                    assert {witness["site"] for witness in seen["witnesses"]} == {"ams", "nyc"}
                    assert [member["state"] for member in view["members"]] == ["alive", "alive"]
            await until(partial(member_is, ams, "nyc", "left"))
            async with running(config) as nyc:
                await until(lambda: _is(nyc.region_served, "iad"))
                await until(partial(member_is, ams, "nyc", "alive"))
        regions.cancel_scope.cancel()


async def verdict_is(site: Site, region: str, wanted: str) -> bool:
    return any(seen["region"] == region and seen["verdict"] == wanted for seen in (await site.view())["regions"])


async def member_is(site: Site, name: str, wanted: str) -> bool:
    return any(member["site"] == name and member["state"] == wanted for member in (await site.view())["members"])


async def test_the_last_good_policy_stays_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not compile is refused at the door, signed or not. A peer that speaks a newer language may still bring
    it; then it changes nothing, and a restart does not either."""
    fra, config = Backend("fra"), site_config(tmp_path / "ams", "ams")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            for broken in ("edition 1\nroute", "\0", "edition 99\n", "é" * 300_000):
                status, answer = await ams.control("POST /v1/policy", "text/plain", broken.encode())
                assert status in {413, 422}, answer
            ops = await signed_nonsense(ams)
            status, answer = await ams.control("POST /v1/policy", "application/vnd.edgelattice.ops", ops)
            assert status == 422, answer
            with monkeypatch.context() as patched:
                patched.setattr(PolicyStore, "preview", lambda *_: [])  # as if a peer had brought it
                status, answer = await ams.control("POST /v1/policy", "application/vnd.edgelattice.ops", ops)
            assert status == 200, answer
            await until(partial(event_is, ams, "policy", "refused"))
            assert await ams.region_served() == "fra"
        async with running(config) as ams:
            await until(partial(event_is, ams, "policy", "refused"))
            assert await ams.region_served() == "fra"
            _, text = await ams.control("GET /policy")
            assert text == policy_text(fra).encode()
        regions.cancel_scope.cancel()


async def test_publishing_from_all_sides_at_once_forks_nothing(tmp_path: Path) -> None:
    fra = Backend("fra")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            statuses: list[int] = []

            async def publish(number: int) -> None:
                statuses.append(await ams.publish(f"# {number}\n{policy_text(fra)}"))

            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(publish, number)
            assert statuses == [200] * 6
            view = await ams.view()
            assert view["policies"][0]["rivals"] == []
            assert await ams.publish(policy_text(fra)) == 200, "and the author is no outcast"
            await until(lambda: _is(ams.region_served, "fra"))
        regions.cancel_scope.cancel()


async def signed_nonsense(site: Site) -> bytes:
    """Ops that are in order but for what they say."""
    author = author_id_of(public_key_of(AUTHOR_KEY))
    _, answer = await site.control(f"GET /v1/policy/head?policy=default&author={author.hex()}")
    head = head_of(msgspec.convert(answer, HeadBody))
    signer = Ed25519Signer(AUTHOR_KEY, head.cluster)
    publication = compose(
        signer, head.chain, "default", ["no policy at all"], message="", now_ms=1, supersedes=head.supersedes
    )
    return msgspec.msgpack.encode([op.data for op in publication.ops])


async def event_is(site: Site, kind: str, word: str) -> bool:
    return any(event["kind"] == kind and word in event["text"] for event in (await site.view())["events"])


async def test_health_signals_steer_and_are_shown(tmp_path: Path) -> None:
    fra, iad = Backend("fra"), Backend("iad")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        await regions.start(iad.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            await ams.publish(policy_text(fra, iad))
            await until(lambda: _is(ams.region_served, "fra"))
            now = int(time.time())
            signal = {"region": "fra", "latency_ms": 20, "error_rate": 0.5, "capacity_pct": 40, "timestamp": now}
            status, answer = await ams.control("POST /update", "application/json", json.dumps(signal).encode())
            assert status == 204, answer
            await until(lambda: _is(ams.region_served, "iad"))
            _, snapshot = await ams.control("GET /snapshot")
            shown = next(region for region in snapshot["regions"] if region["region"] == "fra")
            assert (shown["level"], shown["error_rate"], shown["capacity_pct"]) == ("FAILING", 0.5, 40)
            wrongs: list[Any] = [{**signal, "region": "atlantis"}, {**signal, "error_rate": 2}, {"region": "fra"}, []]
            wrongs.append({**signal, "timestamp": now + 3_600})
            for wrong in wrongs:
                status, answer = await ams.control("POST /update", "application/json", json.dumps(wrong).encode())
                assert 400 <= status < 500, answer
                assert answer["error"]
            status, answer = await ams.control(
                "POST /update", "application/json", json.dumps({**signal, "timestamp": now - 100}).encode()
            )
            assert status == 409, "an older signal does not replace a newer one"
        regions.cancel_scope.cancel()


async def test_two_nodes_never_share_a_state_directory(tmp_path: Path) -> None:
    config = site_config(tmp_path / "ams", "ams")
    async with running(config):
        with pytest.raises(StartError, match="another node is running"):
            await run_node(config, ready=lambda _: None, stop=trio.Event())


async def test_a_taken_port_is_one_clear_message(tmp_path: Path) -> None:
    config = site_config(tmp_path / "ams", "ams")
    async with running(config) as ams:
        text = config.path.read_text().replace(
            '[http]\nlisten = ["127.0.0.1:0"]', f'[http]\nlisten = ["{endpoint_text(ams.bound.http[0])}"]'
        )
        (tmp_path / "ams" / "other.toml").write_text(text)
        with pytest.raises(
            StartError, match=r"http\.listen: cannot listen on 127\.0\.0\.1:\d+: Address already in use"
        ):
            await run_node(load_site_config(tmp_path / "ams" / "other.toml"), ready=lambda _: None, stop=trio.Event())
