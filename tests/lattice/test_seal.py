"""The envelope: which cluster, which sender, untouched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import WireError
from lattice.seal import HEADER_BYTES, OVERHEAD_BYTES, SENDERS_CACHED_MAX, Plain, Seal, Sealed
from lattice.types import Micros, NodeId
from tests.lattice.strategies import nodes

NOW = Micros(1_800_000_000_000_000)
SENDER = NodeId(b"s" * 16)
SECRET = b"k" * 32
KINDS: dict[str, Seal] = {"plain": Plain("test"), "sealed": Sealed("test", SECRET)}


@pytest.fixture(params=KINDS)
def seal(request: pytest.FixtureRequest) -> Seal:
    return KINDS[request.param]


@given(nodes, st.binary(max_size=300), st.sampled_from(sorted(KINDS)))
def test_what_is_closed_opens(sender: NodeId, body: bytes, kind: str) -> None:
    frame = KINDS[kind].close(sender, body, NOW)
    opened, counter, found = KINDS[kind].open(frame)
    assert (opened, found) == (sender, body)
    assert counter >= NOW
    assert len(frame) - len(body) == (OVERHEAD_BYTES if kind == "sealed" else HEADER_BYTES)
    assert kind == "plain" or len(body) < 8 or body not in frame[HEADER_BYTES:]


def test_no_counter_comes_twice_even_after_a_restart_in_the_same_second(seal: Seal) -> None:
    frames = [seal.close(SENDER, b"x", NOW) for _ in range(100)]
    frames += [seal.close(SENDER, b"x", Micros(5)) for _ in range(10)]
    counters = [seal.open(frame)[1] for frame in frames]
    assert counters == sorted(set(counters))
    later = type(seal)(*(("test", SECRET) if isinstance(seal, Sealed) else ("test",)))
    assert later.open(later.close(SENDER, b"x", Micros(NOW + 1_000)))[1] > counters[-1]


def test_equal_bodies_of_two_senders_look_different() -> None:
    one, two = Sealed("test", SECRET), Sealed("test", SECRET)
    first, second = one.close(SENDER, b"same", NOW), two.close(NodeId(b"t" * 16), b"same", NOW)
    assert first[21:29] == second[21:29], "the same counter"
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]


def test_any_altered_byte_is_noticed() -> None:
    seal = KINDS["sealed"]
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
        (Sealed("test", SECRET), Sealed("other", SECRET), "wrong cluster"),
        (Sealed("test", SECRET), Sealed("test", b"x" * 32), "wrong key"),
        (Sealed("test", SECRET), Plain("test"), "plain frame"),
        (Plain("test"), Sealed("test", SECRET), "sealed frame"),
    ],
)
def test_others_frames_are_refused_with_the_reason(reader: Seal, writer: Seal, reason: str) -> None:
    with pytest.raises(WireError) as refused:
        reader.open(writer.close(SENDER, b"a body of some length", NOW))
    assert refused.value.reason == reason


def test_another_version_is_named(seal: Seal) -> None:
    frame = bytearray(seal.close(SENDER, b"body", NOW))
    frame[0] += 1
    with pytest.raises(WireError, match="wrong version: 2, this node speaks 1"):
        seal.open(bytes(frame))


def test_forged_senders_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice.seal.SENDERS_CACHED_MAX", 8)
    seal = Sealed("test", SECRET)
    frame = bytearray(seal.close(SENDER, b"", NOW))
    for number in range(100):
        frame[5:21] = number.to_bytes(16, "big")
        with pytest.raises(WireError):
            seal.open(bytes(frame))
    assert len(seal._senders) <= 8
    assert SENDERS_CACHED_MAX >= 20_000
