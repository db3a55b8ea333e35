"""How long a suspect may live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.suspicion import CONFIRMATIONS_MAX, Suspicion, suspicion_us
from lattice.types import SECOND, Micros, NodeId

VOICES = [NodeId(bytes([number]) * 16) for number in range(8)]
LEAST_US, MOST_US = 2 * SECOND, 30 * SECOND


@pytest.mark.parametrize(
    ("confirmations", "wanted", "timeout_ms"),
    [
        # memberlist's own table (suspicion_test.go, least 2 s, most 30 s), before it subtracts the time passed
        (0, 3, 30_000),
        (1, 3, 16_000),
        (2, 3, 7_810),
        (3, 3, 2_000),
        (4, 3, 2_000),
        (5, 3, 2_000),
        (0, 0, 2_000),
        # and the paper's formula at other K
        (0, 1, 30_000),
        (1, 1, 2_000),
        (1, 2, 12_333),
        (4, 8, 9_490),
    ],
)
def test_the_timeout_is_the_papers(confirmations: int, wanted: int, timeout_ms: int) -> None:
    assert suspicion_us(confirmations, wanted, LEAST_US, MOST_US) // 1_000 == timeout_ms


@given(st.integers(0, CONFIRMATIONS_MAX), st.integers(0, 10**7), st.integers(0, 10**8))
def test_more_voices_never_lengthen_it_and_it_keeps_its_bounds(wanted: int, least: int, more: int) -> None:
    timeouts = [suspicion_us(count, wanted, least, least + more) for count in range(wanted + 2)]
    assert timeouts == sorted(timeouts, reverse=True)
    assert (timeouts[0], timeouts[-1]) == (least + more if wanted else least, least)


def test_each_voice_counts_once_and_no_more_than_are_wanted() -> None:
    suspicion = Suspicion(Micros(0), 3, LEAST_US, MOST_US, "suspect")
    assert [suspicion.accuse(voice) for voice in (VOICES[0], VOICES[0], *VOICES)] == [True, False, False] + [
        True
    ] * 3 + [False] * 4
    assert suspicion.accusers == VOICES[:4]
    assert suspicion.deadline(stretch=1) == LEAST_US


def test_our_own_ill_health_gives_it_more_time_and_a_stall_holds_it() -> None:
    suspicion = Suspicion(Micros(0), 3, LEAST_US, MOST_US, "suspect")
    suspicion.accuse(VOICES[0])
    assert suspicion.deadline(stretch=1) == MOST_US
    assert suspicion.deadline(stretch=3) == 3 * MOST_US
    suspicion.hold(Micros(40 * SECOND))
    suspicion.hold(Micros(35 * SECOND))
    assert suspicion.deadline(stretch=1) == 40 * SECOND
