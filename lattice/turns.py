"""Whose turn it is to be probed, and when: everybody is probed once an interval, each time by another one.

SWIM's round-robin bounds how long one prober takes to come round to a member. It says nothing of the time between two
probes of one member by anybody, which is what a crash waits for: where each of n goes through an order of its own, that
is as chance has it, one interval T in the mean, and now and then five. Here all go through one order, by the clock::

    in its r-th interval  place i of n probes place  i + s (r mod (n-1) + 1)  mod n        s coprime with n
    which begins at                                  r T + T/n (-m i mod n)                m s = 1 mod n

In each interval that is a permutation: every member is probed once, and in n - 1 intervals by each of the others. And
whoever probes one member in the interval after does so T/n later in it, so a member is probed every T + T/n (once in
n - 1 intervals T + 2 T/n), and no crash waits longer for a probe. In each n-th part of an interval one node sends.

Nobody needs to agree on anything for that: what all have in common is the list of who is there, and the date. Where
they do not, it is as if each had an order of its own, as in SWIM. A clock that is wrong, or a list that lacks somebody,
puts one node's probes into others' intervals, and a quarter of such nodes leaves a quarter of the probes to chance. As
long as its list stays as it is each still comes to all whom it sees, in n - 1 intervals whatever its clock shows; when
the list changes it goes on at another place, and there chance sees to it. Only whoever skips turns, because it is not
well, draws: by skips of one length it could miss the same members for ever.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import lru_cache
from math import gcd

from lattice.prng import Prng
from lattice.types import Micros, NodeId

GOLDEN_PPM = 618_034
"""Steps of the golden ratio's share of a circle come round nowhere near where they began: so those who probe a member
one after the other are of different areas (the list is by area)."""
STRIDES_KEPT = 64


class Turns:
    """Of one node."""

    __slots__ = ("_began", "_distance", "_interval_us", "_nodes", "_phase_us", "_place", "_prng", "_step", "_us")

    def __init__(self, us: NodeId, interval_us: int, prng: Prng) -> None:
        self._us = us
        self._interval_us = interval_us
        self._prng = prng
        self._nodes: Sequence[NodeId] = (us,)
        self._place, self._step, self._phase_us = 0, 1, 0
        self._began = Micros(0)
        """When the turn begins that is nearest to when somebody was picked last. So whoever is out of step, as after a
        change of the list, is in step again half an interval to one and a half later: one in the mean, as always."""
        self._distance = 0
        """How many steps away, less one, whose turn that is: r mod (n-1)."""

    def pick(self, everybody: Sequence[NodeId], now: Micros, busy: Container[NodeId], well: bool) -> NodeId | None:
        """Whose turn it is, or None when there is nobody but us and the busy. `everybody` are those who are present,
        and ourselves, in the order in which all see them."""
        interval_us, others = self._interval_us, len(everybody) - 1
        began, distance = self._began + interval_us, self._distance + 1
        if everybody is self._nodes and 0 <= now - began + interval_us // 2 < interval_us:  # as nearly always
            self._began, self._distance = began, distance if distance < others else 0
        else:
            self._fall_in_step(everybody, now)
        distance = self._distance if well else self._prng.below(max(1, others))
        left = others
        while left:
            target = everybody[(self._place + self._step * (distance + 1)) % (others + 1)]
            if target not in busy:
                return target
            distance = (distance + 1) % others
            left -= 1
        return None

    def following(self, skipped: int) -> Micros:
        """When our turn after the one just picked begins, or the one after so many that are skipped."""
        return self._began + self._interval_us * (1 + skipped)

    def _fall_in_step(self, everybody: Sequence[NodeId], now: Micros) -> None:
        """Find the nearest turn by the clock, where it is not the one after the last."""
        if everybody is not self._nodes:
            self._take_place(everybody)
        interval_us, phase_us = self._interval_us, self._phase_us
        turn = (now - phase_us + interval_us // 2) // interval_us
        self._began, self._distance = Micros(phase_us + interval_us * turn), turn % max(1, len(everybody) - 1)

    def _take_place(self, everybody: Sequence[NodeId]) -> None:
        count = len(everybody)
        self._nodes = everybody
        self._place = everybody.index(self._us)
        self._step, inverse = stride(count)
        self._phase_us = self._interval_us * (-inverse * self._place % count) // count


@lru_cache(maxsize=STRIDES_KEPT)
def stride(count: int) -> tuple[int, int]:
    """How far it is from one turn's place to the next among so many, and the inverse of that."""
    step = max(1, count * GOLDEN_PPM // 1_000_000)
    while gcd(step, count) != 1:
        step += 1
    return step, pow(step, -1, count)
