"""What a person hears of what peers were refused, from real engines' words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lattice.cells import CellKind
from lattice.events import DatagramReceived, LocalUpdate, Notification, OpsSubmitted, Rejected
from lattice.key_ring import KeyRing
from lattice.seal import VERSION, Plain, Sealed
from lattice.types import SECOND, Micros
from lattice.wire import Rumour, WireCell, encode
from router.complaints import TOLD_US, Complaints
from router.journal import Journal
from tests.lattice.cluster import CLUSTER, Cluster
from tests.lattice.publishing import compose_at

NOW = Micros(5 * SECOND)


@pytest.fixture
def journal() -> Journal:
    return Journal(lambda: NOW)


def told(journal: Journal) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in journal.events()]


def hear(complaints: Complaints, notes: list[Notification], now: Micros) -> None:
    refused = [note for note in notes if isinstance(note, Rejected)]
    assert refused
    for note in refused:
        complaints.rejected(note.what, note.reason, note.source, now)


def of_version(cluster: Cluster, version: int) -> list[Notification]:
    frame = bytearray(Plain(CLUSTER).close(cluster.engines[1].node, b"body", cluster.now))
    frame[0] = version
    return cluster.give(0, DatagramReceived(bytes(frame), ("10.0.0.7", 7_400)))


def test_another_version_is_explained_once_a_minute(journal: Journal) -> None:
    cluster, complaints = Cluster(2), Complaints(journal, lambda _: None)
    cluster.run(SECOND)
    for ago in (0, 1, TOLD_US - 1, TOLD_US):
        hear(complaints, of_version(cluster, VERSION - 1), Micros(NOW + ago))
    text = (
        f"a datagram from 10.0.0.7:7400 is of protocol version {VERSION - 1}, this node speaks {VERSION}: nodes of two"
        " versions do not hear each other; run one release of edgelattice at all sites"
    )
    assert told(journal) == [("version", text)] * 2
    assert cluster.engines[0].counters()["datagram rejected: wrong version"] == 4


def test_an_author_whose_clock_is_ahead_is_complained_of(journal: Journal) -> None:
    cluster, complaints = Cluster(1), Complaints(journal, lambda _: None)
    cluster.run(SECOND)
    ahead = compose_at(cluster.engines[0].policy, 1, now_ms=(cluster.now + 3_600 * SECOND) // 1_000)
    hear(complaints, cluster.give(0, LocalUpdate(OpsSubmitted(tuple(op.data for op in ahead)))), NOW)
    assert [kind for kind, _ in told(journal)] == ["clock"]


def test_a_missed_step_of_a_change_of_keys_is_named(journal: Journal) -> None:
    ours, theirs = KeyRing.of(b"k" * 32), KeyRing.of(b"K" * 32)
    cluster, complaints = Cluster(2, seal=lambda: Sealed(CLUSTER, ours)), Complaints(journal, lambda _: None)
    cluster.run(SECOND)
    frames = [seal.close(cluster.engines[1].node, bytes(20), NOW) for seal in (Sealed(CLUSTER, theirs), Plain(CLUSTER))]
    for frame, ago in zip(frames, (0, TOLD_US), strict=True):
        hear(complaints, cluster.give(0, DatagramReceived(frame, ("10.0.0.7", 7_400))), Micros(NOW + ago))
    (_, key), (_, plain) = told(journal)
    ids = f"{theirs.used.id.hex()}, this node has {ours.used.id.hex()}"
    assert key.startswith(f"a datagram from 10.0.0.7:7400 is sealed with key {ids}: one of the two has missed a step")
    assert plain.startswith("a datagram from 10.0.0.7:7400 is not sealed, and this node's are: insecure = true")


def test_a_forged_row_is_told_with_whom_it_came_from(journal: Journal) -> None:
    cluster, complaints = Cluster(3), Complaints(journal, lambda _: None)
    cluster.introduce_all()
    cluster.run(5 * SECOND)
    row = cluster.engines[0]._row_of(cluster.engines[2].node)
    assert row is not None
    forged = WireCell(CellKind.ROW, replace(row, seq=row.seq + 1).payload() + bytes(64))
    frame = Plain(CLUSTER).close(cluster.engines[1].node, encode(Rumour((forged,))), cluster.now)
    hear(complaints, cluster.give(0, DatagramReceived(frame, cluster.endpoint(1))), NOW)
    ((kind, text),) = told(journal)
    assert kind == "forgery"
    assert text.startswith("from 10.0.0.1:2 came a row that is not signed by whom it names (site ")


def test_what_only_counts_is_only_counted(journal: Journal) -> None:
    Complaints(journal, lambda _: None).rejected("datagram", "wrong cluster: 00000000", ("10.0.0.7", 1), NOW)
    assert told(journal) == []
