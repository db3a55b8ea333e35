"""Records on their way to the disk: off the loop, many in one transaction, and none forgotten (edge).

::

    put ─▶ waiting (the latest value of each record) ─▶ batch ─▶ a worker thread: one transaction, one fsync ─▶ durable
                     ▲                                    │
                     └────────── fails: back, and again after a while, twice as long each time

Whoever puts records gets a ticket, and learns whether everything up to it is durable. While the disk takes no writes
(it is full, say) records wait in memory, each once, so that there are never more of them than the engine holds things;
when there is room again they are written, and nobody has to restart anything. Until then the node is in *trouble*,
which its counters and its warnings say. Nobody waits for a disk in trouble: a node that holds its tongue for an hour is
of less use to its peers than one that may have to outgrow, one day, what it forgot (`twins`).

The file is read again once an hour (`Store.damage`). If it is damaged, it is begun anew, and everything is written
again from what the engine holds.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import trio

from lattice.events import Persist

log = logging.getLogger("edgelattice.store")

BATCH_RECORDS_MAX: Final = 1_024
WAITING_MAX: Final = 131_072
"""Everything that an engine may hold, once: 52,000 ops, 20,000 peers with their rows and replay windows, revocations.
Beyond it all are dropped, and asked of the engine again when the disk is well."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
CHECK_INTERVAL_S: Final = 3_600.0
"""Riak reads everything again once a week, a terabyte a node; here it is some megabytes, and takes a moment."""

Place: TypeAlias = "tuple[str, bytes]"
"""(table, key)"""


