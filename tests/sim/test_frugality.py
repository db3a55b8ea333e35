"""What the checks of frugality hold a host to, and what they do not."""

from __future__ import annotations

import pytest

from lattice.cells import SHARDS_MIN, Shards
from lattice.digest import Bloom
from lattice.types import Micros
from lattice.wire import Digest, encode
from sim import inside
from sim.checks import BrokenError
from sim.experiment import Experiment
from sim.scenario import from_table
from tests.sim.runs import run, table


def test_a_filter_sent_again_is_held_against_its_author_and_not_against_who_caught_it() -> None:
    """A replayer among 1,000 sites sent on the filter of a node that had one cell less than itself."""
    experiment = Experiment(from_table("test", table(duration="1s")))
    assert experiment.run().verdict == "held"
    cluster = experiment.cluster
    author, replayer, target, *_ = cluster.hosts
    nothing = encode(Digest(Shards(SHARDS_MIN, tuple(range(SHARDS_MIN))), 1, Bloom.of((), 1, 1), 0))
    frame = inside.seal_of(author.engine).close(author.node, nothing, Micros(cluster.now))
    cluster.inject(replayer, target, frame)
    with pytest.raises(BrokenError, match="not in its filter"):
        cluster.inject(author, target, frame)


def test_frames_that_go_to_several_are_counted_by_what_they_are_when_sealed_too() -> None:
    scenario = table({"at": "1s", "do": "publish"}, nodes=6, duration="3s")
    tagged, sealed = (run({**scenario, "protocol": {"seal": seal}}).figures for seal in ("tagged", "sealed"))
    assert tagged["messages_by_type"] == sealed["messages_by_type"]
