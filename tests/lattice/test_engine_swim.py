"""Who is there: introduction, failure, refutation, leaving, and how a long partition ends by itself."""

from __future__ import annotations

import pytest

from lattice.config import Config
from lattice.events import (
    LocalUpdate,
    MemberChanged,
    PeerDiscovered,
    RecordsLost,
    Restored,
    SeedsResolved,
    TimerFired,
)
from lattice.own_address import OwnAddress
from lattice.prng import Prng
from lattice.swim import incarnation_at
from lattice.types import MILLISECOND, SECOND, Endpoint, Level, Micros
from tests.lattice.cluster import EPHEMERAL_PORT, Cluster, Judge, cut, one_way_loss, reliable, signer_of


def settled(count: int, seed: str = "0", config: Config | None = None) -> Cluster:
    cluster = Cluster(count, seed=seed, config=config)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    return cluster


def states(cluster: Cluster, of: int) -> list[str]:
    """What every other living node thinks of one."""
    node = cluster.engines[of].node
    return [
        member.state
        for engine in cluster.living()
        if engine.node != node
        for member in engine.view().members
        if member.node == node
    ]


def member_changes(cluster: Cluster, of: int) -> list[tuple[int, str]]:
    node = cluster.engines[of].node
    return [
        (index, note.state)
        for _, index, note in cluster.notified
        if isinstance(note, MemberChanged) and note.node == node
    ]


# --- meeting


@pytest.mark.parametrize("count", [2, 3, 7])
def test_all_meet_through_one(count: int) -> None:
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 2 * SECOND)


@pytest.mark.parametrize("lost", range(8))
def test_no_single_loss_keeps_two_nodes_from_meeting(lost: int) -> None:
    sent: list[int] = []

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        sent.append(1)
        return [] if len(sent) == lost + 1 else [MILLISECOND]

    cluster = Cluster(2, judge=judge)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 4 * SECOND)


@pytest.mark.parametrize("lost", range(4))
def test_nodes_whose_rows_outgrow_a_datagram_meet_as_well(lost: int) -> None:
    """Rows of 60 regions travel as stream frames, whose source port is nobody's."""
    cluster = Cluster(2)
    for index in range(2):
        cluster.observe(index, **{f"region_{number}": Level.HEALTHY for number in range(60)})
    cluster.run(6 * SECOND)
    sent: list[int] = []

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        sent.append(1)
        return [] if len(sent) == lost else [MILLISECOND]

    cluster.judge = judge
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), (1 if lost == 0 else 4) * SECOND)


def test_a_node_learns_where_it_is_from_its_peers() -> None:
    cluster = Cluster(3)
    engine = cluster.engines[2]
    engine._us.endpoint, engine._own_address = ("", 3), OwnAddress("")
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.run(10 * SECOND)
    for peer in cluster.living():
        (member,) = [seen for seen in peer.view().members if seen.node == engine.node]
        assert member.endpoint == cluster.endpoint(2)
        assert member.state == "alive"


def test_a_node_whose_address_changed_says_so_in_its_row() -> None:
    """A lease that ended, an interface that came up: the peers see it elsewhere from then on."""
    cluster = Cluster(4)
    engine = cluster.engines[3]
    engine._us.endpoint, engine._own_address = ("", 4), OwnAddress("")
    cluster.introduce_all()
    cluster.run(10 * SECOND)
    assert engine._us.endpoint == cluster.endpoint(3)
    for peer in range(3):
        engine._own_address.heard(cluster.engines[peer].node, "10.0.0.99", cluster.now)
    engine._us.endpoint = ("10.0.0.99", 4)  # and back again, as soon as the peers are heard
    cluster.run_until(lambda: engine._us.endpoint == cluster.endpoint(3), 10 * SECOND)
    assert engine.counters()["own address learned"] == 2


def test_a_seed_is_called_for_ever_and_answers_whenever_it_comes_up() -> None:
    cluster = settled(2, config=Config(forget_us=60 * SECOND))
    cluster.crash(1)
    cluster.give(0, LocalUpdate(SeedsResolved((cluster.endpoint(1),))))
    cluster.run(600 * SECOND)
    assert len(cluster.engines[0].view().members) == 1, "forgotten as a member"
    cluster.restart(1, disk_lost=True)
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)
    assert took <= Config().redial_max_us * 2


