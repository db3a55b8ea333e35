"""A watcher that hears of a region worse than it saw looks again at once, and not only at its next probe."""

from __future__ import annotations

from lattice.types import MILLISECOND, SECOND
from sim.experiment import Experiment
from sim.scenario import load

SETS = ["topology.nodes=30", "regions.probe=5s", "timeline.1.at=11s", "duration=12s"]


def test_the_other_watchers_of_a_dead_region_look_when_they_hear_of_it() -> None:
    experiment = Experiment(load("wan-1000", SETS), "1")
    assert experiment.run().verdict == "held"
    change = experiment.stage.changes[0]
    first, *others = sorted(when - change.at for when, _ in change.sources)
    assert len(others) == 2
    assert all(when - first < 300 * MILLISECOND for when in others), "a packet and a look, with five seconds to a probe"
    assert max(change.learned.values()) - change.at < first + SECOND
    assert len(change.learned) == 30
