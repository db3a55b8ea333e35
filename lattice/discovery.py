"""Finding peers by mDNS: `_edgelattice._udp` (edge).

Each interface has a zeroconf of its own, which announces that interface's own addresses: a neighbour learns where it
can reach us, and not where somebody on another network could. What interfaces there are is looked at again and again;
one that came or changed takes part once it was seen twice the same (an address is often configured in pieces).

zeroconf keeps its own threads; what it hears enters trio through a token. mDNS is unauthenticated and anybody on the
link may answer, so a record is only ever a hint where to send a ping: identity is proven by what comes back. A record
that came whole is read at once; a bare name has to wait for a look-up, of which there are few at a time, so that
somebody who announces names and answers nothing delays nobody else. All hints together are taken at a bounded rate.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import ifaddr
import trio
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from lattice.seal import cluster_tag
from lattice.token_bucket import TokenBuckets
from lattice.types import SECOND, Endpoint, Micros, NodeId

log = logging.getLogger("edgelattice.mdns")

SERVICE_TYPE = "_edgelattice._udp.local."
HEARD_MAX: Final = 256
"""Records, and names without one, that wait for their turn."""
LOOKUP_TIMEOUT_MS: Final = 1_500
LOOKUPS_MAX: Final = 4
ADDRESSES_MAX: Final = 8
"""Addresses taken from one record."""
INTERFACES_MAX: Final = 16
"""A host of containers has hundreds; those in use for a node are few."""
INTERFACES_EVERY_S: Final = 5
HINTS_PER_S: Final = 20
HINTS_BURST: Final = 128
"""Endpoints reported in the long run, and at once: each costs a ping, to wherever the record says."""

_ERRORS: Final = (OSError, RuntimeError, ValueError, ZeroconfError)
"""What zeroconf raises for a link that is gone, and for the names that anybody can announce."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Heard: TypeAlias = "ServiceInfo | str"
"""A record, or the name of one that is still to be looked up."""


@dataclass(frozen=True, slots=True, order=True)
class Interface:
    """One network interface, as far as this node may use it."""

    index: int
    name: str
    speaks: tuple[str | int, ...]
    """What zeroconf is told to speak on: IPv4 addresses, or the index where there are none."""
    announces: tuple[str, ...]
    """Our addresses there."""


def usable_interfaces(adapters: Iterable[ifaddr.Adapter], bound: str, wanted: Sequence[str]) -> tuple[Interface, ...]:
    """The interfaces to take part on, sorted, when our transport is bound to the address `bound`.

    `wanted` are addresses of the interfaces to use, none for all. A transport on one address announces that one, and
    only where it is; a wildcard announces what each interface has, but for loopback addresses that nobody asked for (a
    node must not come to believe that it is reached there), and for link-local ones unless there is nothing else: each
    container's interface has one, and where they are all that there is, they do.
    """
    beyond: list[Interface] = []
    on_link: list[Interface] = []
    for adapter in adapters:
        if adapter.index is None:
            continue
        addresses = [ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]) for ip in adapter.ips]
        chosen = [address for address in addresses if str(address) in wanted] if wanted else addresses
        speaks = tuple(str(address) for address in chosen if address.version == 4) or (adapter.index,)
        ours = [address for address in chosen if _announces(address, ipaddress.ip_address(bound), asked=bool(wanted))]
        for found, announces in (
            (beyond, [str(address) for address in ours if not address.is_link_local or str(address) == bound]),
            (on_link, [str(address) for address in ours]),
        ):
            if announces:
                found.append(Interface(adapter.index, adapter.name, speaks, tuple(announces[:ADDRESSES_MAX])))
    return tuple(sorted(beyond or on_link)[:INTERFACES_MAX])


def _announces(address: _Address, listens: _Address, *, asked: bool) -> bool:
    if not listens.is_unspecified:
        return address == listens
    return address.version <= listens.version and (asked or not address.is_loopback)  # [::] is both


def _adapters() -> list[ifaddr.Adapter]:
    """The machine's interfaces, with those of their addresses that can be spoken from.

    One that is still tentative (RFC 4862, 5.4: for a second or two after the interface is up) cannot. zeroconf would
    find its interface well, bind to nothing, and be silent there for good.
    """
    adapters = list(ifaddr.get_adapters())
    for adapter in adapters:
        adapter.ips = [ip for ip in adapter.ips if isinstance(ip.ip, str) or _can_be_bound(*ip.ip)]
    return adapters


def _can_be_bound(host: str, flow: int, scope: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0, flow, scope))
    except OSError:
        return False
    return True


