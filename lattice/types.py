"""The words everything else is written in: the leaf that every module may import."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

if TYPE_CHECKING:
    NodeId = NewType("NodeId", bytes)
    """16 bytes: the BLAKE2b-128 of a node's Ed25519 public key. Who you are is what you can sign."""

    AuthorId = NewType("AuthorId", bytes)
    """16 bytes, made as a `NodeId` is, of a key that signs policy."""

    VersionId = NewType("VersionId", bytes)
    """16 bytes: the BLAKE2b-128 of a policy version's manifest."""

    CellId = NewType("CellId", bytes)
    """16 bytes: the BLAKE2b-128 of a replicated cell's kind and bytes."""

    class Micros(int):
        """Microseconds since the Unix epoch by this node's own clock, made monotonic: it never decreases, and it may
        be wrong.

        Only what is shown to people, and the hybrid logical clock of policy, reads it as a date. Every timeout, lease
        and hysteresis uses differences of one node's own values, so a wrong clock changes no verdict.
        """

        def __add__(self, duration_us: int, /) -> Micros: ...
else:
    # At run time a `NewType` is a function of Python's own that returns its argument, and every frame calls some. These
    # return it too, the bytes of bytes and the whole part of a whole number, in a fraction of the time.
    NodeId = AuthorId = VersionId = CellId = bytes.__bytes__
    Micros = int.__trunc__

NEVER = Micros(0)

Endpoint: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address and a port."""

MILLISECOND = 1_000
SECOND = 1_000_000
CLOCK_UNSET_BEFORE_US = 1_704_067_200 * SECOND
"""2024-01-01: a clock that says less was never set."""


class Level(IntEnum):
    """How well a region is; a greater level is worse. `UNKNOWN` is what a region is before there is evidence."""

    UNKNOWN = 0
    HEALTHY = 1
    DEGRADED = 2
    FAILING = 3
    DOWN = 4


LEVELS: Final = tuple(Level)
"""By number. (To ask the class for a member of a number takes ten times as long.)"""


def short(identity: bytes) -> str:
    """The first eight hexadecimal digits of an id: what logs, tables and people use."""
    return identity[:4].hex()
