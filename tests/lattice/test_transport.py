"""What time it is here (the sockets are the driver's tests')."""

from __future__ import annotations

import trio
import trio.testing

from lattice.transport import Clock


async def test_a_moment_of_trios_is_the_same_in_our_time(autojump_clock: trio.testing.MockClock) -> None:
    clock, start = Clock(), trio.current_time()
    for seconds in (0.0, 0.25, 3.0):
        await trio.sleep(seconds)
        assert clock.at(trio.current_time()) == clock.now()
        assert clock.trio_time(clock.at(trio.current_time())) == trio.current_time()
    assert clock.at(start) < clock.now()
