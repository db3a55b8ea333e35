"""Whose word about a client's address is taken: that of hops the site names, read from the right. Pure.

Every proxy adds whom it heard from at the end of `X-Forwarded-For`, or of `Forwarded` (RFC 7239), and passes on what
was there. So the last entry is the word of the hop that connected to us, the one before it of the hop before, and so on
up to the first that is not ours to trust: that one is the client, and what stands to its left it may have made up.

A site says which of the two headers its hops write. A hop that writes one and passes the other on untouched would
otherwise let any client say who it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from router.traffic.http1 import Fields

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ENTRIES_MAX: Final = 64
"""Entries that are looked at. Longer chains are loops or attacks."""

_PAIR: Final = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]*))\s*"
)
"""One `forwarded-pair` (RFC 7239 4); unquoted IPv6 and ports, which it forbids, are common and harmless."""


class TrustedHops:
    """Addresses whose forwarding headers are believed. Falsy when there are none."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = {
            version: sorted(
                (int(network.network_address), int(network.broadcast_address))
                for network in networks
                if network.version == version
            )
            for networks in (tuple(networks),)
            for version in (4, 6)
        }

    def __bool__(self) -> bool:
        return any(self._networks.values())

    def __contains__(self, address: str) -> bool:
        """`address` is numeric; anything else is nobody's."""
        found = _parse(address)
        return found is not None and any(first <= int(found) <= last for first, last in self._networks[found.version])

    def client_by_x_forwarded_for(self, peer: str, values: Iterable[str]) -> str:
        """Who the client behind `peer` is, by the values of all `X-Forwarded-For` fields in order; else `peer`."""
        entries = ((entry.strip(), "") for value in reversed([*values]) for entry in reversed(value.split(",")))
        return self._heard(peer, entries)[0]

    def client_by_forwarded(self, peer: str, values: Iterable[str]) -> str:
        """The same by `Forwarded`. An element without a `for` parameter names nobody, and so ends the search."""
        return self.heard_by_forwarded(peer, values)[0]

    def heard_by_forwarded(self, peer: str, values: Iterable[str]) -> tuple[str, str]:
        """The client, and how the hop that heard it says it came: the `proto` of its element; "" if it does not say."""
        return self._heard(peer, (entry for value in reversed([*values]) for entry in reversed(_elements(value))))

    def _heard(self, peer: str, entries: Iterator[tuple[str, str]]) -> tuple[str, str]:
        client, proto = peer, ""
        for _ in range(ENTRIES_MAX):
            if client not in self:
                break
            host, said = next(entries, ("", proto))
            proto = said
            address = _parse(_without_port(host))
            if address is None:  # "unknown", a pseudonym, or the end: the last hop we know is all we know
                break
            client = str(address)
        return client, proto


class Forwarders:
    """The hops in front of a site that say for whom they speak, and the one header in which they do."""

    def __init__(self, hops: TrustedHops, *, by_forwarded: bool = False) -> None:
        """`by_forwarded`: they write `Forwarded`, and pass `X-Forwarded-For` on as they got it; else the other way."""
        self._hops = hops
        self._by_forwarded = by_forwarded

    def __contains__(self, peer: str) -> bool:
        return peer in self._hops

    def client(self, peer: str, fields: Fields) -> str:
        """Who the client behind `peer` is."""
        if peer not in self._hops:
            return peer
        if self._by_forwarded:
            return self._hops.client_by_forwarded(peer, _values(fields, b"forwarded"))
        return self._hops.client_by_x_forwarded_for(peer, _values(fields, b"x-forwarded-for"))

    def scheme(self, peer: str, fields: Fields, scheme: str) -> str:
        """How the client reached the first of us: as the hop says that heard it (`Forwarded`), or the last one
        (X-Forwarded-Proto, which hops that write `Forwarded` pass on as they got it); else `scheme`."""
        if peer not in self._hops:
            return scheme
        if self._by_forwarded:
            said = self._hops.heard_by_forwarded(peer, _values(fields, b"forwarded"))[1]
        else:
            said = ",".join(_values(fields, b"x-forwarded-proto")).rpartition(",")[2]
        said = said.strip().lower()
        return said if said in ("http", "https") else scheme


def _values(fields: Fields, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, _, value in fields if key == name]


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _without_port(entry: str) -> str:
    """The host of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _elements(value: str) -> list[tuple[str, str]]:
    """`for` and `proto` of every element, "" where it has none; an empty one alone for a value that is not
    well-formed."""
    found = [{"for": "", "proto": ""}]
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is not None:
            if (name := pair[1].lower()) in found[-1]:
                found[-1][name] = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
            at = pair.end()
        if at == len(value):
            return [(each["for"], each["proto"]) for each in found]
        if value[at] == ",":
            found.append({"for": "", "proto": ""})
        elif value[at] not in "; \t":
            return [("", "")]
        at += 1
