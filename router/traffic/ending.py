"""How a request ends, and how one attempt at an endpoint is lost. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from router.decision.decide import Attempt
from router.traffic.steering import Outcome


class After(enum.Enum):
    """What becomes of the client's connection."""

    KEEP = enum.auto()
    CLOSE = enum.auto()
    """After the answer has safely arrived."""
    ABORT = enum.auto()
    """With a reset: the client must not take what it got for the whole."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended."""

    kind: str
    """The counter: "relayed_2xx" (… "5xx"), "cached", "uncached" (only a stored answer was wanted), "denied",
    "rejected_400" (…), "failed_502", "failed_504", "shed_503", "looped", "truncated", "client_gone", "abandoned" (cut
    off by the end of a drain) or "internal_error"."""
    after: After


RELAYED: Final = tuple(
    (Ending(f"relayed_{hundreds}xx", After.CLOSE), Ending(f"relayed_{hundreds}xx", After.KEEP))
    for hundreds in range(2, 6)
)
"""By the hundreds of the status, less two; then whether the client's connection is kept."""
CLIENT_GONE: Final = Ending("client_gone", After.ABORT)


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt that brought nothing to the client."""

    attempt: Attempt
    outcome: Outcome
    unsent: bool
    """Not one byte of the request was written."""
    answered: bool
    """Some byte of a response arrived."""
    left: bool = False
    """And says nothing of the endpoint: the close of a kept connection crossed the request."""

    def may_retry(self, *, repeatable: bool, replayable: bool) -> bool:
        return replayable and (self.unsent or (repeatable and not self.answered))

    @property
    def status(self) -> int:
        return 504 if self.outcome is Outcome.TIMEOUT else 502
