"""After a partition, and after a lost disk: nobody lifts a finger, and nobody looks malicious."""

from __future__ import annotations

from collections import Counter

import pytest

from lattice import swim
from lattice.checkpoint import compose_deletion
from lattice.config import Config
from lattice.events import EquivocationProven, LocalUpdate, OpsSubmitted, PeerDiscovered
from lattice.health import open_row
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.swim import incarnation_at
from lattice.types import MILLISECOND, SECOND, Level, Micros
from tests.lattice.cluster import CLUSTER, EPOCH, Cluster, cut, reliable, signer_of

EDITORS = (signer_of("one side's operator"), signer_of("the other side's"))
VERIFIER = Ed25519Verifier(CLUSTER)


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


def edit(cluster: Cluster, count: int) -> None:
    """Rows change on both sides, an author of each publishes, and what one of them deletes the other still holds."""
    half = len(cluster.engines) // 2
    for turn in range(count):
        cluster.observe(turn % (2 * half), fra=Level.DOWN if turn % 3 else Level.HEALTHY, iad=Level.HEALTHY)
        if turn % 25 == 0:
            side = turn // 25 % 2
            cluster.publish(side * half, f"version {turn} {{}}\n", policy=f"p{side}", operator=EDITORS[side])
        cluster.run(60 * SECOND // count)
    store = cluster.engines[0].policy
    chain, now_ms = store.chain(author_id_of(EDITORS[0].public_key)), cluster.now // 1_000
    gone = compose_deletion(EDITORS[0], chain, "gone", store.context("gone"), now_ms)
    cluster.give(0, LocalUpdate(OpsSubmitted((gone.data,))))


def test_a_thousand_edits_in_a_minute_apart_are_one_content_soon_and_nothing_comes_back() -> None:
    """Row 1: within (log2 N + 5) gossip intervals and two round trips of the first contact; nothing lost."""
    count = 16
    authors = [author_id_of(each.public_key) for each in EDITORS]
    cluster = Cluster(count, authors=dict.fromkeys(range(count), authors))
    cluster.introduce_all()
    cluster.publish(0, "what is deleted meanwhile\n", policy="gone", operator=EDITORS[0])
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.judge = cut((range(count // 2), range(count // 2, count)))
    edit(cluster, 1_000)
    last = {engine.node: engine._health.our_row() for engine in cluster.engines}
    known = {op for engine in cluster.engines for op in engine.policy.ops()}
    assert len(known) > 40
    apart = {engine.view().root for engine in cluster.engines}
    cluster.judge = reliable
    cluster.run_until(lambda: not {engine.view().root for engine in cluster.engines} <= apart, 35 * SECOND)
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)
    assert took <= (4 + 5) * Config().swim_interval_us + 4 * MILLISECOND
    for engine in cluster.engines:
        assert {*engine.policy.ops()} == known, "none lost, none made up"
        assert [policy.policy for policy in engine.view().policies] == ["p0", "p1"], "what was deleted stays so"
        rows = {signed.observer: signed.order[:2] for signed in engine._health.table.rows()}
        assert all(rows[node] >= open_row(row.data, VERIFIER).order[:2] for node, (row,) in last.items())


def test_whoever_bridges_two_halves_carries_no_more_than_four_times_what_others_do() -> None:
    """Row 3."""
    count, bridge = 15, 7
    cluster = Cluster(count, judge=cut((range(bridge), range(bridge + 1, count))))
    for index in range(count):
        if index != bridge:
            cluster.give(index, LocalUpdate(PeerDiscovered(cluster.endpoint(bridge))))
    cluster.run(30 * SECOND)
    before = [engine.counters()["bytes out"] for engine in cluster.engines]
    for turn in range(30):
        level = Level.DOWN if turn % 2 else Level.HEALTHY
        for index in range(count):
            cluster.observe(index, fra=level, iad=Level.HEALTHY)
        version = cluster.publish(0, f"version {turn} {{}}\n", f"{'x' * 500} {{}}\n")
        cluster.run(2 * SECOND)
    cluster.run(5 * SECOND)
    # What one half learns crosses over it; whom the last rumour missed, as one by 1 seed of 30, has it seconds later.
    cluster.run_until(lambda: set(cluster.serving()) == {version}, 5 * SECOND)
    sent = [engine.counters()["bytes out"] - then for engine, then in zip(cluster.engines, before, strict=True)]
    assert sent[bridge] <= 4 * sorted(sent)[count // 2]


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
    cluster.run(3 * SECOND - cluster.now % SECOND)  # it first began with a second, too: so do its rows
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
