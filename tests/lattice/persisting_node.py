"""A node that publishes to itself and writes down what it must: ``python -m tests.lattice.persisting_node FILE STEP``.

It says ``life INCARNATION`` when its incarnation is durable, and ``ack OP`` when an op is: what it said must be true
for ever. It ends itself without warning before statement number STEP that it gives to sqlite (0: never).
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

from lattice.config import Config
from lattice.engine import Engine
from lattice.events import Input, LocalUpdate, OpsSubmitted, Persist, Restored, TimerFired
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.prng import Prng
from lattice.seal import Plain
from lattice.store import Store
from lattice.types import Micros
from tests.lattice.cluster import CLUSTER, EPOCH, OPERATOR, signer_of
from tests.lattice.publishing import compose_at, compose_checkpoint_at

CHECKPOINT_EVERY = 7


def main() -> None:
    path, step = Path(sys.argv[1]), int(sys.argv[2])
    store = Store(path)
    if step:
        numbers = count(1)
        store._database.set_trace_callback(lambda _: None if next(numbers) < step else _die())
    engine = Engine(
        config=Config(),
        site="ams",
        endpoint=("10.0.0.1", 1),
        signer=signer_of("node 0"),
        verifier=Ed25519Verifier(CLUSTER),
        seal=Plain(CLUSTER),
        authors=[author_id_of(OPERATOR.public_key)],
        prng=Prng.seeded("0"),
        now=EPOCH,
    )
    now = iter(Micros(EPOCH + number) for number in count())

    def give(event: Input) -> None:
        store.write([effect for effect in engine.handle(event, next(now)) if isinstance(effect, Persist)])

    give(Restored(store.read()))
    give(TimerFired())
    print("life", next(member.incarnation for member in engine.view().members), flush=True)
    for number in count(1):
        ops = (compose_checkpoint_at if number % CHECKPOINT_EVERY == 0 else compose_at)(engine.policy, number)
        give(LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))))
        for op in ops:
            assert op.id in engine.policy
            print("ack", op.id.hex(), op.op.seq, flush=True)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
