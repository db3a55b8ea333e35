"""The control API on a socket: Hypercorn's protocol, one connection at a time, under a supervision of our own (edge).

Hypercorn's own worker is not used, for two reasons that were met: an exception in one connection (a malformed h2c
upgrade) ends the worker and with it the node; and it shields what it sends from cancellation, so a client that never
reads would keep the node from stopping. Here an exception ends its connection and is counted, and at the end every
socket still open is closed after a grace.

Behind TLS whoever calls has a place before it has shown who it is, for as long as a handshake may take. So that
strangers cannot hold all places, the oldest of those who have not shown it gives way to one more caller, if its address
has more of them (`router.traffic.origins`).
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send

from lattice.errors import LatticeError
from lattice.stream_security import TlsStream
from router.control.callers import CALLER, Caller
from router.control.door import Door
from router.control.gate import Gate
from router.traffic.origins import origin_of, who_gives_way

GRACE_SECONDS = 1.0
"""How long an answer may still take at the stop: handlers take microseconds, so this is for a slow reader."""
READ_TIMEOUT_SECONDS = 10
"""A request that dawdles longer is cut off; operators' tools send a whole one at once."""
HEAD_BYTES_MAX = 16 * 1024
CONNECTIONS_MAX = 128
"""Operators and dashboards, not users."""

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves one ASGI app on one listening socket, which it owns."""

    def __init__(self, app: Gate, listener: socket.socket, door: Door | None = None) -> None:
        """`door`: callers come in by TLS, and are known."""
        self._app = app
        self._door = door
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        self._knocking: dict[trio.SocketStream, str] = {}
        """Of those, who has not shown yet who it is: from where, the oldest first."""
        self._context = WorkerContext(None)
        self.counters = app.counters
        self._config = Config()
        self._config.include_server_header = False
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.read_timeout = READ_TIMEOUT_SECONDS
        self._config.h11_max_incomplete_size = HEAD_BYTES_MAX

    async def serve(self, stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is set or the task is cancelled. Answers under way get `GRACE_SECONDS` at the stop."""
        async with trio.open_nursery() as connections:
            try:
                await self._accept_until(stop, connections, task_status)
                with trio.move_on_after(GRACE_SECONDS):
                    while self._open:  # noqa: ASYNC110  (a second at most, and rarely)
                        await trio.sleep(0.01)
            finally:
                self._close_all()  # before the nursery waits: Hypercorn shields its sends, and only this ends them

    async def _accept_until(
        self, stop: trio.Event, connections: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> None:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, self._serve_one, [self._listener], handler_nursery=connections)
            )
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await self._context.terminated.set()

    def _close_all(self) -> None:
        for stream, scope in list(self._open.items()):
            stream.socket.close()
            scope.cancel()

    def _has_room(self, stream: trio.SocketStream) -> bool:
        """Whether there is a place for one more caller, or is now."""
        if len(self._open) < CONNECTIONS_MAX:
            return True
        other = who_gives_way(self._knocking, _origin(stream))
        if other is None:
            return False
        del self._knocking[other]
        self._open.pop(other).cancel()
        self.counters["control handshakes given up"] += 1
        return True

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        if not self._has_room(stream):
            self.counters["control connections beyond the limit"] += 1
            await stream.aclose()
            return
        with trio.CancelScope() as scope:
            self._open[stream] = scope
            try:
                await self._answer(stream)
            except LatticeError as error:
                self.counters[f"control refused: {error.reason}"] += 1
                _log.debug("a caller of the control API was refused: %s", error)
                stream.socket.close()
            except Exception as error:  # noqa: BLE001  (what one client provokes ends its connection, never the node)
                self.counters["control connections broken"] += 1
                _log.debug("a control connection broke: %r", error)
            finally:
                self._open.pop(stream, None)

    async def _answer(self, stream: trio.SocketStream) -> None:
        inside: trio.SocketStream | TlsStream = stream
        app: ASGIApp = self._app
        if self._door is not None:
            self._knocking[stream] = _origin(stream)
            try:
                inside, caller = await self._door.open(stream)
            finally:
                self._knocking.pop(stream, None)
            app = partial(_called, self._app, caller)
        wrapped = ASGIWrapper(cast("ASGIFramework", app))
        await TCPServer(wrapped, self._config, self._context, ConnectionState({}), inside)  # type: ignore[arg-type]


def _origin(stream: trio.SocketStream) -> str:
    try:
        return origin_of(stream.socket.getpeername()[0])
    except OSError:  # gone already
        return ""


async def _called(app: ASGIApp, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
    await app({**scope, CALLER: caller}, receive, send)


async def serve_control(
    app: Gate,
    listener: socket.socket,
    stop: trio.Event,
    door: Door | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `ControlServer.serve`."""
    await ControlServer(app, listener, door).serve(stop, task_status=task_status)