class RecordStore(Protocol):
    """What a `Store` is to its writer. All of it blocks, and is called from a worker thread."""

    path: Path
    replaced: str | None

    def read(self) -> tuple[tuple[str, bytes, bytes], ...]: ...

    def write(self, records: Sequence[Persist]) -> None: ...

    def damage(self) -> str | None: ...

    def renew(self, why: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Trouble:
    """The disk takes no writes."""

    since: float
    """By trio's clock."""
    why: str
    remedy: str


def _remedy(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    full = number in {errno.ENOSPC, errno.EDQUOT} or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return f"{'make room there' if full else 'see to its disk'}; no restart is needed"


class Writer:
    """One store's queue. Everything here is called on the trio thread; only the store's methods run elsewhere."""

    def __init__(
        self,
        store: RecordStore,
        refill: Callable[[], None],
        say: Callable[[int, str], None],
        check_s: float = CHECK_INTERVAL_S,
    ) -> None:
        """`refill` is to have every record put again; `say` tells a person, at a level of `logging`."""
        self._store = store
        self._refill = refill
        self._say = say
        self._check_s = check_s
        self._waiting: dict[Place, tuple[int, Persist]] = {}
        """In the order in which each was first put: so the first one's ticket is the least."""
        self._writing: dict[Place, tuple[int, Persist]] = {}
        self._issued = 0
        self._lost = 0
        """Tickets up to this one are not durable before a refill is."""
        self._incomplete = False
        self._why_renew: str | None = None
        self._wake = trio.Event()
        self._moved = trio.Event()
        self.trouble: Trouble | None = None
        self.counters: Counter[str] = Counter()

    def put(self, records: Sequence[Persist]) -> int:
        """Have these written; the ticket that stands for them, and for all before them."""
        if not records:
            return self._issued
        self._issued += 1
        for record in records:
            place = (record.table, record.key)
            earlier = self._waiting.get(place)
            self._waiting[place] = (earlier[0] if earlier else self._issued, record)
        if len(self._waiting) > WAITING_MAX:
            self.counters["store: records dropped, too many wait"] += len(self._waiting)
            self._waiting.clear()
            self._lost, self._incomplete = self._issued, True
        self._wake.set()
        return self._issued

    @property
    def waiting(self) -> int:
        return len(self._waiting.keys() | self._writing.keys())

    @property
    def what_waits(self) -> str:
        """In words."""
        if self._incomplete:
            return "everything is written anew from memory once it takes writes"
        return f"{self.waiting} records wait in memory until it takes writes"

    def is_durable(self, ticket: int) -> bool:
        """Whether everything up to this ticket is on the disk."""
        first = next(chain(self._writing.values(), self._waiting.values()), (ticket + 1, None))[0]
        return ticket == 0 or self._lost < ticket < first

    def holds(self, ticket: int) -> bool:
        """Whether to wait for this ticket: it is not durable yet, but may soon be."""
        return self.trouble is None and ticket > self._lost and not self.is_durable(ticket)

    async def settled(self, ticket: int) -> bool:
        """Wait as long as this ticket `holds`; whether it is durable then."""
        while self.holds(ticket):
            await self.moved()
        return self.is_durable(ticket)

    async def moved(self) -> None:
        """Wait until a batch was written, or was not."""
        await self._moved.wait()

    @property
    def path(self) -> Path:
        return self._store.path

    # --- the tasks

    async def run(self) -> None:
        """Write until cancelled; then what still waits, if the disk takes it."""
        if self._store.replaced is not None:
            self.counters["store: files found damaged"] += 1
            self._say(logging.WARNING, f"{self._store.replaced}; the peers have the rest")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_checking)
                await self._keep_writing()
        finally:
            with trio.move_on_after(RETRY_MAX_S, shield=True):
                while self._waiting and await self._write():
                    pass

    async def _keep_writing(self) -> None:
        pause_s = RETRY_MIN_S
        while True:
            while not (self._waiting or self._why_renew):
                self._wake = trio.Event()
                await self._wake.wait()
            if await self._write():
                pause_s = RETRY_MIN_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _write(self) -> bool:
        """One batch; whether that went well."""
        why_renew, self._why_renew = self._why_renew, None
        places = list(self._waiting)[:BATCH_RECORDS_MAX]
        self._writing = {place: self._waiting.pop(place) for place in places}
        batch = [record for _, record in self._writing.values()]
        try:
            if why_renew is not None:
                self._tell_renewed(await trio.to_thread.run_sync(self._store.renew, why_renew))
                why_renew = None
            await trio.to_thread.run_sync(self._store.write, batch)
        except trio.Cancelled:
            self._take_back()
            self._why_renew = why_renew
            raise
        except (sqlite3.Error, OSError) as error:
            self._take_back()
            self._why_renew = why_renew
            self._fail(error)
            return False
        self._writing = {}
        self.counters["store: batches written"] += 1
        self.counters["store: records written"] += len(batch)
        self._recover()
        self._tell_moved()
        return True

    def _take_back(self) -> None:
        """What was not written waits at the head again, unless there is something newer of it."""
        newer, self._waiting = self._waiting, self._writing
        for place, (ticket, record) in newer.items():
            earlier = self._waiting.get(place)
            self._waiting[place] = (earlier[0] if earlier else ticket, record)
        self._writing = {}

    def _fail(self, error: Exception) -> None:
        self.counters["store: writes failed"] += 1
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if damaged and not isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
            self._why_renew = str(error)
        if self.trouble is None:
            self.trouble = Trouble(trio.current_time(), str(error), _remedy(error))
            self._say(logging.ERROR, f"cannot write {self.path}: {error}; {self.what_waits}; {self.trouble.remedy}")
        self._tell_moved()

    def _recover(self) -> None:
        if self.trouble is not None:
            seconds = round(trio.current_time() - self.trouble.since)
            self.trouble = None
            self._say(logging.INFO, f"{self.path} takes writes again, after {seconds} s")
        if self._incomplete:
            self._incomplete = False
            self._refill()

    def _tell_renewed(self, what: str) -> None:
        self.counters["store: files found damaged"] += 1
        self._incomplete = True
        self._say(logging.WARNING, f"{what}; the rest is written anew from memory")

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _keep_checking(self) -> None:
        while True:
            await trio.sleep(self._check_s)
            try:
                why = await trio.to_thread.run_sync(self._store.damage)
            except (sqlite3.Error, OSError) as error:
                self.counters["store: checks failed"] += 1
                log.warning("cannot check %s: %s", self._store.path, error)
                continue
            self.counters["store: checks"] += 1
            if why is not None:
                self._why_renew = why
                self._wake.set()
