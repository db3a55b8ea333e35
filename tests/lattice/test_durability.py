"""kill -9 at every step of writing: what was acknowledged is there, nothing is torn, no number is used twice.

The node is the real driver in a process of its own, which greets a socket of this one: what it said to others counts as
much as what it said to its operator.
"""

from __future__ import annotations

import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice import canonical
from lattice.cells import CellKind
from lattice.events import Persist
from lattice.health import open_row
from lattice.identity import Ed25519Verifier
from lattice.policy_ops import open_op
from lattice.policy_store import PolicyStore
from lattice.seal import Plain
from lattice.store import Store
from lattice.wire import decode
from tests.lattice.cluster import CLUSTER
from tests.lattice.publishing import WHO
from tests.lattice.test_driver import running, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Ledger:
    """What the lives of one node have promised."""

    def __init__(self) -> None:
        self.acked: dict[int, str] = {}
        self.rows: dict[tuple[int, int], bytes] = {}
        """What was said to others, by (incarnation, seq)."""
        self.ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ears.bind(("127.0.0.1", 0))
        self.ears.setblocking(False)

    @property
    def port(self) -> int:
        port: int = self.ears.getsockname()[1]
        return port

    def listen(self) -> None:
        """Take in what one life sent."""
        seal, verifier = Plain(CLUSTER), Ed25519Verifier(CLUSTER)
        while True:
            try:
                frame = self.ears.recv(65_536)
            except BlockingIOError:
                return
            message = decode(seal.open(frame)[1], 65_536)
            for cell in getattr(message, "cells", ()):
                assert cell.kind is CellKind.ROW
                row = open_row(cell.data, verifier).row
                said = self.rows.setdefault((row.incarnation, row.seq), cell.data)
                assert said == cell.data, f"two rows of {(row.incarnation, row.seq)}: what a liar does"

    def read(self, output: str) -> int:
        """Take in what one life said; how much it acknowledged."""
        whole = output[: output.rfind("\n") + 1]  # the last line may have been cut off in the pipe
        acks = [line.split() for line in whole.splitlines() if line.startswith("ack")]
        for _, op, seq in acks:
            assert self.acked.get(int(seq)) is None, f"place {seq} of the chain was used twice"
            self.acked[int(seq)] = op
        return len(acks)

    def check(self, path: Path) -> None:
        self.listen()
        store = Store(path)
        records = store.read()
        store.close()
        assert not list(path.parent.glob("*.damaged-*"))
        ops = {op.hex(): value for table, op, value in records if table == "op"}
        held = [value for table, key, value in records if (table, key) == ("self", b"incarnation")]
        incarnation = canonical.integer(canonical.unpack(held[0], 16), "incarnation") if held else 0
        assert incarnation >= max((spoken for spoken, _ in self.rows), default=0), "it said what it may forget"
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


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    with ledger.ears:
        yield ledger


def _start(path: Path, step: int, port: int, *planted: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.lattice.persisting_node", str(path), str(step), str(port), *planted],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_killed_before_each_statement_in_turn(tmp_path: Path, ledger: Ledger) -> None:
    """One database through many lives: each ends one statement later than the last."""
    path = tmp_path / "state.sqlite"
    said = 0
    for step in (1, 2, 3, 4, 5, 7, 9, 12, 18, 30, 60, 130, *range(140, 400, 20)):
        if step > 130 and len({incarnation for incarnation, _ in ledger.rows}) > 5 and said > 20:
            break  # on a busy machine a statement says more at once, and fewer lives come to a row
        run = _start(path, step, ledger.port)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == -signal.SIGKILL
        said += ledger.read(output)
        ledger.check(path)
    assert said > 20
    assert len({incarnation for incarnation, _ in ledger.rows}) > 5


def test_a_node_that_does_not_wait_for_its_disk_is_caught(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "state.sqlite"

    def lives() -> None:
        for step in range(10, 60, 10):
            run = _start(path, step, ledger.port, "hasty")
            output, _ = run.communicate(timeout=60)
            ledger.read(output)
            ledger.check(path)

    with pytest.raises(AssertionError, match=r"acknowledged, and gone|used twice|may forget"):
        lives()


def test_killed_at_any_moment(tmp_path: Path, ledger: Ledger) -> None:
    path, chance = tmp_path / "state.sqlite", random.Random(3)
    lives = 0
    while lives < 6 or len(ledger.acked) <= 20 or len(ledger.rows) < 3:  # a machine that is busy gets less done in each
        lives += 1
        assert lives <= 100, (len(ledger.acked), len(ledger.rows))
        run = _start(path, 0, ledger.port)
        assert run.stdout is not None
        first = run.stdout.readline()
        time.sleep(chance.random() / 10)
        run.kill()
        rest, _ = run.communicate(timeout=60)
        ledger.read(first + rest)
        ledger.check(path)


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


async def test_a_node_on_a_full_disk_goes_on_and_writes_when_there_is_room(small_disk: Path) -> None:
    """A real file system without a byte left, under a real driver."""
    store = Store(small_disk / "state.sqlite")
    async with running("ams", store) as ams, running("fra") as fra:
        await ams.meets(fra)
        await ams.publish("edition 1\n")
        with pytest.raises(OSError, match="No space"):
            _fill(small_disk / "filler")
        versions, durable = 1, True
        while durable:  # sqlite's log may have room left for some
            durable = (await ams.try_to_publish(f"edition 1\n# {versions}\n" + "# more\n" * 1_000)).durable
            versions += 1
        assert "database or disk is full" in (ams.driver.trouble() or "")
        last = ams.driver.view().policies[0].version
        await until(lambda: [policy.version for policy in fra.driver.view().policies] == [last])
        (small_disk / "filler").unlink()
        await until(lambda: ams.driver.trouble() is None and ams.driver.counters()["store: records waiting"] == 0)
        held = set(ams.driver.policy.ops())
    assert {value for table, _, value in store.read() if table == "op"} == held
    assert store.damage() is None
    store.close()


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