def test_peers_of_an_earlier_life_that_never_answer_leave_the_disk() -> None:
    cluster = settled(3, config=Config(forget_us=60 * SECOND))
    for index in range(3):
        cluster.crash(index)
    cluster.run(SECOND)
    for index in (0, 1):
        cluster.restart(index)
    cluster.run(20 * SECOND)
    assert sorted(key for table, key in cluster.disks[0] if table == "peer") == sorted(
        cluster.engines[index].node for index in (1, 2)
    )
    cluster.run(60 * SECOND)
    assert [key for table, key in cluster.disks[0] if table == "peer"] == [cluster.engines[1].node]


def test_peers_that_were_not_met_yet_are_called_again_though_the_disk_had_lost_all_it_held() -> None:
    cluster = settled(2)
    for index in range(2):
        cluster.crash(index)
    cluster.run(3_600 * SECOND)
    cluster.restart(0)
    cluster.run(5 * SECOND)
    assert len(cluster.engines[0].view().members) == 1, "no row outlived that: all that is left is an address"
    cluster.disks[0].clear()
    cluster.give(0, LocalUpdate(RecordsLost()))
    cluster.restart(0)
    cluster.restart(1, disk_lost=True)
    cluster.run(2 * Config().redial_max_us)
    assert cluster.all_know_all()
    assert len(cluster.engines[0].view().members) == 2


def test_finding_oneself_or_nobody_does_no_harm() -> None:
    cluster = settled(2)
    for endpoint in (cluster.endpoint(0), ("10.0.0.1", 9_999), ("10.0.0.1", EPHEMERAL_PORT)):
        cluster.give(0, LocalUpdate(PeerDiscovered(endpoint)))
    cluster.run(30 * SECOND)
    assert cluster.all_know_all()
    assert cluster.engines[0].counters()["own frames heard"] > 0


# --- failing


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_a_crash_is_found_and_told_to_all(seed: str) -> None:
    cluster = settled(5, seed)
    cluster.crash(4)
    took = cluster.run_until(lambda: states(cluster, 4) == ["down"] * 4, 20 * SECOND)
    # 2n - 1 intervals at worst until somebody probes it, one to suspect it, then the suspicion
    assert took <= (9 + 1 + 4 + 1) * SECOND
    assert {state for _, state in member_changes(cluster, 4)} == {"alive", "suspect", "down"}


def test_a_departed_node_has_no_voice() -> None:
    cluster = settled(3)
    for index in (0, 1):
        cluster.observe(index, fra=Level.DOWN)
    cluster.run(SECOND)
    assert cluster.verdicts("fra") == [Level.DOWN] * 3
    cluster.crash(1)
    cluster.run_until(lambda: states(cluster, 1) == ["down"] * 2, 20 * SECOND)
    assert cluster.verdicts("fra") == [Level.DEGRADED] * 2, "a lone voice"


def test_a_live_node_refutes_suspicion() -> None:
    cluster = settled(4)
    cluster.judge = one_way_loss([3])
    cluster.run_until(lambda: "suspect" in states(cluster, 3), 10 * SECOND)
    cluster.judge = reliable
    cluster.run_until(lambda: states(cluster, 3) == ["alive"] * 3, 4 * SECOND)
    assert "down" not in {state for _, state in member_changes(cluster, 3)}
    assert cluster.engines[3].counters()["refutations"] >= 1
    assert cluster.engines[3].view().members[3].incarnation >= 2


def test_others_ping_in_our_stead_when_only_our_link_is_bad() -> None:
    cluster = settled(4)

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        return [] if {source[1], target[1]} == {1, 2} else [MILLISECOND]

    cluster.judge = judge
    cluster.run(60 * SECOND)
    assert cluster.all_know_all()
    changes = {state for of in (0, 1) for _, state in member_changes(cluster, of)}
    assert changes == {"alive"}, "the detour saves them from suspicion, too"
    assert cluster.engines[0].counters()["out PingReq"] > 0


def test_without_helpers_the_bad_link_would_be_taken_for_death() -> None:
    cluster = settled(4, config=Config(ping_req_count=0))
    cluster.judge = cut(([0], [1]))
    cluster.run(60 * SECOND)
    assert "suspect" in {state for of in (0, 1) for _, state in member_changes(cluster, of)}


# --- leaving and returning


def test_leaving_is_quick_and_returning_too() -> None:
    cluster = settled(5)
    cluster.leave(2)
    cluster.run(50 * MILLISECOND)
    assert states(cluster, 2) == ["left"] * 4
    cluster.run(30 * SECOND)
    assert states(cluster, 2) == ["left"] * 4
    cluster.restart(2)
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 3 * SECOND)


