"""One worker in this process, and a node that is only its end of the link."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import trio
import trio.testing

from router.site.config_reader import endpoint_text
from router.workers.messages import Configure, Planned, encode
from router.workers.worker import Worker
from tests.router.test_node import exchange, site_config


async def test_a_node_that_is_killed_costs_no_request_under_way(tmp_path: Path) -> None:
    """What it had not read of our words makes the end of the link a reset."""
    begun, release = trio.Event(), trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            begun.set()
            await release.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")

    ours, theirs = socket.socketpair()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    where = listener.socket.getsockname()[:2]
    answers: list[tuple[int, bytes]] = []

    async def ask() -> None:
        status, _, body = await exchange(where, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answers.append((status, body))

    async with trio.open_nursery() as nursery:
        (backend,) = await nursery.start(partial(trio.serve_tcp, slow, 0, host="127.0.0.1"))
        region = f"region fra {{\n  at 50 8\n  endpoint {endpoint_text(backend.socket.getsockname()[:2])}\n}}\n"
        text = f'edition 1\n{region}route a for "*" path "/**" {{\n  primary any\n}}\n'
        ours.sendall(encode(Configure(text)) + encode(Planned({}, {}, {}, 0)))
        link = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with link, trio.open_nursery() as serving:
            serving.start_soon(Worker(site_config(tmp_path / "ams", "ams"), link).run, [listener], [])
            await trio.lowlevel.wait_readable(ours)  # it is ready, and says so to a node that does not listen
            serving.start_soon(ask)
            await begun.wait()
            ours.close()
            await trio.testing.wait_all_tasks_blocked(0.05)
            release.set()
        nursery.cancel_scope.cancel()
    assert answers == [(200, b"slow")]
