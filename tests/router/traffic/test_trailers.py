"""What comes behind a body cannot say there what a head alone may say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.traffic.trailers import _NEVER, passed_on, trailer_list

_NAMES = st.sampled_from([*sorted(_NEVER), b"x-edge-region", b"x-forwarded-port", b"digest", b"x-checksum", b"a"])
_VALUES = st.sampled_from([b"", b"x", b"a b", b"6.6.6.6"])


def _spelt(name: bytes, how: int) -> bytes:
    return (name, name.upper(), name.title(), name.replace(b"-", b"_"))[how]


@given(st.lists(st.tuples(_NAMES, st.integers(0, 3), _VALUES), max_size=8))
def test_of_trailers_go_on_those_that_may_in_their_order(fields: list[tuple[bytes, int, bytes]]) -> None:
    lines = [(name, b"%b: %b\r\n" % (_spelt(name, how), value)) for name, how, value in fields]
    may = b"".join(line for name, line in lines if name in (b"digest", b"x-checksum", b"a"))
    assert passed_on(b"".join(line for _, line in lines), frozenset()) == may
    assert passed_on(may, frozenset()) == may
    assert b"".join(b"%b: %b\r\n" % field for field in trailer_list(may)) == may.lower()


def test_connection_names_trailers_that_end_here() -> None:
    assert passed_on(b"A: b\r\nC: d\r\n", frozenset({b"a"})) == b"C: d\r\n"
