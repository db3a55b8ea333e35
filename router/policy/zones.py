"""From a client's address to its zone: the longest prefix wins.

An IPv4-mapped IPv6 client (::ffff:192.0.2.1) is the IPv4 client it maps (RFC 4291 2.5.5.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton  # POSIX's reader of addresses: a pure function, and the fastest

from router.policy.address_index import AddressIndex
from router.policy.address_pages import AddressPages
from router.policy.syntax import ZONE_NOWHERE, Zone

_MAPPED = bytes(10) + b"\xff\xff"

Client = bytes
"""An address as on the wire: 4 bytes or 16."""


def read_client(text: str) -> Client | None:
    """A numeric address; None when it is not one. Strict: no leading zeros, no spaces, no octal."""
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        client = inet_pton(AF_INET6, text.partition("%")[0])  # a scope id names our own interface, not the client
    except (OSError, ValueError):
        return None
    return client.removeprefix(_MAPPED)


@dataclass(frozen=True, slots=True)
class ZoneIndex:
    """Zones by client address."""

    ipv4: AddressIndex
    ipv4_pages: AddressPages
    ipv6: AddressIndex

    @classmethod
    def of(cls, zones: Iterable[Zone]) -> ZoneIndex:
        blocks = [(cidr.network, zone.name) for zone in zones for cidr in zone.cidrs]
        ipv4 = AddressIndex.of(block for block in blocks if block[0].version == 4)
        ipv6 = AddressIndex.of((block for block in blocks if block[0].version == 6), 128)
        return cls(ipv4, AddressPages.of(ipv4), ipv6)

    def zone_of(self, client: Client | None) -> str:
        """The zone of a client; "" for a client in none, and for one whose address could not be read."""
        if client is None:
            return ZONE_NOWHERE
        if len(client) != 4:
            return self.ipv6.owner_of(int.from_bytes(client, "big"))
        pages = self.ipv4_pages
        owner = pages.names[pages.owners[pages.first[client[0] << 8 | client[1]] + client[2]]]
        return self.ipv4.owner_of(int.from_bytes(client, "big")) if owner is None else owner
