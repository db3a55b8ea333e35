"""The proxy of a node that serves users by itself; another takes its place when the site file is read anew (edge).

Every proxy has descriptors of its own for the listening sockets, so whoever accepts takes the connections that wait. A
new one accepts before the old one stops, and the old one finishes what it serves, as at SIGTERM: nobody is refused or
cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import trio

from lattice.types import SECOND, Endpoint
from router.policy.paths import PathPattern
from router.traffic.proxy import Proxy
from router.traffic.upstream_tls import UpstreamTls

GRACE_US = 60 * SECOND
"""What an old proxy's requests have to end in: as long as a fleet's processes."""


class Serving:
    """One proxy that accepts, and those before it that still finish what they serve."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        """The one that accepts."""
        self._live = [proxy]
        self._retired: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None

    @property
    def counters(self) -> Counter[str]:
        """See `Proxy.counters`; of all that ever served."""
        total = self._retired.copy()
        for proxy in self._live:
            total.update(proxy.counters)
        return total

    def configure(self, names: Mapping[Endpoint, str], tls: UpstreamTls | None) -> None:
        """See `UpstreamPool.configure`."""
        for proxy in self._live:
            proxy.configure(names, tls)

    def purge(self, host: str, path: PathPattern) -> int:
        """See `Proxy.purge`."""
        return sum([proxy.purge(host, path) for proxy in self._live])

    async def run(
        self,
        http: Sequence[trio.SocketListener],
        https: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `drain` is through. Closes the listeners. Run once."""
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._serve, self.proxy, http, https)
            task_status.started()

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

    async def replace(
        self, proxy: Proxy, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> None:
        """From now on this one accepts, and from these; it is configured already. The one before it drains in the
        background.

        Raises OSError when descriptors are short; then nothing has changed."""
        assert self._nursery is not None, "runs"
        await self._nursery.start(self._serve, proxy, http, https)
        old, self.proxy = self.proxy, proxy
        self._live.append(proxy)
        self._nursery.start_soon(old.drain, GRACE_US)

    async def drain(self, grace_us: int) -> None:
        """Let all of them finish what they serve; then `run` ends."""
        async with trio.open_nursery() as draining:
            for proxy in self._live:
                draining.start_soon(proxy.drain, grace_us)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
