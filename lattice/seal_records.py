"""What the seal must remember between lives of a node, written down before it is needed and as rarely as that allows.

Two records: how far our own counter may have come (reserved ahead, a million at a time, so that no life uses a nonce
again), and the highest counter heard from each sender (in batches, some seconds late: what is replayed from those
seconds right after a crash is heard a second time, once). An orderly stop writes all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from lattice import canonical
from lattice.events import Holds
from lattice.seal import Seal
from lattice.types import SECOND, Micros, NodeId

SAVE_INTERVAL_US = 3 * SECOND
SENDERS_PER_SAVE_MAX = 512
"""A batch is one transaction of at most so many small rows; the others have their turn next time."""

REPLAY_TABLE = "replay"
COUNTER_KEY = b"counter"
_RECORD_BYTES_MAX = 16

Persist = Callable[[str, bytes, bytes | None, Holds], None]
"""(table, key, value, what it holds back)"""


class SealRecords:
    """One seal's memory."""

    def __init__(self, seal: Seal, persist: Persist) -> None:
        self._seal = seal
        self.wanted = seal.windows is not None
        """Whether there is anything to remember: a plain envelope forgets all."""
        self._persist = persist
        self._reserved: int | None = None
        self._asked = self._answered = self._silent = 0
        self._leapt = True
        """The next reservation must be durable before the next frame."""

    def restore(self, table: str, key: bytes, value: bytes) -> bool:
        """Take a record of an earlier life; whether it is one of ours. Raises `MalformedError`; state is unchanged."""
        if (table, key) == ("self", COUNTER_KEY):
            self._seal.begin_beyond(_counter(value))
            return True
        if table == REPLAY_TABLE:
            if self._seal.windows is not None and len(key) == 16:
                self._seal.windows.restore(NodeId(key), _counter(value))
            return True
        return False

    def save(self, now: Micros) -> None:
        """Call it at the start, and from then on once in `SAVE_INTERVAL_US`: what is reserved must be durable before a
        frame is closed under it.

        The first reservation of a life, and one after a leap, hold all frames back. Others are made when half of the
        last is left, so they have the time of half a million frames to become durable, less those of an interval.
        """
        if not self.wanted:
            return
        reserved = self._seal.reserve(now)
        if reserved is not None:
            holds = Holds.FRAMES if self._leapt else Holds.NOTHING
            self._persist("self", COUNTER_KEY, canonical.pack(reserved), holds)
            self._reserved, self._leapt = reserved, False
        self._save(SENDERS_PER_SAVE_MAX)

    def hear(self, asked: int, answered: int, now: Micros) -> None:
        """How many pings this life has sent, and how many answers it has heard; call it before `save`.

        Another process with our key that started after us has gone ahead of our counter, and to all who heard it our
        frames are old: nobody answers, and nobody can tell us why, though who holds us to be here may still ping us.
        So who asks and is not answered begins again at the present moment, as a new life would, after twice the
        interval, four times, and so on.
        """
        if answered > self._answered:
            self._silent = 0
        elif asked > self._asked:
            self._silent += 1
            if self.wanted and self._silent > 1 and self._silent.bit_count() == 1:
                self._seal.begin_beyond(now)
                self._leapt = True
        self._asked, self._answered = asked, answered

    def save_all(self) -> None:
        """Before an orderly stop."""
        if self._seal.windows is not None:
            self._save(len(self._seal.windows) + SENDERS_PER_SAVE_MAX)

    def forget_saved(self) -> None:
        """Whatever was written down is gone: write it again."""
        if self._seal.windows is not None:
            self._seal.windows.forget_saved()
        if self._reserved is not None:
            self._persist("self", COUNTER_KEY, canonical.pack(self._reserved), Holds.FRAMES)
        self.save_all()

    def _save(self, count_max: int) -> None:
        assert self._seal.windows is not None
        for sender, highest in self._seal.windows.unsaved(count_max):
            self._persist(REPLAY_TABLE, sender, None if highest is None else canonical.pack(highest), Holds.NOTHING)


def _counter(value: bytes) -> int:
    return canonical.integer(canonical.unpack(value, _RECORD_BYTES_MAX), "counter")
