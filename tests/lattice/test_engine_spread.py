"""How far, how fast and at what price cells travel: rumours, anti-entropy, streams, and what must not be a storm."""

from __future__ import annotations

from collections import Counter

import pytest

from lattice import policy_chains, wire
from lattice.authoring import compose
from lattice.cells import CellKind
from lattice.config import Config
from lattice.dissemination import Flood
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    LocalUpdate,
    Notify,
    OpAccepted,
    OpsSubmitted,
    PeerDiscovered,
    Persist,
    PolicyChanged,
    Restored,
    TimerFired,
)
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.seal import Plain
from lattice.types import MILLISECOND, SECOND, Endpoint, Level
from lattice.wire import Delta, Rumour, WireCell
from tests.lattice.cluster import CLUSTER, OPERATOR, Cluster, cut, lossy, reliable, signer_of


def settled(count: int) -> Cluster:
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 5 * SECOND)
    return cluster


def counted(cluster: Cluster) -> Counter[str]:
    return sum((Counter(engine.counters()) for engine in cluster.engines), Counter())


def test_a_publish_at_one_node_serves_at_all_in_one_hop() -> None:
    cluster = settled(5)
    version = cluster.publish(3, "route a {}\n")
    cluster.run(2 * MILLISECOND)
    assert set(cluster.serving()) == {version}
    notes = [(index, note.version) for _, index, note in cluster.notified if isinstance(note, PolicyChanged)]
    assert sorted(notes) == [(index, version) for index in range(5)]
    assert sum(isinstance(note, OpAccepted) for _, _, note in cluster.notified) == 5
    cluster.run(10 * SECOND)
    assert cluster.equal()


def test_a_statement_larger_than_a_datagram_goes_by_stream() -> None:
    cluster = settled(3)
    before = cluster.datagrams, cluster.bytes
    version = cluster.publish(0, "# " + "x" * 15_000 + "\n")
    cluster.run(10 * MILLISECOND)
    assert set(cluster.serving()) == {version}
    assert cluster.bytes - before[1] > 2 * 15_000, "and not a byte of it by datagram: the harness refuses those"
    cluster.publish(1, *(f"# {number} " + "y" * 3_000 + "\n" for number in range(10)))
    cluster.run(20 * MILLISECOND)  # each op has relays of its own, who pass it on when they have the one before
    assert len(set(cluster.serving())) == 1
    assert set(cluster.serving()) != {version}


def test_what_rumours_miss_anti_entropy_brings() -> None:
    cluster = settled(3)
    cluster.judge = cut(([0], [1, 2]))
    version = cluster.publish(0, *(f"route r{number} {{ {'x' * 600} }}\n" for number in range(8)))
    cluster.run(100 * MILLISECOND)
    cluster.judge = reliable
    cluster.run_until(lambda: set(cluster.serving()) == {version}, 3 * SECOND)
    assert cluster.equal()


