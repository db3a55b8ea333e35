"""A fleet's side of its workers' lives, with processes that only listen to what they are told."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lattice.types import Micros
from router.journal import Journal
from router.workers import fleet as fleet_module
from router.workers.fleet import GRACE_US, Fleet, FleetError

FAKE = """
import json, socket, sys, time
from router.workers.messages import Deframer, Ready, Waiting, decode_to_worker, encode
role, heard, number = sys.argv[1], open(sys.argv[2], "w"), int(sys.argv[3])
if role == "dies":
    sys.exit(3)
link, deframer = socket.socket(fileno=number), Deframer()
if role == "stays":
    link.sendall(encode(Ready(0)) + encode(Waiting([("fra", ("127.0.0.1", 1), 5_000_000)])))
if role in ("hangs", "stays"):
    time.sleep(60)
link.sendall(encode(Ready(0)) if role in ("serves", "lingers") else b"\\0\\0\\0\\x04what")
while data := link.recv(65536):
    for message in map(decode_to_worker, deframer.feed(data)):
        print(json.dumps([type(message).__name__, getattr(message, "grace_us", None)]), file=heard, flush=True)
        if type(message).__name__ == "Drain" and (role != "lingers" or message.grace_us < 1_000_000):
            sys.exit(0)
"""
"""A worker that serves nobody; the descriptor of its link comes second in what a worker is started with."""


class Fakes:
    """Starts such processes in place of workers, in these roles, in turn; what each heard is in a file."""

    def __init__(self, directory: Path, *roles: str) -> None:
        self._directory = directory
        self._roles = list(roles)
        self._open_process = trio.lowlevel.open_process
        self._begun = 0
        self.asked = trio.Event()
        self.gate = trio.Event()

    async def start(self, command: list[str], **options: Any) -> trio.Process:
        role = self._roles[self._begun] if self._begun < len(self._roles) else "serves"
        self._begun += 1
        if role == "no room":
            raise BlockingIOError("no room")
        if role == "late":
            self.asked.set()
            await self.gate.wait()
        link = command[command.index("router.workers.worker") + 2]
        fake = [sys.executable, "-c", FAKE, role, str(self._directory / f"heard.{self._begun}"), link]
        return await self._open_process(fake, **options)

    def heard(self, number: int) -> list[list[Any]]:
        path = self._directory / f"heard.{number}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def running(journal: Journal) -> AsyncIterator[Fleet]:
    fleet = Fleet(Path("site.toml"), journal, lambda *_: None, lambda _: None, lambda *_: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(fleet.run, 0, (), ())
        yield fleet
        await fleet.drain(0)


async def until(done: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not done():  # noqa: ASYNC110  (another process does it)
            await trio.sleep(0.01)


def journal() -> Journal:
    return Journal(lambda: Micros(0))


async def test_new_workers_that_serve_before_all_are_there_finish_it_when_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts as soon as it is ready, and had no time at all for those it had taken."""
    fakes = Fakes(tmp_path, "serves", "dies")
    monkeypatch.setattr(trio.lowlevel, "open_process", fakes.start)
    async with running(journal()) as fleet:
        with pytest.raises(FleetError, match="one ended, status 3"):
            await fleet.replace(2, (), ())
        await until(lambda: ["Drain", GRACE_US] in fakes.heard(1))
        assert fleet.pids == ()


async def test_who_is_to_leave_is_told_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could do with a plan is serve users, of whom it would be told at once to let go."""
    fakes = Fakes(tmp_path, "serves", "no room")
    monkeypatch.setattr(trio.lowlevel, "open_process", fakes.start)
    async with running(journal()) as fleet:
        with pytest.raises(FleetError, match="2 processes do not start: no room"):
            await fleet.replace(2, (), ())
        await until(lambda: fakes.heard(1))
        await until(lambda: fakes.heard(1)[-1][0] == "Drain")
        assert len(fakes.heard(1)) == 1


async def test_a_worker_that_is_not_understood_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be of another version, if its files were changed under the node; that ended the node."""
    fakes = Fakes(tmp_path, "serves", "raves", "serves")
    monkeypatch.setattr(trio.lowlevel, "open_process", fakes.start)
    said = journal()
    async with running(said) as fleet:
        with pytest.raises(FleetError, match="one ended, signal 9"):
            await fleet.replace(2, (), ())
        assert any("is not understood" in event.text for event in said.events())
        await fleet.replace(1, (), ())
        assert len(fleet.pids) == 1


