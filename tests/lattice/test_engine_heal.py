"""After a partition, and after a lost disk: nobody lifts a finger, and nobody looks malicious."""

from __future__ import annotations

from collections import Counter

import pytest

from lattice import swim
from lattice.config import Config
from lattice.events import EquivocationProven, LocalUpdate, PeerDiscovered
from lattice.swim import incarnation_at
from lattice.types import MILLISECOND, SECOND, Level, Micros
from tests.lattice.cluster import EPOCH, Cluster, cut, reliable


def counted(cluster: Cluster) -> Counter[str]:
    return sum((Counter(engine.counters()) for engine in cluster.engines), Counter())


def halved(count: int) -> Cluster:
    """Two halves that were apart for long enough to be called no more than every 30 s, and changed meanwhile."""
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    half = count // 2
    cluster.judge = cut((range(half), range(half, count)))
    cluster.run(90 * SECOND)
    for index in range(count):
        cluster.observe(index, fra=Level.DOWN if index < half else Level.HEALTHY, iad=Level.HEALTHY)
    cluster.publish(0, *(f"route r{number} {{}}\n" for number in range(20)))
    cluster.run(10 * SECOND)
    assert not any(engine.view().root == cluster.engines[0].view().root for engine in cluster.engines[half:])
    cluster.judge = reliable
    return cluster


def test_halves_that_meet_again_are_equal_within_a_second_of_the_first_contact() -> None:
    cluster = halved(20)
    apart = {engine.view().root for engine in cluster.engines}
    cluster.run_until(lambda: not {engine.view().root for engine in cluster.engines} <= apart, 35 * SECOND)
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 5 * SECOND)
    assert took <= SECOND, "who returns is told on, is called by others, and is told that it was held as gone"
    assert len(set(cluster.serving())) == 1
    assert set(cluster.verdicts("fra")) == {Level.HEALTHY}, "ten sites of twenty are no majority"


def test_a_greeting_is_paced() -> None:
    """However many come back at once, a node pings one of them in 200 ms."""
    cluster = halved(20)
    before, start = counted(cluster)["out Ping"], cluster.now
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 40 * SECOND)
    cluster.run(2 * SECOND)
    seconds = (cluster.now - start) / SECOND
    probes = 20 * seconds * SECOND / Config().swim_interval_us
    dials = 20 * 10 * 3
    assert counted(cluster)["out Ping"] - before <= probes * 1.3 + dials


@pytest.mark.parametrize("dated", [True, False])
def test_who_lost_its_disk_says_nothing_twice(dated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life takes the date for its number, and so none that an earlier one had; numbered from 1, it contradicts it."""
    if not dated:
        monkeypatch.setattr(swim, "incarnation_at", lambda now: 0)
    cluster = Cluster(4)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.crash(1)
    cluster.run(2 * SECOND)
    cluster.restart(1, disk_lost=True)
    cluster.give(1, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)
    proven = [note for _, _, note in cluster.notified if isinstance(note, EquivocationProven)]
    assert bool(proven) is not dated
    assert not dated or not any(engine.view().quarantined for engine in cluster.engines)


def test_a_clock_that_was_never_set_dates_no_life() -> None:
    assert incarnation_at(Micros(0)) == 0
    assert incarnation_at(Micros(1_600_000_000 * SECOND)) == 0
    assert incarnation_at(EPOCH) == EPOCH // SECOND
    assert incarnation_at(Micros(EPOCH + 999 * MILLISECOND)) == EPOCH // SECOND
