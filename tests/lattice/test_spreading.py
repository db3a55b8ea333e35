"""What one node sends on: bounded for each writer, in company, the urgent first, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from lattice import antientropy, batching, wire
from lattice.cells import Cell, CellKind, Shards, Urgency
from lattice.config import Config
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    HealthObserved,
    Input,
    LocalUpdate,
    Notification,
    OpsSubmitted,
    PeerDiscovered,
    SendDatagram,
    TimerFired,
)
from lattice.health import Observation, Report, sign_row
from lattice.seal import HEADER_BYTES, Plain
from lattice.spreading import WIDE_OPS
from lattice.types import MILLISECOND, SECOND, Endpoint, Level, Micros
from lattice.wire import Delta, Graft, Heal, IHave, Message, Rumour, WireCell
from tests.lattice.cluster import CLUSTER, Cluster, cut, reliable, signer_of


def settled(count: int, config: Config | None = None, seed: str = "0") -> Cluster:
    cluster = Cluster(count, seed, config=config)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    return cluster


def counted(cluster: Cluster) -> Counter[str]:
    return sum((Counter(engine.counters()) for engine in cluster.engines), Counter())


def sent(engine: Engine, cluster: Cluster, event: Input, later_us: int = 0) -> list[Message]:
    """What one input makes a node of a plain cluster send, by datagram."""
    effects = engine.handle(event, Micros(cluster.now + later_us))
    frames = [effect.data for effect in effects if isinstance(effect, SendDatagram)]
    return [wire.decode(frame[HEADER_BYTES:], 1 << 16) for frame in frames]


# --- no storm


def test_one_sick_node_is_passed_on_at_a_bounded_rate_and_the_others_as_ever() -> None:
    """It changes its mind 100 times a second for ten seconds: burst + rate × time of it travel, the rest is joined."""
    config = Config(rumours_per_s=5, rumours_burst=20)
    cluster = settled(6, config)
    before = counted(cluster)
    for number in range(1_000):
        cluster.observe(0, fra=Level.DOWN if number % 2 else Level.FAILING, iad=Level.HEALTHY)
        cluster.run(10 * MILLISECOND)
        if number == 500:
            cluster.observe(3, nrt=Level.DOWN, iad=Level.HEALTHY)
            cluster.run(10 * MILLISECOND)
            assert all(engine._health.table.tally("nrt") for engine in cluster.engines), "others are heard at once"
    during = counted(cluster) - before
    assert during["rumours over a writer's rate"] >= 900
    assert during["out Rumour"] <= 6 * (20 + 5 * 11) * 2, "of a thousand changes, to five others"
    cluster.run(3 * SECOND)
    assert cluster.equal(), "and what was not passed on, anti-entropy brought"


def test_a_storm_is_one_without_the_bound() -> None:
    cluster = settled(6, Config(rumours_per_s=1_000_000, rumours_burst=1_000_000))
    before = counted(cluster)
    for number in range(300):
        cluster.observe(0, fra=Level.DOWN if number % 2 else Level.FAILING, iad=Level.HEALTHY)
        cluster.run(10 * MILLISECOND)
    assert (counted(cluster) - before)["out Rumour"] >= 300 * 5


def test_an_author_is_passed_on_at_a_bounded_rate_too() -> None:
    cluster = settled(3, Config(rumours_per_s=1, ops_burst=5))
    before = counted(cluster)
    for number in range(20):
        cluster.publish(0, f"route r{number} {{}}\n")
    cluster.run(100 * MILLISECOND)
    assert (counted(cluster) - before)["rumours over a writer's rate"] == 15


def test_a_long_publish_goes_out_whole_and_nothing_is_left_to_comparing() -> None:
    cluster = settled(5)
    before = counted(cluster)
    cluster.publish(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(130)))
    cluster.run(500 * MILLISECOND)
    assert cluster.equal()
    during = counted(cluster) - before
    assert not during["rumours over a writer's rate"]
    assert not during["out Delta"]


def test_what_costs_more_than_there_is_follows_and_is_not_sent_twice() -> None:
    """Twenty ops of a KiB at 10 kB/s. Whoever compares meanwhile is not sent what it will be sent in any case, but for
    one that was on its way when it said what it has (in 7 of 60 seeds)."""
    cluster = settled(2, Config(rumour_bytes_burst=1_000, rumour_bytes_per_s=10_000))
    cluster.run(SECOND)
    before = counted(cluster)
    cluster.publish(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(20)))
    cluster.run(SECOND)
    assert not cluster.equal()
    assert len(cluster.engines[0]._spreading._line) > 5
    cluster.run_until(cluster.equal, 3 * SECOND)
    during = counted(cluster) - before
    assert during["reconciliations begun"], "else nothing was shown"
    assert during["in Rumour"] * 1_000 <= sum(len(op) for op in cluster.engines[0].policy.ops()) * 2
    assert during["out Delta"] <= 1


@pytest.mark.parametrize(("message", "level"), [(Heal, Level.HEALTHY), (Rumour, Level.DOWN)])
def test_who_has_us_pass_on_for_ever_what_does_not_wait_keeps_no_policy_from_going(
    message: type[Heal | Rumour], level: Level
) -> None:
    """A member's new rows, each said to be from beyond a partition or that regions are down, go at once, whatever they
    cost."""
    cluster = settled(6, Config(rumour_bytes_burst=10_000, rumour_bytes_per_s=10_000))
    liar, victim = cluster.engines[0], cluster.engines[1]
    held = victim._health.table.get(liar.node)
    assert held is not None
    cluster.crash(0)
    reports = tuple(Report(f"region-{number:03d}", level) for number in range(120))
    before = counted(cluster)
    for number in range(300):
        row = replace(held.signed.row, seq=1_000_000 + number, reports=reports)
        passed_on = message((WireCell(CellKind.ROW, sign_row(row, signer_of("node 0")).data),))
        frame = Plain(CLUSTER).close(liar.node, wire.encode(passed_on), cluster.now)
        cluster.give(1, DatagramReceived(frame, cluster.endpoint(0)))
        if number == 150:
            cluster.publish(1, "route a {}\n")
        cluster.run(10 * MILLISECOND)
    assert (counted(cluster) - before)[f"out {message.__name__}"] > 100, "else it was asked for nothing"
    assert all(engine.policy.ops() for engine in cluster.living())


# --- company


def test_cells_with_the_same_next_hops_share_datagrams() -> None:
    cluster = settled(2)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 900} }}\n" for number in range(3)))
    several, _ = cluster.composed(0, *(f"route s{number} {{}}\n" for number in range(9)))
    assert len(ops) > 3, "a statement of a KiB is an op of its own"
    assert len(several) < 9, "small ones share an op"
    before = counted(cluster)
    cluster.publish(0, *(f"route r{number} {{ {'x' * 300} }}\n" for number in range(12)))
    cluster.run(100 * MILLISECOND)
    during = counted(cluster) - before
    assert during["in Rumour"] * 1_000 <= sum(len(op) for op in cluster.engines[0].policy.ops()) * 2


@pytest.mark.parametrize(("delay_us", "few"), [(20 * MILLISECOND, True), (1, False)])
def test_announcements_to_one_peer_wait_for_company(delay_us: int, few: bool) -> None:
    """Each op has announcement trees of its own, and of two nodes one is the root of each: both are handed every op, so
    one at least announces it."""
    cluster = settled(2, Config(announce_delay_us=delay_us))
    cluster.run(SECOND)
    cluster.judge = lambda source, target, prng: []  # nothing arrives, so nothing is answered
    before = counted(cluster)["out IHave"]
    for number in range(10):
        ops, _ = cluster.composed(0, f"route r{number} {{}}\n")
        for index in range(2):
            cluster.give(index, LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))))
        cluster.run(MILLISECOND)
    cluster.run(30 * MILLISECOND)
    announced = counted(cluster)["out IHave"] - before
    assert 1 <= announced <= 2 if few else announced >= 10


# --- the urgent first


def first_datagrams(cluster: Cluster, count: int) -> list[CellKind | str]:
    """What the first deltas bring an empty newcomer, cell by cell: what kind, and of rows, how bad."""
    brought: list[CellKind | str] = []
    index = len(cluster.engines) - 1
    cluster.restart(index, disk_lost=True)
    give = cluster.give

    def listen(node: int, event: object) -> object:
        if node == index and isinstance(event, DatagramReceived):
            message = wire.decode(event.data[HEADER_BYTES:], 1 << 16)
            if isinstance(message, Delta) and len(brought) < count:
                brought.extend("bad row" if b"\xa4dead\x04" in cell.data else cell.kind for cell in message.cells)
        return give(node, event)  # type: ignore[arg-type]

    cluster.give = listen  # type: ignore[method-assign, assignment]
    cluster.judge = cut(([index], range(1, index)))  # it knows one peer, and hears of the others from that
    cluster.give(index, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    cluster.run_until(lambda: len(brought) >= count, 5 * SECOND)
    return brought[:count]


def joined_by_an_empty_node() -> list[CellKind | str]:
    cluster = settled(4)
    for number in range(40):
        cluster.publish(0, f"route r{number} {{ {'x' * 300} }}\n")
    cluster.run(SECOND)
    cluster.crash(3)
    cluster.observe(1, dead=Level.DOWN, iad=Level.HEALTHY)
    cluster.observe(2, iad=Level.HEALTHY)
    cluster.run(5 * SECOND)
    return first_datagrams(cluster, 30)


def test_an_empty_node_hears_of_what_is_down_in_its_first_datagram() -> None:
    brought = joined_by_an_empty_node()
    assert brought[0] == "bad row", "before 40 ops, and before the rows that say all is well"
    assert brought[-1] is CellKind.OP


def test_it_would_not_if_nothing_were_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug that shows that the test above can fail."""
    monkeypatch.setattr(
        antientropy, "most_urgent_first", lambda cells: sorted(cells, key=lambda cell: (-cell.urgency, cell.id))
    )
    assert joined_by_an_empty_node()[0] != "bad row"


