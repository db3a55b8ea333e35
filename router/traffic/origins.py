"""Who has to give way when places are short and nobody has shown yet who he is: whoever has more of them. Pure.

To let the oldest go for each newcomer would, in a rush of many, let everybody go before the end. So a place changes
hands only from an origin that has most to one that has clearly fewer; else it is the newcomer who is refused.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

WaitingT = TypeVar("WaitingT")


def origin_of(address: str) -> str:
    """Where a connection comes from: its address; of IPv6 the 64 bits that one host has to itself."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((int(ipaddress.IPv6Address(address.partition("%")[0])) >> 64 << 64, 64)))


def who_gives_way(waiting: Mapping[WaitingT, str], newcomer: str) -> WaitingT | None:
    """Of those who wait, by their origins, the oldest first: whose place a newcomer from that origin may have."""
    held = Counter(waiting.values())
    most = max(held.values(), default=0)
    if most <= held[newcomer] + 1:
        return None
    return next(each for each, origin in waiting.items() if held[origin] == most)
