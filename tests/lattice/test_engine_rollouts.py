"""Rollouts in real engines: who serves what, and that a bad version is given up without a coordinator, for good."""

from __future__ import annotations

from lattice.authoring import compose_entry, compose_rollout
from lattice.engine import Engine
from lattice.events import LocalUpdate, OpsSubmitted, RecordsLost, RolledBack, RolloutJudged, ServedChanged
from lattice.health import SAYINGS_MAX
from lattice.identity import author_id_of
from lattice.rollouts import Start, Word
from lattice.types import MILLISECOND, SECOND, VersionId
from lattice.view import RolloutView
from tests.lattice.cluster import OPERATOR, Cluster, cut, reliable

WHO = author_id_of(OPERATOR.public_key)
OLD, NEW = "old\n", "new\n"


def begun(count: int, stages: tuple[int, ...], first: tuple[int, ...] = (0,)) -> tuple[Cluster, Start, VersionId]:
    """A cluster that serves one version, and has begun to roll out another."""
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    old = cluster.publish(0, OLD)
    cluster.run(SECOND)
    store = cluster.engines[0].policy
    publication, start = compose_rollout(
        OPERATOR, store.chain(WHO), "default", [NEW], base=old, stages=stages, first=[f"site-{n}" for n in first],
        sites=(), message="", now_ms=cluster.clock(0) // MILLISECOND,
    )  # fmt: skip
    cluster.give(0, LocalUpdate(OpsSubmitted(tuple(op.data for op in publication.ops))))
    cluster.run(SECOND)
    return cluster, start, old


