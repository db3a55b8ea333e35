"""Which version is in force while a rollout tries another: what the keeper decides before the lattice has heard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from lattice.driver import Driver
from lattice.events import LocalChange, PolicyApplied, RolloutJudged
from lattice.rollouts import RolloutId, Served, Start, Word
from lattice.types import AuthorId, Micros, VersionId
from router.decision.program import Program
from router.journal import Journal
from router.policy_keeper import InForce, PolicyKeeper
from router.site.state_dir import LastGood
from router.trial import Trial

OLD, NEW, BROKEN = (VersionId(bytes([number]) * 16) for number in (1, 2, 3))
ONE, TWO = RolloutId(b"1" * 8), RolloutId(b"2" * 8)
ROUTE = 'edition 1\nregion fra { at 50 8 endpoint 127.0.0.1:1 }\nroute shop for "shop.test" { primary fra }\n'
TEXTS = {OLD: ROUTE, NEW: ROUTE.replace("shop.test", "*"), BROKEN: "edition 9\n"}


class Rolled:
    """As much of a rollout's view."""

    id, start = ONE, Start("default", NEW, OLD, (100,), (), AuthorId(bytes(16)), 1)

    def __init__(self, state: str = "under way") -> None:
        self.state = state


class Lattice:
    """As much of a driver as the keeper asks. It goes on saying `served`, whatever it is told."""

    def __init__(self) -> None:
        self.served = Served(OLD)
        self.full = False
        self.told: list[LocalChange] = []
        self.rollouts: tuple[Rolled, ...] = ()
        self.policy = self

    def view(self) -> Lattice:
        return self

    def serving(self, policy: str) -> Served:
        return self.served

    def text_of(self, version: VersionId) -> str | None:
        return TEXTS.get(version)

    async def submit(self, change: LocalChange) -> None:
        self.told.append(change)

    def submit_nowait(self, change: LocalChange) -> bool:
        if not self.full:
            self.told.append(change)
        return not self.full


class Disk:
    """The memory of the version in force."""

    path = "last-good"

    def __init__(self) -> None:
        self.version: VersionId | None = None

    def read(self) -> VersionId | None:
        return self.version

    def write(self, version: VersionId) -> None:
        self.version = version


class Node:
    """A keeper that runs, and what it puts into force."""

    def __init__(self) -> None:
        self.lattice, self.disk = Lattice(), Disk()
        self.journal = Journal(lambda: Micros(0))
        self.held = trio.Event()
        self.held.set()
        """While it is not set, what is compiled waits."""
        self.waiting = False
        self.others_serve: list[VersionId | None] = []
        """What those serve who are in no stage, if it is another version."""
        self.served: list[tuple[VersionId, str]] = []
        self.keeper = PolicyKeeper(
            cast("Driver", self.lattice), cast("LastGood", self.disk), self._prepare, self._serve_by,
            self.journal, lambda _level, _text: None, lambda: 0,
        )  # fmt: skip

    async def _prepare(self, _program: Program) -> None:
        self.waiting = not self.held.is_set()
        await self.held.wait()

    def _serve_by(self, policy: InForce, trial: Trial | None, base: InForce | None) -> None:
        self.others_serve.append(None if base is None else base.version)
        self.served.append((policy.version, "" if trial is None else f"{trial.rollout.decode()[0]}/{trial.stage}"))

    def now(self) -> tuple[VersionId, str]:
        return self.served[-1]

    async def comes(self, served: Served, expected: tuple[VersionId, str]) -> None:
        """The lattice has this served from now on, and soon it is."""
        self.lattice.served = served
        self.keeper.serve_instead(served)
        await until(lambda: self.now() == expected)

    def fail(self) -> None:
        """Two users of the trial get nothing."""
        trial = self.keeper.trial
        assert trial is not None
        for _ in range(2):
            trial.ended("shop", "failed_502", 0)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):  # what compiles is a thread, and wakes nobody here
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.001)


