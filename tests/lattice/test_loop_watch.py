"""How late the loop is."""

from __future__ import annotations

from lattice.loop_watch import LAG_US, TOLD_EVERY_US, LoopWatch
from lattice.types import Micros


def test_a_lag_is_counted_each_time_and_told_once_a_second() -> None:
    watch = LoopWatch()
    assert watch.late(Micros(0), Micros(LAG_US - 1)) is None
    assert watch.late(Micros(0), Micros(LAG_US)) == LAG_US
    assert watch.late(Micros(0), Micros(LAG_US + 1)) is None
    assert watch.late(Micros(0), Micros(LAG_US + TOLD_EVERY_US)) == LAG_US + TOLD_EVERY_US
    assert watch.counters == {"loop lags": 3, "loop lag max us": LAG_US + TOLD_EVERY_US}