def test_rumours_of_one_moment_go_the_urgent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = settled(2)
    ops = enumerate(ops_of(cluster))
    mixed = [Cell(cell.id, cell.kind, cell.data, Urgency(4 - number % 5), cell.place) for number, cell in ops]
    order: list[Urgency] = []

    def look(self: batching.Load, age_ms: Callable[[Cell], int]) -> list[tuple[wire.WireCell, ...]]:
        order.extend(cell.urgency for part in self.parts for cell in part)
        return []

    monkeypatch.setattr(batching.Load, "batches", look)
    cluster.engines[0]._spreading.push(mixed, None)
    assert order == sorted(cell.urgency for cell in mixed)
    assert set(order) == set(Urgency)


def ops_of(cluster: Cluster) -> list[Cell]:
    cluster.publish(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(6)))
    index = cluster.engines[0]._cells
    cells = [index.get(cell) for cell in index.ids_in(Shards(16, tuple(range(16))))]
    return [cell for cell in cells if cell.kind is CellKind.OP]


# --- a chain goes one way


def hops_of(engine: Engine, cluster: Cluster, event: LocalUpdate) -> dict[bytes, set[Endpoint]]:
    """Of each cell that this makes a node push, to whom."""
    hops: dict[bytes, set[Endpoint]] = {}
    for effect in engine.handle(event, cluster.now):
        if isinstance(effect, SendDatagram):
            message = wire.decode(effect.data[HEADER_BYTES:], 1 << 16)
            for cell in message.cells if isinstance(message, Rumour) else ():
                hops.setdefault(cell.data, set()).add(effect.target)
    return hops


