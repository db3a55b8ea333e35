"""When two nodes compare what they hold."""

from __future__ import annotations

import pytest

from lattice.answers import Answers
from lattice.antientropy import Reconciler
from lattice.cells import CellIndex
from lattice.config import Config
from lattice.events import SendDatagram, SendStream
from lattice.outbox import Outbox
from lattice.prng import Prng
from lattice.reconciliation import Reconciliation
from lattice.seal import Plain
from lattice.types import MILLISECOND, SECOND, Micros
from tests.lattice.cluster import CLUSTER, EPOCH
from tests.lattice.test_engine_swim import settled

TICK_US = 10 * MILLISECOND


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("peer_begins", [False, True])
def test_whose_parts_come_slowly_and_without_end_keeps_nobody_else_waiting_for_good(
    peer_begins: bool, many: int
) -> None:
    """Two parts 80 ms apart each second, with more to come, look like a narrow link, and each renewed the pair. Of
    fifteen exchanges with another peer none came about in a minute."""
    cluster = settled(6)
    config, swim, cells = Config(), cluster.engines[0]._swim, CellIndex()
    out = Outbox(cluster.engines[0].node, config, Plain(CLUSTER), Prng.seeded("pairs"), EPOCH)
    ours = Reconciliation(out, cells, swim, lambda _: False, tuple, Answers(config, out.count))
    hogs = [cluster.engines[index].node for index in range(1, 1 + many)]
    peer, endpoint = cluster.engines[5].node, cluster.endpoint(5)
    theirs = Reconciler(cluster.engines[5]._cells, Prng.seeded("theirs"), tuple)
    exchanges = 0
    for tick in range(60 * SECOND // TICK_US):
        out.now, out.effects = Micros(EPOCH + tick * TICK_US), []
        while out.timers.first <= out.now:
            ours.begin(bytes.fromhex(out.timers.pop().split()[1]))  # type: ignore[arg-type]
        for number, hog in enumerate(hogs):
            if (tick * TICK_US - number * 300 * MILLISECOND) % SECOND in (0, 80 * MILLISECOND):
                ours.compare(hog, bytes([1]) * 16)
                ours.brought(hog, left=1)
        if tick * TICK_US % (4 * SECOND) == 2_500 * MILLISECOND:
            if peer_begins:
                ours.compared(theirs.open(out.node, out.now, endpoint), peer, endpoint)
            else:
                ours.compare(peer, bytes([2]) * 16)
                ours.soon(peer)
        sent = [effect for effect in out.effects if isinstance(effect, SendDatagram | SendStream)]
        exchanges += sum(effect.target == endpoint for effect in sent)
    assert exchanges >= (4 if peer_begins else 9)
