"""One member's probes, and the probes carried for others."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lattice.prng import Prng
from lattice.probe import PINGS_MAX, RELAYS_MAX, Probe, ProbeCycle, Relay
from lattice.rtt import LATE_US
from lattice.timers import NEVER_COMES
from lattice.types import Endpoint, Micros, NodeId

NODES = [NodeId(bytes([number]) * 16) for number in range(9)]
HERE: Endpoint = ("10.0.0.1", 1)
ACK_US, PROBE_US, INTERVAL_US = 10, 100, 40
START = Micros(1_000)


US = NodeId(b"us" * 8)


def cycle_of(seed: str = "x") -> ProbeCycle:
    return ProbeCycle(US, INTERVAL_US, Prng.seeded(seed))


def picked(cycle: ProbeCycle, present: Iterable[NodeId], now: Micros = START) -> NodeId | None:
    return cycle.turns.pick([*sorted(set(present)), US], now, cycle.under_way, True)


def begun(cycle: ProbeCycle, present: list[NodeId], now: Micros = START) -> Probe:
    target = picked(cycle, present, now)
    assert target is not None
    return cycle.begin(target, now, ACK_US, PROBE_US)


def asked(cycle: ProbeCycle, probe: Probe, everybody: list[NodeId], count: int) -> tuple[NodeId, ...]:
    return cycle.ask(probe, everybody, count, (), lambda _: 0)


@given(st.integers(min_value=1, max_value=9), st.integers(min_value=0, max_value=10**9))
def test_everybody_is_probed_once_a_round(count: int, skipped: int) -> None:
    cycle, present = cycle_of(), NODES[:count]
    probed = []
    for turn in range(count):
        probe = begun(cycle, present, Micros(START + (skipped + turn) * INTERVAL_US))
        probed.append(probe.target)
        cycle.end(probe)
    assert set(probed) == set(present)


@given(st.lists(st.sets(st.sampled_from(NODES)), max_size=12), st.text(max_size=4))
def test_only_who_is_present_is_probed_and_nobody_twice_at_once(rounds: list[set[NodeId]], seed: str) -> None:
    cycle, flying = cycle_of(seed), set[NodeId]()
    for present in rounds:
        target = picked(cycle, present)
        assert (target in present - flying) if present - flying else (target is None)
        if target is None:
            continue
        flying.add(target)
        probe = cycle.begin(target, START, ACK_US, PROBE_US)
        helpers = asked(cycle, probe, [*sorted(present), US], 3)
        assert len(helpers) == min(3, len(present) - 1)
        assert not {target, US} & {*helpers}


def test_only_the_right_ack_ends_a_probe_and_each_ping_measures_its_own_round_trip() -> None:
    cycle = cycle_of()
    probe = begun(cycle, NODES[:1])
    again = cycle.again(probe, Micros(START + 10))
    assert cycle.acked(again + 1, probe.target) is None
    assert cycle.acked(again, NODES[1]) is None
    assert cycle.acked(again, probe.target) == START + 10
    assert (probe.sent_at(probe.nonce), probe.sent_at(again), probe.sent_at(again + 1)) == (START, START + 10, None)
    assert cycle.acked(probe.nonce, probe.target) is None, "once"
    second = begun(cycle, NODES[:1])
    assert cycle.acked(again, second.target) is None, "a late ack answers no later ping"


def test_an_unanswered_probe_pings_again_and_again_and_then_fails() -> None:
    cycle = cycle_of()
    probe = begun(cycle, NODES[:4])
    assert cycle.due(Micros(START + ACK_US - 1)) == []
    assert cycle.due(Micros(START + ACK_US)) == [probe]
    assert probe.helpers is None
    asked(cycle, probe, [*NODES[:4], US], 3)
    cycle.again(probe, Micros(START + ACK_US))
    assert cycle.first == START + ACK_US + PROBE_US // PINGS_MAX
    while (due := cycle.first) < NEVER_COMES:
        assert cycle.due(Micros(due)) == [probe]
        if due < probe.ends:
            cycle.again(probe, Micros(due))
    assert [probe.began, *(at for _, at in probe.further)] == [START + wait for wait in (0, 10, 30, 50, 70)]


@given(st.integers(1, 1_000), st.integers(1, 9_000))
def test_no_more_pings_than_that_each_with_time_to_be_answered(ack: int, rest: int) -> None:
    cycle = cycle_of()
    probe = cycle.begin(NODES[0], START, ack, ack + rest)
    asked(cycle, probe, [], 0)
    while (due := cycle.first) < NEVER_COMES:
        assert cycle.due(Micros(due)) == [probe]
        if due < probe.ends:
            cycle.again(probe, Micros(due))
    sent = [probe.began, *(at for _, at in probe.further)]
    assert due == NEVER_COMES
    assert len(sent) <= PINGS_MAX
    assert all(later - earlier >= ack for earlier, later in pairwise(sent))
    assert len(sent) == 2 or probe.ends - sent[-1] >= ack


@given(st.text(max_size=4))
def test_the_nearer_half_of_those_drawn_is_asked_and_no_suspect(seed: str) -> None:
    cycle = cycle_of(seed)
    probe = begun(cycle, NODES)
    suspect = next(node for node in NODES if node != probe.target)
    helpers = cycle.ask(probe, [US, *NODES], 3, [suspect], lambda node: node[0])
    able = [node for node in NODES if node not in (probe.target, suspect)]
    assert len(set(helpers)) == 3
    assert set(helpers) <= set(able)
    assert max(helpers) <= able[-4], "of the seven who are able six are drawn, and three of those are further away"


def test_when_all_helpers_say_that_they_tried_there_is_nothing_to_wait_for() -> None:
    cycle = cycle_of()
    probe = begun(cycle, NODES[:4])
    assert cycle.nacked(probe.nonce, probe.target, NODES[0]) is None, "nobody was asked"
    first, second, third = asked(cycle, probe, [*NODES[:4], US], 3)
    assert cycle.nacked(probe.nonce, probe.target, first) is None
    assert cycle.nacked(probe.nonce, probe.target, first) is None, "one voice counts once"
    assert cycle.nacked(probe.nonce + 1, probe.target, second) is None
    assert cycle.nacked(probe.nonce, probe.target, second) is None
    assert cycle.nacked(probe.nonce, probe.target, third) is probe
    assert probe.nacked == (first, second, third)
    assert cycle.first == NEVER_COMES


def test_a_carried_probe_is_passed_on_once_even_after_the_nack_and_carriage_is_bounded() -> None:
    cycle = cycle_of()

    def relay() -> Relay:
        return Relay(HERE, 7, NODES[1], Micros(START + ACK_US), Micros(START + PROBE_US))

    early, late, lost = (cycle.carry(relay()) for _ in range(3))
    assert early is not None
    assert late is not None
    assert cycle.acked_for(early, NODES[2]) is None
    assert cycle.acked_for(early, NODES[1]) is not None
    assert cycle.acked_for(early, NODES[1]) is None
    assert len(cycle.relays_due(Micros(START + ACK_US))) == 2
    assert cycle.acked_for(late, NODES[1]) is not None
    assert cycle.relays_due(Micros(START + PROBE_US)) == [], "said already"
    assert cycle.first == NEVER_COMES
    assert [cycle.carry(relay()) is None for _ in range(RELAYS_MAX + 1)] == [False] * RELAYS_MAX + [True]
    cycle.forget_all()
    assert lost is not None
    assert cycle.carry(relay()) is not None


def test_a_nack_from_far_away_is_a_voice_after_the_probe_has_failed_once_and_for_a_while() -> None:
    cycle = cycle_of("late")
    probe = begun(cycle, NODES)
    helpers = asked(cycle, probe, [US, *NODES], 3)
    nonce = probe.nonce
    assert cycle.nacked(nonce, probe.target, helpers[0]) is None
    ends = Micros(START + PROBE_US)
    assert cycle.due(ends) == [probe], "it fails with one of three nacks"
    assert cycle.nacked(nonce, probe.target, helpers[1]) is None
    assert cycle.nacked_late(nonce, probe.target, helpers[1], ends)
    assert not cycle.nacked_late(nonce, probe.target, helpers[1], ends), "once"
    assert not cycle.nacked_late(nonce, probe.target, helpers[0], ends), "it came in time"
    assert not cycle.nacked_late(nonce + 1, probe.target, helpers[2], ends), "of another probe"
    stranger = next(node for node in NODES if node not in (*helpers, probe.target))
    assert not cycle.nacked_late(nonce, probe.target, stranger, ends), "nobody asked it"
    assert not cycle.nacked_late(nonce, probe.target, helpers[2], Micros(ends + PROBE_US + 1)), "too late"
    cycle.forget_all()
    assert not cycle.nacked_late(nonce, probe.target, helpers[2], ends), "we were not listening"


def failed(cycle: ProbeCycle) -> tuple[Probe, tuple[NodeId, ...]]:
    """A probe that began at `START`, with its three helpers."""
    probe = begun(cycle, NODES)
    helpers = asked(cycle, probe, [US, *NODES], 3)
    assert cycle.due(Micros(START + PROBE_US)) == [probe]
    return probe, helpers


def test_an_ack_after_a_probe_has_failed_tells_how_long_the_target_takes_once_and_for_a_while() -> None:
    for nacked in (False, True):
        cycle = cycle_of("late")
        probe = begun(cycle, NODES)
        helpers, ends = asked(cycle, probe, [US, *NODES], 3), Micros(START + PROBE_US)
        again_at, latest = Micros(START + ACK_US), Micros(START + LATE_US)
        again = cycle.again(probe, again_at)
        assert cycle.acked_late(probe.nonce, probe.target, again_at) is None, "it goes on"
        if nacked:
            assert [cycle.nacked(probe.nonce, probe.target, helper) for helper in helpers] == [None, None, probe]
        else:
            cycle.due(ends)
        assert cycle.acked(again, probe.target) is None
        assert cycle.acked_late(again, helpers[0], ends) is None
        assert cycle.acked_late(again + 1, probe.target, ends) is None, "of no ping of ours"
        cycle.due(latest)
        assert cycle.acked_late(again, probe.target, latest) == again_at
        assert cycle.acked_late(again, probe.target, latest) is None, "once"


def test_an_ack_that_comes_too_late_tells_nothing_though_nobody_has_cleaned_up() -> None:
    cycle = cycle_of("late")
    probe, _ = failed(cycle)
    assert cycle.acked_late(probe.nonce, probe.target, Micros(START + LATE_US + 1)) is None
    assert cycle.acked_late(probe.nonce, probe.target, Micros(START + LATE_US)) == START


def test_a_nack_is_heard_after_an_ack_that_came_late() -> None:
    cycle, ends = cycle_of("late"), Micros(START + PROBE_US)
    probe, helpers = failed(cycle)
    assert cycle.acked_late(probe.nonce, probe.target, ends) == START
    assert cycle.nacked_late(probe.nonce, probe.target, helpers[0], ends)


def test_of_who_is_forgotten_nothing_is_late() -> None:
    cycle, ends = cycle_of("late"), Micros(START + PROBE_US)
    probe, helpers = failed(cycle)
    cycle.forget(probe.target)
    assert cycle.acked_late(probe.nonce, probe.target, ends) is None
    assert not cycle.nacked_late(probe.nonce, probe.target, helpers[0], ends)