def test_the_ops_of_an_author_go_one_way_and_rows_each_their_own() -> None:
    """On trees of their own later ops overtake earlier ones, and wait for the slowest."""
    cluster = settled(12)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(6)))
    engine = cluster.engines[0]
    pushed = [hops_of(engine, cluster, LocalUpdate(OpsSubmitted((op.data,)))) for op in ops]
    assert [list(hops) for hops in pushed] == [[op.data] for op in ops]
    assert len({frozenset(*hops.values()) for hops in pushed}) == 1
    ways = set[frozenset[Endpoint]]()
    for number in range(6):
        level = Level.DOWN if number % 2 else Level.HEALTHY
        seen = (Observation("fra", level, 20_000, 0, 0, number, 10), Observation("iad", Level.HEALTHY))
        ways |= {frozenset(hops) for hops in hops_of(engine, cluster, LocalUpdate(HealthObserved(seen))).values()}
    assert len(ways) > 3


def test_two_publishes_of_an_author_go_two_ways() -> None:
    """Or the same few nodes would relay all that it ever says."""
    cluster = settled(12)
    engine, ways = cluster.engines[0], set[frozenset[Endpoint]]()
    for number in range(8):
        (op,), _ = cluster.composed(0, f"route r{number} {{}}\n")
        ways |= {frozenset(hops) for hops in hops_of(engine, cluster, LocalUpdate(OpsSubmitted((op.data,)))).values()}
        cluster.run(5 * MILLISECOND)
    assert len(ways) > 3


