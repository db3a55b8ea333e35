"""Hostile bytes: nothing raises, nothing changes, everything is counted by its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from lattice import canonical, wire
from lattice.cells import CellKind, Shards
from lattice.digest import Bloom
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    HealthObserved,
    Input,
    LocalUpdate,
    OpsSubmitted,
    PeerDiscovered,
    Persist,
    SendDatagram,
    SendStream,
    StreamFrameReceived,
    TimerFired,
)
from lattice.health import Observation
from lattice.key_ring import KeyRing
from lattice.membership import MemberState, MemberUpdate
from lattice.prng import Prng
from lattice.seal import Plain, Seal, Sealed, sender_in
from lattice.types import SECOND, Endpoint, Level, Micros, NodeId
from lattice.wire import Delta, Ping, Rumour, WireCell
from tests.lattice.cluster import CLUSTER, Cluster

SOURCE: Endpoint = ("10.9.9.9", 9)
MANY = 10_000
SEALS: dict[str, Callable[[], Seal]] = {
    "plain": lambda: Plain(CLUSTER),
    "sealed": lambda: Sealed(CLUSTER, KeyRing.of(b"k" * 32)),
}
FRAMES: dict[str, Callable[[bytes, Endpoint], Input]] = {"datagram": DatagramReceived, "frame": StreamFrameReceived}


class Tapped(Cluster):
    """Keeps what was sent: real frames of every kind, to be damaged."""

    def __init__(self, seal: Callable[[], Seal]) -> None:
        self.frames: list[bytes] = []
        super().__init__(3, seal=seal)

    def give(self, index: int, event: Input) -> list[object]:  # type: ignore[override]
        if isinstance(event, DatagramReceived | StreamFrameReceived):
            self.frames.append(event.data)
        return list(super().give(index, event))


@pytest.fixture(params=SEALS)
def victim(request: pytest.FixtureRequest) -> Victim:
    return Victim(SEALS[request.param])


class Victim:
    """A node of a small cluster in which something has happened, and what it looks like."""

    def __init__(self, seal: Callable[[], Seal]) -> None:
        cluster = Tapped(seal)
        cluster.introduce_all()
        cluster.run(2 * SECOND)
        for index in range(3):
            cluster.observe(index, fra=Level.HEALTHY, iad=Level.DOWN)
        cluster.publish(0, "route a {}\n", "# " + "x" * 2_000 + "\n")
        cluster.run(5 * SECOND)
        assert cluster.equal()
        self.seal, self.another_seal = seal(), seal
        self.sealed = isinstance(self.seal, Sealed)
        self.engine = cluster.engines[0]
        self.peer = cluster.engines[1].node
        self.frames = cluster.frames
        self.now = cluster.now
        self.before = self.state()

    def state(self) -> tuple[object, ...]:
        view = self.engine.view()
        return (view.root, view.cells, view.members, view.regions, view.policies)

    def rejected(self) -> Counter[str]:
        return Counter({name: n for name, n in self.engine.counters().items() if " rejected: " in name})

    def attack(
        self, make: Callable[[bytes, Endpoint], Input], frames: list[bytes], source: Endpoint = SOURCE
    ) -> Counter[str]:
        """Hand over the frames; what was counted. Whatever is not refused may be answered, and must not raise."""
        before = self.rejected()
        for data in frames:
            self.engine.handle(make(data, source), self.now)
        return self.rejected() - before

    def speaking(self, body: bytes) -> bytes:
        """A frame with that body, as a peer would send it."""
        return self.seal.close(self.peer, body, self.now)


@pytest.mark.parametrize("what", FRAMES)
def test_truncated_frames(victim: Victim, what: str) -> None:
    prng = Prng.seeded("truncated")
    frames = [
        frame[: prng.below(len(frame))] for _ in range(MANY) if (frame := victim.frames[prng.below(len(victim.frames))])
    ]
    counted = victim.attack(FRAMES[what], frames)
    assert counted.total() == MANY
    assert set(counted) <= {f"{what} rejected: {reason}" for reason in ("truncated", "wrong key", "not msgpack")}
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_oversized_frames(victim: Victim, what: str) -> None:
    big = [victim.speaking(bytes(64 * 1024 + 1 + number % 100)) for number in range(MANY)]
    counted = victim.attack(FRAMES[what], big)
    assert counted == {f"{what} rejected: oversized": MANY}
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_frames_of_another_version_cluster_or_secret(victim: Victim, what: str) -> None:
    prng = Prng.seeded("foreign")
    samples = [victim.frames[prng.below(len(victim.frames))] for _ in range(MANY)]
    versions = [bytes([frame[0] ^ (1 + prng.below(127))]) + frame[1:] for frame in samples]
    assert victim.attack(FRAMES[what], versions) == {f"{what} rejected: wrong version": MANY}
    clusters = [frame[:1] + bytes([frame[1] ^ (1 + prng.below(255))]) + frame[2:] for frame in samples]
    assert victim.attack(FRAMES[what], clusters) == {f"{what} rejected: wrong cluster": MANY}
    other = "sealed frame" if not victim.sealed else "plain frame"
    flipped = [bytes([frame[0] ^ 0x80]) + frame[1:] for frame in samples]
    assert victim.attack(FRAMES[what], flipped) == {f"{what} rejected: {other}": MANY}
    if victim.sealed:
        stranger = Sealed(CLUSTER, KeyRing.of(b"s" * 32))
        forged = [stranger.close(victim.peer, bytes([prng.below(256)] * 40), victim.now) for _ in range(MANY)]
        assert victim.attack(FRAMES[what], forged) == {f"{what} rejected: unknown key": MANY}
        samples = [frame for frame in samples if len(frame) > 40]
        flipped = [frame[:-1] + bytes([frame[-1] ^ 1]) for frame in samples]
        assert victim.attack(FRAMES[what], flipped) == {f"{what} rejected: wrong key": len(flipped)}
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_random_frames(victim: Victim, what: str) -> None:
    prng = Prng.seeded("random")
    frames = [prng_bytes(prng, prng.below(200)) for _ in range(MANY)]
    counted = victim.attack(FRAMES[what], frames)
    assert counted.total() == MANY
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_random_bodies_in_a_good_envelope(victim: Victim, what: str) -> None:
    prng = Prng.seeded("bodies")
    frames = []
    for number in range(MANY):
        body = bytearray(prng_bytes(prng, 1 + prng.below(100)))
        if number % 2:
            body[0] = 0x90 | prng.below(16)  # an array, as every message is
        frames.append(victim.speaking(bytes(body)))
    counted = victim.attack(FRAMES[what], frames)
    assert MANY - 2 <= counted.total() <= MANY, "three bytes may happen to be a message, as one was by 1 seed of 30"
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_bit_flips(victim: Victim, what: str) -> None:
    """Sealed, every one is noticed. Plain, a flipped claim is a claim: but what is signed stands as it was."""
    prng = Prng.seeded("flips")
    frames = []
    for _ in range(MANY):
        mutable = bytearray(victim.frames[prng.below(len(victim.frames))])
        mutable[prng.below(len(mutable))] ^= 1 << prng.below(8)
        frames.append(bytes(mutable))
    counted = victim.attack(FRAMES[what], frames)
    if victim.sealed:
        assert counted.total() == MANY
        assert victim.state() == victim.before
    else:
        after = victim.engine.view()
        assert after.policies == victim.before[4]
        assert {member.node for member in after.members} == {m.node for m in victim.before[2]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", FRAMES)
def test_bit_flips_inside_cells_and_messages_from_a_member(victim: Victim, what: str) -> None:
    """The envelope holds, the signatures inside do not: each cell is refused and counted, the message itself is not."""
    prng = Prng.seeded("cells")
    rows = [cell for cell in cells_in(victim) if cell.kind == CellKind.ROW]
    ops = [cell for cell in cells_in(victim) if cell.kind == CellKind.OP]
    assert rows
    assert ops
    frames = []
    for number in range(MANY // 10):
        cell = (rows, ops)[number % 2][prng.below(len((rows, ops)[number % 2]))]
        damaged = bytearray(cell.data)
        damaged[prng.below(len(damaged))] ^= 1 << prng.below(8)
        frames.append(victim.speaking(wire.encode(Rumour((WireCell(cell.kind, bytes(damaged), 0),)))))
    counted = victim.attack(FRAMES[what], frames, Cluster.endpoint(1))
    assert counted.total() == len(frames)
    assert all(name.startswith(("row rejected", "op rejected")) for name in counted)
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
def test_msgpack_bombs_from_a_member(victim: Victim, what: str) -> None:
    bombs = [
        b"\xdd\xff\xff\xff\xff",  # an array of 4,294,967,295
        b"\x91" * 100_000,
        b"\x91" * 60_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        canonical.pack((99, 1)),
        b"",
    ]
    counted = victim.attack(FRAMES[what], [victim.speaking(bomb) for bomb in bombs])
    assert counted.total() == len(bombs)
    assert victim.state() == victim.before


@pytest.mark.parametrize("what", FRAMES)
@pytest.mark.parametrize("later_us", [SECOND, 3_600 * SECOND])
def test_captured_frames_heard_again(what: str, later_us: int) -> None:
    """Whoever recorded the wire and plays it back changes nothing, and gets no answer."""
    victim = Victim(SEALS["sealed"])
    ours = [frame for frame in victim.frames if sender_in(frame) != victim.engine.node]
    heard = [frame for frame in ours if victim.attack(DatagramReceived, [frame]).total()]
    assert len(heard) > 20, "those that came to this node: the others went elsewhere, and are new to it"
    now = Micros(victim.now + later_us)
    victim.engine.handle(TimerFired(), now)
    before = victim.state()
    for frame in heard:
        effects = victim.engine.handle(FRAMES[what](frame, SOURCE), now)
        assert not [effect for effect in effects if isinstance(effect, SendDatagram | SendStream | Persist)]
    assert victim.engine.counters()[f"{what} rejected: replayed"] >= len(heard)
    assert victim.state() == before


def test_a_filter_that_answers_no_question_of_ours_is_counted(victim: Victim) -> None:
    digest = wire.Digest(Shards(16, (0,)), 5, Bloom.of([], 0, 5), 0)
    counted = victim.attack(DatagramReceived, [victim.speaking(wire.encode(digest)) for _ in range(10)])
    assert counted == {"datagram rejected: unknown salt": 10}


def test_carried_probes_are_bounded(victim: Victim) -> None:
    body = wire.encode(wire.PingReq(1, victim.peer, SOURCE))
    counted = victim.attack(DatagramReceived, [victim.speaking(body) for _ in range(300)])
    assert counted == {"datagram rejected: too many relays": 300 - 256}


def test_strangers_fill_no_more_than_the_dial_book() -> None:
    victim = Victim(SEALS["plain"])
    for number in range(1_000):
        stranger = NodeId(number.to_bytes(16, "big"))
        frame = victim.seal.close(stranger, wire.encode(Ping(1, bytes(16))), victim.now)
        victim.engine.handle(DatagramReceived(frame, ("10.8.0.1", number + 1)), victim.now)
    assert victim.state() == victim.before
    effects = victim.engine.handle(TimerFired(), Micros(victim.now + 1))
    dialled = {effect.target for effect in effects if isinstance(effect, SendDatagram | SendStream)}
    assert len(dialled) <= Cluster(1).config.dials_max


def test_a_peer_can_not_bring_us_to_ask_the_name_service() -> None:
    """Endpoints are numeric: a name would be looked up by whoever sends to it."""
    victim = Victim(SEALS["sealed"])
    for host in ("evil.example", "localhost", "1.2.3", "10.0.0.1 ", "0x7f.1", "fe80::1%eth0", "[::1]"):
        body = canonical.pack((wire.NUMBERS[wire.PingReq], 1, victim.peer, (host, 53)))
        assert victim.attack(DatagramReceived, [victim.speaking(body)]) == {"datagram rejected: bad shape": 1}


def test_a_claim_never_drives_a_node_out_of_the_numbers_that_rows_may_carry() -> None:
    """One unsigned word must not silence a node for good."""
    cluster = Cluster(2)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    liar = Plain(CLUSTER)
    claim = MemberUpdate(cluster.engines[0].node, MemberState.DOWN, canonical.INTEGER_MAX)
    frame = liar.close(cluster.engines[1].node, wire.encode(Ping(1, bytes(16), (claim,))), cluster.now)
    for index in range(2):
        cluster.give(index, DatagramReceived(frame, cluster.endpoint(1)))
    cluster.observe(0, fra=Level.DEGRADED)
    cluster.run(20 * SECOND)
    assert cluster.all_know_all()
    assert cluster.equal()
    assert not [name for name in cluster.engines[1].counters() if name.startswith("row rejected")]


def cells_in(victim: Victim) -> list[WireCell]:
    found: list[WireCell] = []
    reader = victim.another_seal()  # one that has heard nothing yet
    for frame in dict.fromkeys(victim.frames):  # one may have gone to several
        message = wire.decode(reader.open(frame)[1], 1 << 16)
        if isinstance(message, Rumour | Delta):
            found += message.cells
    return found


def prng_bytes(prng: Prng, length: int) -> bytes:
    return b"".join(prng.below(1 << 48).to_bytes(6, "big") for _ in range(length // 6 + 1))[:length]


def test_local_nonsense_is_answered_not_raised() -> None:
    engine: Engine = Cluster(1).engines[0]
    now = engine.view().now
    for change in (
        PeerDiscovered(("10.0.0.9", 1)),
        HealthObserved(()),
        HealthObserved((Observation("fra", Level.UNKNOWN),)),
        OpsSubmitted((b"", b"junk")),
    ):
        engine.handle(LocalUpdate(change), now)
    assert engine.counters()["op rejected: truncated"] == 2
