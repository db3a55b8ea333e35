"""Small runs for tests: a table as a scenario, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.experiment import Experiment, Result
from sim.host import EngineMaker
from sim.promises import ALL_CHECKS
from sim.scenario import from_table


def table(
    *timeline: Mapping[str, object], nodes: int = 4, duration: str = "8s", settle: str = "20s", **sections: object
) -> dict[str, object]:
    """A scenario of a few nodes around the world."""
    made: dict[str, object] = {"purpose": "a test", "duration": duration, "settle": settle}
    made["topology"] = {"nodes": nodes}
    for name, section in sections.items():
        known = made.get(name, {})
        assert isinstance(known, dict)
        assert isinstance(section, Mapping)
        made[name] = {**known, **section}
    made["timeline"] = [dict(row) for row in timeline]
    return made


def run(scenario: Mapping[str, object], seed: str = "0") -> Result:
    return Experiment(from_table("test", scenario), seed).run()


def run_only(
    check: str, scenario: Mapping[str, object], engine_type: EngineMaker | None = None, on: Sequence[str] = ()
) -> Result:
    """Run with one check alone, or with these, too; on another engine if one is given."""
    others = [other.name for other in ALL_CHECKS if other.name not in {check, *on}]
    alone = {**scenario, "checks": {"off": others}}
    if engine_type is None:
        return Experiment(from_table("test", alone)).run()
    return Experiment(from_table("test", alone), engine_type=engine_type).run()
