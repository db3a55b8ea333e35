"""Purges: signed by who may, heard by all, forgotten after their lease."""

from __future__ import annotations

import pytest

from lattice import wire
from lattice.cells import CellKind
from lattice.errors import LatticeError
from lattice.events import DatagramReceived, LocalUpdate, Purged, PurgesSubmitted, RevocationsSubmitted
from lattice.grants import Role, sign_grant, sign_revocation
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.purges import PURGE_AHEAD_US, PURGE_LEASE_US, PURGES_MAX, Purge, Purges, open_purge, sign_purge
from lattice.seal import Plain
from lattice.types import SECOND, Micros
from lattice.wire import Rumour, WireCell
from tests.lattice.cluster import CLUSTER, EPOCH, GRANTED_UNTIL_S, OPERATOR, Cluster, cut, lossy, reliable, signer_of

AT_MS = EPOCH // 1_000


def purge(number: int = 0, at_ms: int = AT_MS) -> Purge:
    return sign_purge(OPERATOR, at_ms, "shop.example.com", f"/img/{number}")


def heard(cluster: Cluster) -> list[list[str]]:
    """Which paths each node was told of."""
    return [
        [note.path for _, at, note in cluster.notified if at == index and isinstance(note, Purged)]
        for index in range(len(cluster.engines))
    ]


def met(count: int, **options: object) -> Cluster:
    cluster = Cluster(count, **options)  # type: ignore[arg-type]
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    return cluster


def submit(cluster: Cluster, index: int, *purges: Purge) -> None:
    cluster.give(index, LocalUpdate(PurgesSubmitted(tuple(each.data for each in purges))))


def test_what_was_signed_is_what_is_opened() -> None:
    signed = purge()
    assert open_purge(signed.data, Ed25519Verifier(CLUSTER)) == signed
    assert signed.author == author_id_of(OPERATOR.public_key)


def test_no_changed_byte_passes() -> None:
    data = purge().data
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(LatticeError):
            open_purge(changed, Ed25519Verifier(CLUSTER))
    for cut_off in (b"", data[:63], data[:-1], data + b"\0", data * 20):
        with pytest.raises(LatticeError):
            open_purge(cut_off, Ed25519Verifier(CLUSTER))


def test_every_node_hears_of_it_once() -> None:
    cluster = met(7, judge=lossy)
    submit(cluster, 3, purge(1), purge(2))
    submit(cluster, 3, purge(1))
    cluster.run(10 * SECOND)
    assert [sorted(paths) for paths in heard(cluster)] == [["/img/1", "/img/2"]] * 7
    assert cluster.equal()


def test_a_site_that_was_cut_off_hears_it_later_and_one_that_comes_new_too() -> None:
    cluster = met(4)
    cluster.judge = cut((range(3), (3,)))
    submit(cluster, 0, purge())
    cluster.run(600 * SECOND)
    assert heard(cluster)[3] == []
    cluster.judge = reliable
    cluster.run(60 * SECOND)
    cluster.crash(1)
    cluster.run(5 * SECOND)
    cluster.restart(1, disk_lost=True)
    cluster.run(60 * SECOND)
    assert heard(cluster)[3] == ["/img/0"]
    assert heard(cluster)[1] == ["/img/0", "/img/0"], "a new process has nothing cached, and hears it all the same"
    assert cluster.equal()


def test_it_is_forgotten_by_all_after_its_lease_and_not_taken_again() -> None:
    cluster = met(3)
    cells = [engine.view().cells for engine in cluster.engines]
    almost_over = purge(at_ms=AT_MS - PURGE_LEASE_US // 1_000 + 60_000)
    submit(cluster, 0, almost_over)
    cluster.run(2 * SECOND)
    assert [engine.view().cells for engine in cluster.engines] == [count + 1 for count in cells]
    cluster.run(60 * SECOND)
    assert [engine.view().cells for engine in cluster.engines] == cells
    assert cluster.equal()
    submit(cluster, 1, almost_over)
    assert cluster.engines[1].counters()["purge rejected: purge is over"] == 1
    assert [engine.view().cells for engine in cluster.engines] == cells


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (sign_purge(signer_of("stranger"), AT_MS, "*", "/**"), "author without capability"),
        (purge(at_ms=AT_MS + PURGE_AHEAD_US // 1_000 + 60_000), "purge from the future"),
        (purge(at_ms=AT_MS - PURGE_LEASE_US // 1_000), "purge is over"),
    ],
)
def test_who_may_not_or_not_now_is_refused_and_counted(offered: Purge, reason: str) -> None:
    cluster = met(2)
    before = cluster.engines[0].view().root
    frame = Plain(CLUSTER).close(
        cluster.engines[1].node, wire.encode(Rumour((WireCell(CellKind.PURGE, offered.data),))), cluster.now
    )
    cluster.give(0, DatagramReceived(frame, cluster.endpoint(1)))
    assert cluster.engines[0].counters()[f"purge rejected: {reason}"] == 1
    assert cluster.engines[0].view().root == before
    assert heard(cluster) == [[], []]


def test_an_operator_with_a_grant_may_until_it_is_taken_back() -> None:
    ca = signer_of("ca")
    key = signer_of("granted operator").public_key
    operator = signer_of("granted operator", sign_grant(ca, key, Role.OPERATOR, "ann", GRANTED_UNTIL_S))
    cluster = met(3, ca=ca)
    submit(cluster, 0, sign_purge(operator, AT_MS, "*", "/a"))
    cluster.run(2 * SECOND)
    assert heard(cluster) == [["/a"]] * 3
    cluster.give(0, LocalUpdate(RevocationsSubmitted((sign_revocation(ca, author_id_of(key)).data,))))
    cluster.run(2 * SECOND)
    submit(cluster, 1, sign_purge(operator, AT_MS, "*", "/b"))
    assert cluster.engines[1].counters()["purge rejected: author revoked"] == 1


def test_they_are_bounded() -> None:
    purges = Purges(lambda *_: None)
    now = Micros(EPOCH)
    for number in range(PURGES_MAX):
        assert purges.take(purge(number), now)
    with pytest.raises(LatticeError, match="too many purges"):
        purges.take(purge(PURGES_MAX), now)
    assert not purges.take(purge(0), now)
    assert purges.next_end() == EPOCH + PURGE_LEASE_US
    assert len(purges.forget(Micros(EPOCH + PURGE_LEASE_US - 1))) == 0
    assert len(purges.forget(Micros(EPOCH + PURGE_LEASE_US))) == PURGES_MAX
    assert (len(purges), purges.next_end()) == (0, None)