def test_a_restart_takes_a_new_incarnation() -> None:
    cluster = settled(3)
    before = cluster.engines[1].view().members[1].incarnation
    cluster.crash(1)
    cluster.restart(1)
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 3 * SECOND)
    for engine in cluster.living():
        assert engine.view().members[1].incarnation > before


@pytest.mark.parametrize("down_for", [1, 30, 120])
def test_a_restart_without_disk_outgrows_its_earlier_life(down_for: int) -> None:
    cluster = settled(3)
    for _ in range(3):
        cluster.crash(1)
        cluster.run(SECOND)
        cluster.restart(1)
    cluster.run(20 * SECOND)
    before = cluster.engines[1].view().members[1].incarnation
    cluster.observe(1, fra=Level.HEALTHY)
    cluster.run(SECOND)
    cluster.crash(1)
    cluster.run(down_for * SECOND)
    cluster.restart(1, disk_lost=True)
    cluster.give(1, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 5 * SECOND)
    assert cluster.engines[1].view().members[1].incarnation > before
    assert cluster.verdicts("fra") == [Level.UNKNOWN] * 3, "what it said in that life is gone"


def test_a_node_remembers_its_peers() -> None:
    cluster = settled(3)
    for index in range(3):
        cluster.crash(index)
    cluster.run(SECOND)
    for index in (1, 2):
        cluster.restart(index)
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 5 * SECOND)


def test_what_is_damaged_on_disk_is_counted_and_passed_over() -> None:
    cluster = Cluster(1)
    engine = cluster._engine(0, 0)
    records = (
        ("self", b"incarnation", b"\xc1"),
        ("op", b"x", b"junk"),
        ("peer", b"x", b"\x92\xa1x"),
        ("peer", b"y", b"\x92\xa4evil\x01"),
        ("nonsense", b"", b""),
    )
    engine.handle(Restored(records), cluster.now)
    engine.handle(TimerFired(), cluster.now)
    assert sum(count for name, count in engine.counters().items() if name.startswith("restore: ")) == 4
    assert engine.view().members[0].incarnation == incarnation_at(cluster.now)


def test_an_answer_moves_when_a_node_is_due_and_an_early_wake_does_nothing() -> None:
    cluster = settled(2)
    engine = cluster.engines[0]
    cluster.run_until(lambda: engine.due - cluster.now > 300 * MILLISECOND, SECOND, MILLISECOND)  # it has been answered
    nothing = Micros(engine.due - 1)
    assert engine.handle(TimerFired(), nothing) == []
    cluster.crash(1)
    assert engine.handle(TimerFired(), engine.due) != [], "a ping, which nobody answers"
    assert engine.due - nothing <= cluster.config.ack_timeout_us, "so it looks after that before its next turn"


# --- partitions


def test_a_ten_minute_partition_heals_without_help() -> None:
    cluster = settled(6)
    cluster.judge = cut((range(3), range(3, 6)))
    cluster.run(600 * SECOND)
    assert {len(engine.view().members) for engine in cluster.living()} == {6}
    assert states(cluster, 0) == ["alive"] * 2 + ["down"] * 3
    cluster.publish(0, "left {}\n", policy="left")
    cluster.publish(5, "right {}\n", policy="right", operator=signer_of("operator"))
    cluster.judge = reliable
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)
    assert took <= Config().redial_max_us + 10 * SECOND


def test_a_node_cut_off_for_long_comes_back() -> None:
    cluster = settled(4)
    cluster.judge = cut(([0], range(1, 4)))
    cluster.run(300 * SECOND)
    cluster.judge = reliable
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)


def parted_one_way(group: range) -> Judge:
    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        return [] if source[1] - 1 in group and target[1] - 1 not in group else [MILLISECOND]

    return judge


def test_a_one_way_partition_heals_as_well() -> None:
    cluster = settled(6)
    cluster.judge = parted_one_way(range(3))
    cluster.run(120 * SECOND)
    cluster.judge = reliable
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)


def test_who_is_gone_for_a_day_is_forgotten() -> None:
    cluster = settled(3, config=Config(forget_us=60 * SECOND))
    cluster.crash(2)
    cluster.run(120 * SECOND)
    assert {len(engine.view().members) for engine in cluster.living()} == {2}
    assert cluster.equal()
    cluster.restart(2)
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 5 * SECOND)
