"""What a run leaves for reading: everything that reports and plots are made of, as plain values that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from sim.compare import theory_curve
from sim.experiment import Result
from sim.outcome import Cost, in_full, rerun_line


@dataclass(frozen=True, slots=True)
class Story:
    """One run. Times are microseconds since its start, delays microseconds since the change."""

    figures: dict[str, Any]
    """As `outcome.in_full`."""
    purpose: str
    rerun: str
    virtual_us: int
    curves: list[tuple[str, list[int], list[int]]]
    """(change, delays, floors), each sorted."""
    theory: list[tuple[int, float]]
    """(delay, share of nodes): Serf's closed form for as many nodes."""
    acts: list[tuple[int, int | None, str, str]]
    """(from, to, what, how far)."""
    announced: list[tuple[int, int, str, str]]
    """(when, host, kind, what)."""
    users: list[tuple[int, int, int, int]]
    """(second, requests, answered, misrouted)."""
    sites: list[tuple[str, str, int, int]]
    """(name, group, latitude and longitude in millionths of a degree)."""
    regions: list[tuple[str, int, int, str]]
    """(name, latitude, longitude, level at the end)."""
    learned: list[tuple[str, int, list[tuple[int, int]]]]
    """(change, when, (host, when it learned))."""
    checks: list[tuple[str, str, str]]
    """(name, promise, how it came out)."""
    violations: list[str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Story:
        """Raises ValueError when it is no such file."""
        try:
            told = cast("Mapping[str, Any]", json.loads(text))
            return cls(**{field.name: told[field.name] for field in fields(cls)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it tells no run: {error}") from None


def story_of(result: Result, cost: Cost, sets: Sequence[str]) -> Story:
    """The story of a run."""
    return Story(
        figures=in_full(result, cost),
        purpose=result.scenario.purpose,
        rerun=rerun_line(result.scenario.asked, result.seed, sets),
        virtual_us=result.virtual_us,
        curves=result.curves,
        theory=theory_curve(result.nodes, result.scenario.link.loss_ppm),
        acts=result.acts,
        announced=result.announced,
        users=[(second, *counts) for second, counts in sorted(result.by_second.items())],  # type: ignore[misc]  # three counts a second
        sites=result.sites,
        regions=result.regions,
        learned=[(name, at, sorted(learned.items())) for name, at, learned in result.learned],
        checks=result.checks,
        violations=[violation.render() for violation in result.violations],
    )
