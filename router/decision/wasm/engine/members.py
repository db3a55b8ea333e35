"""Sorting, a few at a time: `MEMBERS` by `RANKS`."""

from __future__ import annotations

from router.decision.wasm.language import copy, get32, get64, put32, put64, u32, u64
from router.decision.wasm.layout import MEMBERS, RANKS


def insert(count: u32, member: u32, key: u64) -> None:
    """One more into `MEMBERS`, which is sorted so far by `RANKS`: behind those that are equal."""
    members = get32(MEMBERS)
    ranks = get32(RANKS)
    at = count
    while at > 0 and get64(ranks + 8 * (at - 1)) > key:
        at -= 1
    copy(members + 4 * (at + 1), members + 4 * at, 4 * (count - at))
    copy(ranks + 8 * (at + 1), ranks + 8 * at, 8 * (count - at))
    put32(members + 4 * at, member)
    put64(ranks + 8 * at, key)
