"""A cluster with a CA: who gets in, how long, and how a key is taken back everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattice import wire
from lattice.cells import CellKind
from lattice.events import (
    Certified,
    DatagramReceived,
    KeyRevoked,
    LocalUpdate,
    MemberChanged,
    RecordsLost,
    RevocationsSubmitted,
)
from lattice.grants import Revocation, Role, sign_grant, sign_revocation
from lattice.health import Report, Row, sign_row
from lattice.identity import Ed25519Signer, Grant, author_id_of
from lattice.policy_ops import OpId
from lattice.seal import Plain
from lattice.types import SECOND, Level, Micros
from lattice.wire import Rumour, WireCell
from tests.lattice.cluster import CLUSTER, EPOCH, GRANTED_UNTIL_S, OPERATOR, Cluster, cut, reliable, signer_of

CA = signer_of("ca")
DAY_S = 86_400


def certified(count: int, **options: object) -> Cluster:
    cluster = Cluster(count, ca=CA, **options)  # type: ignore[arg-type]
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    return cluster


def revoke(cluster: Cluster, at: int, revocation: Revocation) -> None:
    cluster.give(at, LocalUpdate(RevocationsSubmitted((revocation.data,))))


def sites_seen(cluster: Cluster, index: int) -> set[str]:
    return {member.site for member in cluster.engines[index].view().members}


def rejected(cluster: Cluster, index: int, reason: str) -> int:
    return cluster.engines[index].counters().get(f"row rejected: {reason}", 0)


def test_certified_nodes_meet_and_agree() -> None:
    cluster = certified(5)
    assert cluster.all_know_all()
    assert cluster.equal()
    for index in range(5):
        cluster.observe(index, fra=Level.DOWN)
    cluster.run(3 * SECOND)
    assert cluster.verdicts("fra") == [Level.DOWN] * 5
    assert {name for engine in cluster.engines for name in engine.counters() if "rejected" in name} == set()


def invented(number: int, grant: Grant | None = None, site: str = "") -> WireCell:
    """What a holder of the cluster's keys makes up: a site of its own that says that fra is down."""
    signer = signer_of(f"invented {number}")
    row = Row(
        public_key=signer.public_key, incarnation=1, seq=1, issued_ms=EPOCH // 1_000, lease_ms=600_000,
        site=site or f"nowhere-{number}", endpoint=("10.9.9.9", 9), isolated=False,
        reports=(Report("fra", Level.DOWN),), applied=(), grant=grant,
    )  # fmt: skip
    return WireCell(CellKind.ROW, sign_row(row, signer).data)


def tell(cluster: Cluster, index: int, cell: WireCell) -> None:
    frame = Plain(CLUSTER).close(signer_of("liar").public_key[:16], wire.encode(Rumour((cell,))), cluster.now)  # type: ignore[arg-type]
    cluster.give(index, DatagramReceived(frame, ("10.0.0.1", 99)))


@pytest.mark.parametrize("with_ca", [True, False])
def test_sites_cannot_be_invented_where_there_is_a_ca(with_ca: bool) -> None:
    """Twenty rows from keys that nobody certified. Without a CA they carry the verdict: that is what one is for."""
    cluster = certified(5) if with_ca else Cluster(5)
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    for index in range(5):
        cluster.observe(index, fra=Level.HEALTHY)
    cluster.run(5 * SECOND)
    for number in range(20):
        tell(cluster, number % 5, invented(number))
    cluster.run(2 * SECOND)
    assert cluster.verdicts("fra") == [Level.HEALTHY if with_ca else Level.DOWN] * 5
    if with_ca:
        assert all(sites_seen(cluster, index) == {f"site-{n}" for n in range(5)} for index in range(5))
        assert [rejected(cluster, index, "not granted") for index in range(5)] == [4] * 5


