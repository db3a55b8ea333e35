"""The law of a run by several processes: it comes to what one process comes to, in every respect, or one does it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lattice.engine import Engine
from lattice.events import Effect, Input
from lattice.types import SECOND, Micros
from sim.experiment import Experiment, Result
from sim.faults import KINDS
from sim.obstacles import SHARED, obstacle
from sim.parallel import Apart, Peer, run_by
from sim.scenario import Scenario, from_table, load
from sim.scheduler import EPOCH
from tests.sim.runs import table

ROOT = Path(__file__).parent.parent.parent
NODES = 80


def said(result: Result) -> dict[str, object]:
    """All that a result says."""
    return {each.name: getattr(result, each.name) for each in fields(result) if each.name != "scenario"}


def same_by(scenario: Scenario, jobs: int, seed: str = "0") -> Result:
    alone = Experiment(scenario, seed).run()
    together, why = run_by(lambda: Experiment(scenario, seed), jobs)
    assert why is None
    assert said(together) == said(alone)
    return together


def small(name: str) -> Scenario:
    """A shipped scenario on so few nodes that it has shards."""
    late = ["topology.late=20"] if load(name).topology.late else []
    return load(name, [f"topology.nodes={NODES}", *late])


QUICK = ("crash", "pause", "poison-policy", "stale-writer", "wan", "wan-1000", "wan-10000")
LONGER = ("clocks", "cold-boot", "contagious-update", "crash-loop", "fan-out", "flapping-link", "one-way",
          "rolling-restart", "smoke", "torn-disk")  # fmt: skip
"""Others can be shared, too, but among so many nodes they take long."""


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONGER)])
def test_a_shipped_scenario_comes_to_the_same_by_two_processes(name: str) -> None:
    assert same_by(small(name), 2).verdict == "held"


CUTS: dict[str, dict[str, Any]] = {"halves": {}, "bridge": {}, "region-cut": {"nodes": "group europe"}}


@pytest.mark.slow
@pytest.mark.parametrize("act", CUTS)
def test_a_cluster_that_falls_in_two_comes_to_the_same(act: str) -> None:
    """66 sites are a shard's least; how a cut heals costs as their square."""
    acts = [{"at": "1s", "for": "5s", "do": act, **CUTS[act]}, {"at": "2s", "do": "publish"},
            {"at": "3s", "do": "health", "region": "frankfurt", "level": "down"}]  # fmt: skip
    assert same_by(from_table("test", table(*acts, nodes=66, duration="8s", settle="60s")), 2).verdict == "held"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), [("lossy", "0"), ("swarm", "1"), ("swarm", "6"), ("swarm", "7")])
def test_links_that_lose_and_a_swarm_of_faults_come_to_the_same(name: str, seed: str) -> None:
    acts = 'timeline=[{at="1s", do="publish"}, {at="3s", do="health", level="down"}]'
    assert same_by(load(name, ["topology.nodes=66", "duration=8s", acts]), 2, seed).verdict == "held"


@pytest.mark.slow
def test_keys_that_rotate_come_to_the_same() -> None:
    """Each process rekeys the envelopes of its own hosts; the others' are nowhere to be rekeyed."""
    acts = 'timeline=[{at="1s", do="key-rotation", over="2s"}, {at="3s", do="publish"}]'
    assert same_by(load("key-rotation", ["topology.nodes=66", "duration=14s", acts]), 2).verdict == "held"


@pytest.mark.parametrize("name", ["liars", "canary", "version-mix", "lan-1000", "narrow-link"])
def test_other_shipped_scenarios_are_one_process(name: str) -> None:
    experiment = Experiment(small(name))
    assert obstacle(experiment.timeline, experiment.cluster.cut) is not None


ACTS: list[dict[str, Any]] = [
    {"at": "1s", "for": "3s", "do": "crash", "nodes": "10%"},
    {"at": "1500ms", "do": "health", "region": "frankfurt", "level": "down"},
    {"at": "2s", "do": "publish"},
    {"at": "2s", "for": "2s", "do": "pause", "nodes": 3},
    {"at": "2500ms", "for": "1s", "do": "one-way", "nodes": 5, "direction": "deaf"},
    {"at": "3s", "do": "publish", "nodes": "node 3"},
    {"at": "3s", "for": "2s", "do": "slow", "nodes": 4, "cost": "20ms"},
    {"at": "3500ms", "do": "health", "region": "frankfurt", "level": "healthy"},
    {"at": "4s", "do": "resubmit"},
    {"at": "4s", "do": "leave", "nodes": 1},
    {"at": "4500ms", "do": "join", "over": "500ms"},
    {"at": "5s", "for": "1s", "do": "clock", "nodes": 3, "ahead": "2s"},
    {"at": "5s", "for": "1s", "do": "lie-health", "nodes": 1, "region": "ashburn", "level": "failing"},
    {"at": "5500ms", "for": "1s", "do": "crash", "nodes": 3, "disk": "torn"},
    {"at": "6s", "for": "1s", "do": "hold", "nodes": 4},
]


