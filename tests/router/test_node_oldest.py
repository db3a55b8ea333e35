"""A region that leaves one request unanswered, and answers all others: what the policy says of `oldest`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from lattice.types import SECOND
from router.site.config_reader import endpoint_text
from router.site.site_file import load_site_config
from tests.router.test_node import Backend, Site, _is, exchange, level, running, site_config, until


async def forgetful(stream: trio.SocketStream) -> None:
    """Answers at once, but never what is asked below /stuck."""
    async with stream:
        while data := await stream.receive_some():
            if data.startswith(b"POST /stuck"):
                await trio.sleep_forever()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def ejected(site: Site) -> bool:
    return bool((await site.view())["ejected"])


async def half_open(site: Site) -> bool:
    return bool((await site.view())["counters"]["ejections half opened"])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_request_that_stays_unanswered_degrades_its_region_before_anything_failed(
    tmp_path: Path, workers: int
) -> None:
    """Whoever serves: the node itself, or workers that tell it."""
    config, iad = site_config(tmp_path / "ams", "ams"), Backend("iad")
    config.path.write_text(config.path.read_text().replace("[http]", f"[http]\nworkers = {workers}"))
    async with trio.open_nursery() as regions:
        await regions.start(iad.run)
        (fra,) = await regions.start(partial(trio.serve_tcp, forgetful, 0, host="127.0.0.1"))
        text = (
            'edition 1\nhealth default { probe "/" every 100ms timeout 80ms oldest above 300ms recover after 300ms }\n'
            f"region fra {{ at 50 8 endpoint {endpoint_text(fra.socket.getsockname()[:2])} }}\n"
            f"region iad {{ at 40 8 endpoint {endpoint_text(iad.endpoint)} }}\n"
            'route all for "*" { primary fra secondary iad timeout first-byte 3s }\n'
        )
        async with running(load_site_config(config.path)) as ams:
            assert await ams.publish(text) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            async with await trio.open_tcp_stream(*ams.bound.http[0]) as client:
                await client.send_all(b"POST /stuck HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n")
                await until(lambda: _is(partial(level, ams, "fra"), "DEGRADED"))
                (seen,) = [each for each in (await ams.view())["steering"] if each["region"] == "fra"]
                assert seen["reason"].startswith("a request unanswered for "), seen
                assert (await ams.view())["ejected"] == []
                await until(lambda: _is(ams.region_served, "iad"))
                assert (await client.receive_some()).startswith(b"HTTP/1.1 504 ")
                await until(lambda: _is(ams.region_served, "fra"))
        regions.cancel_scope.cancel()


async def test_a_route_with_nobody_else_is_served_by_who_is_only_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests wait, and the region is left by all that have another. It answers a trial, and so is back, and
    stays: three more must wait until it is left again."""
    monkeypatch.setattr("router.health.ejection.TRIAL_WAIT_US", 60 * SECOND)
    iad = Backend("iad")
    async with trio.open_nursery() as regions:
        await regions.start(iad.run)
        (fra,) = await regions.start(partial(trio.serve_tcp, forgetful, 0, host="127.0.0.1"))
        text = (
            "edition 1\nhealth default { probe tcp every 10s timeout 80ms }\n"
            f"region fra {{ at 50 8 endpoint {endpoint_text(fra.socket.getsockname()[:2])} }}\n"
            f"region iad {{ at 40 8 endpoint {endpoint_text(iad.endpoint)} }}\n"
            'route only for "only.test" { primary fra }\n'
            'route all for "*" { primary fra secondary iad }\n'
        )
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            assert await ams.publish(text) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            async with AsyncExitStack() as waiting:

                async def three_wait() -> None:
                    for _ in range(3):
                        client = await waiting.enter_async_context(await trio.open_tcp_stream(*ams.bound.http[0]))
                        await client.send_all(b"POST /stuck HTTP/1.1\r\nHost: only.test\r\nContent-Length: 0\r\n\r\n")

                await three_wait()
                await until(partial(ejected, ams))
                assert await ams.region_served() == "iad"
                await until(partial(half_open, ams))
                posted = await exchange(ams.bound.http[0], "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                assert posted[1]["x-edge-region"] == "iad", "a trial is for whoever can be rescued from it"
                assert await ams.region_served() == "fra"
                await trio.sleep(1.5)  # half as much again as the silence that makes it suspect
                assert not await ejected(ams), "those who were told of are no evidence against who answers"
                await three_wait()
                await until(partial(ejected, ams))
                status, headers, _ = await ams.get(host="only.test")
                assert (status, headers["x-edge-region"]) == (200, "fra")
                assert await ams.region_served() == "fra"
        regions.cancel_scope.cancel()