def test_the_later_ops_of_many_are_announced_later() -> None:
    """They take more hops: whoever was told of one at once would ask for it while it is on its way. Of three nodes that
    are handed the same ops one at least is a root of a tree that announces them."""
    cluster = settled(3)
    cluster.judge = lambda source, target, prng: []
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(60)))
    cells = {op.cell for op in ops}  # a node may have a row to announce, too
    announced: dict[int, set[bytes]] = {25 * MILLISECOND: set(), 310 * MILLISECOND: set()}
    for engine in cluster.engines:
        engine.handle(LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))), cluster.now)
        for later_us, ids in announced.items():
            told = [message for message in sent(engine, cluster, TimerFired(), later_us) if isinstance(message, IHave)]
            ids.update(cells.intersection(cell for message in told for cell in message.ids))
    first, second = announced.values()
    assert first == {op.cell for op in [*ops[:WIDE_OPS], ops[-1]]}, "and what goes as a stream"
    assert second == {op.cell for op in ops[WIDE_OPS:-1]}


def test_an_op_that_waits_for_another_is_passed_on_and_not_twice() -> None:
    """Else all below a node that lost one datagram would wait for it to repair that, and find its own after that."""
    cluster = settled(12)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(2)))
    one, two = (op.data for op in ops[:2])
    passed_on = Counter[bytes]()
    for engine in [*cluster.engines[:2], *cluster.engines[3:]]:
        late = DatagramReceived(frame(cluster.engines[2], cluster, (two,)), cluster.endpoint(2))
        missing = DatagramReceived(frame(cluster.engines[2], cluster, (one,)), cluster.endpoint(2))
        first, again = rumoured(sent(engine, cluster, late)), rumoured(sent(engine, cluster, late))
        then = rumoured(sent(engine, cluster, missing))
        assert set(first) <= {two}
        assert not again
        assert set(then) <= {one}
        passed_on.update(first + then)
    assert passed_on[one] == passed_on[two] > 0


def test_whoever_passes_on_an_op_is_asked_for_the_one_before_it() -> None:
    cluster = settled(3)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(3)))
    peer, engine = cluster.engines[1], cluster.engines[2]
    late = frame(peer, cluster, (ops[1].data, ops[2].data))
    sent(engine, cluster, DatagramReceived(late, cluster.endpoint(1)))
    effects = engine.handle(TimerFired(), Micros(cluster.now + 31 * MILLISECOND))
    grafts = {
        effect.target: message.ids
        for effect in effects
        if isinstance(effect, SendDatagram)
        and isinstance(message := wire.decode(effect.data[HEADER_BYTES:], 1 << 16), Graft)
    }
    assert grafts == {cluster.endpoint(1): (ops[0].cell,)}


def test_what_comparing_brought_first_is_passed_on_when_its_rumour_comes() -> None:
    """Trees count on each of their nodes: one that says nothing, as it knew already, cuts off all below it."""
    cluster = settled(12)
    (op, *_), _ = cluster.composed(0, f"route r {{ {'x' * 800} }}\n")
    peer, passed_on = cluster.engines[2], 0
    cells = (wire.WireCell(CellKind.OP, op.data),)
    for engine in [*cluster.engines[:2], *cluster.engines[3:]]:
        delta = cluster.seal().close(peer.node, wire.encode(Delta(peer.view().root, cells)), cluster.now)
        assert not rumoured(sent(engine, cluster, DatagramReceived(delta, cluster.endpoint(2))))
        rumour = DatagramReceived(frame(peer, cluster, (op.data,)), cluster.endpoint(2))
        passed_on += len(rumoured(sent(engine, cluster, rumour)))
        assert not rumoured(sent(engine, cluster, rumour)), "once"
    assert passed_on


def test_an_op_that_waits_for_another_is_not_asked_for_again() -> None:
    cluster = settled(3)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(2)))
    first, second = ops[:2]
    peer, engine = cluster.engines[1], cluster.engines[2]
    sent(engine, cluster, DatagramReceived(frame(peer, cluster, (second.data,)), cluster.endpoint(1)))
    assert engine.policy.waiting() == 1
    announced = wire.encode(IHave((first.cell, second.cell)))
    sent(
        engine, cluster, DatagramReceived(cluster.seal().close(peer.node, announced, cluster.now), cluster.endpoint(1))
    )
    asked = [message for message in sent(engine, cluster, TimerFired(), SECOND) if isinstance(message, Graft)]
    assert [graft.ids for graft in asked] == [(first.cell,)]


