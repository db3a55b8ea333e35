"""From verdict and own evidence to what this node acts on.

The effective level of a region is the worse of the lattice's verdict and this node's own direct evidence: a broken path
from here matters here, even if everybody else is fine. Two exceptions, both for a node that can tell that one side is
wrong:

* *overruled*: our own evidence has been HEALTHY for a while, all through which the verdict said worse: we follow what
  we see. (So a quorum of liars costs two seconds of needless detour, never a region.)
* *isolated*: everything is DOWN from here, so the fault is more likely ours than everybody's: our evidence does not
  count, nor do we vote, and while the others are silent too we go by the last verdict there was. (A region that
  answers, however badly, can be reached: FAILING is no sign of isolation.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lattice.types import NEVER, Level, Micros

ISOLATION_REGIONS_MIN = 2
"""One region alone cannot tell a dead region from a dead uplink."""


@dataclass(slots=True)
class Outlook:
    """What this node makes of one region."""

    own: Level = Level.UNKNOWN
    own_since: Micros = NEVER
    verdict: Level = Level.UNKNOWN
    verdict_since: Micros = NEVER
    last_verdict: Level = Level.UNKNOWN
    """The last that those who voted had agreed on, and not only come to for others' silence."""
    effective: Level = Level.UNKNOWN
    effective_since: Micros = NEVER
    reason: str = "no evidence"

    def observe(self, own: Level, now: Micros) -> bool:
        """Our own level; whether it changed."""
        if own == self.own:
            return False
        self.own, self.own_since = own, now
        return True

    def hear(self, verdict: Level, now: Micros, agreed: bool = True) -> bool:
        """The lattice's verdict, and whether those who vote agree on it (`Tally.is_agreed`); whether it changed."""
        if agreed:
            self.last_verdict = verdict or self.last_verdict
        if verdict == self.verdict:
            return False
        self.verdict, self.verdict_since = verdict, now
        return True

    def overrules_at(self, after_us: int) -> Micros | None:
        """When our evidence outweighs the verdict, if nothing changes until then; None if it does not contradict it."""
        if self.own != Level.HEALTHY or self.verdict <= Level.HEALTHY:
            return None
        return Micros(max(self.own_since, self.verdict_since) + after_us)

    def conclude(self, isolated: bool, overrule_us: int, now: Micros) -> Level | None:
        """Work out the effective level; the one before if it changed, else None."""
        overrules_at = self.overrules_at(overrule_us)
        if isolated:
            level, reason = self.verdict or self.last_verdict, "isolated"
        elif overrules_at is not None and overrules_at <= now:
            level, reason = self.own, "overruled"
        elif self.own > self.verdict:
            level, reason = self.own, "own evidence"
        else:
            level, reason = self.verdict, "verdict" if self.verdict else "no evidence"
        self.reason = reason
        if level == self.effective:
            return None
        before, self.effective, self.effective_since = self.effective, level, now
        return before


def is_isolated(levels: Iterable[Level]) -> bool:
    """Whether a node that sees its regions at these levels should suspect itself."""
    seen = [level for level in levels if level != Level.UNKNOWN]
    return len(seen) >= ISOLATION_REGIONS_MIN and all(level is Level.DOWN for level in seen)
