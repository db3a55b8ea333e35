"""Is a version of the policy good? Wald's sequential probability ratio test on what became of live requests. Pure.

After each request the test adds the logarithm of how much likelier that outcome is under "one in twenty fails" (p1)
than under "one in a thousand fails" (p0), and stops as soon as the sum leaves the interval between two bounds (A. Wald,
*Sequential Tests of Statistical Hypotheses*, 1945). The bounds hold at every moment, so one may look after each request
and stop at the first that decides: a good version is condemned with a probability of at most about alpha, a bad one
passes with at most about beta, however long it takes.

==========  ============================  ========================================================================
a failure   ln(p1 / p0)                   +3.912: two of the first twenty condemn, whatever came between
a success   ln((1 - p1) / (1 - p0))       -0.050
condemn at  ln((1 - beta) / alpha)        +6.898
pass at     ln(beta / (1 - alpha))        -4.604: 92 successes and no failure, 78 more for every failure among them
==========  ============================  ========================================================================

In millionths of a nat, as integers: every node that hears the same outcomes in the same order says the same.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Judgement(IntEnum):
    """What a test says so far."""

    UNDECIDED = 0
    PASSED = 1
    CONDEMNED = 2


P0_PPM: Final = 1_000
"""How many requests fail under a version that is good: one in a thousand."""
P1_PPM: Final = 50_000
"""And under one that is not."""
ALPHA_PPM: Final = 1_000
"""How often a good version may be condemned."""
BETA_PPM: Final = 10_000
"""How often a bad one may pass."""

FAILED: Final = 3_912_023
WELL: Final = -50_293
CONDEMN_AT: Final = 6_897_705
PASS_AT: Final = -4_604_170


class SequentialTest:
    """One test. It ends with its first decision, and says that from then on."""

    __slots__ = ("judgement", "score")

    def __init__(self) -> None:
        self.score = 0
        self.judgement = Judgement.UNDECIDED

    def hear(self, *, failed: bool) -> Judgement:
        """One more request; what the test says now."""
        if self.judgement is Judgement.UNDECIDED:
            self.score += FAILED if failed else WELL
            if self.score >= CONDEMN_AT:
                self.judgement = Judgement.CONDEMNED
            elif self.score <= PASS_AT:
                self.judgement = Judgement.PASSED
        return self.judgement
