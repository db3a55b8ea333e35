"""Membership in bad company: sick accusers, stalls, one key in two places, storms, newer peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from lattice import canonical
from lattice.config import Config
from lattice.events import (
    DatagramReceived,
    Effect,
    HealthObserved,
    IdConflict,
    Input,
    LocalUpdate,
    LoopLagged,
    MemberChanged,
    Notification,
    Notify,
    PeerDiscovered,
    Rejected,
    SendDatagram,
    TimerFired,
)
from lattice.health import Observation
from lattice.key_ring import KeyRing
from lattice.membership import MemberState, MemberUpdate
from lattice.prng import Prng
from lattice.seal import Plain, Seal, Sealed
from lattice.swim import incarnation_at
from lattice.types import MILLISECOND, SECOND, Endpoint, Level, Micros, NodeId
from lattice.wire import Ack, Leave, Nack, News, Ping, PingReq, decode, encode
from tests.bench.swim import LIFEGUARD, Link, crashes, percentile_ms, slow_members
from tests.lattice.cluster import CLUSTER, EPOCH, Cluster, cut, one_way_loss, reliable
from tests.lattice.test_engine_swim import member_changes, settled, states


def whisper(cluster: Cluster, frm: int, to: int, message: Ping | Ack | Nack | News | PingReq) -> None:
    """A message of one node's to another that its engine would not have sent."""
    frame = Plain(CLUSTER).close(cluster.engines[frm].node, encode(message), cluster.now)
    cluster.give(to, DatagramReceived(frame, cluster.endpoint(frm)))


def accusation(cluster: Cluster, of: int, by: int, state: MemberState = MemberState.SUSPECT) -> MemberUpdate:
    member = next(seen for seen in cluster.engines[0].view().members if seen.node == cluster.engines[of].node)
    return MemberUpdate(member.node, state, member.incarnation, cluster.engines[by].node, canonical.INTEGER_MAX)


# --- accusers


def test_nobody_is_down_on_one_members_word() -> None:
    cluster = settled(6)
    cluster.crash(5)
    whisper(cluster, 1, 0, News((accusation(cluster, 5, 1, MemberState.DOWN),)))
    assert states(cluster, 5)[0] == "suspect"
    cluster.run_until(lambda: states(cluster, 5) == ["down"] * 5, 10 * SECOND)


def accuse(cluster: Cluster, of: int, by: int) -> None:
    """As when a probe has failed."""
    engine = cluster.engines[by]
    engine._out.now, engine._out.effects = cluster.now, []
    engine._swim.hear((accusation(cluster, of, by),), None)
    for effect in engine._out.effects:
        cluster._perform(by, effect)


def test_the_news_of_a_death_does_not_take_its_way_through_the_dead() -> None:
    """Whoever the trees would have had pass it on: all others hear of it within a few hops, of a millisecond each."""
    cluster = settled(24)
    for dead in range(1, 24):
        cluster.judge = cut(([dead], [node for node in range(24) if node != dead]))
        accuse(cluster, dead, by=0)
        cluster.run(8 * MILLISECOND)
        assert states(cluster, dead).count("suspect") == 23


@pytest.mark.parametrize("seed", range(6))
def test_a_live_node_called_down_by_a_liar_refutes_before_anybody_believes_it(seed: int) -> None:
    """By one member's word, a hundred and twenty times in ten seconds. It comes back to its accuser, too, from all who
    pass it on: as voices of theirs, which it took them for, it brought the node down in 68 of 300 seeds."""
    cluster = settled(8, str(seed))
    for _ in range(20):
        for listener in range(1, 7):
            whisper(cluster, 0, listener, News((accusation(cluster, 7, 0, MemberState.DOWN),)))
        cluster.run(500 * MILLISECOND)
    assert "down" not in {state for _, state in member_changes(cluster, 7)}


def test_an_accusation_that_comes_back_is_no_second_voice() -> None:
    cluster = settled(6)
    cluster.judge = cut(([5], [0, 1, 2, 3, 4]))
    accuse(cluster, 5, by=0)
    whisper(cluster, 1, 0, News((accusation(cluster, 5, 0),)))
    accused = cluster.engines[0]._swim._suspicions[cluster.engines[5].node]
    assert accused.accusers == [cluster.engines[0].node]


