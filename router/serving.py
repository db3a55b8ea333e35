"""Whoever serves a node's users: a proxy of its own, or worker processes; others take their place when the site file is
read anew (edge).

Every proxy and every process has descriptors of its own for the listening sockets, so whoever accepts takes the
connections that wait. The new ones accept before the old ones stop, and these finish what they serve, as at SIGTERM:
nobody is refused or cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import trio

from lattice.types import SECOND, Endpoint
from router.policy.paths import PathPattern
from router.traffic.proxy import Proxy
from router.traffic.upstream_tls import UpstreamTls
from router.trial import Trial
from router.workers.fleet import Fleet

GRACE_US = 60 * SECOND
"""What an old proxy's requests have to end in: as long as a fleet's processes."""

Servers: TypeAlias = Proxy | int
"""A proxy, configured already, or so many workers."""


class Serving:
    """Who accepts, and those before that still finish what they serve."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._proxy: Proxy | None = None  # the one that accepts, unless workers do
        self._live: list[Proxy] = []
        self._retired: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None

    @property
    def counters(self) -> Counter[str]:
        """See `Proxy.counters` and `Fleet.counters`; of all that ever served."""
        total = self._fleet.counters
        for counters in (self._retired, *[proxy.counters for proxy in self._live]):
            total.update(counters)
        return total

    def configure(self, names: Mapping[Endpoint, str], tls: UpstreamTls | None) -> None:
        """See `UpstreamPool.configure`; workers see to it themselves."""
        for proxy in self._live:
            proxy.configure(names, tls)

    def try_out(self, trial: Trial | None) -> None:
        """See `Proxy.try_out`; workers are told by the fleet."""
        for proxy in self._live:
            proxy.try_out(trial)

    def purge(self, host: str, path: PathPattern) -> int:
        """See `Proxy.purge`; of this process."""
        return sum([proxy.purge(host, path) for proxy in self._live])

    def oldest(self) -> dict[tuple[str, Endpoint], int]:
        """See `Proxy.oldest`; of all of them, workers too."""
        found = self._fleet.oldest()
        for proxy in self._live:
            for where, waited_us in proxy.oldest().items():
                found[where] = max(waited_us, found.get(where, 0))
        return found

    async def run(
        self,
        by: Servers,
        http: Sequence[trio.SocketListener],
        https: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `drain` is through. Closes the listeners. Run once. Raises `FleetError`."""
        async with trio.open_nursery() as self._nursery:
            if isinstance(by, Proxy):
                await self._accept(by, http, https)
                await self._nursery.start(self._fleet.run, 0, (), ())
            else:
                await self._nursery.start(self._fleet.run, by, http, https)
            task_status.started()
            await trio.sleep_forever()

    async def replace(
        self, by: Servers, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> None:
        """From now on these accept, and from these. Who did before drains in the background.

        Raises OSError when descriptors are short, and `FleetError`; then nothing has changed."""
        assert self._nursery is not None, "runs"
        before = self._proxy
        if isinstance(by, Proxy):
            await self._accept(by, http, https)
            await self._fleet.replace(0, (), ())
        else:
            await self._fleet.replace(by, http, https)
            self._proxy = None
        if before is not None:
            self._nursery.start_soon(before.drain, GRACE_US)

    async def _accept(
        self, proxy: Proxy, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> None:
        assert self._nursery is not None
        await self._nursery.start(self._serve, proxy, http, https)
        self._proxy = proxy
        self._live.append(proxy)

    async def _serve(
        self,
        proxy: Proxy,
        http: Sequence[trio.SocketListener],
        https: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await proxy.serve(http, https, task_status=task_status)
        finally:
            for listener in (*http, *https):  # cut off early, the proxy has not closed them itself
                listener.socket.close()
        self._live.remove(proxy)
        self._retired.update(proxy.counters)

    async def drain(self, grace_us: int) -> None:
        """Let all of them finish what they serve; then `run` ends."""
        async with trio.open_nursery() as draining:
            draining.start_soon(self._fleet.drain, grace_us)
            for proxy in self._live:
                draining.start_soon(proxy.drain, grace_us)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