def test_another_s_grant_is_of_no_use() -> None:
    cluster = certified(2)
    key = signer_of("invented 0").public_key
    stolen = cluster.signer(1).grant
    assert stolen is not None
    others: list[tuple[Grant, str]] = [
        (stolen, "site-1"),
        (sign_grant(CA, key, Role.NODE, "site-7", GRANTED_UNTIL_S), "site-0"),
        (sign_grant(CA, key, Role.OPERATOR, "site-7", GRANTED_UNTIL_S), "site-7"),
        (sign_grant(signer_of("another ca"), key, Role.NODE, "site-7", GRANTED_UNTIL_S), "site-7"),
        (replace(sign_grant(CA, key, Role.NODE, "site-7", 5), until_s=GRANTED_UNTIL_S), "site-7"),
    ]
    for grant, site in others:
        tell(cluster, 0, invented(0, grant, site))
    assert rejected(cluster, 0, "bad grant") == len(others)
    tell(cluster, 0, invented(0, sign_grant(CA, key, Role.NODE, "site-7", EPOCH // SECOND - 1), "site-7"))
    assert rejected(cluster, 0, "grant expired") == 1
    assert sites_seen(cluster, 0) == {"site-0", "site-1"}
    tell(cluster, 0, invented(0, sign_grant(CA, key, Role.NODE, "site-7", GRANTED_UNTIL_S), "site-7"))
    assert "site-7" in sites_seen(cluster, 0)


def test_a_vote_ends_with_the_grant_and_a_new_certificate_brings_it_back() -> None:
    end_s = EPOCH // SECOND + 60
    short = sign_grant(CA, signer_of("node 2").public_key, Role.NODE, "site-2", end_s)
    cluster = certified(3, grants={2: short})
    for index in range(3):
        cluster.observe(index, fra=Level.DOWN if index == 2 else Level.HEALTHY)
    cluster.run(5 * SECOND)

    def voices(index: int) -> set[str]:
        regions = cluster.engines[index].view().regions
        return {witness.site for region in regions for witness in region.witnesses}

    assert voices(0) == {"site-0", "site-1", "site-2"}
    cluster.run(Micros(EPOCH + 59 * SECOND) - cluster.now)
    assert "site-2" in voices(0)
    cluster.run(2 * SECOND)
    assert voices(0) == voices(1) == {"site-0", "site-1"}
    assert "site-2" in sites_seen(cluster, 0), "it is there, and its frames are answered; it has no voice"
    renewed = sign_grant(CA, signer_of("node 2").public_key, Role.NODE, "site-2", end_s + 90 * DAY_S)
    cluster.give(2, LocalUpdate(Certified(renewed)))
    cluster.run(2 * SECOND)
    assert voices(0) == voices(1) == {"site-0", "site-1", "site-2"}
    cluster.run(120 * SECOND)
    assert cluster.equal()


@pytest.mark.parametrize("ends_after_s", [20, -20])
def test_a_node_whose_certificate_has_ended_goes_on_by_its_own_evidence(ends_after_s: int) -> None:
    """Whatever it sees then, its next refresh, and a start with it: each of these ended the node."""
    short = sign_grant(CA, signer_of("node 0").public_key, Role.NODE, "site-0", EPOCH // SECOND + ends_after_s)
    cluster = certified(3, grants={0: short}) if ends_after_s > 0 else Cluster(3, ca=CA, grants={0: short})
    cluster.introduce_all()
    cluster.run(30 * SECOND)
    for index in range(3):
        cluster.observe(index, fra=Level.DOWN if index == 0 else Level.HEALTHY, iad=Level.HEALTHY)
    cluster.run(5 * SECOND)
    assert cluster.effective("fra")[0] == Level.DOWN, "it goes by what it sees"
    assert cluster.effective("fra")[1:] == [Level.HEALTHY] * 2, "and has no voice elsewhere"
    cluster.run(300 * SECOND)
    ours = cluster.engines[0]
    assert ours.counters()["rows not sent: our certificate has ended"] > 1
    assert {member.state for member in ours.view().members} == {"alive"} or ends_after_s < 0
    renewed = sign_grant(CA, signer_of("node 0").public_key, Role.NODE, "site-0", EPOCH // SECOND + 90 * DAY_S)
    cluster.give(0, LocalUpdate(Certified(renewed)))
    cluster.run(60 * SECOND)
    assert cluster.all_know_all()
    assert cluster.equal()
    assert {w.site for w in cluster.engines[1].view().regions[0].witnesses} == {"site-0", "site-1", "site-2"}


def test_a_revoked_node_is_put_out_everywhere_and_stays_out() -> None:
    cluster = certified(5)
    for index in range(5):
        cluster.observe(index, fra=Level.DOWN if index >= 3 else Level.HEALTHY)
    cluster.run(5 * SECOND)
    victim = cluster.engines[4]
    cluster.crash(3)
    revoke(cluster, 0, sign_revocation(CA, victim.node))
    cluster.run(2 * SECOND)
    for index in (0, 1, 2):
        assert "site-4" not in sites_seen(cluster, index)
        assert cluster.engines[index].view().revoked == (victim.node,)
        assert all(
            witness.site != "site-4" for region in cluster.engines[index].view().regions for witness in region.witnesses
        )
    assert {node for _, node, note in cluster.notified if isinstance(note, KeyRevoked)} == {0, 1, 2, 4}
    cluster.restart(3)  # was away when it was said
    cluster.run(60 * SECOND)
    assert "site-4" not in sites_seen(cluster, 3)
    assert cluster.engines[3].view().revoked == (victim.node,)
    back = [note for _, node, note in cluster.notified if isinstance(note, MemberChanged) and note.node == victim.node]
    cluster.observe(4, fra=Level.DOWN, nrt=Level.DOWN)
    datagrams = cluster.datagrams
    cluster.run(60 * SECOND)
    assert any(rejected(cluster, index, "key revoked") for index in range(4))
    assert any(cluster.engines[index].counters().get("questions refused: not of a member") for index in range(4))
    assert [
        note for _, node, note in cluster.notified if isinstance(note, MemberChanged) and note.node == victim.node
    ] == back, "it goes on speaking, and nobody takes it in"
    assert (cluster.datagrams - datagrams) / 60 / 5 < 12, "and it costs no storm"
    cluster.crash(4)
    cluster.run(30 * SECOND)
    assert cluster.equal()
    assert cluster.all_know_all()


def test_a_revocation_crosses_a_partition_outlives_a_restart_and_greets_newcomers() -> None:
    cluster = certified(5)
    cluster.crash(4)
    cluster.judge = cut(([0, 1], [2, 3]))
    cluster.run(30 * SECOND)
    revoke(cluster, 0, sign_revocation(CA, cluster.engines[4].node))
    cluster.run(10 * SECOND)
    assert [bool(cluster.engines[index].view().revoked) for index in range(4)] == [True, True, False, False]
    cluster.judge = reliable
    cluster.run(60 * SECOND)
    assert all(cluster.engines[index].view().revoked for index in range(4))
    for index in range(3):
        cluster.crash(index)
    cluster.restart(3)
    assert cluster.engines[3].view().revoked, "from its own disk, before anybody has told it"
    cluster.restart(4, disk_lost=True)
    cluster.run(40 * SECOND)
    assert "site-4" not in sites_seen(cluster, 3)
    cluster.restart(0, disk_lost=True)
    cluster.run(60 * SECOND)
    assert cluster.engines[0].view().revoked
    assert "site-4" not in sites_seen(cluster, 0)


def test_only_the_ca_s_word_puts_anybody_out() -> None:
    cluster = certified(3)
    for ca in (signer_of("another ca"), signer_of("node 1"), OPERATOR):
        cell = WireCell(CellKind.REVOCATION, sign_revocation(ca, cluster.engines[2].node).data)
        tell(cluster, 0, cell)
    cluster.run(SECOND)
    assert cluster.engines[0].counters()["revocation rejected: bad revocation signature"] == 3
    assert cluster.all_know_all()
    bare = Cluster(2)
    tell(bare, 0, WireCell(CellKind.REVOCATION, sign_revocation(CA, bare.engines[1].node).data))
    assert bare.engines[0].counters()["revocation rejected: revocation without a CA"] == 1


EVA: Ed25519Signer = signer_of(
    "eva", sign_grant(CA, signer_of("eva").public_key, Role.OPERATOR, "eva", GRANTED_UNTIL_S)
)
EVA_ID = author_id_of(EVA.public_key)


def test_a_certified_operator_publishes_and_a_revoked_one_no_more() -> None:
    cluster = certified(4)
    good = cluster.publish(0, "by eva\n", operator=EVA)
    cluster.run(3 * SECOND)
    assert cluster.serving() == [good] * 4
    chain = cluster.engines[1].policy.chain(EVA_ID)
    cluster.judge = cut(([0], [1, 2, 3]))
    stolen = cluster.publish(0, "by a thief\n", operator=EVA)
    revoke(cluster, 2, sign_revocation(CA, EVA_ID, chain.seq, OpId(chain.id)))
    cluster.run(5 * SECOND)
    assert cluster.serving() == [stolen, good, good, good]
    cluster.judge = reliable
    cluster.run(60 * SECOND)
    assert cluster.serving() == [good] * 4, "what came after the op that the CA names is void where it was taken, too"
    assert cluster.equal()
    cluster.publish(3, "once more\n", operator=EVA)
    cluster.run(5 * SECOND)
    assert cluster.serving() == [good] * 4
    assert cluster.engines[3].counters()["op rejected: author revoked"] > 0
    after = cluster.publish(3, "by the list\n")
    cluster.run(5 * SECOND)
    assert cluster.serving() == [after] * 4


def test_everything_is_written_again_when_the_disk_has_lost_it() -> None:
    cluster = certified(4)
    cluster.publish(0, "by eva\n", operator=EVA)
    cluster.observe(1, fra=Level.DEGRADED)
    revoke(cluster, 0, sign_revocation(CA, cluster.engines[3].node))
    cluster.crash(3)
    cluster.run(20 * SECOND)
    kept = dict(cluster.disks[2])
    assert {table for table, _ in kept} >= {"self", "op", "peer", "row", "revoked"}
    cluster.disks[2].clear()
    cluster.give(2, LocalUpdate(RecordsLost()))
    moving = {"row", "self"}
    assert {at: value for at, value in cluster.disks[2].items() if at[0] not in moving} == {
        at: value for at, value in kept.items() if at[0] not in moving
    }
    assert cluster.disks[2].keys() >= kept.keys()
