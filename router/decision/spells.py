"""Whether time windows are open, remembered until they open or close.

A plan asks every window of a policy, and each asks the calendar of its zone for days around. Nothing changes between
two edges of a window, so one that has been asked is not asked again before its next edge. What is remembered is a
function of window and moment: it changes no answer.
"""

from __future__ import annotations

from typing import NamedTuple

from router.policy.windows import Window


class Spell(NamedTuple):
    """A stretch of time throughout which a window is open, or shut."""

    since_us: int
    """When it was asked, not when the stretch began."""
    until_us: int | None
    """Its end, exclusive; None when there is none."""
    is_open: bool

    def holds(self, now_us: int) -> bool:
        return self.since_us <= now_us and (self.until_us is None or now_us < self.until_us)


def spell_at(known: dict[Window, Spell], window: Window, now_us: int) -> Spell:
    """What holds of a window now; `known` has one spell for each window that was asked about."""
    spell = known.get(window)
    if spell is None or not spell.holds(now_us):
        spell = known[window] = Spell(now_us, window.next_edge(now_us), window.open_at(now_us))
    return spell


__all__ = ["Spell", "spell_at"]
