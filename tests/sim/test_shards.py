"""How hosts are cut into shards, and in which order things happen that are due at once."""

from __future__ import annotations

from itertools import combinations

import pytest

from lattice.events import DatagramReceived
from lattice.types import SECOND
from sim.scheduler import EPOCH, Entry, Scheduler, first_order
from sim.shards import HOSTS_MIN, LOOKAHEAD_MIN_US, Shards, cut
from sim.topology import PathSettings, Room, Topology, globe, measured


def around_the_world(count: int, seed: str = "0") -> Topology:
    return globe(count, PathSettings(), seed)


def rows_of(count: int) -> Topology:
    """Three places far from each other, one of them two that are near."""
    ms = 1_000
    near = [[0, 2 * ms, 80 * ms, 90 * ms], [2 * ms, 0, 80 * ms, 90 * ms], [80 * ms, 80 * ms, 0, 60 * ms],
            [90 * ms, 90 * ms, 60 * ms, 0]]  # fmt: skip
    return measured(count, ["a", "b", "c", "d"], near, "0")


@pytest.mark.parametrize("topology", [around_the_world(200), around_the_world(200, "7"), rows_of(100)])
@pytest.mark.parametrize("most", [2, 3, 4])
def test_nothing_is_with_another_shard_before_the_lookahead_is_over(topology: Topology, most: int) -> None:
    shards = cut(topology).joined(most)
    assert 1 < shards.count <= most
    least = {
        (a, b): min(
            topology.delay_us(x, y)
            for x in range(len(topology))
            for y in range(len(topology))
            if (shards.of[x], shards.of[y]) == (a, b)
        )
        for a, b in combinations(range(shards.count), 2)
    }
    for (a, b), delay_us in least.items():
        assert LOOKAHEAD_MIN_US <= shards.lookahead_us[a][b] <= delay_us
        assert shards.lookahead_us[b][a] <= delay_us


def test_two_shards_of_the_globe_are_about_as_large_and_tens_of_milliseconds_apart() -> None:
    """By sixty seeds the fuller has 514 at most, and they are 18.8 ms apart at least."""
    shards = cut(around_the_world(1_000)).joined(2)
    sizes = [shards.of.count(number) for number in range(shards.count)]
    assert max(sizes) < 550
    assert shards.lookahead_us[0][1] > 15_000


def test_places_that_are_near_each_other_stay_together() -> None:
    topology = rows_of(100)
    shards = cut(topology)
    by_place = {place.group: shard for place, shard in zip(topology.places, shards.of, strict=True)}
    assert by_place["a"] == by_place["b"]
    assert by_place["c"] != by_place["a"]


def test_few_hosts_and_one_room_are_one_shard() -> None:
    for topology in (around_the_world(HOSTS_MIN - 1), Room(500, 250)):
        assert cut(topology) == Shards((0,) * len(topology), ((0,),))


def test_acts_come_first_and_then_hosts_in_order_whoever_came_first() -> None:
    scheduler, at = Scheduler(), EPOCH + SECOND
    frames = [DatagramReceived(bytes([number]), ("10.0.0.1", 1)) for number in range(4)]
    scheduler.give(at, first_order(7) + 1, 3, frames[2])
    scheduler.give(at, first_order(2) + 2, 3, frames[1])
    scheduler.call(at, lambda: None, first_order(9) + 1)
    scheduler.give(at, first_order(2) + 1, 5, frames[0])
    scheduler.call(at, lambda: None)
    order = [what if isinstance(what, DatagramReceived) else "act" for *_, what in sorted(scheduler.queue, key=_due)]
    assert order == ["act", *frames[:3], "act"]


def _due(entry: Entry) -> tuple[int, int]:
    return entry[:2]
