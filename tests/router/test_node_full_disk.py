"""A node whose disk is full: whatever it says of it is true, the same everywhere, and says where and what to do."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from lattice.driver import Answer, Driver
from lattice.events import LocalChange, Persist
from lattice.store import Store
from lattice.types import VersionId
from router import policy_keeper
from router.control.target import RefusalError
from router.errors import StartError
from router.site.state_dir import LastGood, StateDir
from router.submissions import Submissions
from tests.router.test_node import Site, _is, running, site_config, until


class Disk:
    """While it is `full`, nothing under it can be written."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        write, remember = Store.write, LastGood.write

        def write_or_not(store: Store, records: Sequence[Persist]) -> None:
            if self.full:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            write(store, records)

        def remember_or_not(last_good: LastGood, version: VersionId) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            remember(last_good, version)

        patch.setattr(Store, "write", write_or_not)
        patch.setattr(LastGood, "write", remember_or_not)
        patch.setattr(policy_keeper, "REMEMBER_AGAIN_S", 0.05)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def policy_of(*regions: str) -> str:
    named = "".join(f"region {name} {{ at {at} 8 endpoint 127.0.0.1:{at} }}\n" for at, name in enumerate(regions, 1))
    return f'edition 1\n{named}route all for "*" {{ primary any }}\n'


async def publish(site: Site, text: str) -> tuple[int, Any]:
    return await site.control("POST /v1/policy", "text/plain", text.encode())


async def warned(site: Site) -> list[str]:
    return [warning for warning in (await site.view())["warnings"] if "state.sqlite" in warning]


def levels(caplog: pytest.LogCaptureFixture, words: str) -> list[int]:
    return [record.levelno for record in caplog.records if words in record.getMessage()]


async def test_what_is_said_of_a_full_disk_is_so(tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgelattice")
    config = site_config(tmp_path / "ams", "ams")
    place = str(config.site.state_dir / "state.sqlite")
    one, two = policy_of("fra"), policy_of("fra", "iad")
    async with running(config) as ams:
        assert (await publish(ams, one))[0] == 200
        await until(lambda: written(ams))
        disk.full = True

        status, said = await publish(ams, two)  # whoever comes first finds it out
        assert status == 503
        assert said["error"].startswith("the policy was taken and goes to the other nodes, but this node may lose it")
        assert f"{place} has taken no writes for 0 s (database or disk is full): " in said["error"]
        assert said["error"].endswith(
            "records wait in memory until it takes writes; make room there; no restart is needed"
        )
        await until(lambda: in_text(ams, "iad"))

        status, said = await publish(ams, one)  # and later ones are not even begun
        assert status == 503
        assert said["error"].startswith(f"this node takes no policy now: {place} has taken no writes for ")
        assert said["remedy"] == "or publish at another node"
        assert await in_text(ams, "iad")
        (warning,) = await warned(ams)
        assert warning.endswith("make room there; no restart is needed")
        assert levels(caplog, f"cannot write {place}: database or disk is full; ") == [logging.ERROR], "once"
        assert levels(caplog, "policy.version: no space left on device; it is tried again") == [logging.ERROR]

        disk.full = False
        await until(lambda: written(ams))
        await until(lambda: _is(partial(logged, caplog, "policy.version is written"), [logging.INFO]))
        assert await warned(ams) == []
        assert levels(caplog, f"{place} takes writes again, after ") == [logging.INFO]
        assert (await publish(ams, one))[0] == 200


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> list[int]:
    return levels(caplog, words)


async def written(site: Site) -> bool:
    counters = (await site.view())["counters"]
    return bool(counters["store: records waiting"] == counters["store: in trouble"] == 0)


async def in_text(site: Site, words: str) -> bool:
    _, text = await site.control("GET /policy")
    return words in str(text)


class FullDriver:
    """As a `Driver` whose disk is full: it takes what is handed in, and can promise nothing."""

    async def call(self, change: LocalChange) -> Answer:
        return Answer((), False)

    def trouble(self) -> str:
        return "state.sqlite has taken no writes for 3 s"


async def test_a_revocation_that_is_not_on_the_disk_is_not_called_done() -> None:
    submissions = Submissions(cast("Driver", FullDriver()), "test", None, lambda: 0)
    with pytest.raises(RefusalError) as caught:
        await submissions.revocations((b"the CA's word",))
    assert caught.value.status == 503
    assert str(caught.value).startswith(
        "the revocation was taken and goes to the other nodes, but this node may lose it"
    )
    await submissions.purges((b"an operator's",))  # these are kept on no disk


def test_a_start_without_room_says_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, path: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Store, "__init__", full)
    with pytest.raises(StartError) as caught:
        StateDir(tmp_path / "state")
    expected = f"site.state_dir: {tmp_path / 'state'}: database or disk is full; is there room, and may this user write"
    assert str(caught.value).startswith(expected)
