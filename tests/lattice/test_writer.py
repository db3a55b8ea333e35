"""The writer against disks that are slow, full, broken and well again: nothing is lost, and nothing waits in vain."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice import writer as writer_module
from lattice.events import Persist
from lattice.writer import Writer

FULL = sqlite3.OperationalError("database or disk is full")
FULL.sqlite_errorcode = sqlite3.SQLITE_FULL
REMEDY = "make room there; no restart is needed"
BROKEN = sqlite3.DatabaseError("database disk image is malformed")


class MoodyStore:
    """A disk that does as it is told: `error` is what its next writes raise; while `stuck`, they do not return."""

    def __init__(self) -> None:
        self.path = Path("state.sqlite")
        self.replaced: str | None = None
        self.disk: dict[tuple[str, bytes], bytes] = {}
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.found: str | None = None
        self.open = threading.Event()
        self.open.set()

    @property
    def stuck(self) -> bool:
        return not self.open.is_set()

    @stuck.setter
    def stuck(self, stuck: bool) -> None:
        (self.open.clear if stuck else self.open.set)()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stuck, and whatever comes of it, not for ever: whoever waits for the disk at the end would wait in vain."""
        self.stuck = True
        try:
            yield
        finally:
            self.stuck = False

    def read(self) -> tuple[tuple[str, bytes, bytes], ...]:
        return tuple((table, key, value) for (table, key), value in sorted(self.disk.items()))

    def write(self, records: Sequence[Persist]) -> None:
        assert self.open.wait(10)
        if self.error is not None:
            raise self.error
        self.batches.append(len(records))
        for record in records:
            if record.value is None:
                self.disk.pop((record.table, record.key), None)
            else:
                self.disk[record.table, record.key] = record.value

    def damage(self) -> str | None:
        return self.found

    def renew(self, why: str) -> str:
        if self.error is not None and self.error is not BROKEN:
            raise self.error
        self.error, self.found = None, None
        self.disk.clear()
        return f"{self.path} is damaged ({why}): moved"


class Desk:
    """A running writer, and what it said and asked for."""

    def __init__(self, check_s: float) -> None:
        self.store = MoodyStore()
        self.said: list[str] = []
        self.levels: list[int] = []
        self.refills = 0
        self.writer = Writer(self.store, self._refill, self._say, check_s)

    def _say(self, level: int, text: str) -> None:
        self.levels.append(level)
        self.said.append(text)

    def _refill(self) -> None:
        self.refills += 1

    def put(self, *numbers: int, value: bytes | None = b"v") -> int:
        return self.writer.put([Persist("op", bytes([number]), value) for number in numbers])

    async def written(self) -> None:
        with trio.fail_after(5):
            while self.writer.waiting:  # noqa: ASYNC110  (retries are what is waited for)
                await trio.sleep(0.002)


@asynccontextmanager
async def writing(check_s: float = 3_600) -> AsyncIterator[Desk]:
    desk = Desk(check_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield desk
        finally:
            desk.store.stuck = False
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_MIN_S", 0.005)


async def test_what_comes_while_the_disk_is_busy_goes_in_one_batch() -> None:
    async with writing() as desk:
        desk.store.stuck = True
        first = desk.put(0)
        await trio.sleep(0.01)
        last = [desk.put(number % 50 + 1, value=b"%d" % number) for number in range(500)][-1]
        assert desk.writer.holds(first)
        assert not desk.writer.is_durable(first)
        assert desk.writer.waiting == 51, "each record once, however often it changed"
        desk.store.stuck = False
        assert await desk.writer.settled(last)
        assert desk.store.batches == [1, 50]
        assert {value for (_, key), value in desk.store.disk.items() if key != b"\0"} == {
            b"%d" % number for number in range(450, 500)
        }


async def test_a_ticket_is_durable_when_all_that_came_before_it_is() -> None:
    async with writing() as desk:
        assert desk.writer.is_durable(0)
        desk.store.stuck = True
        one = desk.put(1)
        await trio.sleep(0.01)
        two, again = desk.put(2), desk.put(1, value=b"later")
        assert not any(map(desk.writer.is_durable, (one, two, again)))
        desk.store.stuck = False
        assert await desk.writer.settled(one)
        assert await desk.writer.settled(again)
        assert desk.store.disk["op", b"\x01"] == b"later"
        assert desk.writer.put([]) == again, "nothing to write has nothing to wait for"


async def test_a_full_disk_holds_nobody_up_and_is_written_when_there_is_room() -> None:
    async with writing() as desk:
        desk.store.error = FULL
        ticket = desk.put(1, 2)
        assert not await desk.writer.settled(ticket), "who waits is told, as soon as the disk refused"
        assert desk.writer.trouble is not None
        assert desk.writer.trouble.why == "database or disk is full"
        desk.put(2, 3, value=b"newer")
        assert not desk.writer.holds(desk.put(4)), "nobody waits for a disk that is known to fail"
        assert desk.writer.waiting == 4
        assert len(desk.said) == 1, "told once, not at every attempt"
        desk.store.error = None
        await desk.written()
        assert desk.writer.trouble is None
        assert desk.writer.is_durable(ticket)
        assert desk.store.disk == {("op", bytes([key])): b"newer" if key in {2, 3} else b"v" for key in (1, 2, 3, 4)}
        assert desk.said == [
            f"cannot write state.sqlite: {FULL}; 2 records wait in memory until it takes writes; {REMEDY}",
            "state.sqlite takes writes again, after 0 s",
        ]
        assert desk.levels == [logging.ERROR, logging.INFO]
        assert desk.writer.counters["store: writes failed"] >= 1
        assert desk.refills == 0


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FULL, "make room there"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room there"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room there"),
        (sqlite3.OperationalError("disk I/O error"), "see to its disk"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "see to its disk"),
    ],
)
async def test_the_remedy_is_that_of_what_is_wrong(error: Exception, remedy: str) -> None:
    async with writing() as desk:
        desk.store.error = error
        await desk.writer.settled(desk.put(1))
        assert desk.writer.trouble is not None
        assert desk.writer.trouble.remedy == f"{remedy}; no restart is needed"


