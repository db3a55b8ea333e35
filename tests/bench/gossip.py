"""`python -m tests.bench gossip [--json] [--quick]`: what the lattice costs, beside what is possible.

=========================== ==========================================================================================
datagrams_per_s             sealed datagrams that one engine handles in a second of one core's time: opened, decoded,
                            acted upon, answered and passed on. Signatures are keyed hashes here, so it is the engine.
row_verify_per_s            fresh rows of four regions parsed and verified with Ed25519, in a second of one core's time
idle_bytes_per_s            what a node sends when nothing happens, N = 1,000, UDP and IP headers included
digest_bytes_equal          what it takes to see that two nodes hold the same
digest_bytes_1pct_of_1000   all that is sent, the missing cells left out, until two nodes of 1,000 cells each, of which
                            one in a hundred differs, hold the same (median of 20 pairs)
copies_per_node             payloads sent over nodes, one publish, N = 1,000 around the world, 1 % loss
p99_stretch                 a publish's 99th percentile at N = 1,000 without loss over the same of direct packets
=========================== ==========================================================================================

The first two are times of this machine, taken from the process's own clock, the best of a few; all others depend on
the seed alone. `--quick` takes a tenth of the nodes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from hashlib import blake2b
from statistics import median

from lattice import canonical, wire
from lattice.antientropy import Reconciler
from lattice.cells import Cell, CellIndex, CellKind, Urgency
from lattice.config import Config
from lattice.events import DatagramReceived, HealthObserved, Input, LocalUpdate
from lattice.health import Observation, Report, Row, open_row, sign_row
from lattice.identity import Ed25519Signer, Ed25519Verifier
from lattice.key_ring import KeyRing
from lattice.prng import Prng
from lattice.seal import OVERHEAD_BYTES, Sealed
from lattice.types import MILLISECOND, SECOND, CellId, Level, Micros, NodeId
from lattice.wire import Delta, Message
from sim import inside
from sim.experiment import Experiment
from sim.scenario import Scenario, from_table
from tests.bench.swim import CLUSTER, Link, World

RING = KeyRing.of(bytes(range(32)))
REGIONS = ("ams", "fra", "iad")
UDP_IP_BYTES = 28
BUSY_NODES = 16


# --- the engine


@dataclass(frozen=True, slots=True)
class Recording:
    """What one engine of a busy cluster was given."""

    events: list[tuple[Input, Micros]]

    @property
    def datagrams(self) -> int:
        return sum(isinstance(event, DatagramReceived) for event, _ in self.events)


class Watched(World):
    """A cluster whose node 0 is listened to."""

    def __init__(self, count: int, seed: str) -> None:
        self.heard: list[tuple[Input, Micros]] | None = None
        super().__init__(count, Config(), Link(MILLISECOND, 3 * MILLISECOND), seed, lambda: Sealed(CLUSTER, RING))
        inside.settle(self.engines[0])  # its tables are plain ones, as in life

    def give(self, index: int, event: Input) -> None:
        if index == 0 and self.heard is not None:
            self.heard.append((event, self.now))
        super().give(index, event)

    def observe(self, index: int, level: Level) -> None:
        """A node sees a region of its own so, and three others well. What is news to the verdict is pushed at once."""
        seen = [Observation(f"own {index}", level, 20_000, 0, 0, self.now // 1_000, 50)]
        seen += [Observation(region, Level.HEALTHY, 20_000, 0, 0, EARLIER_MS, 50) for region in REGIONS]
        self.give(index, LocalUpdate(HealthObserved(tuple(seen))))


EARLIER_MS = 1_800_000_000_000


def record(nodes: int, changes: int) -> Recording:
    """Every 20 ms a node in turn sees its region fail, or die."""
    world = Watched(nodes, "busy")
    world.heard = []
    for index in range(nodes):
        world.observe(index, Level.HEALTHY)
    world.run(3 * SECOND)
    for change in range(changes):
        world.observe(change % nodes, Level.FAILING if change // nodes % 2 else Level.DOWN)
        world.run(20 * MILLISECOND)
    return Recording(world.heard)


def datagrams_per_s(recording: Recording) -> int:
    """Give an engine like the recorded one the same once more, and take the time."""
    best = None
    for _ in range(5):
        handle, events = Watched(BUSY_NODES, "busy").engines[0].handle, recording.events
        began = time.process_time_ns()
        for event, now in events:
            handle(event, now)
        took = time.process_time_ns() - began
        best = took if best is None else min(best, took)
    assert best is not None
    return recording.datagrams * 1_000_000_000 // best


def row_verify_per_s(rows: int) -> int:
    signer, verifier = Ed25519Signer(bytes(range(32)), CLUSTER), Ed25519Verifier(CLUSTER)
    signed = []
    for seq in range(1, rows + 1):
        reports = tuple(Report(region, Level.HEALTHY, 30, 0, 0, EARLIER_MS + seq, 40) for region in REGIONS)
        row = Row(signer.public_key, 1, seq, EARLIER_MS, 60_000, "site", ("10.0.0.1", 1), False, reports, ())
        signed.append(sign_row(row, signer).data)
    began = time.process_time_ns()
    for data in signed:
        open_row(data, verifier)
    return rows * 1_000_000_000 // (time.process_time_ns() - began)


# --- digests


def frame_bytes(message: Message) -> int:
    return len(wire.encode(message)) + OVERHEAD_BYTES


def cell(number: int) -> Cell:
    identity = CellId(blake2b(number.to_bytes(8, "big"), digest_size=16).digest())
    return Cell(identity, CellKind.OP, b"", Urgency.POLICY, (b"w" * 16, number))


def digest_bytes(cells: int, differing: int, seed: int) -> int:
    """All frames of the exchanges between two nodes until they are equal, the missing cells left out."""
    sides = []
    for side in range(2):
        index = CellIndex()
        for number in range(cells - differing // 2):
            index.add(cell(seed << 32 | number))
        for number in range(differing // 2):
            index.add(cell(seed << 32 | 1 << 24 | side << 16 | number))
        sides.append((index, Reconciler(index, Prng.seeded(f"{seed}/{side}"))))
    (left, asking), (right, answering) = sides
    here, there, now, sent = NodeId(b"l" * 16), NodeId(b"r" * 16), Micros(0), 0
    while left.root != right.root:
        compare = asking.open(there, now)
        digest = answering.compared(here, compare, now)
        assert digest is not None, "the roots differ, so some shard does"
        missing_there, back = asking.digested(there, digest, now)
        assert back is not None, "it was asked for"
        missing_here, _ = answering.digested(here, back, now)
        messages: tuple[Message, ...] = (compare, digest, back, Delta(left.root, ()), Delta(right.root, ()))
        sent += sum(map(frame_bytes, messages))
        for missing, index in ((missing_there, right), (missing_here, left)):
            for found in missing:
                index.add(found)
    return sent


def digest_bytes_equal() -> int:
    """What the root adds to a ping: equal roots end the matter."""
    return len(canonical.pack(CellIndex().root))


# --- large clusters, in the simulator


def around_the_world(nodes: int, loss: str, publish: bool, lasting_s: int = 10) -> Scenario:
    table = {
        "purpose": "one publish, or nothing at all, around the world",
        "duration": f"{lasting_s}s",
        "settle": "20s",
        "topology": {"nodes": nodes},
        "link": {"loss": loss},
        "checks": {"off": ["replay-is-nothing"]},
        "timeline": [{"at": "1s", "do": "publish"}] if publish else [],
    }
    return from_table("bench gossip", table)


def idle_bytes_per_s(nodes: int, seed: str) -> int:
    lasting_s = max(10, 10_000 // nodes)  # the same number of refreshed rows at any size
    experiment = Experiment(around_the_world(nodes, "0%", publish=False, lasting_s=lasting_s), seed)
    experiment.run()
    metrics = experiment.metrics
    sent = metrics.total_bytes() + UDP_IP_BYTES * sum(metrics.messages.values())
    return sent // (nodes * lasting_s)


def publish(nodes: int, loss: str, seed: str) -> dict[str, object]:
    """What became of one publish: see `sim.metrics.summary`."""
    return Experiment(around_the_world(nodes, loss, publish=True), seed).run().changes[0]


def unlucky(nodes: int, seed: str) -> dict[str, object]:
    """One publish, 5 % loss, and 2 % of the nodes dead for 10 ms, which nobody has noticed yet. `--unlucky`."""
    table = {
        "purpose": "one publish, with loss and the dead not noticed yet",
        "duration": "3200ms",
        "settle": "10ms",
        "topology": {"nodes": nodes},
        "link": {"loss": "5%"},
        "checks": {"off": ["replay-is-nothing"]},
        "timeline": [{"at": "990ms", "do": "crash", "nodes": nodes // 50}, {"at": "1s", "do": "publish"}],
    }
    changes = Experiment(from_table("bench gossip unlucky", table), seed).run().changes
    return next(change for change in changes if change["kind"] == "policy")


def long_publish(nodes: int, blocks: int, loss: str, seed: str) -> dict[str, object]:
    """One publish of so many statements of 230 bytes, four an op, and what a node sent in the two seconds of it, upkeep
    included. `--blocks`."""
    table = {
        "purpose": "one publish of many ops around the world",
        "duration": "2s",
        "settle": "20s",
        "topology": {"nodes": nodes},
        "link": {"loss": loss},
        "checks": {"off": ["replay-is-nothing"]},
        "timeline": [{"at": "0ms", "do": "publish", "blocks": blocks}],
    }
    experiment = Experiment(from_table("bench gossip long", table), seed)
    (change,) = experiment.run().changes
    metrics = experiment.metrics
    told = {name: change[name] for name in ("reached", "of", "p50_s", "p99_s", "p100_s", "floor_s")}
    return {
        **told,
        "bytes_per_node": metrics.total_bytes() // nodes,
        "frames_per_node": sum(metrics.messages.values()) // nodes,
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench gossip", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="a tenth of the nodes, a fifth of the changes")
    parser.add_argument("--unlucky", action="store_true", help="only: one publish, 5 %% loss, 2 %% dead unnoticed")
    parser.add_argument("--blocks", type=int, help="only: one publish of so many statements")
    parser.add_argument("--loss", default="0%", help="of --blocks")
    parser.add_argument("--nodes", type=int, default=1_000, help="of --unlucky and --blocks")
    parser.add_argument("--seed", default="0")
    told = parser.parse_args(argv)
    if told.unlucky:
        print(json.dumps(unlucky(told.nodes, told.seed)))
        return 0
    if told.blocks:
        print(json.dumps(long_publish(told.nodes, told.blocks, told.loss, told.seed)))
        return 0
    nodes, changes, pairs = (100, 300, 4) if told.quick else (1_000, 1_500, 20)
    recording = record(BUSY_NODES, changes)
    figures = {
        "datagrams_per_s": datagrams_per_s(recording),
        "row_verify_per_s": row_verify_per_s(500 if told.quick else 3_000),
        "idle_bytes_per_s": idle_bytes_per_s(nodes, told.seed),
        "digest_bytes_equal": digest_bytes_equal(),
        "digest_bytes_1pct_of_1000": int(median(digest_bytes(1_000, 10, seed) for seed in range(pairs))),
        "copies_per_node": publish(nodes, "1%", told.seed)["copies_per_node"],
        "p99_stretch": publish(nodes, "0%", told.seed)["stretch_p99"],
    }
    if told.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:27} {value}")
    return 0
