"""Endpoints that a site reaches by a Unix socket of its machine, whatever their address in the policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio
import trio.testing

from router.health.probe_once import probe_once
from router.policy.probe import Probe
from router.traffic.proxy import Outcome
from tests.router.traffic.upstreams import GET, FixedRouter, Script, Wire, answer, listen, post, proxied, serving

FAR = ("169.254.169.254", 80)
"""Nobody is ever connected to there; the site has said otherwise."""


async def _listen(nursery: trio.Nursery, script: Script, path: Path) -> list[Wire]:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen(8)
    wires: list[Wire] = []

    async def serve(stream: trio.SocketStream) -> None:
        wires.append(Wire(stream))
        async with stream:
            await script(wires[-1])

    nursery.start_soon(partial(trio.serve_listeners, serve, [trio.SocketListener(sock)]))
    return wires


async def test_requests_and_probes_go_there_and_connections_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    async with trio.open_nursery() as nursery:
        wires = await _listen(nursery, serving(answer()), path)
        async with proxied(FixedRouter(FAR), unix={FAR: path}) as stage:
            wire = await stage.client()
            for request in (GET, post(b"x" * 200_000), GET):
                assert (await wire.ask(request)).body == b"hello"
            assert len(wires) == 1
            assert stage.proxy.counters["upstream.reused"] == 2
            probed = await probe_once(FAR, Probe(), 1_000_000, unix=path)
            assert (probed.ok, probed.detail) == (True, "200")
        nursery.cancel_scope.cancel()


async def test_one_that_is_gone_is_refused_and_left_and_a_closed_one_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"

    async def once(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer(b"once"))

    async with trio.open_nursery() as nursery:
        far = (await listen(nursery, serving(answer(b"far")))).endpoint
        async with trio.open_nursery() as local:
            await _listen(local, once, path)
            async with proxied(FixedRouter(FAR, far), unix={FAR: path}) as stage:
                for _ in range(2):
                    assert (await stage.ask(GET)).body == b"once"
                    await trio.testing.wait_all_tasks_blocked()
                local.cancel_scope.cancel()
        async with proxied(FixedRouter(FAR, far), unix={FAR: path}) as stage:
            assert (await stage.ask(GET)).body == b"far"
            assert stage.router.told == [("region0", Outcome.REFUSED), ("region1", Outcome.OK)]
        nursery.cancel_scope.cancel()
