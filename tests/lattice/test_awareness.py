"""The score of our own health."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.awareness import HEALTH_MAX, LocalHealth


@given(st.lists(st.integers(-1, 4)))
def test_the_score_saturates_at_both_ends_and_stretches_durations(points: list[int]) -> None:
    health, score = LocalHealth(aware=True), 0
    for point in points:
        if point < 0:
            health.better()
        else:
            health.worse(point)
        score = min(HEALTH_MAX, max(0, score + point))
        assert health.score == score
        assert health.stretch == score + 1


def test_plain_swim_knows_nothing_of_itself() -> None:
    health = LocalHealth(aware=False)
    health.worse(9)
    assert health.stretch == 1
