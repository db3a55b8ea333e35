"""Choices that anybody with the seed can repeat.

Built on one function that returns floats in [0, 1): for a seed, `random.Random.random`, the one method whose sequence
Python promises to keep across versions (`choice` and `shuffle` make no such promise); for a live node, the operating
system's, so that no peer can guess a salt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Prng:
    """A stream of choices. Give each purpose its own, so that one more draw here moves nothing there."""

    __slots__ = ("_uniform",)

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform

    @classmethod
    def seeded(cls, seed: str | bytes) -> Prng:
        """The same stream for the same seed, on every machine and version of Python."""
        return cls(Random(seed).random)

    def below(self, bound: int) -> int:
        """A whole number in 0..bound-1."""
        assert bound > 0, f"no number is below {bound}"
        drawn = floor(self._uniform() * bound)
        return drawn if drawn < bound else bound - 1

    def jitter(self, value: int) -> int:
        """`value` give or take a quarter, so that a fleet's timers drift apart."""
        return value - value // 4 + self.below(value // 2 + 1)

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items (or all), in random order: the first steps of Fisher and Yates, on a sparse array."""
        moved: dict[int, int] = {}
        chosen = []
        for index in range(min(count, len(items))):
            other = index + self.below(len(items) - index)
            chosen.append(items[moved.get(other, other)])
            moved[other] = moved.get(index, index)
        return chosen

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.sample(items, len(items))

    def token(self) -> int:
        """62 bits, which a peer cannot guess if the stream is secret."""
        uniform = self._uniform
        return floor(uniform() * 2.0**31) << 31 | floor(uniform() * 2.0**31)  # as of `below`; exact, so never beyond
