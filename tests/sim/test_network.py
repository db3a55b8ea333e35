"""What befalls a packet: as often as asked for, and the same for the same packet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import WireError
from lattice.seal import OVERHEAD_BYTES
from lattice.types import MILLISECOND, SECOND, Micros, NodeId
from lattice.wire import encode
from sim.network import PASS, Deliver, Drop, LinkSettings, Network, Packet, Verdict
from sim.signing import CLUSTER, MESSAGES, TaggedSeal, altered
from sim.topology import PathSettings, Room, globe, measured
from sim.wire_faults import BOTH, HEADERS_BYTES, Held, Narrow, Severed
from tests.lattice.test_wire import SAMPLES

MANY = 20_000


def network(settings: LinkSettings, delay_us: int = 10 * MILLISECOND) -> Network:
    return Network(Room(4, delay_us), settings, "0")


def arrivals(wire: Network, count: int = MANY) -> list[list[tuple[int, bytes]]]:
    return [wire.send(0, 1, packet_of(index), False, 1_000 * index) for index in range(count)]


def packet_of(number: int) -> bytes:
    """One that no other is like."""
    return number.to_bytes(8, "big") + b"x" * 92


@pytest.mark.parametrize("percent", [0, 1, 30])
def test_loss_is_as_asked_for(percent: int) -> None:
    lost = sum(not copies for copies in arrivals(network(LinkSettings(loss_ppm=percent * 10_000))))
    assert abs(lost / MANY - percent / 100) < 0.01


def test_where_nothing_befalls_a_packet_its_delay_is_known_without_sending_it() -> None:
    wire = network(LinkSettings())
    assert wire.faultless
    for at in range(200):
        ((delay_us, data),) = wire.send(0, 1, packet_of(at), False, at)
        assert (delay_us, data) == (wire.delay_us(0, 1, packet_of(at)), packet_of(at))
    for worse in (LinkSettings(loss_ppm=1), LinkSettings(corrupt_ppm=1), LinkSettings(bandwidth_bit_s=1_000_000)):
        assert not network(worse).faultless


def test_bursts_lose_half_of_what_comes_in_their_time() -> None:
    wire = network(LinkSettings(burst_loss_ppm=200_000, burst_us=100 * MILLISECOND))
    fates = [bool(copies) for copies in arrivals(wire)]
    assert abs(fates.count(False) / MANY - 0.1) < 0.03
    together = sum(not a and not b for a, b in pairwise(fates))
    assert together / fates.count(False) > 0.3, "alone, losses would follow each other one time in ten"


def test_duplicates_and_corruption() -> None:
    wire = network(LinkSettings(duplicate_ppm=200_000, corrupt_ppm=100_000))
    fates = arrivals(wire)
    assert abs(sum(len(copies) == 2 for copies in fates) / MANY - 0.2) < 0.02
    differing = [
        sum(a != b for a, b in zip(copies[0][1], packet_of(index), strict=True)) for index, copies in enumerate(fates)
    ]
    assert abs(differing.count(0) / MANY - 0.9) < 0.02
    assert set(differing) == {0, 1, 2}, "a byte, and what shows it"


def test_a_packet_that_arrives_twice_is_held_back_as_long_as_any() -> None:
    fates = arrivals(network(LinkSettings(0, 0, duplicate_ppm=50_000, reorder_ppm=500_000)))
    for copies in (1, 2):
        late = [fate[0][0] - 10 * MILLISECOND for fate in fates if len(fate) == copies]
        held_us = [delay_us for delay_us in late if delay_us]
        assert abs(sum(held_us) / len(held_us) - 20 * MILLISECOND) < 2 * MILLISECOND


def test_jitter_is_of_the_mean_that_was_asked_for() -> None:
    for settings in (LinkSettings(jitter_us=5_000, jitter_ppm=0), LinkSettings(jitter_us=0, jitter_ppm=500_000)):
        extra = [copies[0][0] - 10 * MILLISECOND for copies in arrivals(network(settings))]
        assert abs(sum(extra) / MANY - 5_000) < 200
        assert sum(waited > 5_000 for waited in extra) / MANY == pytest.approx(math.exp(-1), abs=0.02), "exponential"
    still = network(LinkSettings(jitter_us=0, jitter_ppm=0))
    assert {copies[0][0] for copies in arrivals(still, 100)} == {10 * MILLISECOND}


def test_who_is_reordered_comes_after_who_was_sent_later() -> None:
    wire = network(LinkSettings(jitter_us=0, jitter_ppm=0, reorder_ppm=200_000))
    delays = [copies[0][0] for copies in arrivals(wire)]
    held = [delay for delay in delays if delay > 10 * MILLISECOND]
    assert abs(len(held) / MANY - 0.2) < 0.02
    assert abs(sum(held) / len(held) - 30 * MILLISECOND) < MILLISECOND, "by up to four times its delay, evenly"
    assert max(held) <= 50 * MILLISECOND
    at = sorted(range(MANY), key=lambda sent: 1_000 * sent + delays[sent])
    assert sum(a > b for a, b in pairwise(at)) > MANY / 10


def test_a_stream_is_whole_and_takes_one_more_round_trip() -> None:
    settings = LinkSettings(0, 0, duplicate_ppm=500_000, reorder_ppm=500_000, corrupt_ppm=500_000)
    wire = network(settings)
    sent = [wire.send(0, 1, packet_of(number), True, 0) for number in range(200)]
    assert sent == [[(30 * MILLISECOND, packet_of(number))] for number in range(200)]


def test_a_slow_uplink_queues_and_then_drops() -> None:
    wire = network(LinkSettings(jitter_us=0, jitter_ppm=0, bandwidth_bit_s=8_000, queue_bytes=500))
    delays = [wire.send(0, 1, packet_of(index), False, 0) for index in range(10)]
    taken = [copies[0][0] - 10 * MILLISECOND for copies in delays if copies]
    assert taken == [100 * MILLISECOND * (index + 1) for index in range(6)]
    assert wire.dropped == {"queue full": 4}


def test_a_narrow_link_queues_and_then_drops_but_never_a_stream() -> None:
    rule = Narrow(frozenset({1}), bit_s=8_000, queue_bytes=250)

    def judge(source: int, target: int, at: int = 0, stream: bool = False) -> Verdict:
        return rule.judge(Packet(source, target, bytes(100 - HEADERS_BYTES), stream, at, 10_000, 0))

    assert [judge(0, 1) for _ in range(3)] == [Deliver(10_000 + 100_000 * place) for place in (1, 2, 3)]
    assert judge(0, 1) == Drop("narrow link full")
    assert judge(2, 1, stream=True) == Deliver(10_000 + 400_000)
    assert judge(1, 0) == Deliver(10_000 + 100_000), "the other way is a link of its own"
    assert judge(0, 2) == PASS
    assert judge(0, 1, at=500_000) == Deliver(10_000 + 100_000), "what it held has left"


@given(st.integers(0, 3), st.integers(0, 3), st.binary(), st.integers(0, 2**40))
def test_a_packet_has_one_fate(source: int, target: int, data: bytes, at: int) -> None:
    settings = LinkSettings(loss_ppm=300_000, duplicate_ppm=300_000, reorder_ppm=300_000, corrupt_ppm=300_000)
    one, other = network(settings), network(settings)
    other.send(1, 2, b"another", False, at)
    assert one.send(source, target, data, False, at) == other.send(source, target, data, False, at)


def test_one_frame_to_many_has_a_fate_with_each() -> None:
    wire = network(LinkSettings(loss_ppm=500_000))
    assert {bool(wire.send(0, target, packet_of(1), False, 0)) for target in (1, 2, 3)} == {False, True}
    assert len({wire.delay_us(0, target, packet_of(1)) for target in (1, 2, 3)}) == 3


@given(st.binary(), st.integers(0, 2**40))
def test_nothing_arrives_before_it_is_sent(data: bytes, at: int) -> None:
    settings = LinkSettings(jitter_ppm=400_000, duplicate_ppm=500_000, reorder_ppm=500_000)
    assert all(delay >= 10 * MILLISECOND for delay, _ in network(settings).send(0, 1, data, False, at))


@dataclass(frozen=True, slots=True)
class Always:
    verdict: Verdict

    def judge(self, packet: Packet) -> Verdict:
        return self.verdict


def test_the_first_rule_that_does_not_pass_decides() -> None:
    wire = network(LinkSettings())
    wire.rules += [Always(PASS), Always(Deliver(7)), Always(Drop("never reached"))]
    assert wire.send(0, 1, b"data", False, 0) == [(7, b"data")]
    wire.rules.pop(1)
    assert wire.send(0, 1, b"data", False, 0) == []
    assert wire.dropped == {"never reached": 1}


def packet(source: int, target: int, at: int = 0) -> Packet:
    return Packet(source, target, b"", False, at, 5, 0)


def test_a_cut_lets_nothing_through_but_over_a_bridge() -> None:
    rule = Severed([0, 1, BOTH])
    assert isinstance(rule.judge(packet(0, 1)), Drop)
    assert isinstance(rule.judge(packet(1, 0)), Drop)
    assert rule.judge(packet(0, 2)) is PASS
    assert rule.judge(packet(2, 1)) is PASS


def test_a_one_way_cut_silences_one_side() -> None:
    rule = Severed([0, 1], one_way=True)
    assert isinstance(rule.judge(packet(1, 0)), Drop)
    assert rule.judge(packet(0, 1)) is PASS


def test_a_flapping_cut_is_there_every_first_half() -> None:
    rule = Severed([0, 1], period_us=SECOND, since=0)
    assert isinstance(rule.judge(packet(0, 1, 400_000)), Drop)
    assert rule.judge(packet(0, 1, 600_000)) is PASS
    assert isinstance(rule.judge(packet(0, 1, 1_400_000)), Drop)


def test_what_is_held_arrives_at_the_end() -> None:
    assert Held(frozenset({0}), 100).judge(packet(0, 1, 30)) == Deliver(70)
    assert Held(frozenset({0}), 100).judge(packet(1, 2, 30)) is PASS


def test_the_first_hundred_of_a_thousand_sites_are_the_same_hundred() -> None:
    few, many = globe(100, PathSettings(), "0"), globe(300, PathSettings(), "0")
    assert many.places[:100] == few.places
    assert all(many.delay_us(a, 7) == few.delay_us(a, 7) for a in range(100))


def test_a_path_is_the_great_circle_times_the_detour_of_fibre_and_both_ends() -> None:
    """Paris to Sydney is 16,960 km by the great circle; light in glass makes 204 km a millisecond."""
    straight, detour = (
        globe(400, PathSettings(fibre_factor_ppm=ppm, access_us=0), "0") for ppm in (1_000_000, 1_760_000)
    )
    groups = {place.name.rpartition("-")[0]: index for index, place in enumerate(straight.places)}
    paris, sydney = groups["paris"], groups["sydney"]
    assert straight.delay_us(paris, sydney) == pytest.approx(16_960 / 204.19 * 1_000, rel=0.01)
    assert detour.delay_us(paris, sydney) == pytest.approx(1.76 * straight.delay_us(paris, sydney), rel=0.001)
    ends = globe(400, PathSettings(fibre_factor_ppm=1_000_000, access_us=5_000), "0")
    assert 2_000 < ends.delay_us(paris, sydney) - straight.delay_us(paris, sydney) < 20_000


@given(st.integers(0, 99), st.integers(0, 99))
def test_delays_over_the_globe_are_symmetric_and_sane(a: int, b: int) -> None:
    sites = globe(100, PathSettings(), "0")
    assert sites.delay_us(a, b) == sites.delay_us(b, a)
    assert 0 < sites.delay_us(a, b) < 20_038 * 1_760 * 1_000 // 204_190 + 3_000, "half around the world, and both ends"


def test_a_matrix_is_halved_and_shared() -> None:
    sites = measured(5, ["a", "b"], [[0, 30_000], [50_000, 0]], "0")
    groups = [place.group for place in sites.places]
    a, b = groups.index("a"), groups.index("b")
    assert sites.delay_us(a, b) == 15_000
    assert sites.delay_us(b, a) == 25_000
    assert len({place.name for place in sites.places}) == 5


@pytest.mark.parametrize("place", range(OVERHEAD_BYTES + 4))
def test_a_frame_that_was_altered_on_the_way_is_refused(place: int) -> None:
    seal = TaggedSeal(CLUSTER)
    frame = seal.close(NodeId(b"n" * 16), b"body", Micros(1_000_000))
    assert seal.open(frame) == (b"n" * 16, b"body")
    assert len(frame) == OVERHEAD_BYTES + 4
    for bits in (1, 0x80, 0xFF):
        with pytest.raises(WireError):
            seal.open(altered(frame, place, bits))


@pytest.mark.parametrize("last", range(256))
def test_a_frame_that_was_altered_is_another_however_it_ends(last: int) -> None:
    """A real seal's tag ends with any byte."""
    frame = bytes([7, last])
    assert all(altered(frame, place, bits) != frame for place in (0, 1) for bits in range(1, 256))
    assert all(altered(frame, place, bits)[1] != last for place in (0, 1) for bits in range(1, 256))


@pytest.mark.parametrize("kept", [0, 1, OVERHEAD_BYTES - 1])
def test_a_frame_that_is_no_longer_one_is_refused(kept: int) -> None:
    seal = TaggedSeal(CLUSTER)
    with pytest.raises(WireError):
        seal.open(seal.close(NodeId(b"n" * 16), b"body", Micros(1_000_000))[:kept])


def test_every_message_has_its_name_in_the_counts() -> None:
    assert [MESSAGES[encode(sample)[1]] for sample in SAMPLES] == [type(sample).__name__ for sample in SAMPLES]
    assert len(MESSAGES) == 1 + len(SAMPLES)