def test_a_live_node_of_which_a_liar_says_that_it_has_left_is_there() -> None:
    """That is its own word to say: another's is an accusation, which it refutes."""
    cluster = settled(8)
    for _ in range(20):
        for listener in range(1, 7):
            whisper(cluster, 0, listener, News((accusation(cluster, 7, 0, MemberState.LEFT),)))
        cluster.run(500 * MILLISECOND)
    assert {state for _, state in member_changes(cluster, 7)} <= {"suspect", "alive"}


def test_a_goodbye_from_where_its_sender_never_was_is_refused() -> None:
    """Whoever has the cluster's keys can seal it in anybody's name."""
    cluster = settled(4)
    node, goodbye = cluster.engines[3].node, Leave(cluster.engines[3]._swim.incarnation)
    for source, state in ((("10.9.9.9", 9), "alive"), (cluster.endpoint(3), "left")):
        frame = Plain(CLUSTER).close(node, encode(goodbye), cluster.now)
        cluster.give(0, DatagramReceived(frame, source))
        assert states(cluster, 3)[0] == state
    assert cluster.engines[0].counters()["goodbyes refused: from elsewhere"] == 1


def test_whoever_did_not_hear_a_goodbye_comes_to_know_of_it() -> None:
    cluster = settled(8)
    cluster.judge = cut(([7], [0, 1]))
    cluster.leave(7)
    cluster.run(100 * MILLISECOND)
    assert states(cluster, 7).count("left") == 5
    cluster.run_until(lambda: states(cluster, 7) == ["left"] * 7, 10 * SECOND)


def test_accusations_by_strangers_and_by_the_departed_do_not_count() -> None:
    cluster = settled(6)
    cluster.crash(4)
    cluster.run_until(lambda: states(cluster, 4) == ["down"] * 5, 10 * SECOND)
    cluster.judge = cut(([5], range(5)))
    for by in (NodeId(b"\xee" * 16), cluster.engines[4].node, cluster.engines[5].node):
        claim = structs.replace(accusation(cluster, 5, 1), by=by)
        frame = Plain(CLUSTER).close(NodeId(b"\xee" * 16), encode(News((claim,))), cluster.now)
        cluster.give(0, DatagramReceived(frame, ("10.0.0.9", 9)))
    assert states(cluster, 5)[0] == "alive"


@pytest.mark.parametrize("seed", ["0", "44"])
def test_a_crash_that_helpers_confirm_is_concluded_in_the_shortest_time(seed: str) -> None:
    """By helpers, too: by seed 44 one did not hear that its own nack had become a voice, and lacked the fourth."""
    cluster = settled(8, seed)
    cluster.crash(2)  # one that relays no accusation of itself
    cluster.run_until(lambda: "suspect" in states(cluster, 2), 5 * SECOND)
    took = cluster.run_until(lambda: states(cluster, 2) == ["down"] * 7, 20 * SECOND)
    assert took <= Config().suspicion_us + 100 * MILLISECOND
    assert sum(engine.counters().get("in Nack", 0) for engine in cluster.living()) >= 3


def test_a_helper_says_that_it_got_no_answer() -> None:
    cluster = settled(3)
    cluster.crash(2)
    before = cluster.engines[1].counters().get("out Nack", 0)
    whisper(cluster, 0, 1, PingReq(77, cluster.engines[2].node, cluster.endpoint(2)))
    cluster.run(600 * MILLISECOND)
    assert cluster.engines[1].counters()["out Nack"] > before


# --- our own health


def test_a_node_cut_off_grows_patient_and_recovers() -> None:
    cluster = settled(6)
    cluster.judge = cut(([0], range(1, 6)))
    cluster.run(4 * SECOND)
    assert cluster.engines[0].counters()["local health"] >= 2, "no helper sends it a nack"
    cluster.judge = reliable
    cluster.run(60 * SECOND)
    assert cluster.engines[0].counters()["local health"] == 0
    assert cluster.all_know_all()


@pytest.mark.parametrize(("count", "few"), [(5, 2), (7, 3)])
def test_a_minority_that_is_cut_off_sees_it_before_long(count: int, few: int) -> None:
    """What each of the others does not say is explained by that one, once, not by our own health: it took 34 s."""
    cluster = settled(count)
    cluster.judge = cut((range(few), range(few, count)))
    assert cluster.run_until(
        lambda: all(states(cluster, of)[:few] == ["down"] * few for of in range(few, count)), 16 * SECOND
    )


