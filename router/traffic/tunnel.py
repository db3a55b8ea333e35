"""After 101: bytes both ways, as trio tasks, until either side closes or both fall silent (edge)."""

from __future__ import annotations

import trio

from router.traffic.connection import Connection
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits


async def tunnel(one: Connection, other: Connection, early: bytes, nest: NestedEpoll, limits: ProxyLimits) -> None:
    """Copy until the end. `early` is what `one` has said already. The current fiber becomes a task."""
    await nest.become_task()
    talk = _Talk(nest, limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.pump, one, other, early, nursery.cancel_scope)
        nursery.start_soon(talk.pump, other, one, b"", nursery.cancel_scope)


class _Talk:
    """Two directions, one silence."""

    def __init__(self, nest: NestedEpoll, limits: ProxyLimits) -> None:
        self._nest = nest
        self._limits = limits
        self._spoke = nest.time()

    async def pump(self, source: Connection, sink: Connection, data: bytes, both: trio.CancelScope) -> None:
        """Copy one direction, one read at a time: nothing is read that the other side has not taken."""
        idle_us = self._limits.tunnel_idle_timeout_us
        try:
            await sink.send(data, self._limits.client_write_timeout_us)
            while True:
                try:
                    data = await source.receive(idle_us)
                except trio.TooSlowError:
                    if (self._nest.time() - self._spoke) * 1e6 < idle_us:
                        continue  # the other direction speaks
                    break
                if not data:
                    break
                self._spoke = self._nest.time()
                await sink.send(data, self._limits.client_write_timeout_us)
                await self._nest.pause()
        except (OSError, trio.TooSlowError):
            pass
        both.cancel()
