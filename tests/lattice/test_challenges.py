"""Whoever is not known to be where its frame comes from gets no more there than that frame, until it has answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lattice import wire
from lattice.challenges import CHALLENGES_MAX, Challenges, Given
from lattice.engine import Engine
from lattice.events import DatagramReceived, IdConflict, LocalUpdate, PeerDiscovered, SendDatagram, SendStream
from lattice.membership import MemberState, MemberUpdate
from lattice.seal import Plain
from lattice.types import SECOND, CellId, Endpoint, NodeId
from lattice.wire import Ack, Challenge, Compare, Graft, IHave, Message, Nack, Ping, PingReq, Response, Rumour, WireCell
from tests.lattice.cluster import CLUSTER, Cluster

ELSEWHERE: Endpoint = ("10.9.9.9", 9)
STRANGER = NodeId(b"stranger" * 2)
Sent = list[tuple[Endpoint, Message, int]]


def settled(wildcard: bool = False) -> Cluster:
    cluster = Cluster(4, wildcard=wildcard)
    cluster.introduce_all()
    cluster.run_until(lambda: cluster.all_know_all() and cluster.equal(), 10 * SECOND)
    cluster.publish(0, *(f"# {number} {'x' * 900}\n" for number in range(20)))
    cluster.run(5 * SECOND)
    return cluster


def hear(cluster: Cluster, message: Message, sender: NodeId, source: Endpoint = ELSEWHERE) -> tuple[int, Sent]:
    """Node 0 hears this from there: how large it was; where what went, and how large that is."""
    frame = Plain(CLUSTER).close(sender, wire.encode(message), cluster.now)
    effects = cluster.engines[0].handle(DatagramReceived(frame, source), cluster.now)
    sent = [effect for effect in effects if isinstance(effect, SendDatagram | SendStream)]
    return len(frame), [
        (each.target, wire.decode(Plain(CLUSTER).open(each.data)[1], 1 << 16), len(each.data)) for each in sent
    ]


def bytes_to(target: Endpoint, sent: Sent) -> int:
    return sum(size for at, _, size in sent if at == target)


def seen(cluster: Cluster, index: int) -> Endpoint:
    """Where node 0 holds that one to be."""
    return cluster.engines[0]._swim.endpoint_of(cluster.engines[index].node)


def doubt(cluster: Cluster) -> tuple[MemberUpdate, ...]:
    """A word about node 0 itself: its row is the answer."""
    us = cluster.engines[0]
    return (MemberUpdate(us.node, MemberState.SUSPECT, us._swim.incarnation, cluster.engines[2].node),)


def own_row(cluster: Cluster, index: int) -> tuple[WireCell, ...]:
    return cluster.engines[index]._health.our_row()


FRAMES: dict[str, Callable[[Cluster], Message]] = {
    "ping": lambda _: Ping(2**40, bytes(16)),
    "ping with a doubt": lambda cluster: Ping(2**40, bytes(16), doubt(cluster)),
    "ping with a row": lambda cluster: Ping(2**40, bytes(16), (), own_row(cluster, 1)),
    "ack": lambda cluster: Ack(2**40, cluster.engines[1].node, bytes(16), ELSEWHERE),
    "ack with a doubt": lambda cluster: Ack(2**40, cluster.engines[1].node, bytes(16), ELSEWHERE, doubt(cluster)),
    "nack": lambda cluster: Nack(2**40, cluster.engines[2].node),
    "graft": lambda cluster: Graft(tuple(sorted(cluster.engines[0]._cells._cells)[:16])),
    "announcement": lambda _: IHave((CellId(bytes(16)),)),
    "compare": lambda _: Compare(7, (bytes(4),) * 16),
    "ping request": lambda cluster: PingReq(2**40, cluster.engines[2].node, cluster.endpoint(2)),
    "rumour": lambda cluster: Rumour(own_row(cluster, 1)),
    "challenge": lambda _: Challenge(2**40),
    "response": lambda _: Response(2**40),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("member", [True, False], ids=["a member's", "a stranger's"])
def test_a_frame_that_is_diverted_brings_no_more_than_it_is_and_moves_nobody(frame: str, member: bool) -> None:
    cluster = settled()
    came, sent = hear(cluster, FRAMES[frame](cluster), cluster.engines[1].node if member else STRANGER)
    assert bytes_to(ELSEWHERE, sent) <= came
    assert seen(cluster, 1) == cluster.endpoint(1)
    cluster.run(3 * SECOND)
    assert ELSEWHERE not in cluster.engines[0]._swim.calls.book, "nor is it called there"


@pytest.mark.parametrize("frame", ["ping", "ping with a doubt", "graft", "compare"])
def test_it_would_bring_more_if_sources_were_believed(frame: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = settled()
    monkeypatch.setattr(Engine, "_heard_at", lambda _, __, source: source)
    came, sent = hear(cluster, FRAMES[frame](cluster), cluster.engines[1].node)
    assert bytes_to(ELSEWHERE, sent) > came
    assert seen(cluster, 1) == ELSEWHERE


def test_what_a_diverted_question_asks_for_goes_to_where_its_sender_is_known_to_be() -> None:
    cluster = settled()
    came, sent = hear(cluster, FRAMES["graft"](cluster), cluster.engines[1].node)
    assert bytes_to(cluster.endpoint(1), sent) > 10 * came


def test_who_answers_what_it_was_sent_has_moved_and_gets_the_ack_that_it_waits_for() -> None:
    cluster = settled()
    sent = cluster.hear_from(ELSEWHERE, 0, 1, Ping(2**40, bytes(16)))
    assert [type(message) for message in sent] == [Challenge, Ack]
    assert isinstance(sent[-1], Ack)
    assert (sent[-1].nonce, sent[-1].seen_as) == (2**40, ELSEWHERE)
    assert seen(cluster, 1) == ELSEWHERE
    _, again = hear(cluster, Ping(2**40, bytes(16)), cluster.engines[1].node, cluster.endpoint(1))
    assert [(at, type(message)) for at, message, _ in again] == [(cluster.endpoint(1), Ack)], "it was there, too"
    assert not [note for _, _, note in cluster.notified if isinstance(note, IdConflict)]


def test_an_answer_from_elsewhere_of_another_or_a_second_time_proves_nothing() -> None:
    cluster = settled()
    node, other = cluster.engines[1].node, cluster.engines[2].node
    _, sent = hear(cluster, Ping(2**40, bytes(16)), node)
    (number,) = [message.number for _, message, _ in sent if isinstance(message, Challenge)]
    for sender, source in ((node, ("10.9.9.8", 9)), (other, ELSEWHERE), (node, cluster.endpoint(1))):
        hear(cluster, Response(number), sender, source)
        assert seen(cluster, 1) == cluster.endpoint(1)
        assert seen(cluster, 2) == cluster.endpoint(2)
    hear(cluster, Response(number), node)
    assert seen(cluster, 1) == ELSEWHERE
    hear(cluster, Ping(2**40, bytes(16)), node, cluster.endpoint(1))
    assert hear(cluster, Response(number), node, ("10.9.9.8", 9))[1] == []
    assert seen(cluster, 1) == cluster.endpoint(1)


def test_an_answer_goes_to_where_the_challenge_came_from_and_calls_for_none() -> None:
    """Where both have moved neither is known to the other, and they would go on for ever."""
    cluster = settled()
    for sender in (cluster.engines[1].node, STRANGER):
        came, sent = hear(cluster, Challenge(2**40), sender)
        assert sent == [(ELSEWHERE, Response(2**40), came)]
        assert hear(cluster, Response(2**40), sender)[1] == []


def test_nodes_that_know_no_address_of_their_own_meet_and_are_known_by_where_they_answer() -> None:
    cluster = Cluster(4, wildcard=True)
    cluster.introduce_all()
    cluster.run_until(cluster.all_know_all, SECOND)
    assert [seen(cluster, index) for index in (1, 2, 3)] == [cluster.endpoint(index) for index in (1, 2, 3)]


def test_of_a_newcomer_whose_row_names_no_address_nothing_goes_to_where_its_call_was_diverted() -> None:
    cluster = Cluster(2, wildcard=True)
    row = own_row(cluster, 1)
    came, sent = hear(cluster, Ping(2**40, bytes(16), (), row), cluster.engines[1].node)
    assert row
    assert bytes_to(ELSEWHERE, sent) <= came
    assert seen(cluster, 1)[0] == "", "it is a member, and nobody knows where"
    cluster.give(1, LocalUpdate(PeerDiscovered(cluster.endpoint(0))))
    cluster.run_until(lambda: seen(cluster, 1) == cluster.endpoint(1), SECOND)


def test_so_many_are_waited_for() -> None:
    challenges, given = Challenges(), Given(STRANGER, ELSEWHERE)
    for number in range(CHALLENGES_MAX + 1):
        challenges.give(number, given._replace(source=(ELSEWHERE[0], number)))
    assert challenges.met(0, STRANGER, (ELSEWHERE[0], 0)) is None
    assert challenges.met(1, STRANGER, (ELSEWHERE[0], 1)) is not None