def test_who_is_suspected_is_not_asked_to_help() -> None:
    cluster = settled(4)
    cluster.judge = cut(([0], [1, 2, 3]))
    assert cluster.run_until(lambda: [states(cluster, of)[0] for of in (1, 2, 3)] == ["suspect"] * 3, 6 * SECOND)
    asked = cluster.engines[0].counters()["out PingReq"]
    failed = cluster.engines[0].counters()["probes failed"]
    cluster.run(4 * SECOND)
    assert cluster.engines[0].counters()["probes failed"] > failed, "it goes on probing them"
    assert cluster.engines[0].counters()["out PingReq"] == asked


def test_a_lagging_loop_is_ill_health_and_voids_what_was_not_heard() -> None:
    cluster = settled(3)
    cluster.give(0, LocalUpdate(LoopLagged(SECOND)))
    assert cluster.engines[0].counters()["local health"] == 1
    assert cluster.engines[0].counters()["stalls"] == 1


@pytest.mark.parametrize("paused_s", [1, 5, 60])
def test_a_paused_node_blames_nobody_when_it_wakes(paused_s: int) -> None:
    """Row 9 of the matrix: it is called down when it was away for long, and comes back as a new incarnation."""
    cluster = settled(6)
    before = cluster.engines[0].view().members[5].incarnation
    cluster.alive[5] = False
    cluster.run(paused_s * SECOND)
    cluster.alive[5] = True
    at = len(cluster.notified)
    cluster.give(5, TimerFired())
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 45 * SECOND)
    blamed = [note for _, index, note in cluster.notified[at:] if index == 5 and isinstance(note, MemberChanged)]
    assert not blamed
    after = cluster.engines[0].view().members[5].incarnation
    assert after > before or paused_s != 5, "doubted, and refuted; after a minute its next row was due, and answers"


def test_late_timers_one_by_one_are_one_stall() -> None:
    cluster = settled(3)
    engine = cluster.engines[0]
    late = Micros(cluster.now + 5 * SECOND)
    frame = Plain(CLUSTER).close(cluster.engines[1].node, encode(Nack(1, engine.node)), cluster.now)
    for _ in range(10):
        engine.handle(DatagramReceived(frame, cluster.endpoint(1)), late)
    assert engine.counters()["stalls"] == 1