async def test_who_starts_as_the_node_leaves_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to attend to it: that ended the node with an error of its own."""
    fakes = Fakes(tmp_path, "late")
    monkeypatch.setattr(trio.lowlevel, "open_process", fakes.start)
    with trio.fail_after(30):
        async with running(journal()) as fleet, trio.open_nursery() as nursery:

            async def replace() -> None:
                with pytest.raises(FleetError, match="a node that leaves"):
                    await fleet.replace(1, (), ())

            nursery.start_soon(replace)
            await fakes.asked.wait()
            await fleet.drain(0)
            fakes.gate.set()
    assert fakes.heard(1) == []


async def test_a_worker_that_hangs_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(trio.lowlevel, "open_process", Fakes(tmp_path).start)
    said = journal()
    async with running(said) as fleet:
        await fleet.replace(1, (), ())
        await until(lambda: len(said.events()) > 1)
        await trio.sleep(0.2)
        (event,) = [each for each in said.events() if "has said nothing for 0.1 s" in each.text]
        assert f"process {fleet.pids[0]}" in event.text


async def test_a_start_waits_for_nobody_who_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither did the SIGHUPs that came after: a node read nothing anew any more."""
    monkeypatch.setattr(fleet_module, "START_SECONDS", 3)
    monkeypatch.setattr(trio.lowlevel, "open_process", Fakes(tmp_path, "serves", "serves", "hangs").start)
    with trio.fail_after(30):
        async with running(journal()) as fleet:
            await fleet.replace(1, (), ())
            before = fleet.pids
            with pytest.raises(FleetError, match=r"process \d+ does not serve after 3 s"):
                await fleet.replace(2, (), ())
            assert fleet.pids == before, "those who serve go on"
            await fleet.replace(1, (), ())
            assert fleet.pids != before


async def test_who_was_replaced_and_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its users waited, and there was one more of them after each SIGHUP."""
    for name in ("SILENT_SECONDS", "KILL_SECONDS"):
        monkeypatch.setattr(fleet_module, name, 0.1)
    monkeypatch.setattr(fleet_module, "GRACE_US", 100_000)
    monkeypatch.setattr(trio.lowlevel, "open_process", Fakes(tmp_path, "stays").start)
    said = journal()
    async with running(said) as fleet:
        await fleet.replace(1, (), ())
        (old,) = fleet.pids
        await fleet.replace(1, (), ())
        await until(
            lambda: any(f"process {old}) did not end in its time; killed" in each.text for each in said.events())
        )
        await until(lambda: not Path(f"/proc/{old}").exists())
        assert len(fleet.pids) == 1


async def test_one_in_place_of_a_dead_one_that_does_not_serve_is_replaced_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "SILENT_SECONDS", 0.4)
    monkeypatch.setattr(fleet_module, "RESTART_SECONDS", 0)
    monkeypatch.setattr(trio.lowlevel, "open_process", Fakes(tmp_path, "serves", "hangs").start)
    said = journal()
    async with running(said) as fleet:
        await fleet.replace(1, (), ())
        monkeypatch.setattr(fleet_module, "START_SECONDS", 0.5)
        os.kill(fleet.pids[0], signal.SIGKILL)
        await until(lambda: any("does not serve after 0.5 s; killed" in each.text for each in said.events()))


async def test_who_says_nothing_any_more_knows_nothing_of_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the region where its last request was stuck would stay as bad as it was then."""
    monkeypatch.setattr(trio.lowlevel, "open_process", Fakes(tmp_path, "stays").start)
    async with running(journal()) as fleet:
        await fleet.replace(1, (), ())
        await until(fleet.oldest)
        assert fleet.oldest() == {("fra", ("127.0.0.1", 1)): 5_000_000}
        monkeypatch.setattr(fleet_module, "WAITING_SECONDS", 0)
        assert fleet.oldest() == {}


async def test_who_was_replaced_hears_that_its_node_leaves_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had a minute, and was killed at the end of what the node had."""
    fakes = Fakes(tmp_path, "lingers")
    monkeypatch.setattr(trio.lowlevel, "open_process", fakes.start)
    fakes_heard = [["Drain", GRACE_US], ["Drain", 900_000]]
    async with running(journal()) as fleet:
        await fleet.replace(1, (), ())
        await fleet.replace(1, (), ())
        await until(lambda: fakes_heard[0] in fakes.heard(1))
        await fleet.drain(900_000)
    assert [each for each in fakes.heard(1) if each[0] == "Drain"] == fakes_heard
