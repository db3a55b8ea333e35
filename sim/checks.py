"""What a check is: a promise, how it is looked at, and the evidence when it is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lattice.engine import Engine
from lattice.events import Effect, Input, Notification, Persist
from lattice.health import SignedRow
from lattice.view import LatticeView
from router.decision.decide import Decision
from sim.host import Host
from sim.stage import Stage


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept."""

    check: str
    at_us: int
    """Since the start of the run."""
    node: str
    """The site where it showed; "" when it is the whole."""
    evidence: str

    def render(self) -> str:
        where = f" at {self.node}" if self.node else ""
        return f"{self.check} broken{where} after {self.at_us / 1_000_000:.6f} s: {self.evidence}"


class BrokenError(Exception):
    """Raised by a check, between two steps; the run ends there."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.render())
        self.violation = violation


class Check:
    """One promise. A subclass overrides the looks that it needs."""

    name = ""
    promise = ""
    liveness = False
    """Whether it is judged only at the end, when all faults are healed."""
    inputs: tuple[type[Input], ...] | None = None
    """After which inputs `stepped` is to look; None is every one."""
    when_told = False
    """Whether `stepped` is to look only where the engine notified of something."""
    of_view = True
    """Whether what `looked` sees changes only with the view or the root: then it is not called again before they do.
    A check of which that is not so gets no rows."""

    def __init__(self, stage: Stage, start: int) -> None:
        self.stage = stage
        self._start = start

    def stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        """After every step of every host that took one of `inputs`: must be cheap."""

    def kept(self, host: Host, record: Persist) -> None:
        """When an engine writes something down, or removes it."""

    def heard(self, host: Host, notification: Notification) -> None:
        """When an engine notifies."""

    def restarted(self, host: Host, before: Engine) -> None:
        """When a process follows another, that engine's, before it is given anything."""

    def elapsed(self) -> None:
        """Every tenth of a second, between two steps."""

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        """Every so many events, at the host that just stepped; `rows` are those that it holds, by observer."""

    def routed(self, host: Host, decision: Decision) -> None:
        """When a node's router has decided a user's request."""

    def pending(self) -> str | None:
        """For liveness: what is still missing, None when the promise is kept now."""
        return None

    def finished(self) -> None:
        """At the end of the run."""

    def broken(self, host: Host | None, evidence: str) -> BrokenError:
        at = self.stage.cluster.now - self._start
        return BrokenError(Violation(self.name, at, host.site if host else "", evidence))