class _Listener(ServiceListener):
    """Runs on zeroconf's thread, and must not block there: it passes on what came."""

    def __init__(self, heard: Callable[[Heard], None]) -> None:
        self._heard = heard

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        with suppress(*_ERRORS):
            info = ServiceInfo(type_, name)
            if info.load_from_cache(zc):
                self._heard(info)
                return
        self._heard(name)

    update_service = add_service

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
        self._wanted = tuple(interfaces)
        self._found = found
        self._hints: TokenBuckets[None] = TokenBuckets(HINTS_PER_S, HINTS_BURST, 1)
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Announce and listen until cancelled, then say goodbye. Without mDNS the node goes on; it says so once."""
        speaking: dict[Interface, trio.CancelScope] = {}
        seen: tuple[Interface, ...] | None = None
        async with trio.open_nursery() as nursery:
            while True:
                before, seen = seen, await self._look()
                if before is None or seen == before:
                    for gone in speaking.keys() - set(seen):
                        log.info("mDNS leaves %s: %s", gone.name, ", ".join(gone.announces))
                        speaking.pop(gone).cancel()
                    for interface in seen:
                        if interface not in speaking:
                            speaking[interface] = trio.CancelScope()
                            nursery.start_soon(self._speak, interface, speaking[interface])
                if before is None and not seen:
                    log.error(
                        "mDNS has no interface to speak on: peers are found by seeds only, until one has an address of "
                        "the family of gossip.listen"
                    )
                await trio.sleep(INTERFACES_EVERY_S)

    async def _look(self) -> tuple[Interface, ...]:
        try:
            adapters = await trio.to_thread.run_sync(_adapters)
        except OSError as error:
            log.error("cannot list the network interfaces: %s", error)
            return ()
        return usable_interfaces(adapters, self._endpoint[0], self._wanted)

    async def _speak(self, interface: Interface, scope: trio.CancelScope) -> None:
        """Take part on one interface until cancelled."""
        send, heard = trio.open_memory_channel[Heard](HEARD_MAX)
        names_in, names = trio.open_memory_channel[str](HEARD_MAX)
        token = trio.lowlevel.current_trio_token()

        def offer(what: Heard) -> None:
            try:
                if isinstance(what, str):
                    names_in.send_nowait(what)
                else:
                    send.send_nowait(what)
            except trio.WouldBlock:
                self.counters["mdns: too many names"] += 1

        def hear(what: Heard) -> None:
            with suppress(trio.RunFinishedError):  # zeroconf's thread may outlive us by a moment
                token.run_sync_soon(offer, what)

        with scope:
            try:
                zeroconf = await trio.to_thread.run_sync(self._open, interface)
            except _ERRORS as error:
                log.error(
                    "mDNS is not available on %s (%s): peers there are found by seeds only", interface.name, error
                )
                return
            try:
                async with trio.open_nursery() as nursery:
                    ServiceBrowser(zeroconf, SERVICE_TYPE, _Listener(hear))  # zeroconf holds it, and ends it on close
                    nursery.start_soon(self._announce, zeroconf, interface)
                    nursery.start_soon(self._report, heard, interface)
                    for _ in range(LOOKUPS_MAX):
                        nursery.start_soon(self._look_up, zeroconf, names, interface)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(zeroconf.close)

    def _open(self, interface: Interface) -> Zeroconf:
        by_index = any(isinstance(place, int) for place in interface.speaks)
        version = IPVersion.V6Only if by_index else IPVersion.V4Only
        return Zeroconf(interfaces=list(interface.speaks), ip_version=version)

    async def _announce(self, zeroconf: Zeroconf, interface: Interface) -> None:
        # Two interfaces may be on one network, so each has a name of its own; who it is stands in the record.
        label = f"{self._node.hex()[:16]}-{interface.index}"
        info = ServiceInfo(
            SERVICE_TYPE,
            f"{label}.{SERVICE_TYPE}",
            port=self._endpoint[1],
            addresses=[ipaddress.ip_address(address).packed for address in interface.announces],
            properties={"v": "1", "c": self._tag, "n": self._node.hex()},
            server=f"{label}.local.",
        )
        try:
            await trio.to_thread.run_sync(partial(zeroconf.register_service, info, allow_name_change=True))
        except _ERRORS as error:
            log.error("cannot announce this node by mDNS on %s: %r", interface.name, error)

    async def _report(self, heard: trio.MemoryReceiveChannel[Heard], interface: Interface) -> None:
        async for info in heard:
            assert isinstance(info, ServiceInfo)
            await self._tell(info, interface)

    async def _look_up(self, zeroconf: Zeroconf, names: trio.MemoryReceiveChannel[str], interface: Interface) -> None:
        async for name in names.clone():
            try:
                info = await trio.to_thread.run_sync(
                    zeroconf.get_service_info, SERVICE_TYPE, name, LOOKUP_TIMEOUT_MS, abandon_on_cancel=True
                )
            except _ERRORS:
                self.counters["mdns: unusable name"] += 1
                continue
            await self._tell(info, interface)

    async def _tell(self, info: ServiceInfo | None, interface: Interface) -> None:
        for endpoint in self._read(info, interface):
            if self._hints.take(None, Micros(round(trio.current_time() * SECOND))):
                await self._found(endpoint)
            else:
                self.counters["mdns: hints over the rate"] += 1

    def _read(self, info: ServiceInfo | None, interface: Interface) -> list[Endpoint]:
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
        local = any(ipaddress.ip_address(ours).is_loopback for ours in interface.announces)
        hosts = [host for host in info.parsed_scoped_addresses() if self._may_be_peer(host, local)]
        self.counters["mdns: peers heard" if hosts else "mdns: no address to use"] += 1
        return [(_on(interface, host), info.port) for host in hosts[:ADDRESSES_MAX]]

    def _may_be_peer(self, host: str, local: bool) -> bool:
        """Whether a node may be at this address: of a family of ours, one machine's, and not our own loopback's."""
        address = ipaddress.ip_address(host.partition("%")[0])
        listens = ipaddress.ip_address(self._endpoint[0])
        if address.version != listens.version and not (listens.is_unspecified and listens.version == 6):
            return False
        if address.is_loopback and not local:
            return False
        return not (address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255")


def _on(interface: Interface, host: str) -> str:
    """A link-local IPv6 address with its scope as the system's sockets name it, or peers would have two addresses."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return f"{address}%{interface.name}" if address.version == 6 and address.is_link_local else str(address)
