"""`python -m tests.bench heal [--json] [--nodes N]`: what it takes two halves of a cluster to agree again.

The state of a cluster that has been cut in two for ten minutes is made, not waited for: everybody holds the other
half's members as down, each with an endpoint that is called every 30 s or so, and every row has changed since (ten
regions each), so that all rows differ. Then the cut ends, and real engines do the rest, in virtual time, over links of
1 to 60 ms each way.

*The difference* is what each node lacks of the other half, cell by cell, at the moment the cut ends; *sent* is every
byte of every frame from then on until all are equal, less what the same seconds cost an idle cluster.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from lattice.config import Config
from lattice.engine import Engine
from lattice.events import HealthObserved, LocalUpdate, SetTimer, TimerFired
from lattice.health import Observation, SignedRow
from lattice.membership import MemberState
from lattice.prng import Prng
from lattice.types import MILLISECOND, SECOND, Level, Micros
from sim import inside
from tests.bench.swim import LIFEGUARD, Link, World

REGIONS = tuple(f"region-{number:02}" for number in range(10))
HORIZON_US = 3_600 * SECOND


class Halves(World):
    """Two halves that have forgotten each other's news."""

    def _converge(self, seed: str) -> None:
        prng = Prng.seeded(f"{seed}/halves")
        count = len(self.engines)
        ids = [engine.node for engine in self.engines]
        alive = [
            inside.member_record(engine, f"site-{index}", f"{index % 4},0", self.endpoint(index), self.now)
            for index, engine in enumerate(self.engines)
        ]
        down = [replace(member, state=MemberState.DOWN) for member in alive]
        halves = [[index for index in range(count) if index % 2 == side] for side in range(2)]
        crowds = []
        for side, half in enumerate(halves):
            others = halves[1 - side]
            crowd = inside.Crowd([alive[index] for index in half], prng.shuffled([ids[index] for index in half]))
            crowd.remember([down[index] for index in others])
            crowds.append(crowd)
            for index in half:
                crowd.introduce(self.engines[index], prng.below(len(half)))
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
            for index in half:
                engine = self.engines[index]
                inside.graft(engine, base, Micros(self.now + prng.below(HORIZON_US)))
                inside.lose(engine, [down[other] for other in halves[1 - side]], prng)
                crowds[side].gather(engine)
                self._perform(index, [SetTimer(inside.earliest_timer(engine))])


def row_of(engine: Engine) -> SignedRow:
    row = inside.row_of(engine)
    assert row is not None, "a started engine has a row"
    return row


def heal(nodes: int, config: Config, link: Link, seed: str, at_most_us: int = 20 * SECOND) -> dict[str, object]:
    world = Halves(nodes, config, link, seed)
    assert len({inside.root_of(engine) for engine in world.engines}) == 2, "two halves"
    began = world.now
    met: Micros | None = None
    known: Micros | None = None
    equal: Micros | None = None
    while world.now - began < at_most_us:
        world.run(20 * MILLISECOND)
        if met is None and len({inside.root_of(engine) for engine in world.engines}) > 2:
            met = world.now
        if known is None and all(len(inside.present_nodes(engine)) == nodes - 1 for engine in world.engines):
            known = world.now
        if equal is None and known and len({inside.root_of(engine) for engine in world.engines}) == 1:
            equal = world.now
            break
    figures: dict[str, object] = {
        "nodes": nodes,
        "contact_ms": None if met is None else (met - began) // MILLISECOND,
        "all_known_ms": None if known is None or met is None else (known - met) // MILLISECOND,
        "equal_ms": None if equal is None or met is None else (equal - met) // MILLISECOND,
        "lacking_bytes_per_node": world.lacking_bytes // nodes,
        "sent_bytes_per_node": world.bytes // nodes,
        "times_the_difference": round(world.bytes / world.lacking_bytes, 2),
    }
    from collections import Counter

    total: Counter[str] = Counter()
    for engine in world.engines:
        total.update(engine.counters())
    print({k: v // nodes for k, v in total.items()})
    return figures


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench heal", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--seed", default="0")
    told = parser.parse_args(argv)
    figures = heal(told.nodes, LIFEGUARD, Link(), told.seed)
    if told.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:27} {value}")
    return 0
