"""How well *we* are: Lifeguard's local health multiplier (Dadgar, Phillips, Currey, arXiv:1707.00788, LHA-Probe).

A node that is slow itself (starved, swapping, behind a bad link) misses answers that were given, and would blame those
who gave them. So it keeps a score of its own misfortunes, and with each point it probes more slowly, waits longer for
answers and lets suspects live longer. Whatever goes well takes a point away.

=================================================== =====
a probe answered                                       -1
a helper that sends neither ack nor nack (each)        +1
a probe unanswered with no helper to ask               +1
having to refute what is said of us                    +1
a stall: timers or inputs handled late                 +1
=================================================== =====

A probe unanswered although every helper spoke is the target's fault, as in memberlist: it costs nothing. Nor does what
a suspect explains: that it does not answer a second time, or does not speak as a helper. Each member that is cut off or
dead would be counted against us again and again, and a minority cut off from the rest would take a minute to see it.
"""

from __future__ import annotations

HEALTH_MAX = 8
"""The saturation limit S of the paper: timeouts up to nine times as long."""


class LocalHealth:
    """The score, 0 (well) to `HEALTH_MAX`. An unaware one stays at 0: plain SWIM."""

    __slots__ = ("_aware", "score", "stretch")

    def __init__(self, aware: bool) -> None:
        self._aware = aware
        self._be(0)

    def better(self) -> None:
        self._be(max(0, self.score - 1))

    def worse(self, points: int = 1) -> None:
        if self._aware:
            self._be(min(HEALTH_MAX, self.score + points))

    def _be(self, score: int) -> None:
        self.score = score
        """For others to read."""
        self.stretch = score + 1
        """How many times as long durations are to be with our present health: the paper's multiplier."""
