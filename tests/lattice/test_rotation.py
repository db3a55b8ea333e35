"""Keys, windows and counters with engines around them: under traffic, and across restarts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from lattice.events import DatagramReceived, Input, SendDatagram, SendStream, StreamFrameReceived
from lattice.key_ring import KeyId, KeyRing
from lattice.prng import Prng
from lattice.seal import Seal, Sealed, sender_in
from lattice.types import MILLISECOND, SECOND, Level, NodeId
from tests.lattice.cluster import CLUSTER, Cluster, lossy

OLD, NEW = KeyRing.of(b"o" * 32), b"n" * 32
FRESH: KeyId = KeyRing.of(NEW).used.id


class Rotating(Cluster):
    """Sealed nodes whose rings can be reached, and a tap on what each hears."""

    def __init__(self, nodes: int = 3, **options: object) -> None:
        self.seals: dict[int, Sealed] = {}
        self.captured: list[tuple[int, bytes]] = []
        self._making = 0
        super().__init__(nodes, seal=self._make, **options)  # type: ignore[arg-type]

    def _engine(self, index: int, life: int):  # type: ignore[no-untyped-def]
        self._making = index
        return super()._engine(index, life)

    def _make(self) -> Seal:
        ring = self.seals[self._making].ring if self._making in self.seals else OLD
        self.seals[self._making] = Sealed(CLUSTER, ring)
        return self.seals[self._making]

    def give(self, index: int, event: Input):  # type: ignore[no-untyped-def]
        if isinstance(event, DatagramReceived | StreamFrameReceived):
            self.captured.append((index, event.data))
        return super().give(index, event)

    def refused(self) -> dict[str, int]:
        return {
            f"{index} {name}": number
            for index, engine in enumerate(self.engines)
            for name, number in engine.counters().items()
            if " rejected: " in name
        }


@pytest.fixture
def traffic() -> Iterator[int]:
    return count()


def busy(cluster: Rotating, numbers: Iterator[int]) -> None:
    """Something of every kind happens, and the wire is full of it."""
    number = next(numbers)
    for index in range(len(cluster.engines)):
        cluster.observe(index, fra=[Level.HEALTHY, Level.DOWN][(number + index) % 2])
    cluster.publish(number % len(cluster.engines), f"# {number}\n", "# " + str(number) * 800 + "\n")
    cluster.run(35 * MILLISECOND)


@pytest.mark.parametrize("seed", range(6))
def test_a_rotation_under_traffic_loses_no_frame_whatever_the_order_of_nodes(seed: int, traffic: Iterator[int]) -> None:
    cluster = Rotating(seed=str(seed))
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 5 * SECOND)
    prng = Prng.seeded(f"order {seed}")
    for step in ("add", "use", "remove"):
        waiting = list(range(3))
        while waiting:
            seal = cluster.seals[waiting.pop(prng.below(len(waiting)))]
            ring = seal.ring
            seal.rekey(
                {
                    "add": lambda r: r.add(NEW, "new"),
                    "use": lambda r: r.use(FRESH),
                    "remove": lambda r: r.remove(OLD.used.id),
                }[step](ring)
            )
            busy(cluster, traffic)
        cluster.run(200 * MILLISECOND)  # what is on the wire arrives before the next step begins
    cluster.run_until(cluster.equal, 5 * SECOND)
    assert cluster.refused() == {}
    assert len(cluster.captured) > 100


def test_one_that_missed_a_step_is_seen_by_all_and_refused_in_the_end(traffic: Iterator[int]) -> None:
    cluster = Rotating()
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 5 * SECOND)
    late = cluster.engines[2].node
    for index in range(3):
        cluster.seals[index].rekey(OLD.add(NEW, "new"))
    for index in range(2):  # node 2 misses `use`
        cluster.seals[index].rekey(cluster.seals[index].ring.use(FRESH))
    busy(cluster, traffic)
    cluster.run(5 * SECOND)
    for index in range(2):
        heard = cluster.seals[index].heard()
        assert [node for node, keys in heard.items() if keys.key != FRESH] == [late]
        assert heard[late].frames.get(FRESH) is None
    assert cluster.refused() == {}
    for index in range(2):
        cluster.seals[index].rekey(cluster.seals[index].ring.remove(OLD.used.id))
    cluster.run(5 * SECOND)
    refused = cluster.refused()
    assert set(refused) == {"0 datagram rejected: unknown key", "1 datagram rejected: unknown key"}
    cluster.seals[2].rekey(cluster.seals[2].ring.use(FRESH))  # done late, it is one of them again
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)
    assert cluster.seals[0].heard()[late].key == FRESH


@pytest.mark.parametrize("stop", ["crash", "leave"])
def test_what_was_captured_before_a_restart_is_still_refused_after_it(stop: str, traffic: Iterator[int]) -> None:
    cluster = Rotating()
    cluster.introduce_all()
    for _ in range(8):
        busy(cluster, traffic)
    if stop == "leave":
        cluster.leave(0)
    else:
        cluster.run(5 * SECOND)
        heard = list(cluster.captured)
        cluster.run(4 * SECOND)  # longer than records wait to be saved
        cluster.captured = heard
        cluster.crash(0)
    captured = [data for index, data in cluster.captured if index == 0]
    assert len(captured) > 30
    cluster.run(SECOND)
    cluster.restart(0)
    before = cluster.engines[0].view().root
    for data in captured:
        effects = cluster.engines[0].handle(DatagramReceived(data, ("10.9.9.9", 9)), cluster.now)
        assert not [effect for effect in effects if isinstance(effect, SendDatagram | SendStream)]
    assert cluster.engines[0].counters()["datagram rejected: replayed"] == len(captured)
    assert cluster.engines[0].view().root == before
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)


def test_a_node_whose_clock_was_set_back_is_still_heard(traffic: Iterator[int]) -> None:
    """Its counters go on from what it had reserved, not from what its clock says."""
    cluster = Rotating()
    cluster.introduce_all()
    busy(cluster, traffic)
    cluster.run(3 * SECOND)
    cluster.crash(1)
    cluster.skews_us = {1: -2 * 3_600 * SECOND}
    cluster.restart(1)
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)
    assert not [name for name in cluster.refused() if "replayed" in name]


def test_no_counter_is_used_before_it_is_on_disk() -> None:
    cluster = Rotating(judge=lossy)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 30 * SECOND)
    for index, engine in enumerate(cluster.engines):
        records = cluster.disks[index]
        reserved = int.from_bytes(records["self", b"counter"][1:], "big")
        sent = [int.from_bytes(data[25:33], "big") for _, data in cluster.captured if sender_in(data) == engine.node]
        assert sent
        assert max(sent) <= reserved


def test_duplicates_of_the_network_are_heard_once() -> None:
    cluster = Rotating(judge=lossy, seed="twice")
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)
    cluster.run(10 * SECOND)
    assert {name.partition(" ")[2] for name in cluster.refused()} <= {"datagram rejected: replayed"}
    assert cluster.refused()


def test_nothing_of_a_stranger_is_remembered() -> None:
    cluster = Rotating(1)
    engine, seal = cluster.engines[0], cluster.seals[0]
    stranger = Sealed(CLUSTER, KeyRing.of(b"x" * 32))
    for number in range(50):
        frame = stranger.close(NodeId(number.to_bytes(16, "big")), b"\x91\x01", cluster.now)
        engine.handle(DatagramReceived(frame, ("10.9.9.9", 9)), cluster.now)
    assert engine.counters()["datagram rejected: unknown key"] == 50
    assert len(seal.windows) == 0
    assert seal.heard() == {}