@pytest.mark.parametrize("jobs", [2, 3, 4])
def test_much_at_once_comes_to_the_same_by_any_number_of_processes(jobs: int) -> None:
    sections = {"topology": {"late": 4}, "users": {"rate": 40}, "link": {"loss": "1%", "duplicate": "1%"}}
    scenario = from_table("test", table(*ACTS, nodes=NODES, duration="8s", settle="60s", **sections))
    result = same_by(scenario, jobs)
    assert result.verdict == "held"
    assert result.by_second


def test_every_site_watching_who_was_first_to_say_it_is_known_to_all() -> None:
    """Copies are counted of one row, the first that says what changed; here two processes have such rows at once."""
    acts = [{"at": f"{second}s", "do": "health", "region": "frankfurt", "level": level}
            for second, level in ((1, "down"), (2, "degraded"))]  # fmt: skip
    regions = {"count": 2, "watchers": "all", "probe": "100ms"}
    result = same_by(from_table("test", table(*acts, nodes=66, duration="4s", settle="60s", regions=regions)), 2)
    assert all(change["copies_per_node"] for change in result.changes)


def test_a_cold_boot_comes_to_the_same() -> None:
    topology = {"start": "cold", "over": "1s", "seeds": 3}
    scenario = from_table("test", table(nodes=66, duration="4s", settle="60s", topology=topology))
    assert same_by(scenario, 2).verdict == "held"


def test_other_seeds_come_to_the_same() -> None:
    scenario = load("wan-1000", [f"topology.nodes={NODES}", "duration=7s"])
    digests = {same_by(scenario, 2, seed).digest for seed in ("1", "2")}
    assert len(digests) == 2


class Fragile(Engine):
    """Raises, three seconds into the run."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        assert now < EPOCH + 3 * SECOND, "as planted"
        return super().handle(event, now)


def test_a_promise_broken_in_one_process_is_reported_as_one_process_does() -> None:
    scenario = load("wan-1000", [f"topology.nodes={NODES}"])
    alone = Experiment(scenario, engine_type=Fragile).run()
    together, why = run_by(lambda: Experiment(scenario, engine_type=Fragile), 2)
    assert why is not None
    assert "as planted" in why
    assert alone.verdict == "violated"
    assert said(together) == said(alone)


def test_what_is_not_shared_is_one_process_with_a_reason() -> None:
    for sets, reason in (
        (["topology.nodes=60"], "few"),
        (['timeline=[{at="1s", do="lie-forged"}]'], "lie-forged"),
        (['timeline=[{at="1s", for="1s", do="slow-links", factor=0.5}]'], "lookahead"),
        (["topology.model=lan"], "near each other"),
    ):
        scenario = load("wan-1000", [f"topology.nodes={NODES}", "duration=7s", *sets])
        result, why = run_by(lambda scenario=scenario: Experiment(scenario), 2)  # type: ignore[misc]
        assert why is not None
        assert reason in why
        assert result.digest == Experiment(scenario).run().digest


def test_how_far_a_run_is_is_told_by_one_process_with_what_all_have_taken() -> None:
    """The children's words were on the terminal, too."""
    reading, writing = os.pipe()
    scenario = load("wan-1000", [f"topology.nodes={NODES}", "duration=7s"])

    def progress(done_us: int, most_us: int, events: int) -> None:
        os.write(writing, f"{os.getpid()} {events}\n".encode())

    result, why = run_by(lambda: Experiment(scenario, progress=progress), 2)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = [line.split() for line in told]
    assert why is None
    assert {process for process, _ in lines} == {str(os.getpid())}
    assert int(lines[-1][1]) > result.events * 0.9


def test_acts_that_are_shared_are_acts() -> None:
    assert KINDS.keys() >= SHARED


def test_one_that_is_gone_is_said_to_be_whether_it_is_written_to_or_read() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        peer = Peer(ours, 1, 0)
        with pytest.raises(Apart, match=r"one of the processes is gone: .Errno"):
            peer.send(b"t", b"")
        with pytest.raises(Apart, match="one of the processes is gone: it has closed its end"):
            peer.frames()


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of the command by two processes, and the second's id; under way for half a second."""
    command = [sys.executable, "-m", "router", "sim", "run", "wan-1000", "--jobs", "2", *options]
    run = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    try:
        deadline = time.monotonic() + 20
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        yield run, int(found[0])
    finally:
        run.kill()
        run.communicate()


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process_behind() -> None:
    with running("--set", "duration=200s") as (run, child):
        os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does
        run.communicate(timeout=20)
        assert run.returncode != 0
        assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
def test_where_one_process_is_lost_one_does_it_all() -> None:
    with running("--json", "--set", "topology.nodes=400", "--set", "duration=90s") as (run, child):
        os.kill(child, signal.SIGKILL)
        out, err = run.communicate(timeout=60)
    assert "one process: one of the processes is gone" in err
    assert run.returncode == 0
    assert '"verdict": "held"' in out
