"""One worker in this process, and a node that is only its end of the link."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio
import trio.testing

from lattice.types import SECOND, Endpoint
from router.site.config_reader import endpoint_text
from router.workers.messages import Configure, Deframer, Drain, Masked, Planned, Ready, decode_to_node, encode
from router.workers.worker import Worker
from tests.router.test_node import exchange, site_config


class Slow:
    """A region that answers when it is told to, and whoever asks it."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.release = trio.Event()
        self.answer: bytes | None = None
        """None: cut off."""
        self.where: Endpoint = ("", 0)
        """Whom its users ask."""
        self.backend: Endpoint = ("", 0)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.begun.set()
            await self.release.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")

    async def ask(self, where: Endpoint) -> None:
        with suppress(OSError, trio.BrokenResourceError, IndexError):
            self.answer = (await exchange(where, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))[2]


@asynccontextmanager
async def serving(directory: Path, node: socket.socket, link: socket.socket) -> AsyncIterator[Slow]:
    """A worker with a plan, and a request that it has passed on to a region that takes its time; until it ends."""
    slow = Slow()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    where = listener.socket.getsockname()[:2]
    async with trio.open_nursery() as nursery:
        (backend,) = await nursery.start(partial(trio.serve_tcp, slow.serve, 0, host="127.0.0.1"))
        slow.where, slow.backend = where, backend.socket.getsockname()[:2]
        region = f"region fra {{\n  at 50 8\n  endpoint {endpoint_text(backend.socket.getsockname()[:2])}\n}}\n"
        text = f'edition 1\n{region}route a for "*" path "/**" {{\n  primary any\n}}\n'
        node.sendall(encode(Configure(text)) + encode(Planned({}, {}, {}, 0)))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(link))
        async with stream, trio.open_nursery() as running:
            running.start_soon(Worker(site_config(directory / "ams", "ams"), stream).run, [listener], [])
            await trio.lowlevel.wait_readable(node)  # it is ready, and says so to a node that does not listen
            running.start_soon(slow.ask, where)
            await slow.begun.wait()
            yield slow
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_killed_costs_no_request_under_way(tmp_path: Path) -> None:
    """What it had not read of our words makes the end of the link a reset."""
    ours, theirs = socket.socketpair()
    async with serving(tmp_path, ours, theirs) as slow:
        ours.close()
        await trio.testing.wait_all_tasks_blocked(0.05)
        slow.release.set()
    assert slow.answer == b"slow"


async def test_who_drains_hears_that_there_is_less_time(tmp_path: Path) -> None:
    """Its node was told to leave meanwhile, and has to kill those that do not go."""
    ours, theirs = socket.socketpair()
    with ours:
        async with serving(tmp_path, ours, theirs) as slow:
            ours.sendall(encode(Drain(60 * SECOND)))
            await trio.testing.wait_all_tasks_blocked(0.05)
            ours.sendall(encode(Drain(SECOND // 10)))
        assert slow.answer is None


async def told(node: socket.socket, masked: Masked, number: int) -> None:
    """The worker has this, for it has what came after it."""
    node.sendall(encode(masked) + encode(Planned({}, {}, {}, 0, number)))
    deframer = Deframer()
    with trio.fail_after(10):
        while True:
            await trio.lowlevel.wait_readable(node)
            if Ready(number) in map(decode_to_node, deframer.feed(node.recv(65_536))):
                return


async def test_who_is_suspected_elsewhere_serves_where_there_is_nobody_else(tmp_path: Path) -> None:
    """And whom another process met in a certain fault does not."""
    ours, theirs = socket.socketpair()
    with ours:
        async with serving(tmp_path, ours, theirs) as slow:
            slow.release.set()
            while slow.answer is None:  # which would lift what is to be told
                await trio.testing.wait_all_tasks_blocked()
            for number, suspected, begins in ((1, [slow.backend], b"slow"), (3, [], b"503 ")):
                await told(ours, Masked([slow.backend], 99, suspected), number)
                await slow.ask(slow.where)
                assert slow.answer is not None
                assert slow.answer.startswith(begins)
                await told(ours, Masked([], 99), number + 1)
            ours.sendall(encode(Drain(SECOND // 10)))
