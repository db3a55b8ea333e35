"""From one node's observation to everybody's verdict: who speaks, who waits, what stands, what expires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lattice.config import Config
from lattice.events import HealthObserved, LocalUpdate, PolicyApplied, RegionChanged, RegionDoubted
from lattice.health import Observation
from lattice.health_table import lease_ms_for
from lattice.quantise import lower_edge
from lattice.types import MILLISECOND, SECOND, Level, VersionId
from tests.lattice.cluster import Cluster, cut, reliable

SITES = 12


def settled(count: int, level: Level = Level.HEALTHY, skews_us: dict[int, int] | None = None) -> Cluster:
    """So many nodes that all see fra and iad at `level`, and have said so."""
    cluster = Cluster(count, skews_us=skews_us)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 5 * SECOND)
    for index in range(count):
        cluster.observe(index, fra=level, iad=level)
    cluster.run_until(lambda: cluster.equal() and set(cluster.verdicts("fra")) == {level}, 10 * SECOND)
    return cluster


def rows_issued(cluster: Cluster) -> list[int]:
    return [engine._health._seq for engine in cluster.engines]


def spoke(cluster: Cluster, before: Sequence[int]) -> int:
    return sum(now > then for now, then in zip(rows_issued(cluster), before, strict=True))


# --- minimal fan-out


def test_when_a_region_dies_a_few_sites_speak_at_once_and_the_rest_in_their_own_time() -> None:
    cluster = settled(SITES)
    before = rows_issued(cluster)
    for index in range(SITES):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
        cluster.run(20 * MILLISECOND)
    assert set(cluster.verdicts("fra")) == {Level.DOWN}
    assert spoke(cluster, before) == SITES // 2 + 1, "a quorum, and nobody who only confirms"
    cluster.run(3 * SECOND)
    assert spoke(cluster, before) == SITES, "the others within their confirm delay"
    assert cluster.engines[0].view().regions[0].witnesses[-1].level == Level.DOWN


def test_even_those_who_see_it_at_once_speak_once() -> None:
    cluster = settled(SITES)
    before = rows_issued(cluster)
    for index in range(SITES):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    took = cluster.run_until(lambda: set(cluster.verdicts("fra")) == {Level.DOWN}, SECOND, step_us=MILLISECOND)
    assert took <= 5 * MILLISECOND
    cluster.run(SECOND)
    assert all(now - then <= 1 for now, then in zip(rows_issued(cluster), before, strict=True))


def test_a_change_of_metrics_alone_waits() -> None:
    cluster = settled(3)
    before = rows_issued(cluster)
    cluster.observe(0, fra=Level.HEALTHY, iad=Level.HEALTHY)
    cluster.run(SECOND)
    assert spoke(cluster, before) == 0, "the same again is no news"


# --- verdict, own evidence, and when they part


def test_everybody_sees_what_stands_behind_a_voice() -> None:
    cluster = settled(3)
    observation = Observation("fra", Level.DOWN, 20_000, 500_000, 0, cluster.now // 1_000, 40)
    cluster.give(0, LocalUpdate(HealthObserved((observation, replace(observation, region="iad", level=Level.HEALTHY)))))
    cluster.run(SECOND)
    for engine in cluster.engines:
        (reports,) = [member.reports for member in engine.view().members if member.site == "site-0"]
        seen = [(report.region, report.level, lower_edge(report.evidence_bucket)) for report in reports]
        assert seen == [("fra", Level.DOWN, 40), ("iad", Level.HEALTHY, 40)]


def test_a_lone_voice_degrades_a_region_and_no_more() -> None:
    cluster = Cluster(3)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    cluster.observe(0, fra=Level.DOWN)
    cluster.run(SECOND)
    assert cluster.verdicts("fra") == [Level.DEGRADED] * 3
    assert cluster.effective("fra") == [Level.DOWN, Level.DEGRADED, Level.DEGRADED]
    doubts = [(index, note.site) for _, index, note in cluster.notified if isinstance(note, RegionDoubted)]
    assert sorted(doubts) == [(1, "site-0"), (2, "site-0")], "the others are told to look for themselves"


def test_own_evidence_counts_at_once_and_here_only() -> None:
    cluster = settled(5)
    cluster.observe(0, fra=Level.DOWN, iad=Level.HEALTHY)
    assert cluster.effective("fra")[0] == Level.DOWN
    cluster.run(SECOND)
    assert cluster.verdicts("fra") == [Level.HEALTHY] * 5
    assert cluster.effective("fra") == [Level.DOWN] + [Level.HEALTHY] * 4


def test_a_verdict_that_own_trials_contradict_is_overruled_after_two_seconds() -> None:
    cluster = settled(3)
    for index in (1, 2):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(100 * MILLISECOND)
    assert cluster.effective("fra") == [Level.DOWN] * 3
    cluster.run(Config().overrule_us - 200 * MILLISECOND)
    assert cluster.effective("fra") == [Level.DOWN] * 3
    cluster.run(300 * MILLISECOND)
    assert cluster.effective("fra") == [Level.HEALTHY, Level.DOWN, Level.DOWN]
    seen = cluster.engines[0].view().regions[0]
    assert (seen.region, seen.reason, seen.verdict) == ("fra", "overruled", Level.DOWN)
    changes = [note for _, index, note in cluster.notified if index == 0 and isinstance(note, RegionChanged)]
    assert (changes[-1].old, changes[-1].new, changes[-1].reason) == (Level.DOWN, Level.HEALTHY, "overruled")
    cluster.run(12 * SECOND)
    reports = {
        report.region: report
        for row in cluster.engines[1]._health.table.rows()
        for report in row.row.reports
        if row.row.site == "site-0"
    }
    assert reports["fra"].overrules, "and its row says so"


def test_a_flicker_of_own_evidence_starts_the_two_seconds_anew() -> None:
    cluster = settled(3)
    for index in (1, 2):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(1_500 * MILLISECOND)
    cluster.observe(0, fra=Level.DEGRADED, iad=Level.HEALTHY)
    cluster.observe(0, fra=Level.HEALTHY, iad=Level.HEALTHY)
    cluster.run(1_500 * MILLISECOND)
    assert cluster.effective("fra")[0] == Level.DOWN
    cluster.run(SECOND)
    assert cluster.effective("fra")[0] == Level.HEALTHY


def test_a_node_for_which_everything_fails_suspects_itself_and_does_not_vote() -> None:
    cluster = settled(3)
    cluster.observe(2, fra=Level.DOWN, iad=Level.DOWN)
    cluster.run(SECOND)
    view = cluster.engines[2].view()
    assert view.isolated
    assert {seen.reason for seen in view.regions} == {"isolated"}
    assert cluster.effective("fra") == [Level.HEALTHY] * 3
    assert [witness.site for witness in cluster.engines[0].view().regions[0].witnesses] == ["site-0", "site-1"]
    cluster.observe(2, fra=Level.HEALTHY, iad=Level.DOWN)
    cluster.run(SECOND)
    assert not cluster.engines[2].view().isolated
    assert len(cluster.engines[0].view().regions[0].witnesses) == 3


def test_where_everything_fails_everywhere_the_last_to_say_so_decides_nothing() -> None:
    """fra is lost a minute before iad; then each site takes its vote back as it finds iad lost, too."""
    cluster = settled(3)
    for index in range(3):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(60 * SECOND)
    cluster.notified.clear()
    for index in range(3):
        cluster.observe(index, fra=Level.DOWN, iad=Level.DOWN)
        cluster.run(100 * MILLISECOND)
    cluster.run(30 * SECOND)
    assert {region: cluster.effective(region) for region in ("fra", "iad")} == {
        "fra": [Level.DOWN] * 3,
        "iad": [Level.HEALTHY] * 3,
    }, "what a quorum last stood behind"
    assert not [note for _, _, note in cluster.notified if isinstance(note, RegionChanged) and note.region == "fra"]
    cluster.observe(0, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.observe(1, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(SECOND)
    assert cluster.effective("iad") == [Level.HEALTHY] * 3
    assert cluster.verdicts("fra") == [Level.DOWN] * 3, "and there are votes again"


@pytest.mark.parametrize("level", [Level.HEALTHY, Level.DOWN])
def test_fewer_than_half_can_not_move_a_verdict(level: Level) -> None:
    cluster = settled(7)
    for index in range(7):
        cluster.observe(index, fra=level, iad=Level.HEALTHY)
    cluster.run(5 * SECOND)
    lie = Level.HEALTHY if level == Level.DOWN else Level.DOWN
    for index in range(3):
        cluster.observe(index, fra=lie, iad=Level.HEALTHY)
    cluster.run(15 * SECOND)
    assert set(cluster.verdicts("fra")) == {level}


# --- leases


def test_a_row_that_nobody_renews_expires_everywhere_at_about_one_time_and_does_not_come_back() -> None:
    cluster = settled(4)
    old = cluster.engines[3]._health.table.get(cluster.engines[3].node)
    assert old is not None
    cluster.crash(3)
    lease_us = old.signed.row.lease_ms * 1_000
    cluster.run_until(
        lambda: all(e._health.table.get(old.signed.observer) is None for e in cluster.living()), 2 * lease_us
    )
    assert cluster.now <= old.born + lease_us + 50 * MILLISECOND, "ages are carried: a copy of a copy is no younger"
    cluster.run(lease_us)
    for engine in cluster.living():
        assert engine._health.table.get(old.signed.observer) is None
        assert len(engine.view().regions[0].witnesses) == 3
    assert cluster.equal()


def test_a_late_joiner_gets_a_row_with_its_age() -> None:
    cluster = Cluster(4)
    cluster.judge = cut((range(3), [3]))
    cluster.introduce_all()
    cluster.run(5 * SECOND)
    cluster.observe(2, fra=Level.DOWN)
    cluster.run(SECOND)
    held = cluster.engines[0]._health.table.get(cluster.engines[2].node)
    assert held is not None
    cluster.crash(2)
    cluster.run(15 * SECOND)
    cluster.judge = reliable
    cluster.run_until(lambda: cluster.engines[3]._health.table.get(held.signed.observer) is not None, 20 * SECOND)
    copy = cluster.engines[3]._health.table.get(held.signed.observer)
    assert copy is not None
    assert abs(copy.expires - held.expires) <= 20 * MILLISECOND
    cluster.run_until(cluster.equal, 5 * SECOND)


def test_a_zombie_row_is_not_news_to_whoever_saw_it_expire() -> None:
    cluster = settled(3)
    zombie = cluster.engines[2]._health.table.get(cluster.engines[2].node)
    assert zombie is not None
    cluster.crash(2)
    cluster.run(600 * SECOND)
    engine = cluster.engines[0]
    root = engine.view().root
    assert engine._health.place(zombie.signed, 0, None) is None
    assert engine.view().root == root
    assert engine.counters()["rows expired"] > 0


def test_rows_outlive_several_refreshes_whatever_the_size_of_the_cluster() -> None:
    config = Config()
    for members in (1, 32, 1_000, 10_000, config.members_max):
        refresh_us = config.row_refresh_for(members)
        lease_us = lease_ms_for(refresh_us, config.row_lease_refreshes) * 1_000
        assert lease_us >= 3 * refresh_us * 5 // 4, f"{members} members: a row must outlive lost and late refreshes"


# --- clocks


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_an_hour_off_changes_no_verdict(hours: int) -> None:
    cluster = settled(3, skews_us={1: hours * 3_600 * SECOND})
    for index in range(3):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(100 * MILLISECOND)
    assert cluster.verdicts("fra") == [Level.DOWN] * 3
    cluster.run(90 * SECOND)
    assert cluster.all_know_all()
    assert cluster.equal()
    assert cluster.verdicts("fra") == [Level.DOWN] * 3
    for index in range(3):
        cluster.observe(index, fra=Level.HEALTHY, iad=Level.HEALTHY)
    cluster.run(10 * SECOND)
    assert cluster.effective("fra") == [Level.HEALTHY] * 3


def test_a_publish_by_a_node_whose_clock_is_behind_still_supersedes_what_it_saw() -> None:
    cluster = settled(3, skews_us={1: -3_600 * SECOND})
    cluster.publish(0, "first {}\n")
    cluster.run(SECOND)
    version = cluster.publish(1, "second {}\n")
    cluster.run(SECOND)
    assert set(cluster.serving()) == {version}
    assert cluster.engines[0].view().policies[0].rivals == ()


def test_a_clock_that_is_ahead_publishes_nothing_that_the_others_would_be_dragged_to() -> None:
    cluster = settled(4, skews_us={1: 3_600 * SECOND})
    cluster.publish(0, "first {}\n")
    cluster.run(SECOND)
    before = cluster.serving()
    cluster.publish(1, "an hour ahead {}\n")
    cluster.run(SECOND)
    assert [cluster.serving()[index] for index in (0, 2, 3)] == [before[index] for index in (0, 2, 3)]
    assert cluster.engines[0].counters()["op rejected: from the future"] > 0


def test_the_clock_of_the_majority_is_moved_by_no_minority() -> None:
    cluster = settled(5, skews_us={1: 3_600 * SECOND, 2: 7_200 * SECOND, 3: -3_600 * SECOND})
    off_ms = [engine._health.majority_clock_ms() - cluster.now // 1_000 for engine in cluster.engines]
    assert all(abs(off) < 2_000 for off in off_ms), off_ms


# --- the view


def test_the_view_is_the_same_object_until_something_changes_and_never_stale() -> None:
    cluster = settled(2)
    engine = cluster.engines[0]
    assert engine.view() is engine.view()
    version = VersionId(b"v" * 16)
    cluster.give(0, LocalUpdate(PolicyApplied("default", version)))
    assert engine.view().members[0].applied == (("default", version),)
    cluster.run(5 * SECOND)
    assert cluster.engines[1].view().members[0].applied == (("default", version),)


def test_a_region_of_which_nobody_speaks_any_more_is_forgotten() -> None:
    """Else whoever may sign rows could fill every node's memory with names."""
    cluster = settled(3)
    for index in range(3):
        cluster.observe(index, iad=Level.HEALTHY)
    cluster.run(10 * SECOND)
    for number in range(20):
        cluster.observe(0, iad=Level.HEALTHY, **{f"region_{number}": Level.DOWN})
        cluster.run(5 * SECOND)
    cluster.observe(0, iad=Level.HEALTHY)
    cluster.run(10 * SECOND)
    for engine in cluster.engines:
        assert [seen.region for seen in engine.view().regions] == ["iad"]
        assert engine._health.table.regions() == ["iad"]
    last = [note for _, index, note in cluster.notified if index == 1 and isinstance(note, RegionChanged)][-1]
    assert (last.region, last.new) == ("region_19", Level.UNKNOWN)


