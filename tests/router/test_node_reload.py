"""SIGHUP at a node that serves by itself: the site file is read anew, and nobody who is being served notices."""

from __future__ import annotations

import errno
import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from lattice.types import Endpoint
from router.serving import Serving
from router.site.site_file import load_site_config
from router.traffic.proxy import Proxy
from tests.router.test_node import Backend, Site, exchange, policy_text, running, site_config, until

PLAIN = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def _said(site: Site, text: str) -> bool:
    return any(event["kind"] == "reload" and text in event["text"] for event in (await site.view())["events"])


async def _serves(site: Site) -> bool:
    return (await site.get())[0] == 200


async def test_a_new_site_file_comes_into_force_and_no_request_notices(tmp_path: Path) -> None:
    fra, config = Backend("fra"), site_config(tmp_path / "ams", "ams")
    hang_up, hangups = trio.open_memory_channel[None](1)
    text = config.path.read_text()
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config, hangups) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(partial(_serves, ams))
            statuses: list[int] = []
            async with await trio.open_tcp_stream(*ams.bound.http[0]) as begun:
                await begun.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1")
                async with trio.open_nursery() as asking:

                    async def ask() -> None:
                        while True:
                            statuses.append((await ams.get())[0])

                    asking.start_soon(ask)
                    for size in (1, 2, 3):
                        config.path.write_text(f'{text}\n[cache]\nsize = "{size}MiB"\n')
                        await hang_up.send(None)
                        await until(partial(_in_force, ams, size))
                    asking.cancel_scope.cancel()
                assert set(statuses) == {200}
                await begun.send_all(b"2")
                assert b" 200 OK\r\n" in await begun.receive_some(), "what was begun is finished"
            requests = (await ams.view())["counters"]["proxy requests"]
            assert requests >= len(statuses) + 2, "of all that ever served"

            config.path.write_text(text + "[http]\n")
            await hang_up.send(None)
            await until(partial(_said, ams, "the site file cannot be used"))
            assert await _serves(ams)

            config.path.write_text(text.replace("[http]\n", '[http]\nproxy_from = ["127.0.0.0/8"]\n'))
            await hang_up.send(None)
            await until(partial(_in_force, ams, 4))
            announced = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + PLAIN
            assert (await exchange(ams.bound.http[0], announced))[0] == 200, "by the new file"
        regions.cancel_scope.cancel()


async def _in_force(site: Site, times: int) -> bool:
    events = [event["text"] for event in (await site.view())["events"] if event["kind"] == "reload"]
    return sum("in force anew" in text for text in events) == times


async def test_a_site_file_that_could_not_be_served_by_comes_into_force_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = site_config(tmp_path / "ams", "ams")

    async def short_of_descriptors(self: Serving, proxy: Proxy, *listeners: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, "too many open files")

    async with running(config, hangups) as ams:
        config.path.write_text(config.path.read_text() + '\n[cache]\nsize = "1MiB"\n')
        with monkeypatch.context() as patch:
            patch.setattr(Serving, "replace", short_of_descriptors)
            await hang_up.send(None)
            await until(partial(_said, ams, "too many open files"))
        await hang_up.send(None)
        await until(partial(_in_force, ams, 1))


async def test_a_hangup_without_news_leaves_connections_alone(tmp_path: Path) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = site_config(tmp_path / "ams", "ams")
    async with running(config, hangups) as ams, await trio.open_tcp_stream(*ams.bound.http[0]) as stream:
        for _ in range(2):
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 503 ")
            await hang_up.send(None)
            await until(partial(_said, ams, "SIGHUP"))


async def _come_by(site: Site, times: int) -> list[Endpoint]:
    """Where users come after so many reloads: HTTP's addresses, then TCP mode's."""
    await until(partial(_in_force, site, times))
    events = [event["text"] for event in (await site.view())["events"] if "in force anew" in event["text"]]
    listed = events[-1].partition("users come by ")[2].split(", ")
    return [(address.rpartition(":")[0].strip("[]"), int(address.rpartition(":")[2])) for address in listed]


async def refused(endpoint: Endpoint) -> bool:
    try:
        await (await trio.open_tcp_stream(*endpoint)).aclose()
    except OSError:
        return True
    return False


