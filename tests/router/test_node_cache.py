"""Routes that say `cache`, on whole nodes: answered here, and forgotten everywhere when an operator says so."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from lattice.types import Endpoint
from router.cli import main
from router.site.config_reader import endpoint_text
from router.site.key_file import write_secret
from tests.router.test_node import AUTHOR_KEY, Site, running, site_config, until


class Origin:
    """A region that counts what it is asked, and allows it to be kept for an hour."""

    def __init__(self) -> None:
        self.asked = 0
        self.endpoint: Endpoint = ("127.0.0.1", 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.endpoint = listeners[0].socket.getsockname()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            task_status.started()

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # a probe that has waited long enough hangs up
                await self._answer(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(65_536):
            if not data.startswith(b"GET /healthz"):
                self.asked += 1
            body = b"%d" % self.asked
            head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.send_all(head + body)


def policy(origin: Origin) -> str:
    return (
        'edition 1\nhealth default { probe "/healthz" every 100ms timeout 80ms }\n'
        f"region fra {{ at 50 8 endpoint {endpoint_text(origin.endpoint)} }}\n"
        'route all for "*" { primary any  cache }\n'
    )


async def body_at(site: Site, path: str) -> str:
    return (await site.get(path))[2].decode()


async def cache_status(site: Site, path: str) -> str:
    return (await site.get(path))[1].get("cache-status", "")


async def test_a_purge_at_one_site_is_heard_at_the_other(tmp_path: Path) -> None:
    origin = Origin()
    write_secret(tmp_path / "operator.key", AUTHOR_KEY, "test")
    async with trio.open_nursery() as nursery:
        await nursery.start(origin.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            config = site_config(tmp_path / "nyc", "nyc", seeds=(ams.bound.gossip,), author=False)
            async with running(config) as nyc:
                assert await ams.publish(policy(origin)) == 200
                for site in (ams, nyc):
                    await until(partial(_says, site, "/img/a", "hit"))
                    await until(partial(_says, site, "/other", "hit"))
                kept = [await body_at(site, "/img/a") for site in (ams, nyc)]
                asked = origin.asked
                control = f"http://{endpoint_text(ams.bound.control)}"
                arguments = ["cache", "purge", "*", "/img/**", "--key", str(tmp_path / "operator.key")]
                assert await trio.to_thread.run_sync(main, [*arguments, "--control", control]) == 0
                for site, before in zip((ams, nyc), kept, strict=True):
                    await until(partial(_differs, site, "/img/a", before))
                    assert (await cache_status(site, "/other")).startswith(f"{site_name(site, ams)}; hit")
                assert origin.asked == asked + 2
                told = [event for event in (await nyc.view())["events"] if event["kind"] == "purge"]
                assert len(told) == 1
                assert told[0]["text"].endswith("purged * /img/**: 1 responses dropped")
                stranger = tmp_path / "stranger.key"
                write_secret(stranger, bytes(range(1, 33)), "test")
                arguments[-1] = str(stranger)
                assert await trio.to_thread.run_sync(main, [*arguments, "--control", control]) == 1
        nursery.cancel_scope.cancel()


def site_name(site: Site, ams: Site) -> str:
    return "ams" if site is ams else "nyc"


async def _says(site: Site, path: str, word: str) -> bool:
    return word in await cache_status(site, path)


async def _differs(site: Site, path: str, before: str) -> bool:
    return await body_at(site, path) != before
