"""`python -m tests.bench heal [--json] [--nodes N]`: what it takes two halves of a cluster to agree again.

The state of a cluster that has been cut in two for ten minutes is made, not waited for: everybody holds the other
half's members as down, each with an endpoint that is called every 30 s or so, and every row has changed since (ten
regions each), so that all rows differ. Then the cut ends, and real engines do the rest, in virtual time, over links of
1 to 60 ms each way.

*The difference* is what each node lacks of the other half, cell by cell, at the moment the cut ends; *sent* is every
byte of every frame from then on until all are equal: envelopes, probes, comparisons and what came twice included. With
`--ops N` an author on each side has meanwhile published half of N changes of policy, too.

*A pair* is two nodes alone, each with half of 10,000 cells that the other lacks, and the link between them; or with all
but a few in common.
"""

from __future__ import annotations

import argparse
import json
from hashlib import blake2b

from msgspec.structs import replace

from lattice.antientropy import Reconciler
from lattice.authoring import compose
from lattice.batching import Load
from lattice.cells import Cell, CellIndex, CellKind, Urgency
from lattice.config import Config
from lattice.engine import Engine
from lattice.events import HealthObserved, LocalUpdate, TimerFired
from lattice.health import Observation, SignedRow
from lattice.identity import author_id_of
from lattice.membership import MemberState
from lattice.pacing import affordable
from lattice.policy_store import PolicyStore
from lattice.prng import Prng
from lattice.types import MILLISECOND, SECOND, CellId, Level, Micros, NodeId
from lattice.wire import Delta
from sim import inside
from sim.signing import KeyedSigner, KeyedVerifier
from tests.bench.gossip import frame_bytes
from tests.bench.swim import EPOCH, LIFEGUARD, Link, World

REGIONS = tuple(f"region-{number:02}" for number in range(10))
HORIZON_US = 3_600 * SECOND


