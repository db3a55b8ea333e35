"""Whose place changes hands when places are short: a rush of many loses nobody, and one who has many loses some."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.traffic.origins import origin_of, who_gives_way


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.sampled_from("abcde"))
def test_it_is_the_oldest_of_who_has_clearly_more(origins: list[str], newcomer: str) -> None:
    waiting = dict(enumerate(origins))
    found = who_gives_way(waiting, newcomer)
    if found is None:
        assert all(origins.count(each) <= origins.count(newcomer) + 1 for each in origins)
        return
    assert origins.count(origins[found]) == max(map(origins.count, origins)) > origins.count(newcomer) + 1
    assert found == origins.index(origins[found])


def test_a_host_of_ipv6_is_one_whatever_address_it_takes() -> None:
    assert origin_of("192.0.2.7") == "192.0.2.7"
    assert origin_of("2001:db8:1:2:3:4:5:6") == origin_of("2001:db8:1:2::7%eth0") != origin_of("2001:db8:1:3::7")
