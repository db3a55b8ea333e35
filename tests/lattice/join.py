"""The lattice laws, and the one shape of state they are used with: what `HealthTable` is held against.

A join semilattice has a `leq` and a `join` that is associative, commutative and idempotent, and gives the least value
above both (Shapiro et al., 2011). So replicas may receive updates in any order, any number of times, over any path,
and end equal. A *delta* of `mine` for somebody who holds `theirs` is a part of `mine` whose join with `theirs` equals
the full join (Almeida et al., arXiv:1603.01529).

Our replicated state is a map from a key with one writer to that writer's greatest statement: the map joins key by key,
and an absent key is bottom. Statements of one writer are totally ordered by their version, and by their hash should a
writer say two things under one version, so that even a liar's words join the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar


class Versioned(Protocol):
    """Something with a place in its writer's total order."""

    @property
    def order(self) -> tuple[int, int, bytes]: ...


K = TypeVar("K")
V = TypeVar("V", bound=Versioned)


def leq(left: Mapping[K, V], right: Mapping[K, V]) -> bool:
    """Whether `right` knows everything that `left` knows."""
    return all(key in right and value.order <= right[key].order for key, value in left.items())


def join(left: Mapping[K, V], right: Mapping[K, V]) -> dict[K, V]:
    """The least state that knows everything either knows."""
    joined = dict(left)
    joined.update(delta(right, left))
    return joined


def delta(mine: Mapping[K, V], theirs: Mapping[K, V]) -> dict[K, V]:
    """What in `mine` is news to the holder of `theirs`: ``join(theirs, delta(mine, theirs)) == join(theirs, mine)``."""
    return {key: value for key, value in mine.items() if key not in theirs or value.order > theirs[key].order}
