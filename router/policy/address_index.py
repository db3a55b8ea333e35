"""The innermost of many nested blocks that holds an address, in one binary search.

CIDR blocks are nested or disjoint, never half overlapping. So the line of all addresses falls into stretches, each with
one innermost block; `AddressIndex` keeps the first address of every stretch, sorted, and whose stretch it is. A look-up
is one bisection of integers whatever prefix lengths are in use; a trie in Python would walk a node a bit. With many
stretches a look-up mostly waits for memory, so a directory by the upper bits says within which few of them to look, and
numbers stand side by side in arrays instead of in objects all over the heap (which IPv6 addresses are too long for).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from router.policy.syntax import ZONE_NOWHERE, Network

DIRECTORY_BITS_MAX = 18
"""A directory of 2 MiB at most. Blocks lie close together in a part of the address space, IPv6 ones above all."""


@dataclass(frozen=True, slots=True)
class AddressIndex:
    """The stretches of one address family: `owners[i]` holds the addresses from `starts[i]` up to the next start."""

    starts: array[int] | tuple[int, ...]
    owners: array[int]
    """By place in `names`."""
    names: tuple[str, ...]
    shift: int
    """How many lower bits of an address the directory ignores."""
    first: array[int]
    """For every value of the upper bits, and one beyond: the index of the first stretch that begins there or later."""

    @classmethod
    def of(cls, blocks: Iterable[tuple[Network, str]], size: int = 32) -> AddressIndex:
        """From blocks of one family and their owners, in any order; no block twice. `size`: an address's, in bits."""
        ordered = sorted(blocks, key=lambda pair: (int(pair[0].network_address), pair[0].prefixlen))
        stretches: dict[int, str] = {0: ZONE_NOWHERE}
        nested: list[tuple[int, str]] = []  # (first address after the block, owner) from the outermost in

        def close_until(address: int) -> None:
            while nested and nested[-1][0] <= address:
                end, _ = nested.pop()
                stretches[end] = nested[-1][1] if nested else ZONE_NOWHERE

        for network, owner in ordered:
            start = int(network.network_address)
            close_until(start)
            stretches[start] = owner
            nested.append((start + network.num_addresses, owner))
        close_until(1 << 128)
        starts = sorted(start for start in stretches if start < 1 << size)
        bits = min(len(starts).bit_length(), DIRECTORY_BITS_MAX)
        shift = size - bits
        first, number = array("I"), 0
        for upper in range((1 << bits) + 1):
            while number < len(starts) and starts[number] < upper << shift:
                number += 1
            first.append(number)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(stretches.values()))}
        owners = array("H" if len(numbers) <= 1 << 16 else "I", [numbers[stretches[start]] for start in starts])
        return cls(array("I", starts) if size <= 32 else tuple(starts), owners, tuple(numbers), shift, first)

    def owner_of(self, address: int) -> str:
        """The innermost block's owner; "" for an address that no block holds."""
        upper = address >> self.shift
        place = bisect_right(self.starts, address, self.first[upper], self.first[upper + 1]) - 1
        return self.names[self.owners[place]]