class Halves(World):
    """Two halves that have forgotten each other's news."""

    def __init__(self, count: int, config: Config, link: Link, seed: str, ops: int) -> None:
        self.operators = [KeyedSigner(f"operator {side}") for side in range(2)]
        authors = [author_id_of(operator.public_key) for operator in self.operators]
        self.published = [published(operator, ops // 2) for operator in self.operators]
        super().__init__(count, config, link, seed, authors=authors)

    def _converge(self, seed: str) -> None:
        prng = Prng.seeded(f"{seed}/halves")
        count = len(self.engines)
        alive = [
            inside.member_record(engine.node, f"site-{index}", f"{index % 4},0", self.endpoint(index), self.now)
            for index, engine in enumerate(self.engines)
        ]
        down = [replace(member, state=MemberState.DOWN, seq=1) for member in alive]  # only its first row was heard
        halves = [[index for index in range(count) if index % 2 == side] for side in range(2)]
        crowds = []
        for side, half in enumerate(halves):
            others = halves[1 - side]
            crowd = inside.Crowd([alive[index] for index in half])
            crowd.remember([down[index] for index in others])
            crowds.append(crowd)
            for index in half:
                crowd.introduce(self.engines[index])
                self.engines[index].handle(TimerFired(), self.now)
        old = [row_of(engine) for engine in self.engines]
        for engine in self.engines:
            seen = tuple(Observation(region, Level.HEALTHY, 20_000, 0, 0, self.now // 1_000, 50) for region in REGIONS)
            engine.handle(LocalUpdate(HealthObserved(seen)), self.now)
        new = [row_of(engine) for engine in self.engines]
        assert not {row.cell for row in old} & {row.cell for row in new}, "every row has changed"
        self.lacking_bytes = 0
        for side, half in enumerate(halves):
            rows = [new[index] if index % 2 == side else old[index] for index in range(count)]
            base = inside.Base(rows, self.now, Micros(self.now + HORIZON_US))
            self.lacking_bytes += len(half) * sum(len(new[index].data) for index in halves[1 - side])
            self.lacking_bytes += len(half) * sum(map(len, self.published[1 - side]))
            for index in half:
                engine = self.engines[index]
                inside.graft(engine, base, Micros(self.now + prng.below(HORIZON_US)))
                inside.lose(engine, [down[other] for other in halves[1 - side]], prng)
                crowds[side].gather(engine)
                inside.hand_ops(engine, self.published[side])
                self._arm(index)


def published(operator: KeyedSigner, count: int) -> list[bytes]:
    """So many ops of one author, each a change of one route of its policy."""
    author = author_id_of(operator.public_key)
    store, ops = PolicyStore([author], KeyedVerifier()), list[bytes]()
    while len(ops) < count:
        statement = f"route r{len(ops) % 20} of {author.hex()} {len(ops)}\n"
        for op in compose(
            operator,
            store.chain(author),
            author.hex(),
            [statement],
            message="",
            now_ms=EPOCH // 1_000,
            supersedes=store.context(author.hex()),
            blocks_known=store.blocks_known(author),
        ).ops:
            store.admit(op.data)
            ops.append(op.data)
    return ops


def row_of(engine: Engine) -> SignedRow:
    row = inside.row_of(engine)
    assert row is not None, "a started engine has a row"
    return row


def heal(
    nodes: int, config: Config, link: Link, seed: str, ops: int = 0, at_most_us: int = 20 * SECOND
) -> dict[str, object]:
    world = Halves(nodes, config, link, seed, ops)
    assert len({inside.root_of(engine) for engine in world.engines}) == 2, "two halves"
    began = world.now
    met: Micros | None = None
    equal: Micros | None = None
    while world.now - began < at_most_us:
        world.run(20 * MILLISECOND)
        if met is None and len({inside.root_of(engine) for engine in world.engines}) > 2:
            met = world.now
        if len({inside.root_of(engine) for engine in world.engines}) == 1:
            equal = world.now
            break
    return {
        "nodes": nodes,
        "cells": nodes + sum(map(len, world.published)),
        "contact_ms": None if met is None else (met - began) // MILLISECOND,
        "equal_ms": None if equal is None or met is None else (equal - met) // MILLISECOND,
        "lacking_bytes_per_node": world.lacking_bytes // nodes,
        "sent_bytes_per_node": world.bytes // nodes,
        "times_the_difference": round(world.bytes / world.lacking_bytes, 2),
    }


# --- two nodes


def pair(cells: int, cell_bytes: int, shared: int = 0) -> dict[str, object]:
    """Two nodes that each lack half of so many cells, and have others in common: what the link between them carries."""
    sides = [CellIndex(), CellIndex()]
    padding = bytes(cell_bytes)
    for number in range(cells + shared):
        identity = CellId(blake2b(number.to_bytes(8, "big"), digest_size=16).digest())
        cell = Cell(identity, CellKind.OP, padding, Urgency.POLICY, (b"w" * 16, number))
        for side in (0, 1) if number >= cells else (number % 2,):
            sides[side].add(cell)
    left, right = (Reconciler(index, Prng.seeded(str(side))) for side, index in enumerate(sides))
    here, there, now, sent, rounds = NodeId(b"l" * 16), NodeId(b"r" * 16), Micros(0), 0, 0
    while sides[0].root != sides[1].root:
        compare = left.open(there, now)
        digest = right.compared(here, compare, now)
        assert digest is not None, "the roots differ, so some shard does"
        for_right, back = left.digested(there, digest, now)
        assert back is not None, "it was asked for"
        for_left, _ = right.digested(here, back, now)
        sent += frame_bytes(compare) + frame_bytes(digest) + frame_bytes(back)
        for found, giver, taker in ((for_right, 0, 1), (for_left, 1, 0)):
            given = affordable(found, LIFEGUARD.delta_bytes_max)
            for batch in Load(LIFEGUARD.datagram_bytes_max, given).batches(lambda cell: 0):
                sent += frame_bytes(Delta(sides[giver].root, batch))
            for cell in given:
                sides[taker].add(cell)
        rounds += 1
    return {
        "cells": cells,
        "shared": shared,
        "rounds": rounds,
        "sent_bytes": sent,
        "times_the_difference": round(sent / (cells * cell_bytes), 3),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench heal", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--ops", type=int, default=0, help="changes of policy during the partition")
    parser.add_argument("--loss-ppm", type=int, default=0, help="of a million datagrams so many are lost")
    parser.add_argument("--seed", default="0")
    told = parser.parse_args(argv)
    figures = {
        "cluster": heal(told.nodes, LIFEGUARD, Link(loss_ppm=told.loss_ppm), told.seed, told.ops),
        "pair": pair(10_000, 250),
        "pair_with_one_difference": pair(1, 250, shared=9_999),
        "pair_with_20_differences": pair(20, 250, shared=9_980),
        "pair_of_the_like": pair(100, 250, shared=9_900),
        "pair_of_large_stores": pair(10_000, 250, shared=40_000),
    }
    if told.json:
        print(json.dumps(figures))
    else:
        for part, lines in figures.items():
            print(part, *(f"{name}={value}" for name, value in lines.items()))
    return 0
