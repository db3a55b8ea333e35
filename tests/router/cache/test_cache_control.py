"""Cache-Control: what is written well is read whole, and nothing that is written badly makes an answer live longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache.cache_control import SECONDS_MAX, field_names, read_cache_control, seconds

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_!#$", min_size=1, max_size=8)
DIRECTIVES = st.dictionaries(
    TOKENS, st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9)
)


@given(DIRECTIVES, st.sampled_from([",", ", ", " , ", ",,", ",\t"]))
def test_what_is_written_is_read(directives: dict[str, str | None], comma: str) -> None:
    def argument(value: str | None) -> str:
        if value is None:
            return ""
        return '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = comma.join(name + argument(value) for name, value in directives.items())
    expected = {name.encode(): None if value is None else value.encode() for name, value in directives.items()}
    assert read_cache_control([text.encode()]) == expected


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything(value: bytes) -> None:
    directives = read_cache_control([value, value])
    for name in directives:
        assert name == name.lower()
        assert 0 <= (seconds(directives, name) or 0) <= SECONDS_MAX


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", 60),
        (b'max-age="60"', 60),
        (b"MAX-age=060", 60),
        (b"foobar, max-age=60", 60),
        (b"max-age=60, max-age=1", 60),
        (b'x="max-age=9", max-age=60', 60),
        (b"max-age=99999999999999999999", SECONDS_MAX),
        (b"max-age=" + b"0" * 5_000 + b"7", 7),
        (b"max-age=" + b"9" * 5_000, SECONDS_MAX),
        (b"max-age", 0),
        (b"max-age=", 0),
        (b"max-age=-5", 0),
        (b"max-age='60'", 0),
        (b"max-age=60.5", 0),
        (b"max-age =60", 0),
        (b"max-age= 60", 0),
        (b'max-age="60', 0),
        (b"s-maxage=60", None),
        (b"", None),
    ],
)
def test_seconds_that_cannot_be_read_are_none_at_all(value: bytes, expected: int | None) -> None:
    assert seconds(read_cache_control([value]), b"max-age") == expected


def test_lines_are_one_list() -> None:
    assert read_cache_control([b"no-store", b"", b"max-age=1"]) == {b"no-store": None, b"max-age": b"1"}


def test_names_in_a_list() -> None:
    assert field_names(b" A,b ,, c-D") == {b"a", b"b", b"c-d"}
