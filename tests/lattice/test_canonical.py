"""One value, one spelling; and no bytes that cost more than their length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import canonical
from lattice.canonical import Value
from lattice.errors import MalformedError

values: st.SearchStrategy[Value] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(min_value=-(2**63), max_value=2**64 - 1),
        st.binary(max_size=40),
        st.text(max_size=20),
    ),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)


@given(values)
def test_what_is_packed_comes_back(value: Value) -> None:
    data = canonical.pack(value)
    assert canonical.unpack(data, len(data)) == value
    assert canonical.unpack_canonical(data, len(data)) == value


@given(st.binary(max_size=60))
def test_what_is_accepted_is_spelled_as_pack_would(data: bytes) -> None:
    try:
        value = canonical.unpack_canonical(data, 60)
    except MalformedError:
        return
    assert canonical.pack(value) == data  # type: ignore[arg-type]  # whatever it is, it is packed again


@pytest.mark.parametrize(
    "data",
    [
        b"\xcc\x05",  # 5 in two bytes
        b"\xcd\x00\x05",
        b"\xd0\x05",  # 5, signed
        b"\xd9\x01a",  # "a" with a length byte
        b"\xdc\x00\x01\x05",  # [5] with a long header
        b"\xc5\x00\x01a",  # b"a" with a long length
    ],
)
def test_another_spelling_is_read_but_is_not_canonical(data: bytes) -> None:
    canonical.unpack(data, 64)
    with pytest.raises(MalformedError, match="not canonical"):
        canonical.unpack_canonical(data, 64)


BOMBS = {
    "an array of 2^32": b"\xdd\xff\xff\xff\xff",
    "an array of 65,535": b"\xdc\xff\xff" + b"\xc0" * 100,
    "100,000 arrays deep": b"\x91" * 100_000 + b"\xc0",
    "1,000 arrays deep": b"\x91" * 1_100 + b"\xc0",
    "a map": msgpack.packb({"a": 1}),
    "a map of 2^32": b"\xdf\xff\xff\xff\xff",
    "a map with keys of bytes": b"\x81\xc4\x01a\x01",
    "an empty map": b"\x80",
    "text of 2^32": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32": b"\xc6\xff\xff\xff\xff",
    "an extension of 2^32": b"\xc9\xff\xff\xff\xff\x05",
    "an extension": b"\xd4\x05\x00",
    "an empty extension": b"\xc7\x00\x05",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "half a surrogate": b"\xa3\xed\xa0\x80",
    "never used": b"\xc1",
    "nothing": b"",
    "more after the end": b"\xc0\xc0",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("read", [canonical.unpack, canonical.unpack_canonical])
def test_a_bomb_is_refused_in_bounded_memory(read: Callable[[bytes, int], object], data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            read(data, 200_000)
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [*range(900, 1_030), 100_000])
def test_however_deep_arrays_are_they_are_read_or_refused(depth: int) -> None:
    with suppress(MalformedError):
        canonical.unpack_canonical(b"\x91" * depth + b"\xc0", 200_000)


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for read in (canonical.unpack, canonical.unpack_canonical):
        try:
            value = read(data, 80)
        except MalformedError:
            continue
        assert all(type(part) in (int, bytes, str, bool, tuple, type(None), float) for part in parts(value))


def parts(value: object) -> list[object]:
    found = [value]
    for inner in value if isinstance(value, tuple) else ():
        found += parts(inner)
    return found


def test_lengths_are_bounded_before_anything_is_read() -> None:
    with pytest.raises(MalformedError, match="oversized"):
        canonical.unpack(bytes(65), 64)
    with pytest.raises(MalformedError):
        canonical.unpack(canonical.pack(list(range(canonical.ARRAY_LENGTH_MAX + 1))), 1 << 20)


SHAPES: dict[str, Callable[[], object]] = {
    "array": lambda: canonical.array([1], "x"),
    "a float is no integer": lambda: canonical.integer(canonical.unpack(msgpack.packb(1.0), 9), "x"),
    "array length": lambda: canonical.array((1,), "x", length=2),
    "array too long": lambda: canonical.array((1, 2), "x", length_max=1),
    "integer": lambda: canonical.integer("1", "x"),
    "integer is no boolean": lambda: canonical.integer(True, "x"),
    "integer low": lambda: canonical.integer(-1, "x"),
    "integer high": lambda: canonical.integer(2**63, "x"),
    "boolean": lambda: canonical.boolean(1, "x"),
    "blob": lambda: canonical.blob("a", "x"),
    "blob length": lambda: canonical.blob(b"a", "x", length=2),
    "blob too long": lambda: canonical.blob(b"ab", "x", length_max=1),
    "text": lambda: canonical.text(b"a", "x", 5),
    "text too long": lambda: canonical.text("abc", "x", 2),
    "text unprintable": lambda: canonical.text("a\nb", "x", 5),
    "endpoint name": lambda: canonical.endpoint(("example.org", 1), "x"),
    "endpoint scope": lambda: canonical.endpoint(("fe80::1%eth0", 1), "x"),
    "endpoint port": lambda: canonical.endpoint(("10.0.0.1", 65_536), "x"),
    "endpoint alone": lambda: canonical.endpoint(("10.0.0.1",), "x"),
}


@pytest.mark.parametrize("check", SHAPES.values(), ids=SHAPES)
def test_a_wrong_shape_says_what_was_expected(check: Callable[[], object]) -> None:
    with pytest.raises(MalformedError, match="bad shape: x: ") as refused:
        check()
    assert refused.value.reason == "bad shape"


def test_right_shapes_come_back_as_they_are() -> None:
    assert canonical.array((1, 2), "x", length=2) == (1, 2)
    assert canonical.endpoint(("", 7), "x") == ("", 7)
    assert canonical.endpoint(("2001:db8::1", 7), "x") == ("2001:db8::1", 7)
    assert canonical.text("é ok", "x", 4) == "é ok"
