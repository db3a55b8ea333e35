"""Field blocks of responses: HPACK's encoder, for fields of which most come again and some never do (RFC 7541). Pure.

hpack's own searches its table from end to end for each field, and adds to it whatever it does not find, a Server-Timing
that holds for once too. That was a fourth of what an HTTP/2 request cost. Here a dictionary knows where a field stands,
and what varies by its nature never enters the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from hpack import Encoder
from hpack.table import HeaderTable

TABLE_BYTES_MAX: Final = 4_096
"""Of the dynamic table: SETTINGS_HEADER_TABLE_SIZE's initial value, and no more where a peer allows more."""
FIELD_BYTES_MAX: Final = 1_024
"""A longer field would drive out many others."""

_OVERHEAD: Final = 32  # of an entry (4.1)
_STATIC: Final = {field: index for index, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_FIRST: Final = len(HeaderTable.STATIC_TABLE) + 1  # where the dynamic table's newest entry stands
_SECRET: Final = frozenset({b"set-cookie", b"authorization", b"proxy-authorization"})
"""Never indexed, by nobody on the way (7.1.3)."""
_VARIES: Final = frozenset(
    {b"age", b"content-length", b"content-range", b"etag", b"expires", b"last-modified", b"location"}
    | {b"server-timing", b"x-request-id", b"traceparent"}
)

Field = tuple[bytes, bytes]


class FieldEncoder(Encoder):
    """In place of hpack's, in an `H2Connection`."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[Field, int] = {}  # by how many entries had been added before
        self._entries: deque[Field] = deque()  # oldest first
        self._added = 0
        self._bytes = 0
        self._bytes_max = TABLE_BYTES_MAX
        self._told: list[int] = []  # sizes that the next block begins by telling: the least, and the last

    @property
    def header_table_size(self) -> int:
        return self._bytes_max

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE."""
        size = min(value, TABLE_BYTES_MAX)
        if size != self._bytes_max:
            self._told = [min(self._told[0], size), size] if self._told else [size]
            self._bytes_max = size
            self._evict(0)

    def encode(self, headers: Iterable[Field], huffman: bool = True) -> bytes:  # type: ignore[override]
        """The block for these fields, names in lower case. Huffman codes are never used."""
        out = [_integer(0x20, 5, size) for size in self._told]  # 6.3
        self._told = []
        for field in headers:
            place = self._places.get(field)
            if place is not None:
                out.append(_integer(0x80, 7, _FIRST + self._added - 1 - place))
            elif (index := _STATIC.get(field)) is not None:
                out.append(_integer(0x80, 7, index))
            else:
                out.append(self._literal(field))
        return b"".join(out)

    def _literal(self, field: Field) -> bytes:
        name, value = field
        size = len(name) + len(value) + _OVERHEAD
        if name in _SECRET:
            pattern, bits = 0x10, 4  # 6.2.3
        elif name in _VARIES or size > min(FIELD_BYTES_MAX, self._bytes_max):
            pattern, bits = 0x00, 4  # 6.2.2
        else:
            pattern, bits = 0x40, 6  # 6.2.1
            self._evict(size)
            self._places[field] = self._added
            self._entries.append(field)
            self._added += 1
            self._bytes += size
        index = _NAMES.get(name, 0)
        return _integer(pattern, bits, index) + (b"" if index else _string(name)) + _string(value)

    def _evict(self, room: int) -> None:
        while self._bytes > self._bytes_max - room:
            oldest = self._entries.popleft()
            del self._places[oldest]
            self._bytes -= len(oldest[0]) + len(oldest[1]) + _OVERHEAD


def _string(text: bytes) -> bytes:
    return _integer(0x00, 7, len(text)) + text


def _integer(pattern: int, bits: int, value: int) -> bytes:
    """An integer whose first byte begins with `pattern` and has so many bits for it (5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((pattern | value,))
    out = bytearray((pattern | most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
