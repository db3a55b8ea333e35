"""What may reach Yrs: one shape, exactly. The hazards were measured on this very library."""

from __future__ import annotations

import tracemalloc

import pycrdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.authoring import encode_update
from lattice.errors import OpError
from lattice.prng import Prng
from lattice.yrs_gate import KEY_BYTES_MAX, ROOTS, UPDATE_BYTES_MAX, WRITES_MAX, Write, walk
from tests.lattice.yrs_bytes import HAZARDS, map_entry, uvarint

CLIENT = 77
SAMPLE = encode_update([Write("blocks", "k1", b"one"), Write("heads", "k2", b"two" * 40)], CLIENT)

writes = st.lists(
    st.builds(
        Write,
        root=st.sampled_from(ROOTS),
        key=st.text(st.characters(codec="utf-8"), max_size=KEY_BYTES_MAX // 4),
        value=st.binary(max_size=200),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda write: (write.root, write.key),
)
clients = st.integers(min_value=1, max_value=2**53 - 1)


def by_place(found: tuple[Write, ...] | list[Write]) -> list[Write]:
    return sorted(found, key=lambda write: (write.root, write.key))


@given(writes, clients)
def test_what_was_encoded_is_what_is_walked_and_what_pycrdt_reads(made: list[Write], client: int) -> None:
    update = encode_update(made, client)
    walked = walk(update, client)
    assert by_place(walked) == by_place(made)
    doc: pycrdt.Doc[pycrdt.Map[bytes]] = pycrdt.Doc()
    doc.apply_update(update)
    read = [
        Write(root, key, bytes(value))
        for root in ROOTS
        for key, value in (doc.get(root, type=pycrdt.Map).to_py() or {}).items()
    ]
    assert by_place(read) == by_place(made)


@pytest.mark.parametrize(("client", "update"), HAZARDS.values(), ids=HAZARDS)
def test_a_known_hazard_is_refused_in_bounded_memory(client: int, update: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(OpError):
            walk(update, client)
        assert tracemalloc.get_traced_memory()[1] < 4 * UPDATE_BYTES_MAX + 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", range(len(SAMPLE)))
def test_an_update_cut_short_is_refused(length: int) -> None:
    with pytest.raises(OpError):
        walk(SAMPLE[:length], CLIENT)


def test_twenty_thousand_mutated_and_random_updates_raise_nothing_else_and_mean_what_pycrdt_reads() -> None:
    prng = Prng.seeded("yrs")
    admitted = 0
    for round_number in range(20_000):
        if round_number % 4 == 0:
            data = bytes(prng.below(256) for _ in range(prng.below(48)))
        else:
            mutable = bytearray(SAMPLE)
            for _ in range(1 + prng.below(3)):
                mutable[prng.below(len(mutable))] = prng.below(256)
            data = bytes(mutable)
        try:
            walked = walk(data, CLIENT)
        except OpError:
            continue
        admitted += 1
        if admitted % 20 == 0:  # the library is slow, and a twentieth is a few hundred
            doc: pycrdt.Doc[pycrdt.Map[bytes]] = pycrdt.Doc()
            doc.apply_update(data)
            assert {(write.root, write.key): write.value for write in walked} == {
                (root, key): bytes(value)
                for root in ROOTS
                for key, value in (doc.get(root, type=pycrdt.Map).to_py() or {}).items()
            }
    assert admitted > 1_000, "mutations of values are harmless and common: otherwise this test tests little"


def test_the_limits_are_where_they_say() -> None:
    many = [Write("blocks", f"k{index}", b"") for index in range(WRITES_MAX)]
    assert len(walk(encode_update(many, CLIENT), CLIENT)) == WRITES_MAX
    with pytest.raises(OpError, match="blocks claimed"):
        walk(encode_update([*many, Write("blocks", "more", b"")], CLIENT), CLIENT)
    longest = "k" * KEY_BYTES_MAX
    assert walk(encode_update([Write("blocks", longest, b"")], CLIENT), CLIENT)[0].key == longest
    with pytest.raises(OpError, match="a name of"):
        walk(encode_update([Write("blocks", longest + "k", b"")], CLIENT), CLIENT)
    room = UPDATE_BYTES_MAX - len(map_entry(CLIENT, 0, b"k", b"\x74" + uvarint(UPDATE_BYTES_MAX - 1), root=b"blocks"))
    assert walk(encode_update([Write("blocks", "k", bytes(room))], CLIENT), CLIENT)
    with pytest.raises(OpError, match="too large"):
        walk(encode_update([Write("blocks", "k", bytes(room + 1))], CLIENT), CLIENT)
