"""Everybody, as a list that never changes and steps that are taken alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.roster import Everybody, Roster
from lattice.types import NodeId

PLACES = [(f"{number % 3},0", NodeId(bytes([number]) * 16)) for number in range(9)]


@given(st.lists(st.sampled_from(PLACES), max_size=20))
def test_steps_in_any_order_lead_to_those_who_are_there(steps: list[tuple[str, NodeId]]) -> None:
    here, there = Everybody.of(PLACES[:4]), {*PLACES[:4]}
    for place in steps:
        here = here.lacking(*place) if place in there else here.having(*place)
        there ^= {place}
        straight = Everybody.of(there)
        assert here.places == straight.places
        assert here.nodes == straight.nodes
        assert list(here.areas.items()) == list(straight.areas.items())
    for us in here.nodes:
        roster = Roster(us, here)
        assert here.nodes[roster.our_position] == us
        assert roster.our_area[roster.our_area_position] == us


def test_two_who_see_the_same_come_and_go_hold_the_same_list() -> None:
    one = Everybody.of(PLACES[:4])
    assert one.having(*PLACES[5]).lacking(*PLACES[1]) is one.having(*PLACES[5]).lacking(*PLACES[1])
