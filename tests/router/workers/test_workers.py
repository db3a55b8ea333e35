"""Real worker processes behind a real node: one table, one mask, and no request lost but a dead worker's own."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from router.site.config_reader import endpoint_text
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.workers.fleet import RESTART_SECONDS
from tests.router.test_credentials import said
from tests.router.test_node import Backend, Site, exchange, policy_text, running, site_config, until
from tests.router.test_node_reload import refused

pytestmark = pytest.mark.slow


def with_workers(directory: Path, count: int = 2) -> SiteConfig:
    site_config(directory, "ams")
    text = (directory / "site.toml").read_text()
    (directory / "site.toml").write_text(text.replace("[http]", f"[http]\nworkers = {count}"))
    return load_site_config(directory / "site.toml")


def workers() -> list[int]:
    """The processes that this one has started to serve."""
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_worker(path))


def _is_worker(path: Path) -> bool:
    try:
        parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and b"router.workers.worker" in (path / "cmdline").read_bytes()
    except OSError:
        return False


async def counted(site: Site, name: str, least: int) -> bool:
    return int((await site.view())["counters"].get(name, 0)) >= least


async def served(site: Site, region: str) -> bool:
    """By every worker."""
    if await site.region_served() != region:
        return False
    return int((await site.view())["counters"]["proxy workers current"]) == 2  # in this order: it says of which plan


async def test_workers_share_a_table_and_what_they_meet(tmp_path: Path) -> None:
    fra, iad = Backend("fra"), Backend("iad")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        await regions.start(iad.run)
        async with running(with_workers(tmp_path / "ams")) as ams:
            assert (await ams.get())[0] == 503  # no policy yet
            assert len(workers()) == 2
            assert await ams.publish(policy_text(fra, iad)) == 200
            await until(lambda: served(ams, "fra"))
            fra.kill()
            for _ in range(20):  # whichever worker: the first request that meets it is rescued
                status, headers, _ = await ams.get()
                assert (status, headers["x-edge-region"]) == (200, "iad")
            await until(partial(said, ams, "eject", "fra"))
            assert (await ams.view())["traffic"]["errors"] == 0
            regions.start_soon(fra.run)
            await until(lambda: served(ams, "fra"))
            await until(lambda: counted(ams, "proxy requests", 22))  # summed over both
        regions.cancel_scope.cancel()
    assert workers() == []  # they left with their node


async def test_a_worker_that_dies_is_replaced_and_takes_nothing_along_but_its_own(tmp_path: Path) -> None:
    fra = Backend("fra")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(with_workers(tmp_path / "ams")) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(lambda: served(ams, "fra"))
            before = workers()
            endings: Counter[str] = Counter()
            async with trio.open_nursery() as asking:

                async def ask() -> None:
                    for _ in range(60):
                        try:
                            endings[str((await ams.get())[0])] += 1
                        except (OSError, trio.BrokenResourceError, IndexError) as error:  # reset, or an empty answer
                            endings[repr(error)] += 1
                        await trio.sleep(0.005)

                for _ in range(3):
                    asking.start_soon(ask)
                await trio.sleep(0.05)
                os.kill(before[0], signal.SIGKILL)
            assert endings["200"] >= 177, endings  # of 180: each client may have had one with it
            await until(partial(said, ams, "worker", "died: signal 9; replaced"))
            await until(lambda: _two_again(before))
            assert await counted(ams, "proxy workers replaced", 1)
            await until(lambda: served(ams, "fra"))
        regions.cancel_scope.cancel()


async def _two_again(before: list[int]) -> bool:
    now = workers()
    return len(now) == 2 and now != before


async def test_hangup_replaces_the_workers_and_no_request_notices(tmp_path: Path) -> None:
    fra = Backend("fra")
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = with_workers(tmp_path / "ams")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config, hangups) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(lambda: served(ams, "fra"))
            before = workers()
            statuses: list[int] = []
            async with trio.open_nursery() as asking:

                async def ask() -> None:
                    while True:
                        statuses.append((await ams.get())[0])
                        await trio.sleep(0.005)

                asking.start_soon(ask)
                await hang_up.send(None)
                await until(partial(said, ams, "worker", "2 workers were replaced by 2"))
                await until(lambda: _all_new(before))
                asking.cancel_scope.cancel()
            assert set(statuses) == {200}
            assert len(statuses) > 10

            site_toml = tmp_path / "ams" / "site.toml"
            file = site_toml.read_text()
            assert file.count('listen = ["127.0.0.1:0"]') == 1
            new = file.replace('listen = ["127.0.0.1:0"]', 'listen = ["[::1]:0"]')
            site_toml.write_text(new.replace("workers = 2", "workers = 3"))
            first = ams.bound.http[0]
            await hang_up.send(None)
            await until(partial(said, ams, "worker", "2 workers were replaced by 3"))
            await until(lambda: _so_many(3))
            await until(partial(said, ams, "reload", "users come by [::1]:"))
            (event,) = [each for each in (await ams.view())["events"] if "users come by [::1]:" in each["text"]]
            assert (await exchange(("::1", int(event["text"].rpartition(":")[2])), PLAIN))[0] == 200
            await until(partial(refused, first))

            site_toml.write_text(file + "[http]\n")
            after = workers()
            await hang_up.send(None)
            await until(partial(said, ams, "reload", "the site file cannot be used"))
            assert workers() == after
        regions.cancel_scope.cancel()


async def test_hangup_from_the_node_itself_to_workers_and_back_and_no_request_notices(tmp_path: Path) -> None:
    fra = Backend("fra")
    hang_up, hangups = trio.open_memory_channel[None](1)
    alone = site_config(tmp_path / "ams", "ams")
    text = alone.path.read_text()
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(alone, hangups) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(partial(_is_served, ams, "fra"))
            statuses: list[int] = []
            async with trio.open_nursery() as asking:

                async def ask() -> None:
                    while True:
                        statuses.append((await ams.get())[0])

                asking.start_soon(ask)
                for count, said_then in (
                    (2, "the node itself was replaced by 2 workers"),
                    (1, "2 workers were replaced by the node itself"),
                ):
                    begun = await trio.open_tcp_stream(*ams.bound.http[0])
                    await begun.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1")
                    idle = await trio.open_tcp_stream(*ams.bound.http[0])
                    await idle.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                    assert b" 200 OK\r\n" in await idle.receive_some()
                    await trio.sleep(0.05)  # whoever serves now has the other, too
                    alone.path.write_text(text.replace("[http]", f"[http]\nworkers = {count}"))
                    await hang_up.send(None)
                    await until(partial(said, ams, "worker", said_then))
                    with trio.fail_after(10):
                        while await idle.receive_some():
                            pass  # the rest of its answer; then who served it leaves
                    await idle.aclose()
                    await until(partial(_more, statuses, len(statuses) + 20))
                    await begun.send_all(b"2")
                    assert b" 200 OK\r\n" in await begun.receive_some(), "what was begun is finished"
                    await begun.aclose()
                    await until(partial(_so_many, count if count > 1 else 0))
                asking.cancel_scope.cancel()
            assert set(statuses) == {200}
            assert await counted(ams, "proxy requests", len(statuses) + 4)  # of all that ever served
            assert (await ams.view())["traffic"]["errors"] == 0
        regions.cancel_scope.cancel()
    assert workers() == []


async def _is_served(site: Site, region: str) -> bool:
    return await site.region_served() == region


async def _more(statuses: list[int], least: int) -> bool:
    await trio.lowlevel.checkpoint()
    return len(statuses) >= least


async def test_a_worker_that_died_is_not_brought_back_once_all_were_replaced(tmp_path: Path) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = with_workers(tmp_path / "ams")
    async with running(config, hangups) as ams:
        os.kill(workers()[0], signal.SIGKILL)  # so soon that it would be replaced only after a while
        await until(partial(said, ams, "worker", "died: signal 9; replaced"))
        config.path.write_text(config.path.read_text().replace("workers = 2", "workers = 1"))
        await hang_up.send(None)
        await until(partial(said, ams, "worker", "2 workers were replaced by the node itself"))
        await until(partial(_so_many, 0))
        await trio.sleep(RESTART_SECONDS + 0.1)
        assert workers() == []


async def test_a_machine_without_room_for_a_process_costs_no_user_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = with_workers(tmp_path / "ams")
    open_process, room = trio.lowlevel.open_process, 1

    async def short_of_room(*arguments: Any, **options: Any) -> trio.Process:
        nonlocal room
        if not room:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        room -= 1
        return await open_process(*arguments, **options)

    async with running(config, hangups) as ams:
        before = workers()
        with monkeypatch.context() as patch:
            patch.setattr(trio.lowlevel, "open_process", short_of_room)
            await hang_up.send(None)
            await until(partial(said, ams, "reload", "http.workers: 2 processes do not start"))
            await until(lambda: _these(before))
            os.kill(before[0], signal.SIGKILL)
            await until(partial(said, ams, "worker", "does not start"))
            assert (await ams.get())[0] == 503, "the other one serves"
        await until(lambda: _two_again(before))


async def _these(pids: list[int]) -> bool:
    await trio.lowlevel.checkpoint()
    return workers() == pids


PLAIN = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def _so_many(count: int) -> bool:
    await trio.lowlevel.checkpoint()
    return len(workers()) == count


async def _all_new(before: list[int]) -> bool:
    now = workers()
    return len(now) == 2 and not set(now) & set(before)


async def test_a_request_under_way_is_finished_when_the_node_is_told_to_leave(tmp_path: Path) -> None:
    begun = trio.Event()
    release = trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        async with stream:
            data = bytes(await stream.receive_some())
            if b"/healthz" in data:
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            begun.set()
            await release.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")

    async with trio.open_nursery() as regions:
        listeners = await regions.start(partial(trio.serve_tcp, slow, 0, host="127.0.0.1"))
        where = endpoint_text(listeners[0].socket.getsockname()[:2])
        region = f"region fra {{\n  at 50 8\n  endpoint {where}\n}}\n"
        text = f'edition 1\n{region}route a for "*" path "/**" {{\n  primary any\n}}\n'
        async with running(with_workers(tmp_path / "ams")) as ams:
            assert await ams.publish(text) == 200
            await until(lambda: counted(ams, "probe probes", 1))
            answers: list[tuple[int, bytes]] = []

            async def ask() -> None:
                status, _, body = await ams.get()
                answers.append((status, body))

            async with trio.open_nursery() as asking:
                asking.start_soon(ask)
                await begun.wait()
                ams.stop.set()
                await trio.sleep(0.1)
                release.set()
        assert answers == [(200, b"slow")]
        regions.cancel_scope.cancel()
