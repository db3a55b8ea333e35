"""The strict walk of a Yrs update before the library sees it.

Yrs decodes what it is given with a native stack and trusting lengths: 26 kB of nested arrays end the process, nine
bytes allocate 256 MB, and a block written under another's client id silences that client for ever. None of it can be
caught from Python. So an op may carry only the one shape that this project writes, and this walk admits nothing else:

* one client, at clock 0, so that no update depends on another and none can wait in Yrs for what never comes;
* blocks that each set one key of one of the known root maps, without neighbours (`origin`s) to refer to;
* values that are one flat byte string: nothing nests;
* no deletions (an author-signed checkpoint is how data leaves) and nothing after the end.

Layout (lib0 encoding v1, as in Yjs `encodeStateAsUpdate`): count of clients; per client the count of blocks, the client
id and the first clock; per block an info byte, the parent, the key and the content; then the delete set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattice.errors import OpError

UPDATE_BYTES_MAX: Final = 16 * 1024
WRITES_MAX: Final = 64
KEY_BYTES_MAX: Final = 160
ROOTS: Final = ("blocks", "heads", "rollouts", "versions")

_CONTENT_ANY_WITH_KEY: Final = 0x08 | 0x20
_PARENT_IS_ROOT: Final = 1
_ANY_BUFFER: Final = 116


@dataclass(frozen=True, slots=True)
class Write:
    """One key set in one root map."""

    root: str
    key: str
    value: bytes


def walk(update: bytes, client_id: int) -> tuple[Write, ...]:
    """The writes an update makes, if it is of the one admitted shape and wholly under `client_id`.

    Raises `OpError` with a reason that names the first thing out of shape. Reads each byte once and allocates no more
    than the update's own size.
    """
    if len(update) > UPDATE_BYTES_MAX:
        raise OpError("update too large", f"{len(update)} bytes, at most {UPDATE_BYTES_MAX}")
    cursor = _Cursor(update)
    clients = cursor.uvarint()
    if clients != 1:
        raise OpError("update of several clients", f"{clients} clients claimed, an op has one")
    blocks = cursor.uvarint()
    if not 1 <= blocks <= WRITES_MAX:
        raise OpError("update out of shape", f"{blocks} blocks claimed, 1 to {WRITES_MAX} allowed")
    if (client := cursor.uvarint()) != client_id:
        raise OpError("foreign client id", f"{client}, this op may write as {client_id}")
    if (clock := cursor.uvarint()) != 0:
        raise OpError("update out of shape", f"starts at clock {clock}, not 0")
    writes = tuple(_write(cursor) for _ in range(blocks))
    if (deletions := cursor.uvarint()) != 0:
        raise OpError("update deletes", f"{deletions} clients in the delete set")
    if cursor.at != len(update):
        raise OpError("update out of shape", f"{len(update) - cursor.at} bytes after the end")
    if len({(write.root, write.key) for write in writes}) != len(writes):
        raise OpError("update out of shape", "one key set twice")
    return writes


def _write(cursor: _Cursor) -> Write:
    info = cursor.byte()
    if info != _CONTENT_ANY_WITH_KEY:
        raise OpError("forbidden block", f"info byte {info:#04x}: only keys set to plain values are allowed")
    if cursor.uvarint() != _PARENT_IS_ROOT:
        raise OpError("forbidden block", "its parent is not a root map")
    root = cursor.string(KEY_BYTES_MAX)
    if root not in ROOTS:
        raise OpError("forbidden block", f"root {root!r} is none of {', '.join(ROOTS)}")
    key = cursor.string(KEY_BYTES_MAX)
    if cursor.uvarint() != 1:
        raise OpError("forbidden block", "more than one value for a key")
    if (tag := cursor.byte()) != _ANY_BUFFER:
        raise OpError("forbidden block", f"value of type {tag}: only byte strings are allowed")
    return Write(root, key, cursor.take(cursor.uvarint()))


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise OpError("update truncated", f"{length} bytes claimed, {len(self.data) - self.at} left")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def uvarint(self) -> int:
        """Seven bits a byte, least significant first, at most 53 bits (what Yrs uses), shortest form only."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise OpError("update out of shape", "a number with needless bytes")
                break
            shift += 7
            if shift > 49:
                raise OpError("update out of shape", "a number of more than 53 bits")
        if value >= 2**53:
            raise OpError("update out of shape", "a number of more than 53 bits")
        return value

    def string(self, bytes_max: int) -> str:
        length = self.uvarint()
        if length > bytes_max:
            raise OpError("update out of shape", f"a name of {length} bytes, at most {bytes_max}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise OpError("update out of shape", "a name that is not UTF-8") from None
