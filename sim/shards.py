"""How the hosts of a run are cut into shards: by where they are, and by nothing else.

What one shard sends another is on its way for a while, at least as long as the least delay between the two: the
*lookahead* of a conservative parallel simulation (Chandy and Misra, 1979; Bryant, 1977). Until a shard's clock and that
much more nothing of it can arrive, so another may go on so far without asking. So a good cut is one along oceans, with
about as many hosts on either side.

The cut is a function of the topology, and is made whether one process runs all shards or several run one each: a run's
digest is made of its shards' digests, and so is the same either way.

Clumps of hosts (a piece of the map, a place of a matrix) stay together. For each delay from the largest down, those
nearer to each other than that are one; the sets that result are dealt to two sides, as evenly as can be; and that delay
is taken at which the fuller side, and what it costs to talk so often, are least. Each half is cut once more likewise.
All of it is done in whole numbers, so that every machine cuts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from lattice.types import MILLISECOND
from sim.topology import Topology

HOSTS_MIN: Final = 65
"""Fewer hosts are one shard: what a process would save is less than what it has to say (and up to 64, two hosts' rows
are compared, wherever they are: `sim.laws`)."""
LOOKAHEAD_MIN_US: Final = 4 * MILLISECOND
CUTS_MAX: Final = 2
"""So often each part is cut in two: four shards at most."""
TALK_US: Final = 1_000
"""A cut of a lookahead of so long is held to cost as much as doing all by oneself."""
_WHOLE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Shards:
    """Which shard each host is of, and how far apart they are."""

    of: tuple[int, ...]
    """By host. Numbers with the same first bits are parts of one larger part (`joined`)."""
    lookahead_us: tuple[tuple[int, ...], ...]
    """By two shards: nothing that either sends is with the other sooner."""

    @property
    def count(self) -> int:
        return len(self.lookahead_us)

    def joined(self, most: int) -> Shards:
        """The same as at most so many, each of them one or several of these."""
        if self.count <= most:
            return self
        groups = _halved([list(range(self.count))], most)
        group_of = {shard: number for number, group in enumerate(groups) for shard in group}
        apart = tuple(
            tuple(0 if a is b else min(self.lookahead_us[x][y] for x in a for y in b) for b in groups) for a in groups
        )
        return Shards(tuple(group_of[shard] for shard in self.of), apart)


def cut(topology: Topology) -> Shards:
    """The shards of these hosts: one, when nothing else would pay."""
    everybody = Shards((0,) * len(topology), ((0,),))
    if len(topology) < HOSTS_MIN:
        return everybody
    clumps = topology.clumps()
    if len(clumps) < 2:
        return everybody
    apart = topology.apart_us(clumps)
    sizes = [len(clump) for clump in clumps]
    parts = [list(range(len(clumps)))]
    for _ in range(CUTS_MAX):
        parts = [half for part in parts for half in (_two(part, sizes, apart) or (part,))]
    shard_of = {clump: number for number, part in enumerate(parts) for clump in part}
    of = [0] * len(topology)
    for number, clump in enumerate(clumps):
        for host in clump:
            of[host] = shard_of[number]
    lookahead = tuple(tuple(0 if a is b else min(apart[x][y] for x in a for y in b) for b in parts) for a in parts)
    return Shards(tuple(of), lookahead)


def _halved(groups: list[list[int]], most: int) -> list[list[int]]:
    """Consecutive shards as so many groups, the largest group halved each time."""
    while len(groups) < most:
        largest = max(range(len(groups)), key=lambda number: (len(groups[number]), -number))
        group = groups[largest]
        middle = (len(group) + 1) // 2
        groups[largest : largest + 1] = [group[:middle], group[middle:]]
    return groups


def _two(
    part: Sequence[int], sizes: Sequence[int], apart: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]] | None:
    """The best cut of these clumps in two; None when none is better than to leave them together."""
    total = sum(sizes[clump] for clump in part)
    best, least = None, _WHOLE
    for lookahead_us, sets in _by_distance(part, apart):
        if lookahead_us < LOOKAHEAD_MIN_US or len(sets) < 2:
            continue
        weights = [sum(sizes[clump] for clump in one) for one in sets]
        left = _nearest_to_half(weights)
        side = sum(weights[number] for number in left)
        cost = max(side, total - side) * _WHOLE // total + TALK_US * _WHOLE // lookahead_us
        if cost < least:
            chosen = {clump for number in left for clump in sets[number]}
            best = [clump for clump in part if clump in chosen], [clump for clump in part if clump not in chosen]
            least = cost
    return best


def _by_distance(part: Sequence[int], apart: Sequence[Sequence[int]]) -> list[tuple[int, list[list[int]]]]:
    """(delay, the sets of clumps that are at least so far from each other), from many sets to one (Kruskal, 1956)."""
    pairs = sorted((apart[a][b], a, b) for a, b in combinations(part, 2))
    set_of = {clump: [clump] for clump in part}
    found = []
    for delay_us, a, b in pairs:
        one, other = set_of[a], set_of[b]
        if one is other:
            continue
        distinct = {id(each): each for each in set_of.values()}
        found.append((delay_us, sorted(sorted(each) for each in distinct.values())))
        one += other
        for clump in other:
            set_of[clump] = one
    return found


def _nearest_to_half(weights: Sequence[int]) -> list[int]:
    """Which of these weigh as nearly half of all as can be: the sums that can be reached, as bits of a number."""
    reached = [1]
    for weight in weights:
        reached.append(reached[-1] | reached[-1] << weight)
    side = next(side for side in range(sum(weights) // 2, -1, -1) if reached[-1] >> side & 1)  # the lighter of the two
    chosen = []
    for number in range(len(weights) - 1, -1, -1):
        if not reached[number] >> side & 1:
            chosen.append(number)
            side -= weights[number]
    return chosen
