"""Where this site never connects on behalf of a policy, unless its own site file allows it. Pure.

Addresses come from signed policy only, and are numeric, so nobody's DNS can turn them. But an author, or who took an
author's key, is not to reach what a machine tells itself: its cloud's metadata service hands out credentials to whoever
can ask (server-side request forgery; Capital One, 2019). So what is never a region is refused: when a policy comes into
force, to be said once, and at every connect, where it counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

REFUSED: Final = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("169.254.0.0/16", "link-local"),  # with 169.254.169.254 (AWS, GCP, Azure, …) and 169.254.170.2 (ECS)
        ("fe80::/10", "link-local"),
        ("fd00:ec2::254/128", "metadata"),  # AWS
        ("fd00:ec2::23/128", "metadata"),  # AWS, EKS pod identity
        ("fd20:ce::254/128", "metadata"),  # GCP
        ("100.100.100.200/32", "metadata"),  # Alibaba Cloud
        ("168.63.129.16/32", "metadata"),  # Azure's wire server
        ("192.0.0.192/32", "metadata"),  # Oracle Cloud
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: IPv4 inside IPv6, to be unwrapped by a router on the way."""


class AddressRule:
    """What may be connected to; everything, except `REFUSED` less `allowed`."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)
        self._known: dict[str, str | None] = {}

    def why_refused(self, host: str) -> str | None:
        """The kind of a numeric address that must not be connected to; None for one that may."""
        if host not in self._known:
            if len(self._known) >= 4_096:
                self._known.clear()
            self._known[host] = self._judge(host)
        return self._known[host]

    def _judge(self, host: str) -> str | None:
        address = _unwrapped(ipaddress.ip_address(host))
        if any(address in network for network in self._allowed):
            return None
        return next((why for network, why in REFUSED if address in network), None)


def _unwrapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, by whichever way it would get there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
