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
        assert here.places == sorted(there)
        assert here.nodes == tuple([node for _, node in sorted(there)])
        assert list(here.areas) == sorted({area for area, _ in there})
        assert here.count == len(there)
    for area, us in here.places:
        roster = Roster(us, area, here)
        assert roster.our_area_name == Roster.of(us, there).our_area_name == area
        assert here.nodes[roster.our_position] == us
        assert roster.our_area[roster.our_area_position] == us


def test_two_who_see_the_same_come_and_go_hold_the_same_list() -> None:
    one = Everybody.of(PLACES[:4])
    assert one.having(*PLACES[5]).lacking(*PLACES[1]) is one.having(*PLACES[5]).lacking(*PLACES[1])


def test_the_same_changes_in_another_order_lead_to_the_same_list() -> None:
    """Else of n nodes that hear of k deaths each keeps a list of its own, as long as n."""
    one, other = (Everybody.of(PLACES[:6]) for _ in range(2))
    for place in PLACES[1:5]:
        one = one.lacking(*place)
    for place in (PLACES[8], *reversed(PLACES[1:5])):
        other = other.having(*place) if place == PLACES[8] else other.lacking(*place)
    assert one.having(*PLACES[8]) is other
    assert one.count == len(one.nodes) == 2


def test_ids_that_mix_to_the_same_are_told_apart() -> None:
    one, two, three = (NodeId(bytes([number]) * 16) for number in (1, 2, 3))
    both = Everybody.of([("0,0", one), ("0,0", two)])
    alone = Everybody.of([("0,0", three)])
    assert both.mixed == alone.mixed
    assert both.nodes == (one, two)
    assert alone.nodes == (three,)
