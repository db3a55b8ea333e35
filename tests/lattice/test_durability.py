"""kill -9 at every step of writing: what was acknowledged is there, nothing is torn, no number is used twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice.events import Persist
from lattice.identity import Ed25519Verifier
from lattice.policy_ops import open_op
from lattice.policy_store import PolicyStore
from lattice.store import Store
from tests.lattice.cluster import CLUSTER
from tests.lattice.publishing import WHO

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Ledger:
    """What the lives of one node have promised."""

    def __init__(self) -> None:
        self.acked: dict[int, str] = {}
        self.lives: list[int] = []

    def read(self, output: str) -> int:
        """Take in what one life said; how much it acknowledged."""
        lines = [line.split() for line in output.splitlines()]
        for line in lines:
            if line[0] == "life":
                self.lives.append(int(line[1]))
            else:
                seq = int(line[2])
                assert self.acked.get(seq) is None, f"place {seq} of the chain was used twice"
                self.acked[seq] = line[1]
        return len(lines)

    def check(self, path: Path) -> None:
        assert self.lives == sorted(set(self.lives)), f"incarnations {self.lives}"
        store = Store(path)
        records = store.read()
        store.close()
        assert not list(path.parent.glob("*.damaged-*"))
        ops = {op.hex(): value for table, op, value in records if table == "op"}
        policy = PolicyStore([WHO], Ed25519Verifier(CLUSTER))
        for data in policy.in_chain_order(ops.values()):
            policy.admit(data)
        assert policy.waiting() == 0
        base = policy.chain(WHO).base
        lost = [seq for seq, op in self.acked.items() if seq >= base and op not in ops]
        assert not lost, f"acknowledged, and gone: {lost}"
        if self.acked:
            assert policy.chain(WHO).seq >= max(self.acked)
            assert policy.policies()
        assert len({open_op(op, Ed25519Verifier(CLUSTER)).op.seq for op in ops.values()}) == len(ops)


def _start(path: Path, step: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.lattice.persisting_node", str(path), str(step)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_killed_before_each_statement_in_turn(tmp_path: Path) -> None:
    """One database through many lives: each ends one statement later than the last."""
    path, ledger = tmp_path / "state.sqlite", Ledger()
    said = 0
    for step in (*range(1, 9), 12, 17, 23, 31, 40, 64):
        run = _start(path, step)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == -signal.SIGKILL
        said += ledger.read(output)
        ledger.check(path)
    assert said > 20


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path, ledger, chance = tmp_path / "state.sqlite", Ledger(), random.Random(3)
    for _ in range(6):
        run = _start(path, 0)
        assert run.stdout is not None
        first = run.stdout.readline()
        time.sleep(chance.random() / 10)
        run.kill()
        rest, _ = run.communicate(timeout=60)
        whole = rest[: rest.rfind("\n") + 1]  # the last line may have been cut off in the pipe
        ledger.read(first + whole)
        ledger.check(path)
    assert len(ledger.acked) > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MiB of tmpfs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system of its own needs the right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


def test_a_full_disk_refuses_the_batch_whole_and_takes_the_next_when_there_is_room(small_disk: Path) -> None:
    store = Store(small_disk / "state.sqlite")
    store.write([Persist("op", b"before", bytes(1_000))])
    with pytest.raises(OSError, match="No space"):
        _fill(small_disk / "filler")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.write([Persist("op", bytes([number]), bytes(4_000)) for number in range(50)])
    assert [key for _, key, _ in store.read()] == [b"before"]
    (small_disk / "filler").unlink()
    store.write([Persist("op", b"after", bytes(1_000))])
    assert [key for _, key, _ in store.read()] == [b"after", b"before"]
    store.close()
