"""Next hops: never back, never to oneself; a tree reaches everybody once, whatever the rumour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.config import Config
from lattice.dissemination import _STEPS, NARROW_DEGREE, RELAYS, Flood, RandomFanout, Strategy, Tree
from lattice.prng import Prng
from lattice.roster import Roster
from lattice.types import CellId, NodeId

rumours = st.binary(min_size=16, max_size=16).map(CellId)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(16, "big"))


def rosters(areas: dict[str, int]) -> dict[NodeId, Roster]:
    """Every node's own roster over so many nodes in each area."""
    places: list[tuple[str, NodeId]] = []
    for area, count in sorted(areas.items()):
        places += [(area, node(len(places) + index)) for index in range(count)]
    return {us: Roster.of(us, places) for _, us in places}


def spread(
    strategy: Strategy,
    known: dict[NodeId, Roster],
    start: NodeId,
    rumour: CellId,
    dead: frozenset[NodeId] = frozenset(),
    narrow: bool = False,
    seed: str = "spread",
) -> Counter[NodeId]:
    """Payload copies that each node gets, if only the dead lose any."""
    prng = Prng.seeded(seed)
    copies: Counter[NodeId] = Counter()
    front: list[tuple[NodeId, NodeId | None]] = [(start, None)]
    while front:
        us, came_from = front.pop(0)
        for hop in strategy.next_hops(rumour, start, came_from, known[us], prng, narrow):
            assert hop not in (us, came_from)
            copies[hop] += 1
            if copies[hop] == 1 and hop not in dead:
                front.append((hop, us))
    return copies


sizes = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 40), min_size=1)


@given(sizes, rumours, st.data())
def test_a_tree_reaches_everybody_about_once(areas: dict[str, int], rumour: CellId, data: st.DataObject) -> None:
    known = rosters(areas)
    start = data.draw(st.sampled_from(sorted(known)))
    copies = spread(Tree(), known, start, rumour)
    assert set(copies) == set(known) - {start}, "everybody but the one who started it"
    assert sum(copies.values()) <= len(known) + Tree()._degree, "and no more than the starter's own children twice"


@given(
    st.dictionaries(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(1, 12), min_size=1), rumours, st.data()
)
def test_a_narrow_tree_reaches_everybody_once_and_nobody_sends_much(
    areas: dict[str, int], rumour: CellId, data: st.DataObject
) -> None:
    known = rosters(areas)
    start = data.draw(st.sampled_from(sorted(known)))
    copies = spread(Tree(), known, start, rumour, narrow=True)
    assert set(copies) == set(known) - {start}
    assert set(copies.values()) <= {1}
    for us, roster in known.items():
        came_from = None if us == start else start
        hops = Tree().next_hops(rumour, start, came_from, roster, Prng.seeded(""), narrow=True)
        assert len(hops) <= NARROW_DEGREE * (2 * RELAYS + 1), "whoever starts it, from the areas' first relays on"


@given(sizes, rumours)
def test_each_announcement_tree_tells_everybody_but_its_root(areas: dict[str, int], rumour: CellId) -> None:
    """If all have the payload. With several trees a node is told by each in which it is not the root."""
    known = rosters(areas)
    told = Counter(hop for us in known for hop in Tree(announcement_trees=1).announce_to(rumour, None, known[us]))
    assert len(told) == len(known) - 1
    assert set(told.values()) <= {1}
    told = Counter(hop for us in known for hop in Tree(announcement_trees=4).announce_to(rumour, None, known[us]))
    assert all(count <= 4 for count in told.values())


def test_whatever_their_number_all_nodes_have_different_places() -> None:
    for step in _STEPS:
        assert step > Config().members_max + 1
        assert all(step % divisor for divisor in range(2, isqrt(step) + 1)), f"{step} is no prime"


def test_dead_relays_are_made_up_for_by_those_who_have_it() -> None:
    """Half of one area is cut off from the payload; each of them is announced to by somebody who has it."""
    known = rosters({"a": 30, "b": 30})
    rumour, tree = CellId(bytes(range(16))), Tree()
    start = node(0)
    relays = [hop for hop in tree.next_hops(rumour, start, None, known[start], Prng.seeded("")) if hop >= node(30)]
    assert len(relays) == 2
    reached = set(spread(tree, known, start, rumour, frozenset(relays[:1]))) - set(relays[:1]) | {start}
    orphans = set(known) - reached - set(relays[:1])
    assert orphans, "the planted death does harm"
    while orphans:
        announced = {hop for us in sorted(reached) for hop in tree.announce_to(rumour, None, known[us])} & orphans
        assert announced, "somebody who has it is everybody's neighbour in some tree"
        reached |= announced
        orphans -= announced


def test_each_rumour_has_relays_of_its_own() -> None:
    known = rosters({"a": 41})
    seen = Counter(
        hop
        for number in range(200)
        for hop in Tree(degree=1).next_hops(CellId(node(number * 7919)), node(0), None, known[node(0)], Prng.seeded(""))
    )
    assert len(seen) == 40
    assert max(seen.values()) < 40, "nobody relays everything"


@given(sizes, rumours, st.data())
def test_the_others_never_send_back_either(areas: dict[str, int], rumour: CellId, data: st.DataObject) -> None:
    known = rosters(areas)
    us, came_from, origin = (data.draw(st.sampled_from(sorted(known))) for _ in range(3))
    strategies: list[Callable[[], Strategy]] = [lambda: RandomFanout(3), Flood, Tree]
    for make in strategies:
        hops = make().next_hops(rumour, origin, came_from, known[us], Prng.seeded("hops"))
        assert set(hops) <= set(known) - {us, came_from, origin}
        assert len(set(hops)) == len(hops)


def test_a_random_rumour_reaches_nearly_all_of_a_large_cluster() -> None:
    known = rosters({"a": 200})
    reached = [len(spread(RandomFanout(4), known, node(0), CellId(bytes(16)), seed=seed)) for seed in "012345678"]
    assert sorted(reached)[4] >= 190, "in the median: of thirty one reached 187"
    assert len(spread(Flood(), known, node(0), CellId(bytes(16)))) == 199


def test_a_fanout_of_none_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        RandomFanout(0)
