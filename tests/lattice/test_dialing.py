"""Whom to call, and when again."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lattice.dialing import HINTS_SHARE, SEEDS_MAX, DialBook, Standing
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
    book, now, last = new_book(dials_max=3 * HINTS_SHARE), 0, dict[Endpoint, int]()
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


def endpoints(host: str, count: int) -> list[Endpoint]:
    return [(f"10.{host}.0.{number // 250}", number % 250 + 1) for number in range(count)]


def flood(book: DialBook, count: int, now: int) -> list[Endpoint]:
    """Hints by the thousand, and a turn of the book after every ten; who was called."""
    called: list[Endpoint] = []
    for number, endpoint in enumerate(endpoints("66", count)):
        book.add(endpoint, Micros(now))
        if number % 10 == 9:
            now += 1
            called += book.due(Micros(now), NO_JITTER)
    return called


def test_a_neighbour_that_announces_thousands_takes_nobodys_place() -> None:
    book = new_book(dials_max=64)
    seeds, peers = endpoints("1", 5), endpoints("2", 48)
    book.seed(seeds, Micros(0))
    for peer in peers:
        assert book.add(peer, Micros(0), standing=Standing.KNOWN)
    called = flood(book, 5_000, 0)
    assert book.count(Standing.HINT) == 64 // HINTS_SHARE
    assert all(endpoint in book for endpoint in (*seeds, *peers))
    assert set(seeds) | set(peers) <= set(called)
    late: Endpoint = ("10.0.0.9", 9)
    book.due(Micros(2_000), NO_JITTER)
    assert book.add(late, Micros(2_000)), "a true hint comes in after the flood as before it"
    assert late in book.due(Micros(2_000), NO_JITTER)


def test_a_fresh_hint_takes_the_place_of_the_one_called_most_often_and_of_none_untried() -> None:
    book = new_book(dials_max=2 * HINTS_SHARE)
    book.add(ONE, Micros(0))
    book.due(Micros(0), NO_JITTER)
    book.add(TWO, Micros(1))
    three: Endpoint = ("10.0.0.1", 3)
    assert book.add(three, Micros(2)), "ONE was called in vain"
    assert ONE not in book
    assert not book.add(("10.0.0.1", 4), Micros(2)), "neither TWO nor three had its turn"


def test_peers_that_proved_themselves_give_way_to_fresher_ones_only() -> None:
    book = new_book(dials_max=HINTS_SHARE)
    known = endpoints("2", HINTS_SHARE - 1)
    for at, peer in enumerate(known):
        book.add(peer, Micros(at), standing=Standing.KNOWN)
    book.due(Micros(10), NO_JITTER)
    assert book.add(ONE, Micros(11), standing=Standing.KNOWN)
    assert [peer in book for peer in known] == [False, True, True], "the longest gone"
    book.add(TWO, Micros(11))
    assert book.add(TWO, Micros(12), standing=Standing.KNOWN), "a hint that proved itself"
    assert book.count(Standing.KNOWN) == HINTS_SHARE


def test_a_seed_is_never_forgotten_however_long_nobody_is_there() -> None:
    book = new_book()
    book.seed([ONE], Micros(0))
    book.add(TWO, Micros(0))
    now, calls = 0, 0
    while now < 100 * FORGET_US:
        at = book.earliest()
        assert at is not None
        now = int(at)
        calls += ONE in book.due(at, NO_JITTER)
    assert ONE in book
    assert TWO not in book
    assert calls >= 100 * FORGET_US // WAIT_MAX_US


def test_a_seed_where_somebody_is_rests_until_it_is_heard_of_again() -> None:
    book = new_book()
    book.seed([ONE], Micros(0))
    assert book.due(Micros(0), NO_JITTER) == [ONE]
    book.drop(ONE)
    assert ONE in book
    assert book.earliest() is None
    book.add(ONE, Micros(500), 5, Standing.KNOWN)
    assert book.earliest() == 505
    assert book.count(Standing.SEED) == 1


def test_seeds_are_replaced_as_a_whole_and_bounded() -> None:
    book = new_book()
    book.seed([ONE, TWO], Micros(0))
    book.seed([TWO], Micros(1))
    assert (ONE in book, book.count(Standing.SEED), book.count(Standing.HINT)) == (True, 1, 1)
    book.due(Micros(FORGET_US + 1), NO_JITTER)
    assert (ONE in book, TWO in book) == (False, True), "its name means another address now"
    book.seed(endpoints("3", 2 * SEEDS_MAX), Micros(2))
    assert book.count(Standing.SEED) == SEEDS_MAX