@asynccontextmanager
async def running(version: VersionId = OLD) -> AsyncIterator[Node]:
    """A node that serves that version by no rollout."""
    node = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.keeper.keep)
        node.keeper.elected()
        await until(lambda: node.served == [(version, "")])
        yield node
        nursery.cancel_scope.cancel()


def tried(version: VersionId = NEW, rollout: RolloutId = ONE, stage: int = 0) -> Served:
    return Served(version, rollout, stage, OLD)


async def test_what_is_condemned_is_out_of_force_at_once_and_stays_so_though_the_lattice_has_not_heard() -> None:
    async with running() as node:
        await node.comes(tried(), (NEW, "1/0"))
        node.lattice.full = True
        node.fail()
        assert node.now() == (OLD, ""), "before anything is awaited"
        verdict = RolloutJudged(ONE, 0, Word.CONDEMNED)
        await until(lambda: verdict in node.lattice.told)
        await until(lambda: node.lattice.told[-1] == PolicyApplied("default", OLD))
        for stage in range(3):
            node.lattice.served = tried(stage=stage)
            node.keeper.elected()
            await trio.sleep(0.02)
        assert node.served == [(OLD, ""), (NEW, "1/0"), (OLD, "")]
        assert node.disk.version == OLD
        await node.comes(tried(rollout=TWO), (NEW, "2/0"))


async def test_others_serve_the_version_before_until_all_are_to_serve_the_new_one() -> None:
    async with running() as node:
        await node.comes(tried(), (NEW, "1/0"))
        node.lattice.rollouts = (Rolled("complete"),)
        await node.comes(tried(stage=1), (NEW, "1/1"))
        assert node.others_serve == [None, OLD, None]


async def test_what_the_lattice_gives_up_is_out_of_force_within_its_word() -> None:
    async with running() as node:
        await node.comes(tried(), (NEW, "1/0"))
        node.lattice.served = Served(OLD)
        node.keeper.serve_instead(node.lattice.served)
        assert node.now() == (OLD, ""), "before anything is awaited"


async def test_each_stage_is_tried_anew_and_an_old_trial_judges_nothing() -> None:
    async with running() as node:
        await node.comes(tried(), (NEW, "1/0"))
        old = node.keeper.trial
        assert old is not None
        await node.comes(tried(stage=1), (NEW, "1/1"))
        for _ in range(2):
            old.ended("shop", "failed_502", 0)
        assert node.now() == (NEW, "1/1")
        assert not [change for change in node.lattice.told if isinstance(change, RolloutJudged)]


async def test_what_is_not_wanted_any_more_once_it_is_compiled_is_not_put_into_force() -> None:
    async with running() as node:
        node.held = trio.Event()
        node.lattice.served = tried()
        node.keeper.elected()
        await until(lambda: node.waiting)
        node.lattice.served = Served(OLD)
        node.held.set()
        node.keeper.elected()
        await trio.sleep(0.02)
        assert node.served == [(OLD, "")]


@pytest.mark.parametrize("served", [Served(NEW, ONE, 0, BROKEN), Served(BROKEN, ONE, 0, OLD)])
async def test_without_a_way_back_there_is_no_way_forth(served: Served) -> None:
    async with running() as node:
        node.lattice.served = served
        node.keeper.elected()
        await until(lambda: any("refused" in event.text for event in node.journal.events()))
        await trio.sleep(0.02)
        assert node.served == [(OLD, "")]


async def test_a_restart_begins_with_the_version_before_the_one_that_was_tried() -> None:
    async def restarted(rollouts: tuple[Rolled, ...]) -> list[tuple[VersionId, str]]:
        node = Node()
        node.disk.version, node.lattice.rollouts, node.lattice.served = NEW, rollouts, tried()
        await node.keeper.restore()
        return node.served

    assert await restarted(()) == [(NEW, "")]
    assert await restarted((Rolled(),)) == [(OLD, ""), (NEW, "1/0")], "it comes back the way it came"
