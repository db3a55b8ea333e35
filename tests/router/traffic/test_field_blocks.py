"""Field blocks that any decoder reads, whatever the size of its table."""

from __future__ import annotations

from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.field_blocks import TABLE_BYTES_MAX, FieldEncoder

NAMES = st.one_of(
    st.sampled_from([b":status", b"date", b"set-cookie", b"content-length", b"vary", b"x-a", b"x-b"]),
    st.from_regex(rb"[a-z0-9-]{1,200}", fullmatch=True),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"200", b"GET", b"gzip, deflate", b"a" * 900, b"b" * 900, b"c" * 991, b"d" * 20_000]),
    st.binary(max_size=40),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
SIZES = st.sampled_from([0, 31, 100, 1_000, 2_000, TABLE_BYTES_MAX, 1 << 16]) | st.integers(0, 1 << 13)


@given(st.lists(st.tuples(FIELDS, st.lists(SIZES, max_size=3)), min_size=1, max_size=12))
def test_what_was_written_is_read(blocks: list[tuple[list[tuple[bytes, bytes]], list[int]]]) -> None:
    """By one decoder over a connection, whose side may set its table's size at any time."""
    encoder, decoder = FieldEncoder(), Decoder(max_header_list_size=1 << 20)
    for fields, sizes in blocks:
        for size in sizes:
            encoder.header_table_size = decoder.max_allowed_table_size = size
        assert [tuple(read) for read in decoder.decode(encoder.encode(fields), raw=True)] == fields
        assert encoder.header_table_size <= TABLE_BYTES_MAX
        assert list(encoder._entries) == [tuple(entry) for entry in reversed(decoder.header_table.dynamic_entries)]


def test_what_comes_again_is_a_byte_and_what_varies_leaves_no_trace() -> None:
    encoder = FieldEncoder()
    steady, varying = [(b":status", b"200"), (b"via", b"1.1 lis")], [(b"server-timing", b"edge;dur=0.21")]
    first, again = encoder.encode(steady), encoder.encode(steady)
    assert (len(first), again) == (1 + 2 + len(b"1.1 lis"), bytes((0x80 | 8, 0x80 | 62)))
    assert encoder.encode(varying) == encoder.encode(varying)


def test_secrets_are_never_indexed_by_anybody() -> None:
    cookie, tag = Decoder().decode(FieldEncoder().encode([(b"set-cookie", b"id=1"), (b"etag", b"1")]), raw=True)
    assert isinstance(cookie, NeverIndexedHeaderTuple)
    assert not isinstance(tag, NeverIndexedHeaderTuple)


def test_the_examples_of_the_rfc() -> None:
    """RFC 7541 C.2.1, C.2.4 and, for integers, C.1.2."""
    encoder = FieldEncoder()
    expected = "400a637573746f6d2d6b65790d637573746f6d2d686561646572"
    assert encoder.encode([(b"custom-key", b"custom-header")]) == bytes.fromhex(expected)
    assert encoder.encode([(b":method", b"GET")]) == b"\x82"
    assert encoder.encode([(b"etag", bytes(1337))])[2:5] == bytes((0x7F, 1337 - 127 & 0x7F | 0x80, (1337 - 127) >> 7))
