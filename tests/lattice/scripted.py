"""One eventful scenario as a program: `python -m tests.lattice.scripted [planted]` prints its journal's digest.

Run by `test_engine_determinism` in processes with different hash seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from lattice.dissemination import Flood, Strategy, Tree
from lattice.prng import Prng
from lattice.roster import Roster
from lattice.types import SECOND, CellId, Level, NodeId
from tests.lattice.cluster import Cluster, lossy


class HashOrdered(Flood):
    """The bug that this is about: what is sent first depends on the iteration order of a set of bytes."""

    def next_hops(
        self, rumour: CellId, origin: bytes, came_from: NodeId | None, roster: Roster, prng: Prng, narrow: bool = False
    ) -> list[NodeId]:
        return list({*roster.nodes} - {roster.us})[:3]


def scenario(strategy: Callable[[], Strategy] = Tree) -> str:
    """Six nodes on a bad wire: a region dies, two policies, a crash, a restart without disk. The journal's digest."""
    cluster = Cluster(6, seed="scripted", judge=lossy, strategy=strategy)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, 30 * SECOND)
    for index in range(6):
        cluster.observe(index, fra=Level.HEALTHY, iad=Level.HEALTHY, nrt=Level.DEGRADED)
    cluster.run(2 * SECOND)
    cluster.publish(0, "route a {}\n", "# " + "x" * 2_000 + "\n")
    cluster.crash(5)
    for index in range(4):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY, nrt=Level.DEGRADED)
    cluster.run(15 * SECOND)
    cluster.restart(5, disk_lost=True)
    cluster.publish(3, "route b {}\n")
    cluster.run(15 * SECOND)
    assert len(set(cluster.serving())) == 1
    return f"{cluster.journal} {[engine.view().root.hex() for engine in cluster.engines]}"


if __name__ == "__main__":
    print(scenario(HashOrdered if "planted" in sys.argv else Tree))
