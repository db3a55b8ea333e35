"""SIGTERM to a real node with five hundred requests under way: each is answered, and its peers know at once."""

from __future__ import annotations

import resource
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from router.site.config_reader import endpoint_text
from router.site.site_file import load_site_config
from tests.router.test_node import running, site_config, until
from tests.router.test_node_descriptors import node_process

pytestmark = pytest.mark.slow

REQUESTS = 500


@pytest.fixture
def room() -> Iterator[None]:
    """Clients and region are of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("room")
async def test_five_hundred_requests_under_way_are_all_answered_and_peers_hear_that_we_leave(tmp_path: Path) -> None:
    asked, release, answers = 0, trio.Event(), Counter[bytes]()

    async def region(stream: trio.SocketStream) -> None:
        nonlocal asked
        async with stream:
            if not await stream.receive_some():
                return
            asked += 1
            await release.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")

    async def all_asked() -> bool:
        return asked == REQUESTS

    async with trio.open_nursery() as nursery:
        (fra,) = await nursery.start(partial(trio.serve_tcp, region, 0, host="127.0.0.1", backlog=1_024))
        text = (
            "edition 1\nhealth default { probe tcp every 1s timeout 500ms }\n"
            f"region fra {{ at 50 8 endpoint {endpoint_text(fra.socket.getsockname()[:2])} }}\n"
            'route all for "*" { primary fra }\n'
        )
        async with running(site_config(tmp_path / "nyc", "nyc")) as nyc:
            config = site_config(tmp_path / "ams", "ams", seeds=(nyc.bound.gossip,))
            config.path.write_text(config.path.read_text().replace('drain = "500ms"', 'drain = "30s"'))
            load_site_config(config.path)

            async def state() -> str:
                return next((each["state"] for each in (await nyc.view())["members"] if each["site"] == "ams"), "")

            async def is_(wanted: str) -> bool:
                return await state() == wanted

            async with node_process(config.path) as (ams, process):
                assert await ams.publish(text) == 200
                await until(partial(is_, "alive"))

                async def ask() -> None:
                    async with await trio.open_tcp_stream(*ams.bound.http[0]) as client:
                        await client.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
                        try:
                            answers[b"".join([bytes(part) async for part in client])[-4:]] += 1
                        except trio.BrokenResourceError:
                            answers[b"reset"] += 1

                async with trio.open_nursery() as clients:
                    for _ in range(REQUESTS):
                        clients.start_soon(ask)
                    await until(all_asked)
                    process.send_signal(signal.SIGTERM)
                    with trio.fail_after(5):
                        await until(partial(is_, "left"))
                    assert not answers
                    release.set()
                assert answers == {b"done": REQUESTS}
        nursery.cancel_scope.cancel()
