"""The owner of an IPv4 address, in two look-ups: most policies name blocks no narrower than /24.

A table of all 2^24 such blocks (DIR-24-8: Gupta, Lin and McKeown, "Routing lookups in hardware at memory access
speeds", INFOCOM 1998) is large and mostly repeats itself. So it is cut into pages of 256 blocks, one for each /16, and
equal pages are one: a policy of a few blocks costs a few pages; one of 400,000 /24 scattered over some hundred zones
12 MiB. Where narrower blocks lie the table says so, and who asks searches (`AddressIndex`).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from router.policy.address_index import AddressIndex

_PAGE = 256
"""So many /24 has a /16, and so many addresses a /24."""


@dataclass(frozen=True, slots=True)
class AddressPages:
    """Owners by /24. `ZoneIndex` looks up in it."""

    first: array[int]
    """For every /16: where in `owners` its page begins."""
    owners: array[int]
    """By place in `names`, page by page."""
    names: tuple[str | None, ...]
    """None for a /24 that several share."""

    @classmethod
    def of(cls, index: AddressIndex) -> AddressPages:
        """From an index of IPv4 blocks."""
        several = len(index.names)
        code = "B" if several < 1 << 8 else "H" if several < 1 << 16 else "I"
        first, owners, page = array("I"), array(code), array(code)
        places: dict[bytes, int] = {}

        def place_of(page: array[int]) -> int:
            content = page.tobytes()
            if content not in places:
                places[content] = len(owners)
                owners.extend(page)
            return places[content]

        def fill(owner: int, count: int) -> None:
            """The next so many /24 have this owner."""
            nonlocal page
            one = array(code, (owner,))
            taken = min(count, -len(page) % _PAGE)
            page += one * taken
            whole, rest = divmod(count - taken, _PAGE)
            if len(page) == _PAGE:
                first.append(place_of(page))
                page = array(code)
            if whole:
                first.extend(array("I", (place_of(one * _PAGE),)) * whole)
            page += one * rest

        filled = 0
        ends = (*index.starts[1:], 1 << 32)
        for end, owner in zip(ends, index.owners, strict=True):
            upper = end >> 8
            if upper > filled:
                fill(owner, upper - filled)
                filled = upper
            if end % _PAGE and upper == filled:
                fill(several, 1)
                filled = upper + 1
        assert len(first) == 1 << 16, "the stretches cover all addresses"
        return cls(first, owners, (*index.names, None))
