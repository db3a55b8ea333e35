"""`edgelattice run` on a wire that somebody holds: ``python -m tests.router.tapped_node WIRE AHEAD SITE_TOML``.

Every datagram that the node sends is also written to the file WIRE: a line each, its target and its bytes in
hexadecimal. After SIGUSR2 it is only written, and does not arrive: somebody on the way has kept it; the next one lets
all pass again. All clocks of the process are AHEAD seconds ahead, and SIGUSR1 puts them an hour further on, as if the
hour had passed: its timers are due, its certificates an hour older.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import trio

from lattice.driver import Driver
from lattice.types import Endpoint
from router.cli import main

HOUR_S = 3_600.0


class Hurried(trio.abc.Clock):
    """The machine's clock, and what was added to it."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def start_clock(self) -> None:
        """It always goes."""

    def current_time(self) -> float:
        return time.perf_counter() + self.ahead_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()

    def an_hour_passes(self, *_: object) -> None:
        self.ahead_s += HOUR_S


class Tap:
    """Puts down what is sent, and lets it pass or not."""

    def __init__(self, wire: Path) -> None:
        self._wire = wire.open("a", buffering=1)
        self._passes = True
        send = Driver._send_datagram

        async def tapped(driver: Driver, data: bytes, target: Endpoint) -> None:
            self._wire.write(f"{target[0]} {target[1]} {data.hex()}\n")
            if self._passes:
                await send(driver, data, target)

        Driver._send_datagram = tapped  # type: ignore[assignment, method-assign]

    def turn(self, *_: object) -> None:
        self._passes = not self._passes


def run() -> int:
    wire, ahead, site_toml = sys.argv[1:]
    clock, tap = Hurried(float(ahead)), Tap(Path(wire))
    signal.signal(signal.SIGUSR1, clock.an_hour_passes)
    signal.signal(signal.SIGUSR2, tap.turn)
    seconds, nanoseconds, trio_run = time.time, time.time_ns, trio.run
    time.time = lambda: seconds() + clock.ahead_s
    time.time_ns = lambda: nanoseconds() + round(clock.ahead_s * 1e9)
    trio.run = lambda *given: trio_run(*given, clock=clock)
    return main(["run", site_toml])


if __name__ == "__main__":
    sys.exit(run())
