"""How far a command of the simulator is: on one line of a terminal, or now and then as a line of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

TERMINAL_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0
_WIPE = "\r\x1b[2K"


class Progress:
    """Says on standard error how far it is, no more often than somebody reads; nothing at all when `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._started = self._said = time.monotonic()
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._line_is_open = False

    @property
    def spent_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._started

    def say(self, text: Callable[[], str], now: bool = False) -> None:
        """Say this if it is time to, or `now`; only then is it asked for."""
        every_s = TERMINAL_EVERY_S if self._terminal else PLAIN_EVERY_S
        if self._quiet or not (now or time.monotonic() - self._said >= every_s):
            return
        self._said = time.monotonic()
        click.echo(f"{_WIPE}{text()}" if self._terminal else text(), nl=not self._terminal, err=True)
        self._line_is_open = self._terminal

    def of_run(self, name: str = "") -> Callable[[int, int, int], None]:
        """What an experiment tells how far it is, from now on."""
        begun_s = self.spent_s

        def told(done_us: int, most_us: int, events: int) -> None:
            def text() -> str:
                spent_s = self.spent_s - begun_s
                left_s = spent_s * (most_us - done_us) / max(done_us, 1)
                far = f"{done_us / 1e6:.1f} of at most {most_us / 1e6:.0f} s"
                return f"{name}{far}, {events / spent_s:,.0f} events/s, {left_s:.0f} s left"

            self.say(text)

        return told

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._line_is_open:
            click.echo(_WIPE, nl=False, err=True)
            self._line_is_open = False
