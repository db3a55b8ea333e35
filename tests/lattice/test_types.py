"""The words that everything else is written in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.types import AuthorId, CellId, Micros, NodeId, VersionId


@given(st.binary(max_size=20), st.integers())
def test_an_id_is_its_bytes_and_a_moment_its_number(data: bytes, number: int) -> None:
    for identity in (NodeId, AuthorId, VersionId, CellId):
        assert identity(data) is data
    assert Micros(number) == number
    assert type(Micros(number)) is int