async def test_listeners_come_and_go_and_who_is_served_stays(tmp_path: Path) -> None:
    fra, config = Backend("fra"), site_config(tmp_path / "ams", "ams")
    hang_up, hangups = trio.open_memory_channel[None](1)
    text = config.path.read_text()
    one, socket_path = 'listen = ["127.0.0.1:0"]\n[control]', tmp_path / "ams" / "users.sock"
    assert text.count(one) == 1

    async def reload(http: str, tcp: str = "") -> None:
        config.path.write_text(text.replace(one, f"{http}\n[control]") + tcp)
        await hang_up.send(None)

    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config, hangups) as ams:
            assert await ams.publish(policy_text(fra)) == 200
            await until(partial(_serves, ams))
            first = ams.bound.http[0]
            async with await trio.open_tcp_stream(*first) as begun:
                await begun.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1")
                await reload(
                    'listen = ["127.0.0.1:0", "[::1]:0"]\nunix_listen = ["users.sock"]',
                    '[tcp]\nlisten = ["127.0.0.1:0"]\n',
                )
                kept, new, relayed = await _come_by(ams, 1)
                assert kept == first, "an address that stays is the same socket"
                for endpoint in (kept, new, relayed):
                    assert (await exchange(endpoint, PLAIN))[0] == 200
                async with await trio.open_unix_socket(str(socket_path)) as local:
                    await local.send_all(PLAIN.encode())
                    assert (await local.receive_some()).startswith(b"HTTP/1.1 200 ")
                async with await trio.open_tcp_stream(*relayed) as through:
                    await reload('listen = ["[::1]:0"]')
                    assert await _come_by(ams, 2) == [new]
                    await until(partial(refused, first))
                    await until(partial(refused, relayed))
                    assert not socket_path.exists()
                    assert (await exchange(new, PLAIN))[0] == 200
                    await through.send_all(PLAIN.encode())
                    assert (await through.receive_some()).startswith(b"HTTP/1.1 200 "), "who is relayed stays"
                await begun.send_all(b"2")
                assert b" 200 OK\r\n" in await begun.receive_some(), "what was begun is finished"

            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                await reload(f'listen = ["127.0.0.1:0", "127.0.0.1:{port}"]')
                await until(partial(_said, ams, f"cannot listen on 127.0.0.1:{port}"))
            assert (await exchange(new, PLAIN))[0] == 200, "all as it was"
            await reload(f'listen = ["127.0.0.1:{port}"]')
            assert await _come_by(ams, 3) == [("127.0.0.1", port)]
        regions.cancel_scope.cancel()


async def test_what_only_a_new_start_brings_into_force_is_named(tmp_path: Path) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    config = site_config(tmp_path / "ams", "ams")
    text = config.path.read_text()
    async with running(config, hangups) as ams:
        text = text.replace('swim_interval = "200ms"', 'swim_interval = "300ms"').replace('at = "52', 'at = "51')
        config.path.write_text(text)
        await hang_up.send(None)
        await until(partial(_said, ams, "what the site file says now of site.at, timing.swim_interval"))
        config.path.write_text(config.path.read_text().replace('failback = "1s"', 'failback = "2s"'))
        await hang_up.send(None)
        await until(partial(_in_force, ams, 1))


async def test_a_node_that_leaves_reads_nothing_anew(tmp_path: Path) -> None:
    """It listened again, and ended with an error, and with it what was under way."""
    config = site_config(tmp_path / "ams", "ams")
    # Half a second of draining is hardly more than what follows takes: what is under way would be cut off, rightly.
    config.path.write_text(config.path.read_text().replace('drain = "500ms"', 'drain = "30s"'))
    config = load_site_config(config.path)
    hang_up, hangups = trio.open_memory_channel[None](1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        there: Endpoint = free.getsockname()
    async with running(config, hangups) as ams, await trio.open_tcp_stream(*ams.bound.http[0]) as begun:
        await begun.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1")
        await until(partial(_connected, ams))
        config.path.write_text(
            config.path.read_text().replace('listen = ["127.0.0.1:0"]', f'listen = ["{there[0]}:{there[1]}"]')
        )
        ams.stop.set()
        await until(partial(refused, ams.bound.http[0]))
        await hang_up.send(None)
        for _ in range(20):
            await trio.sleep(0.02)
            assert await refused(there)
        await begun.send_all(b"2")
        assert b" 503 " in await begun.receive_some(), "there is no policy"


async def _connected(site: Site) -> bool:
    return int((await site.view())["counters"].get("proxy connections", 0)) > 0