def test_a_newcomer_catches_up_with_a_long_history() -> None:
    cluster = settled(2)
    for number in range(150):
        cluster.publish(0, f"route r{number} {{}}\n", f"# {'x' * 400} {number}\n")
    cluster.run(2 * SECOND)
    cluster.crash(1)
    cluster.restart(1, disk_lost=True)
    cluster.give(1, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    took = cluster.run_until(cluster.equal, 20 * SECOND)
    assert took <= 5 * SECOND
    assert cluster.engines[1].view().cells >= 150


def test_a_restored_history_is_whole_however_the_disk_orders_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records come sorted by hash. More of them than may wait for predecessors must not be lost."""
    monkeypatch.setattr(policy_chains, "WAITING_MAX", 4)
    cluster = Cluster(1)
    for number in range(30):
        cluster.publish(0, f"route r{number} {{}}\n")
    before = cluster.engines[0].view()
    cluster.crash(0)
    cluster.restart(0)
    after = cluster.engines[0].view()
    assert after.policies == before.policies
    assert after.cells == before.cells
    assert not [name for name in cluster.engines[0].counters() if name.startswith("restore")]


def test_what_was_restored_is_neither_written_nor_told_again() -> None:
    """A long history must not cost a write and a compilation of every version that ever served."""
    cluster = Cluster(1)
    for number in range(5):
        cluster.publish(0, f"route r{number} {{}}\n")
    records = tuple((table, key, value) for (table, key), value in sorted(cluster.disks[0].items()))
    engine = cluster._engine(0, 1)
    effects = engine.handle(Restored(records), cluster.now)
    assert not [effect for effect in effects if isinstance(effect, Persist)]
    told = [effect.notification for effect in effects if isinstance(effect, Notify)]
    assert told == [PolicyChanged("default", engine.view().policies[0].version)]
    assert engine.view().policies == cluster.engines[0].view().policies


def test_a_restored_op_is_checked_again() -> None:
    cluster = Cluster(2)
    cluster.publish(0, "route a {}\n")
    stolen = tuple((table, key, value) for (table, key), value in cluster.disks[0].items() if table == "op")
    other = Cluster(1, authors={0: [author_id_of(signer_of("another").public_key)]})
    engine = other._engine(0, 0)
    engine.handle(Restored(stolen), other.now)
    engine.handle(TimerFired(), other.now)
    assert engine.view().policies == ()
    assert engine.counters()["restore: author without capability"] == len(stolen)


# --- no storms


def test_nodes_that_refuse_each_others_ops_stay_calm() -> None:
    """Different lists of authors: the roots never become equal, and nothing may spin on that."""
    authors = {1: [author_id_of(signer_of("another").public_key)]}
    cluster = Cluster(3, authors=authors)
    cluster.introduce_all()
    cluster.run(5 * SECOND)
    cluster.publish(0, "route a {}\n", "# " + "x" * 3_000 + "\n")
    cluster.run(5 * SECOND)
    before, seconds = counted(cluster), 60
    cluster.run(seconds * SECOND)
    during = counted(cluster) - before
    assert cluster.serving() == [cluster.serving()[0], None, cluster.serving()[0]]
    assert not cluster.equal()
    pings = 3 * seconds * SECOND // Config().swim_interval_us
    assert 0 < during["out Compare"] <= pings, "at most one a ping"
    assert during["bytes out"] <= 3 * seconds * 8_192


def test_an_idle_cluster_is_quiet() -> None:
    cluster = settled(8)
    for index in range(8):
        cluster.observe(index, fra=Level.HEALTHY, iad=Level.HEALTHY)
    cluster.run(20 * SECOND)
    before = cluster.bytes
    cluster.run(60 * SECOND)
    assert (cluster.bytes - before) / (8 * 60) < 2_048, "bytes a node and second"


def test_equal_nodes_do_not_reconcile() -> None:
    cluster = settled(4)
    cluster.run(30 * SECOND)
    before = counted(cluster)
    cluster.run(60 * SECOND)
    assert (counted(cluster) - before)["out Compare"] <= 6, "only when a refreshed row is just under way"


# --- size


def test_fifty_nodes_meet_within_seconds_and_within_budget() -> None:
    cluster = Cluster(50)
    cluster.introduce_all()
    took = cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND, step_us=100 * MILLISECOND)
    assert took <= 6 * SECOND
    assert cluster.bytes <= 50 * 250_000


def test_twenty_nodes_on_a_bad_wire_become_equal_all_the_same() -> None:
    cluster = Cluster(20, judge=lossy)
    cluster.introduce_all()
    cluster.run(10 * SECOND)
    for index in range(20):
        cluster.observe(index, fra=Level.DOWN, iad=Level.HEALTHY)
    version = cluster.publish(7, "route a {}\n")
    cluster.run_until(
        lambda: set(cluster.serving()) == {version} and set(cluster.verdicts("fra")) == {Level.DOWN},
        10 * SECOND,
        step_us=100 * MILLISECOND,
    )


@pytest.mark.parametrize("strategy", [None, Flood])
def test_strategies_are_interchangeable(strategy: type[Flood] | None) -> None:
    cluster = Cluster(8, strategy=strategy)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    version = cluster.publish(0, "route a {}\n")
    cluster.run_until(lambda: set(cluster.serving()) == {version}, 3 * SECOND)


def test_ops_may_be_handed_in_twice_and_out_of_order() -> None:
    cluster = settled(2)
    ops, version = cluster.composed(0, *(f"route r{number} {{ {'x' * 600} }}\n" for number in range(4)))
    data = tuple(op.data for op in ops)
    cluster.give(0, LocalUpdate(OpsSubmitted((*reversed(data), *data))))
    cluster.run(SECOND)
    assert cluster.serving() == [version] * 2


def test_nodes_on_wildcard_sockets_meet_though_their_rows_take_a_stream() -> None:
    """The introduction is too large for a datagram, so it comes from a connection's port, where nobody listens."""
    cluster = Cluster(3, wildcard=True)
    for index in range(3):
        cluster.observe(index, **{f"region-{number:03}": Level.HEALTHY for number in range(80)})
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 20 * SECOND)
    own = [cluster.endpoint(index) for index in range(3)]
    cluster.run_until(lambda: [address_of(engine) for engine in cluster.engines] == own, 20 * SECOND)


