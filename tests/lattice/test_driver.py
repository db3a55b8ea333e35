"""The engine on real sockets: what the in-memory wire cannot show."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from lattice.authoring import compose
from lattice.certificates import Certificate
from lattice.config import Config
from lattice.driver import INBOX_MAX, Answer, Driver
from lattice.engine import Engine
from lattice.events import (
    HealthObserved,
    LeaveRequested,
    MemberChanged,
    Notification,
    OpAccepted,
    OpsSubmitted,
    PeerDiscovered,
    RegionChanged,
    Rejected,
)
from lattice.health import Observation
from lattice.identity import Ed25519Verifier, author_id_of, node_id_of
from lattice.key_ring import KeyRing
from lattice.prng import Prng
from lattice.seal import Plain, Sealed
from lattice.store import Store
from lattice.transport import SEGMENT_BYTES_MAX, Clock, Transport, bind, came_from
from lattice.types import MILLISECOND, Endpoint, Level
from lattice.writer import CHECK_INTERVAL_S, RecordStore
from tests.lattice.cluster import CLUSTER, OPERATOR, signer_of
from tests.lattice.test_writer import FULL, MoodyStore

SECRET = bytes(range(32))
QUICK = Config(swim_interval_us=100 * MILLISECOND, ack_timeout_us=40 * MILLISECOND)


class Node:
    """One driver on loopback, and what it notified of."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        store: RecordStore | None,
        check_store_s: float = CHECK_INTERVAL_S,
        certificate: Certificate | None = None,
        ca_key: bytes | None = None,
    ) -> None:
        self.transport = transport
        self.notified: list[Notification] = []
        self.clock = Clock()
        self.engine = Engine(
            config=QUICK,
            site=name,
            endpoint=transport.endpoint,
            signer=signer_of(name, certificate.grant if certificate else None),
            ca_key=ca_key,
            verifier=Ed25519Verifier(CLUSTER),
            seal=Sealed(CLUSTER, KeyRing.of(SECRET)),
            authors=[author_id_of(OPERATOR.public_key)],
            prng=Prng.seeded(name),
            now=self.clock.now(),
        )
        self.told: list[str] = []
        self.driver = Driver(
            self.engine,
            transport,
            store,
            self.clock,
            self.notified.append,
            QUICK.frame_bytes_max,
            lambda level, text: self.told.append(text),
            check_store_s,
        )

    async def meets(self, other: Node) -> None:
        await self.driver.submit(PeerDiscovered(other.transport.endpoint))
        await until(lambda: len(self.driver.view().members) == 2 == len(other.driver.view().members))

    async def try_to_publish(self, *blocks: str) -> Answer:
        ops = compose(
            OPERATOR,
            self.engine.policy.chain(author_id_of(OPERATOR.public_key)),
            "default",
            blocks,
            message="",
            now_ms=self.clock.now() // 1_000,
        ).ops
        return await self.driver.call(OpsSubmitted(tuple(op.data for op in ops)))

    async def publish(self, *blocks: str, durable: bool = True) -> bytes:
        chain = self.engine.policy.chain(author_id_of(OPERATOR.public_key))
        publication = compose(OPERATOR, chain, "default", blocks, message="", now_ms=self.clock.now() // 1_000)
        answer = await self.driver.call(OpsSubmitted(tuple(op.data for op in publication.ops)))
        assert sum(isinstance(note, OpAccepted) for note in answer.notifications) == len(publication.ops)
        assert answer.durable is durable
        return publication.version


async def until(done: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not done():  # noqa: ASYNC110  (what is waited for is the state of a node, which no event tells of)
            await trio.sleep(0.005)


@asynccontextmanager
async def running(
    name: str,
    store: RecordStore | None = None,
    host: str = "127.0.0.1",
    check_store_s: float = CHECK_INTERVAL_S,
    certificate: Certificate | None = None,
    ca_key: bytes | None = None,
) -> AsyncIterator[Node]:
    transport = await bind(host, 0)
    try:
        async with trio.open_nursery() as nursery:
            node = Node(name, transport, store, check_store_s, certificate, ca_key)
            await nursery.start(node.driver.run)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        transport.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_two_nodes_meet_agree_and_part(host: str) -> None:
    async with running("ams", host=host) as ams, running("fra", host=host) as fra:
        await ams.meets(fra)
        for node in (ams, fra):
            await node.driver.submit(
                HealthObserved((Observation("iad", Level.DOWN), Observation("gru", Level.HEALTHY)))
            )
        await until(lambda: {seen.region: seen.verdict for seen in fra.driver.view().regions}.get("iad") == Level.DOWN)
        assert any(isinstance(note, RegionChanged) and note.new is Level.DOWN for note in fra.notified)
        await until(lambda: ams.driver.view().root == fra.driver.view().root)
        await fra.driver.submit(LeaveRequested())
        await until(lambda: [member.state for member in ams.driver.view().members if member.site == "fra"] == ["left"])


async def test_an_op_larger_than_a_datagram_travels_by_stream() -> None:
    async with running("ams") as ams, running("fra") as fra:
        await ams.meets(fra)
        large = "region x {}\n" * 1_000
        version = await ams.publish("edition 1\n", large)
        await until(lambda: [policy.version for policy in fra.driver.view().policies] == [version])
        assert fra.driver.view().policies[0].blocks == ("edition 1\n", large)


async def test_ops_and_incarnation_outlive_the_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    async with running("ams", store) as ams:
        version = await ams.publish("edition 1\n")
        first = ams.driver.view().members[0].incarnation
    async with running("ams", store) as ams:
        assert [policy.version for policy in ams.driver.view().policies] == [version]
        assert ams.driver.view().members[0].incarnation == first + 1
    store.close()


async def test_a_disk_that_fails_is_told_and_the_node_goes_on() -> None:
    store = MoodyStore()
    async with running("ams", store) as ams, running("fra") as fra:
        await ams.meets(fra)
        await until(lambda: ams.driver.counters()["store: records waiting"] == 0)
        store.error = FULL
        version = await ams.publish("edition 1\n", durable=False)
        await until(lambda: [policy.version for policy in fra.driver.view().policies] == [version])
        assert ams.driver.counters()["store: in trouble"] == 1
        assert "database or disk is full" in (ams.driver.trouble() or "")
        store.error = None
        await until(lambda: ams.driver.trouble() is None)
        await until(lambda: ams.driver.counters()["store: records waiting"] == 0)
        assert {table for table, _ in store.disk} >= {"self", "peer", "op"}


async def test_a_slow_disk_delays_what_depends_on_it_and_nothing_else() -> None:
    """The disk stands still for a second: peers find the node alive, and hear of its policy when it is durable."""
    store = MoodyStore()
    async with running("ams", store) as ams, running("fra") as fra:
        await ams.meets(fra)
        await until(lambda: ams.driver.counters()["store: records waiting"] == 0)
        heard = fra.driver.counters()["in Ping"]
        async with trio.open_nursery() as nursery:
            with store.standing_still():
                nursery.start_soon(ams.publish, "edition 1\n")
                await until(lambda: len(ams.driver.view().policies) == 1)
                await trio.sleep(1)
                assert not fra.driver.view().policies, "it might yet be lost, and another op take its place"
                assert fra.driver.counters()["in Ping"] > heard + 3
                assert ams.driver.counters().get("loop lags", 0) == 0
        await until(lambda: len(fra.driver.view().policies) == 1)
        assert {member.state for node in (ams, fra) for member in node.driver.view().members} == {"alive"}
        assert not [note for note in fra.notified if isinstance(note, MemberChanged) and note.state != "alive"]


async def test_nothing_is_sent_before_the_first_reservation_of_counters_is_durable() -> None:
    store = MoodyStore()
    store.stuck = True
    async with running("fra") as fra, running("ams", store) as ams:
        await ams.driver.submit(PeerDiscovered(fra.transport.endpoint))
        await until(lambda: ams.driver.counters().get("out Ping", 0) > 0)
        await trio.sleep(0.1)
        assert fra.driver.counters().get("in Ping", 0) == 0
        assert not store.disk
        store.stuck = False
        await until(lambda: len(fra.driver.view().members) == 2)
        assert {table for table, _ in store.disk} >= {"self"}


def row_version(node: Node) -> tuple[int, int]:
    held = node.engine._health.table.get(node.engine.node)
    assert held is not None
    return held.signed.row.incarnation, held.signed.row.seq


async def test_what_was_lost_comes_from_the_peers(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    async with running("fra") as fra:
        store = Store(path)
        async with running("ams", store) as ams:
            await ams.meets(fra)
            version = await ams.publish("edition 1\n", "region x {}\n" * 50)
            await until(lambda: len(fra.driver.view().policies) == 1)
            before = row_version(ams)
        store.close()
        content = bytearray(path.read_bytes())
        content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
        path.write_bytes(bytes(content))
        store = Store(path)
        assert store.replaced is not None
        async with running("ams", store) as ams:
            await until(lambda: any("is damaged" in said and "the peers have the rest" in said for said in ams.told))
            await ams.meets(fra)
            await until(lambda: [policy.version for policy in ams.driver.view().policies] == [version])
            await until(lambda: ams.driver.view().root == fra.driver.view().root)
            assert row_version(ams) > before, "what it says is news, though its disk forgot its lives"
        store.close()


def kinds_in(path: Path) -> set[str]:
    """Of records in the file; none while it is moved aside and another takes its place."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            return {kind for (kind,) in reader.execute("SELECT DISTINCT kind FROM records")}
    except sqlite3.OperationalError:
        return set()


async def test_a_damaged_file_is_written_anew_while_the_node_runs(tmp_path: Path) -> None:
    """What the disk did to a byte is found by reading again, and all that the node knows is there afterwards."""
    path = tmp_path / "state.sqlite"
    async with running("ams", Store(path), check_store_s=0.05) as ams, running("fra") as fra:
        await ams.meets(fra)
        version = await ams.publish("edition 1\n")
        await until(lambda: ams.driver.counters().get("store: checks", 0) > 0)
        with closing(sqlite3.connect(path)) as vandal:
            vandal.execute("UPDATE records SET value = zeroblob(20) WHERE kind = 'op'")
            vandal.commit()
        await until(lambda: ams.driver.counters().get("store: files found damaged", 0) == 1)
        await until(lambda: kinds_in(path) >= {"self", "op", "peer", "row", "replay"})
        assert (tmp_path / "state.sqlite.damaged-1").exists()
        assert any("a record of 'op' is not what was written" in told for told in ams.told)
    again = Store(path)
    assert again.replaced is None
    async with running("ams", again) as ams:
        assert [policy.version for policy in ams.driver.view().policies] == [version]
        assert [member.site for member in ams.driver.view().members if member.site != "ams"] == ["fra"]


async def test_hostile_streams_are_counted_and_closed() -> None:
    async with running("ams") as ams:
        before = ams.driver.view().root
        for hostile in (
            b"\xff\xff\xff\xff",
            (100).to_bytes(4, "big") + b"short",
            b"",
            (5).to_bytes(4, "big") + b"hello",
        ):
            stream = await trio.open_tcp_stream(*ams.transport.endpoint)
            async with stream:
                if hostile:
                    await stream.send_all(hostile)
                await stream.send_eof()
                assert await stream.receive_some(10) == b"", "the node answers nothing"
        await until(lambda: ams.driver.counters().get("frame rejected: truncated", 0) == 3)
        assert ams.driver.counters()["frame rejected: oversized"] == 1
        assert ams.driver.view().root == before
        assert [note.what for note in ams.notified if isinstance(note, Rejected)] == ["frame"]


async def test_a_stranger_with_another_secret_is_not_heard() -> None:
    async with running("ams") as ams:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            frame = Sealed(CLUSTER, KeyRing.of(bytes(32))).close(
                signer_node := ams.engine.node, b"\x91\x01", ams.clock.now()
            )
            assert len(signer_node) == 16
            stranger.sendto(frame, ams.transport.endpoint)
            await until(lambda: ams.driver.counters().get("datagram rejected: unknown key", 0) == 1)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(65_536)  # and gets no answer to tell whether anybody is there


def fra_says(secret: bytes = SECRET, cluster: str = CLUSTER, body: bytes = bytes(40)) -> bytes:
    return Sealed(cluster, KeyRing.of(secret)).close(node_id_of(signer_of("fra").public_key), body, Clock().now())


STRANGERS: dict[str, Callable[[], bytes]] = {
    "plain frame": lambda: Plain(CLUSTER).close(node_id_of(signer_of("fra").public_key), bytes(40), Clock().now()),
    "unknown key": lambda: fra_says(bytes(32)),
    "wrong cluster": lambda: fra_says(cluster="another"),
    "wrong version": lambda: bytes([fra_says()[0] - 1]) + fra_says()[1:],
    "wrong key": lambda: fra_says()[:-1] + bytes([fra_says()[-1] ^ 1]),
    "truncated": lambda: fra_says()[:40],
}


async def test_whatever_a_stranger_sends_is_counted_by_reason_and_answered_with_nothing() -> None:
    """Captured frames too, and after a restart: on real sockets, by real processes' ways."""
    store, captured = MoodyStore(), list[bytes]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.setblocking(False)
        async with running("ams", store) as ams, running("fra") as fra:
            send = fra.driver._send_datagram

            async def tapped(data: bytes, target: Endpoint) -> None:
                captured.append(data)
                await send(data, target)

            fra.driver._send_datagram = tapped  # type: ignore[method-assign]  # somebody on the wire
            await ams.meets(fra)
            await until(lambda: len(captured) > 20 and ams.driver.view().root == fra.driver.view().root)
            fra.driver._send_datagram = send  # type: ignore[method-assign]
            await trio.sleep(0.1)
            before = ams.driver.view()
            for reason, make in STRANGERS.items():
                stranger.sendto(make(), ams.transport.endpoint)
                await until(lambda: ams.driver.counters().get(f"datagram rejected: {reason}", 0) == 1)  # noqa: B023
            for frame in captured:
                stranger.sendto(frame, ams.transport.endpoint)
            await until(lambda: ams.driver.counters().get("datagram rejected: replayed", 0) == len(captured))
            after = ams.driver.view()
            assert (after.root, after.members) == (before.root, before.members), "fra is not where the stranger is"
            with pytest.raises(BlockingIOError):
                stranger.recv(65_536)
            assert (await ams.driver.call(LeaveRequested())).durable, "what it heard is written down"
        async with running("ams", store) as ams:
            for frame in captured:
                stranger.sendto(frame, ams.transport.endpoint)
            await until(lambda: ams.driver.counters().get("datagram rejected: replayed", 0) == len(captured))
            with pytest.raises(BlockingIOError):
                stranger.recv(65_536)


async def test_virtual_time_drives_it_too(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing in the driver reads another clock than trio's: a lone node passes an hour in no time."""
    async with running("ams") as ams:
        await trio.sleep(3_600)
        assert ams.driver.view().members[0].state == "alive"


async def test_bind_names_a_taken_port() -> None:
    first = await bind("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            await bind(*first.endpoint)
    finally:
        first.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_stream_segments_are_as_small_as_every_path_takes_both_ways(host: str) -> None:
    transport = await bind(host, 0)
    async with await trio.open_tcp_stream(*transport.endpoint) as caller, await transport.tcp.accept() as called:
        for end in (caller, called):
            assert end.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= SEGMENT_BYTES_MAX
    transport.close()


async def test_one_source_that_floods_takes_no_others_share_of_the_inbox() -> None:
    transport = await bind("127.0.0.1", 0)
    driver = Node("fra", transport, None).driver
    flood, quiet = ("127.0.0.1", 9), ("127.0.0.1", 10)
    passed = sum(driver._may_pass(flood, 1) for _ in range(INBOX_MAX * 2))
    assert passed <= INBOX_MAX * 3 // 4
    assert all(driver._may_pass(quiet, 1) for _ in range(100))
    transport.udp.close()
    await transport.tcp.aclose()


async def test_what_the_kernel_drops_is_counted_too() -> None:
    """Nobody reads for a while: the socket's buffer holds a few hundred datagrams, and the rest is lost unseen."""
    async with running("ams") as ams:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for _ in range(3_000):  # in one go: trio has no turn
                other.sendto(bytes(1_200), ams.transport.endpoint)
        name = "datagram rejected: wrong cluster"
        await until(lambda: name in ams.driver.counters())
        lost = ams.driver.counters()["datagrams dropped: the socket's buffer was full"]
        assert 0 < lost < 3_000


def test_where_something_came_from_by_ipv6_is_where_one_can_send() -> None:
    index, name = socket.if_nameindex()[0]
    assert came_from(("fe80::1", 7_946, 0, index)) == (f"fe80::1%{name}", 7_946)
    assert came_from(("fd00::1", 7_946, 0, 0)) == ("fd00::1", 7_946)
    assert came_from(("fe80::1", 7_946, 0, 2**31 - 1)) == ("fe80::1", 7_946), "the interface has gone"
    assert came_from(("::ffff:10.0.0.2", 7_946, 0, 0)) == ("10.0.0.2", 7_946), "a socket for both kinds maps it"
