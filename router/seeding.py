"""Where the seeds of the site file are (edge).

A seed's host may be a DNS name, and a name may come to mean other addresses: names are resolved again and again, off
the loop and side by side, so that one whose server does not answer delays no other. A look-up that fails is counted and
changes nothing: what the name meant last goes on being called. Both address families are asked for; what the gossip
socket can not reach is left out (one on all addresses, `[::]`, reaches both). Addresses are written as members' are
(`transport.came_from`), or nobody would see that a seed is somebody who is there, and it would be called for ever.
"""

from __future__ import annotations

import ipaddress
import logging
import socket as stdlib_socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from lattice.events import SeedsResolved
from lattice.types import SECOND, Endpoint
from router.site.config_reader import endpoint_text

log = logging.getLogger("edgelattice.seeds")

RESOLVE_INTERVAL_US = 30 * SECOND
"""As often as the names of load balancers may change: their records live for 30 to 60 s."""
RESOLVE_TIMEOUT_US = 10 * SECOND
"""glibc gives a server 5 s and asks twice."""
RESOLVED_AT_ONCE = 8
ADDRESSES_MAX = 16
"""Of one name: a headless service of a whole cluster need not be called whole."""


class Seeding:
    """The seeds, and what their names meant last."""

    def __init__(
        self, seeds: Sequence[Endpoint], bound: str, submit: Callable[[SeedsResolved], Awaitable[None]]
    ) -> None:
        """`bound` is the address that gossip listens on."""
        self._seeds = tuple(seeds)
        listens = ipaddress.ip_address(bound)
        self._versions = {4, 6} if listens.version == 6 and listens.is_unspecified else {listens.version}
        self._submit = submit
        self._last: dict[Endpoint, tuple[Endpoint, ...]] = {}
        self._failing: set[Endpoint] = set()
        self._limiter = trio.CapacityLimiter(RESOLVED_AT_ONCE)
        self.counters: Counter[str] = Counter()

    async def keep(self) -> None:
        """Resolve and tell, again and again, until cancelled. A site without seeds has nothing to do."""
        names = [seed for seed in self._seeds if not self._is_numeric(seed)]
        if self._seeds:
            await self._tell()
        while names:
            async with trio.open_nursery() as nursery:
                for seed in names:
                    nursery.start_soon(self._resolve, seed)
            await trio.sleep(RESOLVE_INTERVAL_US / SECOND)

    async def _tell(self) -> None:
        await self._submit(SeedsResolved(tuple(sorted({at for found in self._last.values() for at in found}))))

    def _is_numeric(self, seed: Endpoint) -> bool:
        """Whether no name has to be asked for; then its address is noted."""
        with suppress(ValueError):
            self._last[seed] = tuple((at, seed[1]) for at in self._reachable([str(ipaddress.ip_address(seed[0]))]))
            return True
        return False

    async def _resolve(self, seed: Endpoint) -> None:
        host, port = seed
        found: list[str] = []
        why = "no answer in time"
        async with self._limiter:
            with trio.move_on_after(RESOLVE_TIMEOUT_US / SECOND):
                try:
                    records = await trio.socket.getaddrinfo(host, port, type=stdlib_socket.SOCK_DGRAM)
                    found = self._reachable([str(address[0]) for *_, address in records])
                    why = "no address that the gossip socket can reach"
                except (OSError, UnicodeError) as error:
                    why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        if found:
            before, self._last[seed] = self._last.get(seed), tuple((at, port) for at in found)
            self._failing.discard(seed)
            if before != self._last[seed]:
                await self._tell()
            return
        self.counters["seeds not resolved"] += 1
        if seed not in self._failing:  # said once, and counted always
            self._failing.add(seed)
            kept = ", ".join(endpoint_text(at) for at in self._last.get(seed, ()))
            log.warning("seed %s: %s%s", endpoint_text(seed), why, f"; still calling {kept}" if kept else "")

    def _reachable(self, hosts: Sequence[str]) -> list[str]:
        """Those that our socket reaches, as it names them, each once."""
        reached: dict[str, None] = {}
        for host in hosts:
            if ipaddress.ip_address(host.partition("%")[0]).version in self._versions:
                reached[host] = None
            else:
                self.counters["seeds of another address family"] += 1
        return list(reached)[:ADDRESSES_MAX]