def address_of(engine: Engine) -> Endpoint:
    return next(member.endpoint for member in engine.view().members if member.node == engine.node)


def test_ops_that_one_node_refuses_do_not_starve_the_others_it_lacks() -> None:
    """A joiner that knows one of two authors gets that one's policy, though the other's ops fill every delta."""
    stranger = signer_of("another operator")
    both = [author_id_of(OPERATOR.public_key), author_id_of(stranger.public_key)]
    cluster = Cluster(2, authors={0: both})
    store = cluster.engines[0].policy
    for number in range(12):
        blocks = [f"# {number} {index}\n" + "x" * 9_000 for index in range(3)]
        chain = store.chain(author_id_of(stranger.public_key))
        composed = compose(stranger, chain, "theirs", blocks, message="", now_ms=number + 1)
        cluster.give(0, LocalUpdate(OpsSubmitted(tuple(op.data for op in composed.ops))))
    ours = cluster.publish(0, "route a {}\n")
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.serving()[1] == ours, 60 * SECOND)
    cluster.run(60 * SECOND)
    before = cluster.bytes
    cluster.run(30 * SECOND)
    assert cluster.bytes - before < 30 * 2 * 3_000, "what is refused is not sent again and again"


def test_the_signature_of_a_cell_that_is_held_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago it was, and whoever sends it: what a verifier remembers is bounded."""
    cluster = Cluster(3)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    cluster.publish(0, "route a {}\n")
    cluster.run(2 * SECOND)
    engine, asked = cluster.engines[1], list[bytes]()
    held = [WireCell(cell.kind, cell.data) for cell in engine._cells._cells.values()]
    assert {cell.kind for cell in held} == {CellKind.ROW, CellKind.OP}
    verify = Ed25519Verifier.verify

    def counting(self: Ed25519Verifier, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        asked.append(purpose)
        return verify(self, public_key, purpose, payload, signature)

    monkeypatch.setattr(Ed25519Verifier, "verify", counting)
    for message in (Rumour(tuple(held)), Delta(bytes(16), tuple(held))):
        frame = Plain(CLUSTER).close(cluster.engines[2].node, wire.encode(message), cluster.now)
        cluster.give(1, DatagramReceived(frame, cluster.endpoint(2)))
    assert asked == []
    op = next(cell.data for cell in held if cell.kind is CellKind.OP)
    altered = WireCell(CellKind.OP, op[:-1] + bytes([op[-1] ^ 1]))
    frame = Plain(CLUSTER).close(cluster.engines[2].node, wire.encode(Rumour((altered,))), cluster.now)
    cluster.give(1, DatagramReceived(frame, cluster.endpoint(2)))
    assert len(asked) == 1, "one that is not the same to the last byte is"
    assert engine.counters()["op rejected: bad op signature"] == 1