def test_what_is_private_acts_here_and_is_told_to_nobody() -> None:
    cluster = settled(3)
    since_ms = cluster.clock(0) // 1_000
    ours = (
        Observation("fra", Level.DOWN, since_ms=since_ms, evidence=10, private=True),
        Observation("iad", Level.HEALTHY, 20_000, since_ms=since_ms, evidence=10),
        Observation("new", Level.DOWN, since_ms=since_ms, evidence=10, private=True),
    )
    cluster.give(0, LocalUpdate(HealthObserved(ours)))
    cluster.run(5 * SECOND)
    assert cluster.effective("fra") == [Level.DOWN, Level.HEALTHY, Level.HEALTHY]
    assert cluster.verdicts("fra") == [Level.HEALTHY] * 3
    assert not cluster.engines[0].view().isolated
    for engine in cluster.engines:
        regions = {region.region: region for region in engine.view().regions}
        assert "site-0" not in {witness.site for witness in regions["fra"].witnesses}
        assert ("new" in regions) == (engine is cluster.engines[0])
    shared = tuple(replace(each, private=False) for each in ours)
    cluster.give(0, LocalUpdate(HealthObserved(shared[:2])))
    cluster.run(5 * SECOND)
    assert "site-0" in {witness.site for witness in cluster.engines[1].view().regions[0].witnesses}
