"""What the data plane asks of the node, and what it tells it: the seam between traffic and everything else. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from router.decision.decide import Attempt, Decision, Request
from router.decision.request import Needs


class Outcome(Enum):
    """How one attempt at one endpoint went."""

    OK = "ok"
    """A response head below 500 arrived."""
    SERVER_ERROR = "server error"
    """A 5xx arrived, or bytes that are not HTTP."""
    UNAVAILABLE = "unavailable"
    """A 502, 503 or 504 arrived, as did too many of the endpoint's last answers."""
    REFUSED = "refused"
    """No connection could be made."""
    RESET = "reset"
    """The connection was lost before the first byte of a response."""
    TIMEOUT = "timeout"
    """Connecting, sending or the response's head took longer than its limit."""
    TRUNCATED = "truncated"
    """The connection was lost, or its framing broke, after the first byte and before the end of a response."""
    SILENT = "silent"
    """While requests still wait: no byte from the endpoint for too long (see `hang`). Their own outcomes follow."""
    HUNG = "hung"
    """The same of its whole region."""
    LATE = "late"
    """No connection in the time in which silence is found: another endpoint is asked, for nothing was sent."""
    OUTRUN = "outrun"
    """It was late, and another endpoint that was asked too answered first; or nobody waits for its answer any more."""


NO_POLICY: Final = Decision("", "", None, None, "", "no policy in force yet", 503, ())


class Judge(Protocol):
    """Whoever judges the policy by which requests are decided now."""

    @property
    def label(self) -> str:
        """What the answers say of it."""

    def ended(self, route: str, ending: str, status: int) -> None:
        """A request that was decided under it ended so (`ending.Ending.kind`); `status` is what the decision itself
        answered, or 0."""

    def found_no_route(self, host: str, path: str) -> None:
        """A request for that host and path had no route under it."""


class Router(Protocol):
    """The node, as the data plane sees it. Both calls are synchronous and take microseconds."""

    @property
    def needs(self) -> Needs:
        """What of a request `decide` reads now; the rest may be left out, and where the client is, always."""

    def epoch(self) -> object:
        """While this is equal to what it was before a decision, an equal request would be decided the same."""

    def decide(self, request: Request) -> Decision:
        """Where this request goes."""

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int, at: float) -> None:
        """Evidence about an endpoint, told before the next attempt or request is decided. `at` is now, in trio's
        seconds.

        `latency_us` runs from the start of the attempt to the outcome; for OK, SERVER_ERROR and UNAVAILABLE that is the
        response head, for SILENT and HUNG it is the silence. Every attempt is told of once, except that TRUNCATED may
        follow a response head, that SILENT and HUNG are told of an attempt under way, before its own outcome, and that
        nothing is told of one by a kept connection whose close crossed it (`Lost.left`).
        """

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        """An endpoint that proved its name said how much of its capacity is in use."""