async def test_what_was_dropped_is_not_said_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WAITING_MAX", 10)
    async with writing() as desk:
        desk.store.error = FULL
        await desk.writer.settled(desk.put(1))
        assert desk.writer.what_waits == "1 records wait in memory until it takes writes"
        desk.put(*range(2, 13))
        assert desk.writer.what_waits == "everything is written anew from memory once it takes writes"


async def test_removing_waits_its_turn_too() -> None:
    async with writing() as desk:
        desk.put(1, 2)
        await desk.written()
        desk.store.error = FULL
        desk.put(1, value=None)
        desk.put(3)
        desk.put(3, value=None)
        await trio.sleep(0.02)
        desk.store.error = None
        await desk.written()
        assert set(desk.store.disk) == {("op", b"\x02")}


async def test_more_than_can_wait_is_dropped_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WAITING_MAX", 10)
    async with writing() as desk:
        desk.store.error = FULL
        early = desk.put(1)
        await desk.writer.settled(early)
        late = desk.put(*range(2, 13))
        assert desk.writer.waiting == 0
        assert not desk.writer.holds(late)
        assert desk.writer.counters["store: records dropped, too many wait"] == 12
        assert desk.refills == 0, "not before the disk is well"
        desk.store.error = None
        desk.put(20)
        await desk.written()
        assert desk.refills == 1
        assert not desk.writer.is_durable(late), "what was dropped was never written"
        assert not await desk.writer.settled(late), "and nobody waits for it"
        assert await desk.writer.settled(desk.put(21))


@pytest.mark.parametrize("how", ["a write finds it", "a check finds it"])
async def test_a_damaged_file_is_begun_anew_and_written_from_memory(how: str) -> None:
    async with writing(check_s=0.01) as desk:
        desk.put(1)
        await desk.written()
        if how == "a write finds it":
            desk.store.error = BROKEN
            desk.put(2)
        else:
            desk.store.found = "a record of 'op' is not what was written"
        with trio.fail_after(5):
            while not desk.refills:  # noqa: ASYNC110
                await trio.sleep(0.002)
        await desk.written()
        assert desk.refills == 1
        assert desk.writer.counters["store: files found damaged"] == 1
        assert any("is damaged" in said and "written anew" in said for said in desk.said)
        assert desk.writer.trouble is None
        assert set(desk.store.disk) == ({("op", b"\x02")} if how == "a write finds it" else set())


async def test_a_damaged_file_on_a_full_disk_is_begun_anew_once_there_is_room() -> None:
    async with writing(check_s=0.01) as desk:
        desk.store.error, desk.store.found = FULL, "damage"
        with trio.fail_after(5):
            while desk.writer.trouble is None:  # noqa: ASYNC110
                await trio.sleep(0.002)
        assert desk.writer.counters["store: files found damaged"] == 0
        desk.store.error = None
        with trio.fail_after(5):
            while not desk.refills:  # noqa: ASYNC110
                await trio.sleep(0.002)
        assert desk.writer.counters["store: files found damaged"] == 1


async def test_what_waits_at_the_end_is_written_before_it() -> None:
    desk = Desk(3_600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        desk.store.stuck = True
        desk.put(1)
        await trio.sleep(0.01)
        desk.put(2)
        nursery.cancel_scope.cancel()
        desk.store.stuck = False
    assert set(desk.store.disk) == {("op", b"\x01"), ("op", b"\x02")}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.one_of(st.none(), st.binary(max_size=2))),
        st.tuples(st.sampled_from(["full", "well", "turn"]), st.just(0), st.just(None)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(deadline=None, max_examples=60)
def test_whatever_the_disk_does_it_ends_with_the_last_value_of_each_record(
    steps: list[tuple[str, int, bytes | None]],
) -> None:
    async def story() -> None:
        desk = Desk(3_600)
        wanted: dict[tuple[str, bytes], bytes] = {}
        durable_at: list[tuple[int, dict[tuple[str, bytes], bytes]]] = []
        for what, key, value in steps:
            if what == "put":
                ticket = desk.put(key, value=value)
                if value is None:
                    wanted.pop(("op", bytes([key])), None)
                else:
                    wanted["op", bytes([key])] = value
                durable_at.append((ticket, dict(wanted)))
            elif what == "turn":
                await desk.writer._write()
            else:
                desk.store.error = FULL if what == "full" else None
            reached = [held for ticket, held in durable_at if desk.writer.is_durable(ticket)]
            if reached and not desk.writer.waiting:
                assert desk.store.disk == reached[-1]
        desk.store.error = None
        while desk.writer.waiting:
            assert await desk.writer._write()
        assert desk.store.disk == wanted

    trio.run(story)
