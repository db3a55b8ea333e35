"""Whom to call, and when again."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lattice.dialing import DialBook
from lattice.prng import Prng
from lattice.types import Endpoint, Micros

NO_JITTER = Prng(lambda: 0.499)
WAIT_US, WAIT_MAX_US, FORGET_US = 10, 80, 1_000
ONE: Endpoint = ("10.0.0.1", 1)
TWO: Endpoint = ("10.0.0.1", 2)


def new_book(dials_max: int = 8) -> DialBook:
    return DialBook(WAIT_US, WAIT_MAX_US, dials_max, FORGET_US)


def test_waits_double_to_a_limit_until_it_is_forgotten() -> None:
    book = new_book()
    book.add(ONE, Micros(0))
    times = []
    while (at := book.earliest()) is not None:
        if book.due(at, NO_JITTER):
            times.append(int(at))
    assert times[:6] == [0, 10, 30, 70, 150, 230]
    assert all(later - sooner == WAIT_MAX_US for sooner, later in pairwise(times[4:]))
    assert max(times) < FORGET_US
    assert len(book) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=30))
def test_a_book_is_bounded_and_nobody_is_called_early(calls: list[tuple[int, int]]) -> None:
    book, now, last = new_book(dials_max=3), 0, dict[Endpoint, int]()
    for port, passed in calls:
        now += passed
        known = len(book)
        assert book.add(("10.0.0.1", port), Micros(now)) or known == 3
        assert len(book) <= 3
        for endpoint in book.due(Micros(now), Prng.seeded("x")):
            assert now - last.get(endpoint, -WAIT_US) >= WAIT_US * 3 // 4
            last[endpoint] = now


def test_to_hear_of_an_endpoint_again_does_not_hurry_it_and_keeps_it_alive() -> None:
    book = new_book()
    book.add(ONE, Micros(0))
    book.add(TWO, Micros(0))
    assert book.due(Micros(0), NO_JITTER) == [ONE, TWO]
    book.add(ONE, Micros(5))
    assert book.due(Micros(5), NO_JITTER) == []
    book.add(ONE, Micros(900))
    book.due(Micros(1_100), NO_JITTER)
    assert len(book) == 1
    book.drop(ONE)
    book.drop(ONE)
    assert book.earliest() is None
