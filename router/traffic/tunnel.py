"""After 101: a WebSocket's bytes both ways, as trio tasks, until either side closes or both fall silent (edge).

Who serves it may have to leave while its ends would go on for hours. Then the client is told so by a Close frame,
between two frames of its upstream's; nothing of the upstream's follows, and what the client answers reaches the
upstream as any of its words. So both ends close as if the other had asked for it, and the client calls again elsewhere.
"""

from __future__ import annotations

import trio

from router.traffic.connection import Connection
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.websocket_frames import GOING_AWAY, FrameWalk


class Tunnel:
    """One WebSocket. Run once."""

    def __init__(self, client: Connection, upstream: Connection, nest: NestedEpoll, limits: ProxyLimits) -> None:
        self._client = client
        self._upstream = upstream
        self._nest = nest
        self._limits = limits
        self._spoke = nest.time()
        self._frames = FrameWalk()  # the upstream's
        self._writing = False  # some of these to the client
        self._leaving = False
        self._left = False  # the client was told, or is being
        self._nursery: trio.Nursery | None = None

    async def run(self, early: bytes, late: bytes) -> None:
        """Copy until the end. `early` is what the client has said already, `late` what it was sent of its upstream's.
        The current fiber becomes a task."""
        self._frames.walk(late)
        self._client.patient = self._upstream.patient = True
        await self._nest.become_task()
        ended = False
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._pump_up, early)
                self._nursery.start_soon(self._pump_down)
                self._leave_now()
            ended = True
        finally:
            if self._left and not ended:
                self._client.close()  # it was told, so what cuts us off is an orderly end for it

    def leave(self) -> None:
        """Tell the client, as soon as no frame is under way, that it should call again elsewhere."""
        self._leaving = True
        self._leave_now()

    def _leave_now(self) -> None:
        may = self._leaving and not (self._left or self._writing) and self._frames.between
        if may and self._nursery is not None:
            self._left = True
            self._nursery.start_soon(self._say_goodbye)

    async def _say_goodbye(self) -> None:
        try:
            await self._client.send(GOING_AWAY, self._limits.client_write_timeout_us)
        except (OSError, trio.TooSlowError):
            self._end()

    def _end(self) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    async def _pump_up(self, data: bytes) -> None:
        """One read at a time: nothing is read that the other side has not taken."""
        try:
            while data or (data := await self._next_of(self._client)):
                await self._upstream.send(data, self._limits.client_write_timeout_us)
                await self._nest.pause()
                data = b""
        except (OSError, trio.TooSlowError):
            pass
        self._end()

    async def _pump_down(self) -> None:
        """As `_pump_up`, up to the frame after which we leave."""
        try:
            while data := await self._next_of(self._upstream):
                if self._left:
                    continue
                end = self._frames.walk(data)
                if self._leaving and end >= 0:
                    self._left = True
                    data = data[:end] + GOING_AWAY
                self._writing = True
                await self._client.send(data, self._limits.client_write_timeout_us)
                self._writing = False
                self._leave_now()
                await self._nest.pause()
        except (OSError, trio.TooSlowError):
            pass
        self._end()

    async def _next_of(self, source: Connection) -> bytes:
        """What it says next; b"" at its end, and when both have been silent for too long."""
        idle_us = self._limits.tunnel_idle_timeout_us
        while True:
            try:
                data = await source.receive(idle_us)
            except trio.TooSlowError:
                if (self._nest.time() - self._spoke) * 1e6 < idle_us:
                    continue  # the other direction speaks
                return b""
            self._spoke = self._nest.time()
            return data
