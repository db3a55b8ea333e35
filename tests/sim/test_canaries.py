"""Rollouts in simulated fleets: bad versions cost a handful of requests, good ones come through."""

from __future__ import annotations

from typing import Any

from sim.experiment import Experiment, Result
from sim.scenario import from_table, load
from tests.sim.runs import run, table


def rollouts_of(result: Result) -> list[dict[str, Any]]:
    found = result.figures["rollouts"]
    assert isinstance(found, list)
    return found


def test_bad_versions_are_given_up_and_a_good_one_comes_to_all() -> None:
    sets = ["topology.nodes=5", "users.rate=150", "checks.availability_min=99.5%"]
    result = Experiment(load("canary", sets)).run()
    assert result.verdict == "held", result.violations
    found = rollouts_of(result)
    assert [each["fails"] for each in found] == [1.0, 1.0, 1.0, 0.0]
    for bad in found[:3]:
        assert 0 < bad["failures_max"] <= 5
        assert bad["back_s"] <= 5
        assert bad["complete_s"] is None
    assert found[3]["failures"] == 0
    assert found[3]["sites_tried"] == 5
    assert found[3]["complete_s"] is not None


def test_where_nobody_asks_nothing_is_found_and_it_waits() -> None:
    """In its first stage: which sites those are is a hash of (rollout, site), and may be all four or none."""
    rollout = {"at": "1s", "do": "rollout", "stages": [50, 100], "every": "500ms"}
    quiet = table(rollout, users={"rate": 2}, duration="10s", settle="2s", checks={"off": ["rollouts-end-well"]})
    experiment = Experiment(from_table("test", quiet))
    result = experiment.run()
    assert result.verdict == "held", result.violations
    (found,), (told,) = rollouts_of(result), experiment.stage.rollouts.values()
    assert found["complete_s"] is None
    assert told.served <= {host.index for host in experiment.cluster.hosts if told.start.includes(host.site, 0)}


def test_a_crash_in_the_middle_brings_no_bad_version_back() -> None:
    rollout = {"at": "1s", "do": "rollout", "fails": "100%", "stages": [100]}
    crash = {"at": "2s", "for": "2s", "do": "crash", "nodes": "node 1, 2, 3"}
    cut = {"at": "1s", "for": "6s", "do": "isolate", "nodes": "node 3"}
    result = run(table(rollout, crash, cut, users={"rate": 40}, duration="12s"))
    assert result.verdict == "held", result.violations
    (found,) = rollouts_of(result)
    assert 0 < found["failures_max"] <= 5