def test_an_op_that_waits_for_another_is_not_brought_again_by_comparing() -> None:
    cluster = settled(2)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(4)))
    cluster.judge = cut(([0], [1]))
    cluster.give(0, LocalUpdate(OpsSubmitted(tuple(op.data for op in ops))))
    late = DatagramReceived(frame(cluster.engines[0], cluster, tuple(op.data for op in ops[1:])), cluster.endpoint(0))
    cluster.give(1, late)
    assert cluster.engines[1].policy.waiting() == len(ops) - 1
    brought: list[bytes] = []
    give = cluster.give

    def listen(node: int, event: Input) -> list[Notification]:
        if node == 1 and isinstance(event, DatagramReceived):
            message = wire.decode(event.data[HEADER_BYTES:], 1 << 16)
            if isinstance(message, Delta):
                brought.extend(cell.data for cell in message.cells)
        return give(node, event)

    cluster.give = listen  # type: ignore[method-assign, assignment]
    cluster.run(200 * MILLISECOND)  # its announcement is lost, too
    cluster.judge = lambda source, target, prng: [MILLISECOND]
    cluster.run_until(cluster.equal, 5 * SECOND)
    assert brought == [ops[0].data]


# --- back-propagation and redundancy (BP and RR of Enes et al., 2019)


def test_of_a_rumour_only_what_is_new_is_passed_on_and_never_to_where_it_came_from() -> None:
    cluster = settled(12)
    ops, _ = cluster.composed(0, *(f"route r{number} {{ {'x' * 800} }}\n" for number in range(2)))
    one, two = (op.data for op in ops[:2])
    peer, passed_on = cluster.engines[2], Counter[bytes]()
    for engine in (cluster.engines[index] for index in range(12) if index != 2):
        first = sent(engine, cluster, DatagramReceived(frame(peer, cluster, (one,)), cluster.endpoint(2)))
        both = DatagramReceived(frame(peer, cluster, (one, two)), cluster.endpoint(2))
        second = sent(engine, cluster, both)
        assert set(rumoured(first)) <= {one}
        assert set(rumoured(second)) <= {two}, "what the receiver had is not passed on with what it had not"
        assert not [message for message in sent(engine, cluster, both) if isinstance(message, Rumour | IHave)]
        passed_on.update(rumoured(first) + rumoured(second))
    assert set(passed_on) == {one, two}, "else nothing was shown"


def rumoured(messages: list[Message]) -> list[bytes]:
    return [cell.data for message in messages if isinstance(message, Rumour) for cell in message.cells]


def frame(peer: Engine, cluster: Cluster, ops: tuple[bytes, ...]) -> bytes:
    cells = tuple(wire.WireCell(CellKind.OP, op) for op in ops)
    return cluster.seal().close(peer.node, wire.encode(Rumour(cells)), cluster.now)


# --- rumours first


@pytest.mark.parametrize(("quiet_us", "premature"), [(100 * MILLISECOND, False), (0, True)])
def test_while_rumours_bring_news_nothing_is_compared(quiet_us: int, premature: bool) -> None:
    """What a comparison would ask for is on its way: to ask all the same brings it twice. So it is for all whom rumours
    bring news, from the first of it on; nobody brings any to whoever publishes, and patience is another matter."""
    hour_us = 3_600 * SECOND
    config = Config(reconcile_quiet_us=quiet_us, reconcile_delay_us=4 * MILLISECOND, reconcile_patience_us=hour_us)
    cluster = settled(8, config)
    cluster.judge = lambda source, target, prng: [MILLISECOND + prng.below(30 * MILLISECOND)]
    begun = 0
    for number in range(90):
        cluster.publish(0, f"route r{number} {{}}\n")
        cluster.run(20 * MILLISECOND)
        if number == 4:
            begun = begun_by_hearers(cluster)
    assert (begun_by_hearers(cluster) > begun) is premature


def begun_by_hearers(cluster: Cluster) -> int:
    return sum(engine.counters().get("reconciliations begun", 0) for engine in cluster.engines[1:])


@pytest.mark.parametrize(("patience_us", "ends"), [(SECOND, True), (3_600 * SECOND, False)])
def test_where_rumours_never_cease_patience_ends(patience_us: int, ends: bool) -> None:
    """A node that one rumour missed gets it, though others go on bringing news; and nothing else would bring it."""
    cluster = settled(4, Config(reconcile_patience_us=patience_us))
    cluster.judge = cut(([3], [0, 1, 2]))
    cluster.observe(0, nrt=Level.DOWN, iad=Level.HEALTHY)
    cluster.run(100 * MILLISECOND)
    cluster.judge = reliable
    for number in range(160):
        if number % 2:
            cluster.publish(1, f"route r{number} {{}}\n")
        else:
            cluster.observe(2, fra=Level.DOWN if number % 4 else Level.FAILING, iad=Level.HEALTHY)
        cluster.run(25 * MILLISECOND)
    assert bool(cluster.engines[3]._health.table.tally("nrt")) is ends
