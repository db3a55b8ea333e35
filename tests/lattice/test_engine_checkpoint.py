"""Checkpoints among nodes: they spread as ops do, what is void leaves every disk, and partitions bring nothing back."""

from __future__ import annotations

import pytest

from lattice.checkpoint import compose_checkpoint, compose_deletion
from lattice.events import LocalUpdate, OpsSubmitted
from lattice.identity import author_id_of
from lattice.types import SECOND
from tests.lattice.cluster import OPERATOR, Cluster, Judge, cut, lossy, reliable

WHO = author_id_of(OPERATOR.public_key)


def settled(count: int = 4) -> Cluster:
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 5 * SECOND)
    return cluster


def checkpoint(cluster: Cluster, index: int) -> None:
    store = cluster.engines[index].policy
    ops = compose_checkpoint(OPERATOR, store.chain(WHO), store.live(WHO), cluster.clock(index) // 1_000)
    cluster.give(index, LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))))


def delete(cluster: Cluster, index: int, policy: str) -> None:
    store = cluster.engines[index].policy
    op = compose_deletion(OPERATOR, store.chain(WHO), policy, store.context(policy), cluster.clock(index) // 1_000)
    cluster.give(index, LocalUpdate(OpsSubmitted((op.data,))))


def disk_ops(cluster: Cluster, index: int) -> set[bytes]:
    return {value for (table, _), value in cluster.disks[index].items() if table == "op"}


@pytest.mark.parametrize("judge", [reliable, lossy], ids=["reliable", "lossy"])
def test_after_a_long_partition_the_stale_side_forgets_what_was_deleted(judge: Judge) -> None:
    cluster = settled()
    for number in range(12):
        cluster.publish(0, f"version {number}\n", policy=("default", "doomed")[number % 2])
        cluster.run(200_000)
    cluster.run_until(cluster.equal, 10 * SECOND)
    cluster.judge = cut(([0, 1], [2, 3]))
    cluster.run(60 * SECOND)
    delete(cluster, 0, "doomed")
    cluster.publish(0, "final\n")
    checkpoint(cluster, 0)
    cluster.run(60 * SECOND)
    assert cluster.serving("doomed")[2:] != [None, None], "the other side has not heard"
    cluster.judge = judge
    cluster.run_until(lambda: cluster.equal() and cluster.all_know_all(), 120 * SECOND)
    assert cluster.serving("doomed") == [None] * 4
    assert len(set(cluster.serving())) == 1
    assert len({engine.policy.content_hash() for engine in cluster.engines}) == 1
    for index in range(4):
        assert disk_ops(cluster, index) == set(cluster.engines[index].policy.ops())
        assert len(disk_ops(cluster, index)) == 1, "one op holds what lives"
    cluster.restart(3)
    cluster.run_until(cluster.equal, 20 * SECOND)
    assert cluster.serving()[3] == cluster.serving()[0]


def test_a_crash_between_the_checkpoint_and_the_removal_is_mended_at_the_next_start() -> None:
    cluster = settled(2)
    for number in range(4):
        cluster.publish(0, f"version {number}\n")
    before = {key: value for key, value in cluster.disks[0].items() if key[0] == "op"}
    checkpoint(cluster, 0)
    cluster.disks[0] |= before
    cluster.restart(0)
    assert disk_ops(cluster, 0) == set(cluster.engines[0].policy.ops())
    cluster.run_until(cluster.equal, 20 * SECOND)


def test_a_joining_node_gets_what_lives_and_no_history() -> None:
    cluster = settled(3)
    for number in range(20):
        cluster.publish(0, f"version {number}\n")
        cluster.run(200_000)
    checkpoint(cluster, 0)
    cluster.run_until(cluster.equal, 10 * SECOND)
    cluster.restart(2, disk_lost=True)
    cluster.run_until(lambda: cluster.equal() and cluster.serving()[2] is not None, 20 * SECOND)
    assert cluster.engines[2].policy.ops() == cluster.engines[0].policy.ops()
    assert "ops below a checkpoint dropped" not in cluster.engines[2].counters()
