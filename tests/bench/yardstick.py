"""What a fixed piece of Python takes here and now, to tell a slow minute, or a slow interpreter, from slow code.

A machine shared with others is up to half as fast in one minute as in the next, and two builds of one CPython differ by
a third (profile-guided optimisation). So a benchmark in microseconds prints this too: times over it can be compared.
"""

from __future__ import annotations

import platform
import time

RUNS = 201


def interpreter() -> str:
    """Which Python this is: implementation, version, compiler."""
    return f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})"


def yardstick_ns() -> int:
    """The median time of a hundred calls, tuples, attribute reads and dictionary look-ups."""
    costs = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        _work()
        costs.append(time.perf_counter_ns() - start)
    return sorted(costs)[RUNS // 2]


class _Pair:
    __slots__ = ("left", "right")

    def __init__(self, left: int, right: int) -> None:
        self.left = left
        self.right = right


def _swap(pair: _Pair) -> tuple[int, int]:
    return pair.right, pair.left


def _work() -> int:
    seen: dict[tuple[int, int], int] = {}
    for number in range(100):
        key = _swap(_Pair(number & 15, number))
        seen[key] = seen.get(key, 0) + 1
    return len(seen)
