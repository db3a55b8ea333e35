"""How long a suspect may live: Lifeguard's suspicion, long at first and shortened by independent accusers.

::

    timeout(C) = max - (max - min) * log(C + 1) / log(K + 1)        C confirmations of K wanted

(arXiv:1707.00788, LHA-Suspicion; memberlist's `remainingSuspicionTime`.) One voice alone may be a sick node's, so its
suspect gets the maximum; K others who find the same make it the minimum. The first confirmation counts most.
"""

from __future__ import annotations

from typing import Final

from lattice.types import Micros, NodeId

LOG_E6: Final = (0, 693_147, 1_098_612, 1_386_294, 1_609_438, 1_791_759, 1_945_910, 2_079_442, 2_197_225)
"""Millionths of ln 1 … ln 9: whole numbers, so that every machine gets the same deadline."""
CONFIRMATIONS_MAX: Final = len(LOG_E6) - 1


def suspicion_us(confirmations: int, wanted: int, least_us: int, most_us: int) -> int:
    """The timeout after so many confirmations, microseconds. With none wanted there is nothing to wait for."""
    assert 0 <= wanted <= CONFIRMATIONS_MAX, f"the logarithm of {wanted + 1} is not in the table"
    if confirmations >= wanted:
        return least_us
    return most_us - (most_us - least_us) * LOG_E6[confirmations] // LOG_E6[wanted]


class Suspicion:
    """One suspect: since when, and who said so."""

    __slots__ = ("_held_until", "_most_us", "_since", "_wanted", "accusers", "least_us", "tell_at", "timer")

    def __init__(self, since: Micros, wanted: int, least_us: int, most_us: int, timer: str) -> None:
        self.timer = timer
        """What its deadline is called."""
        self.accusers: list[NodeId] = []
        self.tell_at = since
        """When the suspect is to hear of it from us again, where we are among them."""
        self._since = since
        self._wanted = wanted
        self.least_us = least_us
        """How long it lasts where all agree who are wanted."""
        self._most_us = most_us
        self._held_until = since

    def accuse(self, by: NodeId) -> bool:
        """Whether this is another voice that still counts."""
        if by in self.accusers or len(self.accusers) > self._wanted:
            return False
        self.accusers.append(by)
        return True

    def hold(self, until: Micros) -> None:
        """Do not conclude before then: we were not listening, and a refutation may lie unread."""
        self._held_until = max(self._held_until, until)

    def deadline(self, stretch: int) -> Micros:
        """When the suspect is to be declared down, `stretch` times as late as a node in good health would."""
        timeout = suspicion_us(max(0, len(self.accusers) - 1), self._wanted, self.least_us, self._most_us)
        return max(Micros(self._since + timeout * stretch), self._held_until)
