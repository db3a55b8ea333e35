"""A node that publishes to itself: ``python -m tests.lattice.persisting_node FILE STEP PORT [HASTY]``.

It is the real driver on a real socket, and greets whoever listens at PORT of this machine (0: nobody). It says ``ack OP
SEQ`` when it was told that an op is durable: what it said, and what it sent, must be true for ever. It ends itself
without warning before statement number STEP that it gives to sqlite (0: never). With HASTY as a fourth argument it does
not wait for the disk, which the tests must notice.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import trio

from lattice.config import Config
from lattice.driver import Driver
from lattice.engine import Engine
from lattice.events import OpsSubmitted, PeerDiscovered
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.prng import Prng
from lattice.seal import Plain
from lattice.store import Store
from lattice.transport import Clock, bind
from lattice.types import MILLISECOND
from lattice.writer import Writer
from tests.lattice.cluster import CLUSTER, OPERATOR, signer_of
from tests.lattice.publishing import compose_at, compose_checkpoint_at

CHECKPOINT_EVERY = 7
CONFIG = Config(redial_us=5 * MILLISECOND, redial_max_us=5 * MILLISECOND)


async def main() -> None:
    path, step, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if sys.argv[4:]:
        Writer.holds = lambda *_: False  # type: ignore[method-assign]
        Writer.is_durable = lambda *_: True  # type: ignore[method-assign]
    store = Store(path)
    if step:
        numbers = count(1)
        store._database.set_trace_callback(lambda _: None if next(numbers) < step else _die())
    clock, transport = Clock(), await bind("127.0.0.1", 0)
    engine = Engine(
        config=CONFIG,
        site="ams",
        endpoint=transport.endpoint,
        signer=signer_of("node 0"),
        verifier=Ed25519Verifier(CLUSTER),
        seal=Plain(CLUSTER),
        authors=[author_id_of(OPERATOR.public_key)],
        prng=Prng.seeded("0"),
        now=clock.now(),
    )
    driver = Driver(engine, transport, store, clock, lambda _: None, CONFIG.frame_bytes_max)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        if port:
            await driver.submit(PeerDiscovered(("127.0.0.1", port)))
        print("life", next(member.incarnation for member in driver.view().members), flush=True)
        for number in count(1):
            compose = compose_checkpoint_at if number % CHECKPOINT_EVERY == 0 else compose_at
            ops = compose(driver.policy, number, clock.now() // 1_000)
            answer = await driver.call(OpsSubmitted(tuple(op.data for op in ops)))
            assert answer.durable
            for op in ops:
                assert op.id in driver.policy
                print("ack", op.id.hex(), op.op.seq, flush=True)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(main)
