"""What one scenario asks for beyond the promises that always hold: the bounds under `[checks]`.

They are looked at once, when the run is over. A bound on what every run has is broken where it was not measured, and
says so: who asks for little idle traffic is not served by a run without an idle moment. Of a run in which nobody died,
or nothing changed, all that was to be known was known in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lattice.types import SECOND
from sim.scenario import CheckSettings


@dataclass(frozen=True, slots=True)
class Measured:
    """Of a whole run."""

    false_positives: int
    idle_bytes: int | None
    """Per node and second; None where there was no time without an act."""
    answered: int
    requests: int
    detection_s: float | None
    """The slowest crash's, until everybody knew; None where nobody was gone for good."""
    slowest: Sequence[tuple[str, int]]
    """Of each change that anybody learned of, when the last one did, in microseconds."""


class Bound(NamedTuple):
    name: str
    promise: str
    broken: str | None
    """What shows that it is; None while it holds."""


def bounds_of(asked: CheckSettings, measured: Measured) -> Iterator[Bound]:
    """Those that are asked for, in a fixed order."""
    if (most := asked.false_positives_max) is not None:
        said = f"{measured.false_positives} false announcements of death, at most {most}"
        broken = measured.false_positives > most
        yield Bound("false-positives", f"at most {most} nodes are called dead that are not", said if broken else None)
    if (most := asked.idle_bytes_max) is not None:
        idle = measured.idle_bytes
        said = f"{idle} bytes a node and second while nothing happened, at most {most}"
        if idle is None:
            said = "there was no time without an act to measure it in"
        promise = f"an idle node sends at most {most} bytes a second"
        yield Bound("idle-bytes", promise, said if idle is None or idle > most else None)
    if (least := asked.availability_min_ppm) is not None:
        said = f"{measured.answered} of {measured.requests} requests were answered"
        broken = not measured.requests or measured.answered * 1_000_000 < measured.requests * least
        yield Bound("availability", f"{least / 10_000:g} % of all requests are answered", said if broken else None)
    if (most := asked.detect_within_us) is not None:
        slowest_s = measured.detection_s
        said = f"a crash was known to all after {slowest_s} s"
        broken = slowest_s is not None and slowest_s * SECOND > most
        promise = f"a crash is known to all within {most / SECOND:g} s"
        yield Bound("detect-within", promise, said if broken else None)
    if (most := asked.converge_within_us) is not None:
        late = [f"{name} took {delay / SECOND:.3f} s" for name, delay in measured.slowest if delay > most]
        promise = f"a change is known to all within {most / SECOND:g} s"
        yield Bound("converge-within", promise, late[0] if late else None)