def quarter_lost(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
    return [] if prng.below(4) == 0 else [MILLISECOND + prng.below(39 * MILLISECOND)]


def test_where_a_quarter_is_lost_few_are_suspected_and_nobody_is_called_down_by_two() -> None:
    """By 160 other seeds 0.9 of a hundred probes failed, 1.6 in the worst minute. In three of 300 minutes a refutation
    was lost on its way to one of the seven, which called its member down; since it is told that, in one of 200."""
    failed = 0
    for seed in "0123":
        cluster = settled(8, seed)
        cluster.judge = quarter_lost
        cluster.notified.clear()
        failed -= sum(engine.counters().get("probes failed", 0) for engine in cluster.engines)
        cluster.run(60 * SECOND)
        failed += sum(engine.counters().get("probes failed", 0) for engine in cluster.engines)
        changes = [(note, index) for _, index, note in cluster.notified if isinstance(note, MemberChanged)]
        called = {(note.node, index) for note, index in changes if note.state == "down"}
        assert len({node for node, _ in called}) == len(called), "nobody by two"
    assert failed <= 96, "two of a hundred of all 4,800"


def test_who_has_missed_the_refutation_is_told_it_when_it_accuses_again() -> None:
    """Its own row, not a comparison: that takes several datagrams, each of which may be lost again."""
    cluster = settled(4)
    claim = accusation(cluster, 3, 0)
    whisper(cluster, 1, 3, News((claim,)))
    cluster.run(SECOND)
    refuted = cluster.engines[3]._swim.incarnation
    assert refuted > claim.incarnation
    cluster.judge = cut(([3], range(3)))
    before = cluster.engines[3].counters()["out Rumour"]
    whisper(cluster, 0, 3, Ping(5, bytes(16), (claim,)))
    assert cluster.engines[3].counters()["out Rumour"] == before + 1
    assert cluster.engines[3]._swim.incarnation == refuted, "it was answered already"


def test_who_accuses_again_at_once_is_not_told_the_row_again_at_once() -> None:
    """Four accusers that say so five times a second each would have a row of 400 bytes each time, which fills 64 kbit/s
    by itself. Each ping is answered."""
    cluster = settled(4)
    cluster.run(10 * SECOND)
    claim = accusation(cluster, 3, 0)
    whisper(cluster, 1, 3, News((claim,)))
    cluster.run(SECOND)
    cluster.judge = cut(([3], range(3)))

    def told(by: int) -> int:
        before = cluster.engines[3].counters()
        whisper(cluster, by, 3, Ping(5, bytes(16), (claim,)))
        after = cluster.engines[3].counters()
        assert after["out Ack"] == before["out Ack"] + 1
        return after["out Rumour"] - before["out Rumour"]

    assert [told(0), told(0), told(1), told(1)] == [1, 0, 1, 0]
    cluster.run(50 * MILLISECOND)
    assert [told(0), told(1)] == [1, 1], "what it was told may have been lost"


@pytest.mark.parametrize("queued_ms", [650, 1_200])
@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_who_answers_late_is_soon_waited_for_and_its_death_is_found_all_the_same(seed: str, queued_ms: int) -> None:
    """As behind a link whose queues are full, each way: an answer takes longer than a probe. Before, all suspected it
    with nearly every probe, for as long as its link was full, and called it down by turns."""
    cluster = settled(5, seed)

    def full(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        return [queued_ms * MILLISECOND if cluster.endpoint(4) in (source, target) else MILLISECOND]

    cluster.judge = full
    cluster.run(15 * SECOND)
    cluster.notified.clear()
    cluster.run(45 * SECOND)
    assert [change for change in member_changes(cluster, 4) if change[1] != "alive"] == []
    assert set(states(cluster, 4)) == {"alive"}
    cluster.crash(4)
    cluster.run_until(lambda: set(states(cluster, 4)) == {"down"}, 15 * SECOND)


def test_who_was_late_is_given_as_long_to_refute_for_a_minute_and_its_end_is_then_found_as_any() -> None:
    """By answers alone it was not: a pair of a thousand meets every seven minutes, and sixteen answers it took."""
    cluster = settled(5)
    swim, gone = cluster.engines[0]._swim, cluster.engines[4].node
    cluster.crash(4)
    cluster.run_until(lambda: gone in swim._probe._failed, 10 * SECOND)
    member = swim.members.get(gone)
    assert member is not None
    swim._rtt.observe_late(gone, 4 * SECOND, cluster.now)
    assert swim._refutes_in_us(member) == 8 * SECOND
    cluster.run(61 * SECOND)
    assert swim._refutes_in_us(member) == cluster.engines[0]._out.config.suspicion_us


def test_of_a_member_that_is_forgotten_no_probe_is_kept() -> None:
    cluster = settled(5)
    swim, gone = cluster.engines[0]._swim, cluster.engines[4].node
    cluster.crash(4)
    cluster.run_until(lambda: gone in swim._probe._failed, 10 * SECOND)
    cluster.engines[0]._out.effects = []
    assert swim.expel(gone)
    assert gone not in swim._probe._failed


def test_who_passes_on_what_was_refuted_is_told_the_row_by_whoever_has_it() -> None:
    """It accuses nobody itself, so it never asks the accused; what others said before would have it called down."""
    cluster = settled(5)
    claim = accusation(cluster, 3, 1)
    cluster.judge = cut(([0], range(1, 5)))
    whisper(cluster, 1, 3, News((claim,)))
    cluster.run(300 * MILLISECOND)
    refuted = cluster.engines[3]._swim.incarnation
    assert refuted > claim.incarnation
    cluster.judge = lambda source, target, prng: [MILLISECOND] if {source[1], target[1]} <= {1, 3} else []
    for by in (1, 2, 4):
        whisper(cluster, by, 0, News((structs.replace(claim, by=cluster.engines[by].node),)))
    assert states(cluster, 3)[0] == "suspect"
    whisper(cluster, 0, 2, News((claim,)))
    cluster.run(2 * MILLISECOND)
    assert states(cluster, 3)[0] == "alive"
    assert cluster.engines[2].counters()["accusations answered by a later row"] == 1
    assert cluster.engines[0]._swim.members.get(cluster.engines[3].node).incarnation == refuted  # type: ignore[union-attr]


def test_a_refutation_that_is_on_its_way_is_not_sent_for_an_accusation() -> None:
    cluster = settled(5)
    claim = accusation(cluster, 3, 1)
    whisper(cluster, 1, 3, News((claim,)))
    cluster.run(20 * MILLISECOND)
    assert cluster.engines[3]._swim.incarnation > claim.incarnation
    whisper(cluster, 0, 2, News((claim,)))
    assert "accusations answered by a later row" not in cluster.engines[2].counters()


def test_lifeguard_spares_the_healthy_where_plain_swim_does_not() -> None:
    """Row 8, on a small grid: at most a fiftieth of plain SWIM's false positives, and crashes found no later."""
    plain = replace(LIFEGUARD, lifeguard=False)
    blamed, spared = (
        slow_members(24, config, Link(), "0", 8, 4 * SECOND, 64 * MILLISECOND, 60 * SECOND).false_events
        for config in (plain, LIFEGUARD)
    )
    assert blamed >= 50
    assert spared * 50 <= blamed


def test_a_crash_is_found_within_the_reach_and_nobody_else_is_blamed_on_lossy_links() -> None:
    """Of four crashes the median is 1.5 to 2.5 s, by twenty-four seeds; these are eight, by two."""
    outcomes = [crashes(100, LIFEGUARD, Link(loss_ppm=50_000), seed, victims=4) for seed in "12"]
    assert [(outcome.missed, outcome.false_events) for outcome in outcomes] == [(0, 0)] * 2
    took_us = [each for outcome in outcomes for each in outcome.all_us]
    median_ms, p99_ms = percentile_ms(took_us, 500), percentile_ms(took_us, 990)
    assert median_ms is not None
    assert p99_ms is not None
    assert median_ms <= 2_500
    assert p99_ms <= 5_000


# --- flapping


@pytest.mark.parametrize("silent", [[0], [0, 1, 2]])
def test_a_one_way_partition_is_no_flap_loop(silent: list[int]) -> None:
    """Row 2: at most one change of state a node and minute, at each node."""
    cluster = settled(10)
    cluster.judge = one_way_loss(silent)
    at = len(cluster.notified)
    cluster.run(300 * SECOND)
    changes: dict[tuple[int, NodeId], int] = {}
    for _, index, note in cluster.notified[at:]:
        if isinstance(note, MemberChanged) and note.state in ("alive", "down"):
            changes[index, note.node] = changes.get((index, note.node), 0) + 1
    assert max(changes.values()) <= 5
    cluster.judge = reliable
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 60 * SECOND)


# --- one key in two places


def sealed() -> Sealed:
    return Sealed(CLUSTER, KeyRing.of(bytes(32)))


def twin_cluster(seal: Callable[[], Seal] = lambda: Plain(CLUSTER), seed: str = "0") -> Cluster:
    """Nodes 0, 1, 2; and index 3 has the key of 2."""
    cluster = Cluster(4, seed, seal=seal)
    twin = cluster._engine(2, 9)
    twin._us.endpoint = cluster.endpoint(3)
    cluster.engines[3] = twin
    cluster.deadlines[3] = None
    cluster._queue = [item for item in cluster._queue if item[2] != 3]
    cluster.alive[3] = False
    for index in (1, 2):
        cluster.give(index, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    cluster.run(5 * SECOND)
    cluster.alive[3] = True
    cluster.give(3, TimerFired())
    cluster.give(3, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    return cluster


@pytest.mark.parametrize(
    ("seal", "seed"),
    [(sealed, "0"), (sealed, "2"), (sealed, "12"), (lambda: Plain(CLUSTER), "0")],
    ids=["sealed", "sealed-2", "sealed-12", "plain"],
)
def test_one_key_in_two_places_is_noticed_by_both_and_by_third_parties_and_starts_no_war(
    seal: Callable[[], Seal], seed: str
) -> None:
    """Row 12. Where frames are sealed, whoever started last has the higher counter, and the other is not heard. By
    seeds 2 and 12 somebody went on pinging that one, and so it took itself to be heard."""
    cluster = twin_cluster(seal, seed)
    cluster.run(120 * SECOND)
    told = {(index, note.node) for _, index, note in cluster.notified if isinstance(note, IdConflict)}
    node = cluster.engines[2].node
    assert {(2, node), (3, node)} <= told, "both sides"
    assert {(0, node), (1, node)} & told, "and whoever sees it move to and fro"
    raised = max(engine._swim.incarnation for engine in cluster.engines[2:])
    assert raised - incarnation_at(EPOCH) < 60, "no contest at the speed of the network"
    datagrams = cluster.datagrams
    cluster.run(60 * SECOND)
    assert cluster.datagrams - datagrams < 60 * 4 * 60
    assert cluster.engines[2].counters()["id conflicts"] >= 1


@pytest.mark.parametrize("seal", [sealed, lambda: Plain(CLUSTER)], ids=["sealed", "plain"])
def test_when_one_of_the_two_is_stopped_the_other_is_a_member_like_any(seal: Callable[[], Seal]) -> None:
    cluster = twin_cluster(seal)
    cluster.run(30 * SECOND)
    cluster.alive[3] = False
    cluster.run_until(
        lambda: all(
            [(seen.endpoint, seen.state) for seen in cluster.engines[index].view().members if seen.node == node]
            == [(cluster.endpoint(2), "alive")]
            for index in (0, 1)
            for node in (cluster.engines[2].node,)
        ),
        180 * SECOND,
    )


def test_a_node_that_moves_is_no_conflict() -> None:
    cluster = settled(3)
    node, home, away = cluster.engines[1].node, cluster.endpoint(1), ("10.0.0.77", 7)
    for _ in range(3):
        cluster.hear_from(away, 0, 1, Nack(1, node))
    assert [seen.endpoint for seen in cluster.engines[0].view().members if seen.node == node] == [away]
    assert not [note for _, _, note in cluster.notified if isinstance(note, IdConflict)]
    assert home != away


def test_a_frame_that_the_news_of_a_move_overtook_moves_nobody_back() -> None:
    cluster = settled(3)
    node, home, away = cluster.engines[1].node, cluster.endpoint(1), ("10.0.0.77", 7)
    seal = Plain(CLUSTER)
    early = [seal.close(node, encode(Nack(nonce, node)), cluster.now) for nonce in range(2)]
    cluster.hear_from(away, 0, 1, Nack(2, node), seal)
    late = seal.close(node, encode(Nack(3, node)), cluster.now)
    for frame, source in ((early[1], home), (late, away), (early[0], home)):
        cluster.give(0, DatagramReceived(frame, source))
        assert [seen.endpoint for seen in cluster.engines[0].view().members if seen.node == node] == [away]
    assert not [note for _, _, note in cluster.notified if isinstance(note, IdConflict)]


class Looped(Cluster):
    """What node 0 sends to node 1 comes back to it: it has the address that node 1 had."""

    looped = False

    def _perform(self, index: int, effect: Effect) -> list[Notification]:
        if self.looped and index == 0 and isinstance(effect, SendDatagram) and effect.target == self.endpoint(1):
            self._later(MILLISECOND, self.endpoint(0), DatagramReceived(effect.data, effect.target))
            return []
        return super()._perform(index, effect)


@pytest.mark.parametrize("seal", [sealed, lambda: Plain(CLUSTER)], ids=["sealed", "plain"])
def test_who_gets_the_address_that_a_member_had_hears_itself_and_is_no_conflict(seal: Callable[[], Seal]) -> None:
    """Leases are given out again, and so are the addresses of containers."""
    cluster = Looped(3, seal=seal)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.looped = True
    cluster.run(10 * SECOND)
    assert cluster.engines[0].counters()["own frames heard"] > 5
    assert not [note for _, _, note in cluster.notified if isinstance(note, IdConflict)]


# --- newer peers


@pytest.mark.parametrize("kind", [16, 99, 2**31])
def test_a_message_of_a_later_version_is_counted_and_ignored(kind: int) -> None:
    cluster = settled(3)
    before = cluster.engines[0].view()
    body = canonical.pack((kind, 1, b"what comes next", [1, 2]))
    frame = Plain(CLUSTER).close(cluster.engines[1].node, body, cluster.now)
    effects = cluster.engines[0].handle(DatagramReceived(frame, cluster.endpoint(1)), cluster.now)
    assert not [effect for effect in effects if isinstance(effect, SendDatagram)]
    notes = [effect.notification for effect in effects if isinstance(effect, Notify)]
    assert [note.reason.partition(":")[0] for note in notes if isinstance(note, Rejected)] == ["unknown message"]
    assert cluster.engines[0].counters()["datagram rejected: unknown message"] == 1
    assert cluster.engines[0].view().members == before.members
    cluster.run(10 * SECOND)
    assert cluster.all_know_all()


class Older(Cluster):
    """Nobody knows the messages that came with Lifeguard."""

    def give(self, index: int, event: Input) -> list[Notification]:
        if isinstance(event, DatagramReceived):
            message = decode(Plain(CLUSTER).open(event.data)[1], self.config.frame_bytes_max)
            if isinstance(message, Nack | News):
                return []
        return super().give(index, event)


def test_a_helper_that_knows_no_nack_costs_health_and_nothing_else() -> None:
    """An older peer ignores what it does not know: crashes are found all the same."""
    cluster = Older(5)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.crash(4)
    cluster.run_until(lambda: states(cluster, 4) == ["down"] * 4, 30 * SECOND)


# --- storms


def test_half_the_cluster_restarted_at_once_is_no_storm() -> None:
    """Row 10: heal traffic at most five times the steady one, a node and second."""
    cluster = settled(24)
    cluster.run(20 * SECOND)
    steady = cluster.bytes
    cluster.run(20 * SECOND)
    steady = (cluster.bytes - steady) // 20  # of 24 nodes a second
    for index in range(12):
        cluster.crash(index)
    cluster.run(5 * SECOND)
    before = cluster.bytes
    for index in range(12):
        cluster.restart(index)
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)
    cluster.run(10 * SECOND - took)
    assert cluster.bytes - before <= 10 * 5 * steady


def test_a_restarted_node_calls_few_of_its_peers_at_once() -> None:
    cluster = settled(24)
    cluster.crash(0)
    cluster.run(SECOND)
    before = cluster.datagrams
    cluster.restart(0)
    assert cluster.datagrams - before <= 4
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)


def test_what_a_moved_node_still_says_of_its_old_address_is_no_conflict() -> None:
    """Until enough peers have told it that it moved, its rows name where it was."""
    cluster = settled(3)
    node, away = cluster.engines[1].node, ("10.0.0.77", 7)
    cluster.judge = cut(((0,), (1,)))  # frames of node 1 come from where it was, in this harness; its rows go by node 2
    for level in (Level.DOWN, Level.HEALTHY, Level.DOWN, Level.HEALTHY):
        cluster.hear_from(away, 0, 1, Nack(1, node))
        before = cluster.engines[0]._health.table.order_of(node)
        cluster.give(1, LocalUpdate(HealthObserved((Observation("iad", level),))))
        cluster.run(3 * SECOND)
        assert cluster.engines[0]._health.table.order_of(node) != before
        assert [seen.endpoint for seen in cluster.engines[0].view().members if seen.node == node] == [away]
    assert not [note for _, index, note in cluster.notified if isinstance(note, IdConflict)]


def test_an_address_that_a_moved_node_had_only_just_learned_is_no_conflict_either() -> None:
    """It listens on a wildcard: its first row names no address, its second the one that it had by then."""
    cluster = settled(3)
    node, home, away = cluster.engines[1].node, cluster.endpoint(1), ("10.0.0.77", 7)
    cluster.judge = cut(((0,), (1,)))
    for endpoint, level in ((("", home[1]), Level.DOWN), (home, Level.HEALTHY)):
        cluster.engines[1]._us.endpoint = endpoint
        before = cluster.engines[0]._health.table.order_of(node)
        cluster.give(1, LocalUpdate(HealthObserved((Observation("iad", level),))))
        cluster.run(3 * SECOND)
        assert cluster.engines[0]._health.table.order_of(node) != before
        cluster.hear_from(away, 0, 1, Nack(1, node))
        assert [seen.endpoint for seen in cluster.engines[0].view().members if seen.node == node] == [away]
    assert not [note for _, index, note in cluster.notified if isinstance(note, IdConflict)]