def say(cluster: Cluster, start: Start, stage: int | None) -> None:
    chain = cluster.engines[0].policy.chain(WHO)
    op = compose_entry(OPERATOR, chain, start, stage, "", cluster.clock(0) // MILLISECOND)
    cluster.give(0, LocalUpdate(OpsSubmitted((op.data,))))
    cluster.run(SECOND)


def judge(cluster: Cluster, index: int, start: Start, word: Word, stage: int = 0) -> None:
    cluster.give(index, LocalUpdate(RolloutJudged(start.id, stage, word)))


def serving(engine: Engine) -> VersionId:
    served = engine.view().serving("default")
    assert served is not None
    return served.version


def seen(engine: Engine) -> RolloutView:
    (rollout,) = engine.view().rollouts
    return rollout


def test_sites_come_in_by_stages_and_the_next_publish_is_an_ordinary_head() -> None:
    cluster, start, old = begun(3, (1, 100))
    assert [serving(engine) for engine in cluster.engines] == [start.version, old, old]
    told = [note for _, index, note in cluster.notified if isinstance(note, ServedChanged) and index == 0]
    assert [note.served.version for note in told] == [start.version]
    assert cluster.serving() == [old] * 3, "the head is what it was"
    say(cluster, start, 1)
    assert {serving(engine) for engine in cluster.engines} == {start.version}
    assert {seen(engine).state for engine in cluster.engines} == {"complete"}
    newest = cluster.publish(1, "newest\n")
    cluster.run(SECOND)
    assert {serving(engine) for engine in cluster.engines} == {newest}
    assert all(engine.view().rollouts == () for engine in cluster.engines)


def test_a_site_that_condemns_goes_back_at_once_and_a_restart_does_not_forget() -> None:
    cluster, start, old = begun(4, (1, 100), first=(0, 1, 2))
    cluster.judge = cut(([0], [1, 2, 3]))
    notes = cluster.give(0, LocalUpdate(RolloutJudged(start.id, 0, Word.CONDEMNED)))
    assert [note.served.version for note in notes if isinstance(note, ServedChanged)] == [old]
    judge(cluster, 0, start, Word.PASSED)
    assert serving(cluster.engines[0]) == old, "what is condemned stays so"
    cluster.restart(0)
    assert seen(cluster.engines[0]).here is Word.CONDEMNED, "as it was said, it was written down"
    cluster.disks[0].clear()
    cluster.give(0, LocalUpdate(RecordsLost()))
    cluster.restart(0)
    assert serving(cluster.engines[0]) == old
    assert seen(cluster.engines[0]).here is Word.CONDEMNED
    cluster.judge = reliable
    cluster.run(3 * SECOND)
    assert [serving(engine) for engine in cluster.engines] == [old, start.version, start.version, old], "one of three"
    assert {seen(engine).state for engine in cluster.engines} == {"under way"}, "elsewhere, whatever this site thinks"
    heard = [{site: word for site, _, word in seen(engine).sites}["site-0"] for engine in cluster.engines]
    assert heard == [Word.CONDEMNED] * 4, "the row of the new life says it, too"


def test_two_of_three_take_everybody_back_and_so_it_stays_when_they_are_gone() -> None:
    cluster, start, old = begun(5, (50, 100), first=(0, 1, 2))
    judge(cluster, 2, start, Word.PASSED)
    cluster.run(3 * SECOND)
    judge(cluster, 0, start, Word.CONDEMNED)
    cluster.run(500 * MILLISECOND)
    assert serving(cluster.engines[1]) == start.version, "one voice"
    judge(cluster, 1, start, Word.CONDEMNED)
    cluster.run(500 * MILLISECOND)
    assert {serving(engine) for engine in cluster.engines} == {old}
    assert {index for _, index, note in cluster.notified if isinstance(note, RolledBack)} == {2, 3, 4}
    say(cluster, start, 1)
    assert {serving(engine) for engine in cluster.engines} == {old}, "nobody who advances it brings it back"
    cluster.run(4 * SECOND)
    cluster.crash(0)
    cluster.crash(1)
    for index in (2, 3):
        cluster.crash(index)
        cluster.restart(index)
        assert serving(cluster.engines[index]) == old, "kept on its disk"
    cluster.crash(4)
    cluster.restart(4, disk_lost=True)
    cluster.introduce_all()
    cluster.run(8 * SECOND)
    assert serving(cluster.engines[4]) == old, "told by those who went back"
    assert seen(cluster.engines[4]).here is Word.ROLLED_BACK


def test_fewer_than_a_quorum_of_liars_change_nothing() -> None:
    cluster, start, old = begun(6, (1, 100), first=(0, 1, 2))
    judge(cluster, 0, start, Word.CONDEMNED)
    judge(cluster, 4, start, Word.CONDEMNED)
    judge(cluster, 5, start, Word.CONDEMNED)
    judge(cluster, 1, start, Word.PASSED)
    judge(cluster, 2, start, Word.PASSED)
    cluster.run(4 * SECOND)
    assert [serving(engine) for engine in cluster.engines] == [old, start.version, start.version, old, old, old]
    assert {seen(engine).passed for engine in cluster.engines} == {True}


def test_who_is_gone_has_no_voice() -> None:
    cluster, start, _ = begun(5, (1, 100), first=(0, 1))
    judge(cluster, 1, start, Word.PASSED)
    cluster.run(4 * SECOND)
    judge(cluster, 0, start, Word.CONDEMNED)
    cluster.run(SECOND)
    assert serving(cluster.engines[1]) == start.version, "one of two"
    cluster.crash(1)
    cluster.run_until(lambda: {seen(engine).state for engine in cluster.living()} == {"rolled back"}, 15 * SECOND)
    assert {seen(engine).here for engine in cluster.living()} == {Word.CONDEMNED, Word.ROLLED_BACK}


def test_an_abort_takes_everybody_back_wherever_it_has_come() -> None:
    cluster, start, old = begun(3, (1, 100))
    say(cluster, start, None)
    say(cluster, start, 1)
    assert {serving(engine) for engine in cluster.engines} == {old}
    assert {seen(engine).state for engine in cluster.engines} == {"aborted"}


def test_a_version_that_everybody_serves_is_given_up_by_a_quorum_too() -> None:
    cluster, start, old = begun(3, (1, 100))
    say(cluster, start, 1)
    judge(cluster, 0, start, Word.CONDEMNED, 1)
    judge(cluster, 2, start, Word.CONDEMNED, 1)
    cluster.run(SECOND)
    assert {serving(engine) for engine in cluster.engines} == {old}


def test_rows_change_with_the_verdict_only_and_one_of_an_earlier_stage_is_no_word_for_this_one() -> None:
    cluster, start, _ = begun(3, (1, 50, 100), first=(0, 1, 2))
    before = [engine.view().root for engine in cluster.engines]
    for index in range(3):
        judge(cluster, index, start, Word.PASSED)
    cluster.run(MILLISECOND)
    assert [engine.view().root for engine in cluster.engines] == before, "good news of many sites comes one by one"
    cluster.run(4 * SECOND)
    assert {seen(engine).passed for engine in cluster.engines} == {True}
    before = [engine.view().root for engine in cluster.engines]
    judge(cluster, 0, start, Word.PASSED)
    assert [engine.view().root for engine in cluster.engines] == before
    say(cluster, start, 1)
    assert {seen(engine).passed for engine in cluster.engines} == {False}


def test_a_row_has_room_for_the_latest_words_and_those_are_kept() -> None:
    cluster, start, old = begun(1, (100,))
    judge(cluster, 0, start, Word.CONDEMNED)
    later = []
    for number in range(SAYINGS_MAX):
        cluster.run(10 * MILLISECOND)
        store = cluster.engines[0].policy
        publication, start = compose_rollout(
            OPERATOR, store.chain(WHO), "default", [f"new {number}\n"], base=old, stages=(100,), first=(),
            sites=(), message="", now_ms=cluster.clock(0) // MILLISECOND,
        )  # fmt: skip
        cluster.give(0, LocalUpdate(OpsSubmitted(tuple(op.data for op in publication.ops))))
        judge(cluster, 0, start, Word.CONDEMNED)
        later.append(start.id)
    here = {rollout.id: rollout.here for rollout in cluster.engines[0].view().rollouts}
    assert [here[each] for each in later] == [Word.CONDEMNED] * SAYINGS_MAX
    assert list(here.values()).count(Word.CONDEMNED) == SAYINGS_MAX
