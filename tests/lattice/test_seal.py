"""The envelope: which cluster, which sender, untouched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import WireError
from lattice.key_ring import KeyRing
from lattice.seal import (
    HEADER_BYTES,
    OVERHEAD_BYTES,
    RESERVED_COUNTERS,
    SENDERS_CACHED_MAX,
    VERSION,
    Plain,
    Seal,
    Sealed,
    cluster_tag,
    counter_in,
)
from lattice.types import Micros, NodeId
from tests.lattice.strategies import nodes

NOW = Micros(1_800_000_000_000_000)
SENDER = NodeId(b"s" * 16)
RING = KeyRing.of(b"k" * 32)
KINDS: dict[str, Seal] = {"plain": Plain("test"), "sealed": Sealed("test", RING)}


@pytest.fixture(params=KINDS)
def seal(request: pytest.FixtureRequest) -> Seal:
    return KINDS[request.param]


@given(nodes, st.binary(max_size=300), st.sampled_from(sorted(KINDS)))
def test_what_is_closed_opens(sender: NodeId, body: bytes, kind: str) -> None:
    frame = KINDS[kind].close(sender, body, NOW)
    assert KINDS[kind].open(frame) == (sender, body)
    assert counter_in(frame) >= NOW
    assert len(frame) - len(body) == (OVERHEAD_BYTES if kind == "sealed" else HEADER_BYTES)
    assert kind == "plain" or len(body) < 8 or body not in frame[HEADER_BYTES:]


def test_no_counter_comes_twice_even_after_a_restart_in_the_same_second(seal: Seal) -> None:
    seal = Sealed("test", RING) if isinstance(seal, Sealed) else Plain("test")
    frames = [seal.close(SENDER, b"x", NOW) for _ in range(100)]
    frames += [seal.close(SENDER, b"x", Micros(5)) for _ in range(10)]
    counters = [counter_in(frame) for frame in frames]
    assert counters == sorted(set(counters))
    later = Sealed("test", RING) if isinstance(seal, Sealed) else Plain("test")
    assert counter_in(later.close(SENDER, b"x", Micros(NOW + 1_000))) > counters[-1]


def test_equal_bodies_of_two_senders_look_different() -> None:
    one, two = Sealed("test", RING), Sealed("test", RING)
    first, second = one.close(SENDER, b"same", NOW), two.close(NodeId(b"t" * 16), b"same", NOW)
    assert first[25:33] == second[25:33], "the same counter"
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]


def test_any_altered_byte_is_noticed() -> None:
    seal = Sealed("test", RING)
    frame = seal.close(SENDER, b"hello", NOW)
    for index in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[index] ^= 1 << bit
            with pytest.raises(WireError):
                seal.open(bytes(damaged))


def test_any_cut_is_noticed(seal: Seal) -> None:
    frame = seal.close(SENDER, b"", NOW)
    for length in range(len(frame)):
        with pytest.raises(WireError, match="truncated"):
            seal.open(frame[:length])


@pytest.mark.parametrize(
    ("reader", "writer", "reason"),
    [
        (Plain("test"), Plain("other"), "wrong cluster"),
        (Sealed("test", RING), Sealed("other", RING), "wrong cluster"),
        (Sealed("test", RING), Sealed("test", KeyRing.of(b"x" * 32)), "unknown key"),
        (Sealed("test", RING), Plain("test"), "plain frame"),
        (Plain("test"), Sealed("test", RING), "sealed frame"),
    ],
)
def test_others_frames_are_refused_with_the_reason(reader: Seal, writer: Seal, reason: str) -> None:
    with pytest.raises(WireError) as refused:
        reader.open(writer.close(SENDER, b"a body of some length", NOW))
    assert refused.value.reason == reason


@pytest.mark.parametrize("theirs", [VERSION - 1, VERSION + 1])
@pytest.mark.parametrize("flag", [0, 0x80], ids=["plain", "sealed"])
def test_another_version_is_named_whatever_it_seals(seal: Seal, theirs: int, flag: int) -> None:
    """Only the first five bytes are those of every version: what follows is not looked at."""
    frame = bytes([theirs | flag]) + cluster_tag("test") + bytes(60)
    with pytest.raises(WireError) as refused:
        seal.open(frame)
    assert str(refused.value) == f"wrong version: {theirs}, this node speaks {VERSION}"


def test_a_strangers_version_is_nothing_to_us(seal: Seal) -> None:
    with pytest.raises(WireError, match="wrong cluster"):
        seal.open(bytes([VERSION + 1]) + cluster_tag("other") + bytes(60))


def test_forged_senders_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice.seal.SENDERS_CACHED_MAX", 8)
    seal = Sealed("test", RING)
    frame = bytearray(seal.close(SENDER, b"", NOW))
    for number in range(100):
        frame[9:25] = number.to_bytes(16, "big")
        with pytest.raises(WireError):
            seal.open(bytes(frame))
    assert seal._voices == {}
    assert seal.heard() == {}
    assert len(seal.windows) == 0
    assert SENDERS_CACHED_MAX >= 20_000


def test_a_frame_is_heard_once_whatever_order_frames_come_in() -> None:
    writer, reader = Sealed("test", RING), Sealed("test", RING)
    frames = [writer.close(SENDER, bytes([number]), NOW) for number in range(200)]
    for frame in reversed(frames):
        reader.open(frame)
    for frame in frames:
        with pytest.raises(WireError, match="replayed"):
            reader.open(frame)
    assert reader.heard()[SENDER].frames == {RING.used.id: 200}


def test_what_does_not_open_moves_no_window() -> None:
    writer, reader = Sealed("test", RING), Sealed("test", RING)
    frame = writer.close(SENDER, b"body", NOW)
    far = frame[:25] + b"\x7f" * 8 + frame[33:]
    with pytest.raises(WireError, match="wrong key"):
        reader.open(far)
    assert reader.open(frame) == (SENDER, b"body")


def test_a_counter_that_could_not_be_written_down_is_refused() -> None:
    writer, reader = Sealed("test", RING), Sealed("test", RING)
    writer.begin_beyond(2**63 - 1)
    with pytest.raises(WireError, match="bad counter"):
        reader.open(writer.close(SENDER, b"body", NOW))
    assert len(reader.windows) == 0


def test_a_clock_set_back_uses_no_counter_again() -> None:
    before = Sealed("test", RING)
    reserved = before.reserve(NOW)
    assert reserved is not None
    assert counter_in(before.close(SENDER, b"x", NOW)) <= reserved
    after = Sealed("test", RING)
    after.begin_beyond(reserved)
    earlier = Micros(NOW - 3_600_000_000)
    assert counter_in(after.close(SENDER, b"x", earlier)) > reserved


@pytest.mark.parametrize("seal", [lambda: Plain("test"), lambda: Sealed("test", RING)])
def test_a_seal_knows_its_own_frames_from_those_of_another_with_its_key(seal: Callable[[], Seal]) -> None:
    ours, twin = seal(), seal()
    assert not ours.closed(0)
    frames = [ours.close(SENDER, b"", NOW) for _ in range(3)]
    ahead = twin.close(SENDER, b"", Micros(NOW + 10))
    assert [ours.closed(counter_in(frame)) for frame in frames] == [True] * 3
    assert not ours.closed(counter_in(ahead))
    ours.begin_beyond(NOW + 20)  # as who is heard by nobody does
    assert not ours.closed(NOW + 11), "what was leapt over, a twin may have closed"
    assert ours.closed(counter_in(ours.close(SENDER, b"", NOW)))


def test_counters_are_reserved_before_they_are_used_and_seldom() -> None:
    seal = Sealed("test", RING)
    reserved = [seal.reserve(NOW)]
    for _ in range(3):
        assert seal.reserve(NOW) is None, "the last one is far away still"
        seal.begin_beyond((reserved[-1] or 0) - RESERVED_COUNTERS // 2)
        reserved.append(seal.reserve(NOW))
    assert None not in reserved
    assert reserved == sorted(set(reserved), key=lambda counter: counter or 0)


@given(st.permutations(range(3)), st.permutations(range(3)), st.permutations(range(3)))
def test_a_rotation_loses_no_frame_in_any_order_of_nodes(adds: list[int], uses: list[int], removes: list[int]) -> None:
    new = b"n" * 32
    seals = [Sealed("test", RING) for _ in range(3)]
    senders = [NodeId(bytes([number]) * 16) for number in range(3)]
    fresh = RING.add(new, "next").keys[1].id

    def everybody_hears_everybody() -> None:
        for sender, writer in zip(senders, seals, strict=True):
            for reader in seals:
                assert reader.open(writer.close(sender, b"body", NOW)) == (sender, b"body")

    for number in adds:
        everybody_hears_everybody()
        seals[number].rekey(seals[number].ring.add(new, "next"))
    for number in uses:
        everybody_hears_everybody()
        seals[number].rekey(seals[number].ring.use(fresh))
    for number in removes:
        everybody_hears_everybody()
        seals[number].rekey(seals[number].ring.remove(RING.used.id))
    everybody_hears_everybody()
    with pytest.raises(WireError, match=f"unknown key: {RING.used.id.hex()}, this node has {fresh.hex()}"):
        seals[0].open(Sealed("test", RING).close(senders[1], b"body", Micros(NOW + 10_000)))


def test_who_missed_a_step_gives_itself_away() -> None:
    old, both = RING, RING.add(b"n" * 32, "next")
    reader = Sealed("test", both.use(both.keys[1].id))
    late, missed = NodeId(b"l" * 16), NodeId(b"m" * 16)
    reader.open(Sealed("test", both).close(late, b"", NOW))
    reader.open(Sealed("test", old).close(missed, b"", NOW))
    heard = reader.heard()
    assert heard[late].key == heard[missed].key == RING.used.id, "neither uses the new key"
    assert heard[late].ring_tag == reader.ring.tag, "though it has it"
    assert heard[missed].ring_tag != reader.ring.tag, "it does not even have it"


def test_a_key_that_differs_where_its_id_does_not() -> None:
    """Ids are short; what is sealed under another key of the same id does not open."""
    reader, number = Sealed("test", RING), 0
    while KeyRing.of(number.to_bytes(32, "big")).used.id != RING.used.id:
        number += 1
    stranger = Sealed("test", KeyRing.of(number.to_bytes(32, "big")))
    with pytest.raises(WireError, match="wrong key"):
        reader.open(stranger.close(SENDER, b"body", NOW))
