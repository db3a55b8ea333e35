"""An overlay is a dict: whatever is done to it, it is what a copy would be, and its base is untouched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.overlay import Overlay

KEYS = st.integers(0, 7)
BASES = st.dictionaries(KEYS, st.integers())
ACTS = st.lists(st.tuples(st.sampled_from(["set", "pop", "setdefault", "clear"]), KEYS, st.integers()), max_size=20)


@given(BASES, ACTS)
def test_it_is_what_a_copy_would_be(base: dict[int, int], acts: list[tuple[str, int, int]]) -> None:
    untouched = dict(base)
    overlay, copy = Overlay(base), dict(base)
    for act, key, value in acts:
        match act:
            case "set":
                overlay[key] = copy[key] = value
            case "pop":
                assert overlay.pop(key, None) == copy.pop(key, None)
            case "setdefault":
                assert overlay.setdefault(key, value) == copy.setdefault(key, value)
            case "clear":
                overlay.clear()
                copy.clear()
        assert len(overlay) == len(copy)
        assert bool(overlay) == bool(copy)
        assert sorted(overlay) == sorted(copy)
        assert sorted(overlay.items()) == sorted(copy.items())
        assert sorted(overlay.values()) == sorted(copy.values())
        assert all((probe in overlay) == (probe in copy) for probe in range(8))
        assert all(overlay.get(probe) == copy.get(probe) for probe in range(8))
    assert base == untouched
