"""The window: nothing twice, nothing lost that is recent, and nothing from before a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import WireError
from lattice.replay import WINDOW_COUNTERS, ReplayWindows
from lattice.types import NodeId

SENDER, OTHER = NodeId(b"s" * 16), NodeId(b"o" * 16)
counters = st.integers(0, 4 * WINDOW_COUNTERS) | st.integers(0, 2**63 - 1)


def taken(windows: ReplayWindows, counter: int, sender: NodeId = SENDER) -> bool:
    try:
        windows.admit(sender, counter)
    except WireError as refused:
        return refused.reason != "replayed"
    return True


@given(st.lists(counters, max_size=60))
def test_it_agrees_with_a_set_of_all_that_was_ever_heard(sequence: list[int]) -> None:
    """The model: heard, or too far behind the greatest."""
    windows, heard = ReplayWindows(), set[int]()
    for counter in sequence:
        new = counter not in heard and counter > max(heard, default=-WINDOW_COUNTERS) - WINDOW_COUNTERS
        assert taken(windows, counter) == new
        if new:
            heard.add(counter)


@given(st.lists(st.integers(0, WINDOW_COUNTERS - 1), unique=True), st.integers(0, 2**60))
def test_any_order_within_the_window_loses_nothing(offsets: list[int], base: int) -> None:
    windows = ReplayWindows()
    assert all(taken(windows, base + offset) for offset in offsets)
    assert not any(taken(windows, base + offset) for offset in offsets)


@given(st.lists(counters, min_size=1, max_size=30), counters)
def test_after_a_restart_only_what_lies_beyond_is_taken(sequence: list[int], later: int) -> None:
    windows, again = ReplayWindows(), ReplayWindows()
    for counter in sequence:
        taken(windows, counter)
    ((sender, highest),) = windows.unsaved(10)
    assert (sender, highest) == (SENDER, max(sequence))
    again.restore(SENDER, max(sequence))
    assert not any(taken(again, counter) for counter in sequence)
    assert taken(again, later) == (later > max(sequence))


@pytest.mark.parametrize("highest", range(1_000, 1_008))
def test_after_a_restart_the_very_next_frames_are_taken(highest: int) -> None:
    """They stand in one byte with the last that was heard, or not."""
    windows = ReplayWindows()
    windows.restore(SENDER, highest)
    assert [taken(windows, highest + number) for number in range(-20, 21)] == [number > 0 for number in range(-20, 21)]


def test_senders_do_not_share_a_window() -> None:
    windows = ReplayWindows()
    assert taken(windows, 7)
    assert taken(windows, 7, OTHER)


def test_refusing_changes_nothing() -> None:
    windows = ReplayWindows()
    windows.admit(SENDER, 10 * WINDOW_COUNTERS)
    assert windows.unsaved(10) == [(SENDER, 10 * WINDOW_COUNTERS)]
    for counter in (10 * WINDOW_COUNTERS, 9 * WINDOW_COUNTERS, 0):
        assert not taken(windows, counter)
    assert windows.unsaved(10) == []


def test_the_boundary_is_where_it_says() -> None:
    """A window off by one would pass every other test here."""
    windows = ReplayWindows()
    windows.admit(SENDER, 2 * WINDOW_COUNTERS)
    assert taken(windows, WINDOW_COUNTERS + 1)
    assert not taken(windows, WINDOW_COUNTERS)
    assert taken(windows, 3 * WINDOW_COUNTERS - 1)
    assert not taken(windows, 2 * WINDOW_COUNTERS), "still within, and heard"
    assert taken(windows, 2 * WINDOW_COUNTERS + 1)


def test_senders_are_bounded_and_the_quietest_is_forgotten() -> None:
    windows = ReplayWindows(senders_max=3)
    senders = [NodeId(bytes([number]) * 16) for number in range(4)]
    for sender in senders[:3]:
        windows.admit(sender, 5)
    windows.admit(senders[0], 6)
    windows.admit(senders[3], 5)
    assert len(windows) == 3
    assert dict(windows.unsaved(10)) == {senders[0]: 6, senders[1]: None, senders[2]: 5, senders[3]: 5}
    assert not taken(windows, 6, senders[0])
    for number in range(9):
        windows.restore(NodeId(bytes([100 + number]) * 16), 1)
    assert len(windows) == 3


def test_what_is_to_be_saved_comes_in_batches_and_each_once() -> None:
    windows = ReplayWindows()
    for number in range(10):
        windows.admit(NodeId(bytes([number]) * 16), number)
    batches = [windows.unsaved(4) for _ in range(4)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 0]
    assert {highest for batch in batches for _, highest in batch} == set(range(10))


def test_a_window_that_takes_anything_would_be_noticed() -> None:
    """The planted counterpart to the model above."""
    windows = ReplayWindows()
    windows.admit(SENDER, 1)
    with pytest.raises(WireError, match="counter 1 was heard before"):
        windows.admit(SENDER, 1)
    windows.admit(SENDER, 1 + WINDOW_COUNTERS)
    with pytest.raises(WireError, match=f"counter 1 is {WINDOW_COUNTERS} behind"):
        windows.admit(SENDER, 1)
