"""Finding peers by mDNS: `_edgelattice._udp` (edge).

zeroconf keeps its own thread and loop; what it hears enters trio through a token, into a bounded queue, and is looked
up in a worker thread. mDNS is unauthenticated and anybody on the link may answer, so a record is only ever a hint where
to send a ping: identity is proven by what comes back.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import ifaddr
import trio
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from lattice.seal import cluster_tag
from lattice.types import Endpoint, NodeId

log = logging.getLogger("edgelattice.mdns")

SERVICE_TYPE = "_edgelattice._udp.local."
NAMES_QUEUED_MAX = 256
LOOKUP_TIMEOUT_MS = 1_500
LOOKUPS_MAX = 4
ADDRESSES_MAX = 8
"""Addresses taken from one record."""


class _Listener(ServiceListener):
    """Runs on zeroconf's thread, and must not block there: it only names who was heard."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._heard(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._heard(name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """A vanished record says nothing about the node: SWIM finds that out."""


class Discovery:
    """Announces this node and reports the endpoints of others."""

    def __init__(
        self,
        *,
        cluster: str,
        node: NodeId,
        endpoint: Endpoint,
        interfaces: Sequence[str],
        found: Callable[[Endpoint], Awaitable[None]],
    ) -> None:
        """`endpoint` is what our transport is bound to; `interfaces` the addresses to speak mDNS on, none for all."""
        self._tag = cluster_tag(cluster).hex()
        self._node = node
        self._endpoint = endpoint
        self._interfaces = list(interfaces)
        self._found = found
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Announce and listen until cancelled, then say goodbye. Without mDNS the node goes on; it says so once."""
        send_names, names = trio.open_memory_channel[str](NAMES_QUEUED_MAX)
        token = trio.lowlevel.current_trio_token()

        def offer(name: str) -> None:
            try:
                send_names.send_nowait(name)
            except trio.WouldBlock:
                self.counters["mdns: too many names"] += 1

        def heard(name: str) -> None:
            with suppress(trio.RunFinishedError):  # zeroconf's thread may outlive us by a moment
                token.run_sync_soon(offer, name)

        try:
            zeroconf = await trio.to_thread.run_sync(self._open)
        except (OSError, RuntimeError, ZeroconfError) as error:
            log.error("mDNS is not available (%s): peers are found by seeds only", error)
            return
        try:
            async with trio.open_nursery() as nursery:
                ServiceBrowser(zeroconf, SERVICE_TYPE, _Listener(heard))  # zeroconf holds it, and ends it on close
                nursery.start_soon(self._announce, zeroconf)
                for _ in range(LOOKUPS_MAX):
                    nursery.start_soon(self._look_up, zeroconf, names)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(zeroconf.close)

    def _open(self) -> Zeroconf:
        return Zeroconf(interfaces=self._interfaces or InterfaceChoice.All)

    async def _announce(self, zeroconf: Zeroconf) -> None:
        name = f"{self._node.hex()[:16]}.{SERVICE_TYPE}"
        info = ServiceInfo(
            SERVICE_TYPE,
            name,
            port=self._endpoint[1],
            addresses=[ipaddress.ip_address(address).packed for address in await self._addresses()],
            properties={"v": "1", "c": self._tag, "n": self._node.hex()},
            server=f"{self._node.hex()[:16]}.local.",
        )
        try:
            await trio.to_thread.run_sync(zeroconf.register_service, info)
        except (OSError, ZeroconfError) as error:
            log.error("cannot announce this node by mDNS: %r", error)

    async def _addresses(self) -> list[str]:
        """Where we can be reached: what we are bound to, or every address if that is a wildcard."""
        host = self._endpoint[0]
        if not ipaddress.ip_address(host).is_unspecified:
            return [host]
        if self._interfaces:
            return self._interfaces
        version = ipaddress.ip_address(host).version
        adapters = await trio.to_thread.run_sync(lambda: list(ifaddr.get_adapters()))
        found = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in adapters for ip in adapter.ips]
        read = [ipaddress.ip_address(address) for address in found]
        usable = [address for address in read if not (address.is_loopback or address.is_link_local)]
        return [str(address) for address in usable if address.version == version][:ADDRESSES_MAX]

    async def _look_up(self, zeroconf: Zeroconf, names: trio.MemoryReceiveChannel[str]) -> None:
        async for name in names.clone():
            try:
                info = await trio.to_thread.run_sync(
                    zeroconf.get_service_info, SERVICE_TYPE, name, LOOKUP_TIMEOUT_MS, abandon_on_cancel=True
                )
            except (OSError, RuntimeError, ValueError, ZeroconfError):  # anybody on the link can announce any name
                self.counters["mdns: unusable name"] += 1
                continue
            for endpoint in self._read(info):
                await self._found(endpoint)

    def _read(self, info: ServiceInfo | None) -> list[Endpoint]:
        """The endpoints in a record, if it is of our cluster and not our own. Anything else is counted."""
        if info is None or not info.port:
            self.counters["mdns: no answer"] += 1
            return []
        properties = info.properties
        if properties.get(b"c") != self._tag.encode():
            self.counters["mdns: other cluster"] += 1
            return []
        if properties.get(b"n") == self._node.hex().encode():
            return []
        version = ipaddress.ip_address(self._endpoint[0]).version
        hosts = [
            host
            for host in info.parsed_scoped_addresses()
            if ipaddress.ip_address(host.partition("%")[0]).version == version
        ]
        self.counters["mdns: peers heard"] += 1
        return [(host, info.port) for host in hosts[:ADDRESSES_MAX]]
