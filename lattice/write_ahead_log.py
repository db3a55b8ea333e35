"""What sqlite does not say of its write-ahead log: that a flipped bit has cut it short.

Every frame of the log carries a checksum of all frames before it. sqlite reads until one does not hold, and takes what
comes there for the end: for a transaction that a power cut tore, which nobody was told is durable. After a flipped bit
the same rule drops, without a word, all that was committed behind it. The two can be told apart: a transaction begins
only once the one before is on the disk, so what is behind a *torn* one is nothing. Frames of a later transaction behind
the place where sqlite stopped, under the salts of this log, mean damage. (The last transaction's own damage looks like
a torn one's, and a log that was cut between two of them like a shorter one: then the peers correct us.)

The format: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from typing import Final

HEAD_BYTES: Final = 32
FRAME_HEAD_BYTES: Final = 24
_ORDERS: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""Of the words that are summed, by the log's first four bytes. All else is big-endian."""


def damage_of_log(log: bytes, frames_read: int) -> str | None:
    """What is wrong with a log of which sqlite has read so many frames, in words; None if nothing is known of."""
    if len(log) < HEAD_BYTES or not any(log[:HEAD_BYTES]):
        return None
    order = _ORDERS.get(int.from_bytes(log[:4], "big"))
    if order is None or checksum(order, log[:24]) != struct.unpack(">2I", log[24:HEAD_BYTES]):
        return "the head of its log is not what was written"
    salts, size = log[16:24], FRAME_HEAD_BYTES + int.from_bytes(log[8:12], "big")
    heads = [log[at : at + FRAME_HEAD_BYTES] for at in range(HEAD_BYTES, len(log) - size + 1, size)]
    unread = [head for head in heads[frames_read:] if head[8:16] == salts]
    if any(any(head[4:8]) for head in unread[:-1]):  # the database's size stands in a transaction's last frame alone
        return f"its log does not hold after {frames_read} frames, and {len(unread)} follow"
    return None


def checksum(order: str, content: bytes) -> tuple[int, int]:
    first = second = 0
    for low, high in struct.iter_unpack(f"{order}2I", content):
        first = (first + low + second) & 0xFFFFFFFF
        second = (second + high + first) & 0xFFFFFFFF
    return first, second
