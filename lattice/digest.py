"""A set of cells in few bytes: a salted, blocked Bloom filter.

All probes of one item fall into one block of 512 bits, a cache line (Putze, Sanders, Singler, 2007). At 12 bits an item
and six probes about 0.46 % of absent items look present. Such an error costs one more round under another salt, never
correctness: a digest is a hint about what to send.

The salt belongs to one exchange and is chosen by the node that will *read* the filter, and items enter as keyed BLAKE2b
of their id. So nobody who does not know the salt can craft ids that collide (the flaw that lets 9 bits of grinding
break Automerge's sync). A filter of a wrong shape, or so full that it would claim everything, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import mmh3

from lattice.canonical import blob
from lattice.errors import MalformedError
from lattice.types import CellId

BLOCK_BYTES: Final = 64
BITS_PER_ITEM: Final = 12
PROBES: Final = 6
BLOCKS_MAX: Final = 512
"""32 KiB: 21,845 items at 12 bits."""
FILL_PPM_MAX: Final = 600_000
"""At the design load about 39 % of the bits are set; over 60 % a filter claims more than it knows."""


def _probes(cell: CellId, salt: int, blocks: int) -> tuple[int, int]:
    """(block index, the six bits as a mask of that block)."""
    keyed = blake2b(cell, digest_size=16, key=salt.to_bytes(8, "big"), person=b"edgelattice blom").digest()
    first, second = mmh3.hash64(keyed, signed=False, x64arch=True)
    mask = 0
    for _ in range(PROBES):
        mask |= 1 << (second & 511)
        second >>= 9
    return first % blocks, mask


@dataclass(frozen=True, slots=True)
class Bloom:
    """The filter's blocks, end to end."""

    data: bytes

    @classmethod
    def of(cls, cells: Iterable[CellId], count: int, salt: int) -> Bloom:
        """A filter over `cells`, sized for `count` of them."""
        blocks = min(max(1, -(-count * BITS_PER_ITEM // (BLOCK_BYTES * 8))), BLOCKS_MAX)
        masks = [0] * blocks
        for cell in cells:
            index, mask = _probes(cell, salt, blocks)
            masks[index] |= mask
        return cls(b"".join(mask.to_bytes(BLOCK_BYTES, "big") for mask in masks))

    @classmethod
    def from_bytes(cls, value: object) -> Bloom:
        """A filter from the network. Raises `MalformedError` if its shape is wrong or it is overfull."""
        data = blob(value, "filter", length_max=BLOCKS_MAX * BLOCK_BYTES)
        if not data or len(data) % BLOCK_BYTES:
            raise MalformedError("bad shape", f"a filter of {len(data)} bytes is not whole blocks of {BLOCK_BYTES}")
        if int.from_bytes(data, "big").bit_count() * 1_000_000 > len(data) * 8 * FILL_PPM_MAX:
            raise MalformedError("overfull filter", f"over {FILL_PPM_MAX // 10_000} % of the bits are set")
        return cls(data)

    def missing(self, cells: Iterable[CellId], salt: int) -> list[CellId]:
        """Those of `cells` that are certainly not in the filter, in the order given."""
        count = len(self.data) // BLOCK_BYTES
        masks = [
            int.from_bytes(self.data[at : at + BLOCK_BYTES], "big") for at in range(0, len(self.data), BLOCK_BYTES)
        ]
        absent = []
        for cell in cells:
            index, mask = _probes(cell, salt, count)
            if masks[index] & mask != mask:
                absent.append(cell)
        return absent
