"""Row 28 of the test matrix: what one input may cost. In an interpreter that no fuzzer has instrumented."""

from __future__ import annotations

import time
import tracemalloc
from typing import Final

from tests.fuzz.targets import TARGETS

TIME_S_MAX: Final = 0.005
"""Of this thread's processor: a machine that is busy takes none of it."""
MEMORY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of Python's own allocations."""
TRIES: Final = 5
"""The first may load a module, or meet a collection of what came before."""
TEXTS: Final = frozenset({"policy text"})
"""What people write, and a node reads when it is published: a page takes longer than a frame may."""


def check(name: str, data: bytes) -> None:
    """Raises `AssertionError` where this input costs its decoder more."""
    target = TARGETS[name]
    took: list[float] = []
    while len(took) < TRIES and (not took or min(took) >= TIME_S_MAX):
        began = time.thread_time()
        target(data)
        took.append(time.thread_time() - began)
    assert min(took) < TIME_S_MAX or name in TEXTS, f"{name}: {min(took) * 1e3:.1f} ms for {data[:64].hex()}"
    tracemalloc.start()
    try:
        target(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX, f"{name}: {peak} bytes for {data[:64].hex()}"
