"""What peers get for the asking, and what those get who are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from lattice import wire
from lattice.answers import SHARES, Answers
from lattice.batching import CELL_OVERHEAD_BYTES, ENVELOPE_BYTES, Load
from lattice.cells import Cell, CellKind, Shards, Urgency
from lattice.config import Config
from lattice.digest import Bloom
from lattice.events import (
    DatagramReceived,
    Effect,
    LocalUpdate,
    OpsSubmitted,
    RevocationsSubmitted,
    SendDatagram,
    SendStream,
    TimerFired,
)
from lattice.grants import sign_revocation
from lattice.membership import MemberState, MemberUpdate
from lattice.seal import Plain
from lattice.spreading import HOLDERS_MAX, Spreading
from lattice.types import MILLISECOND, SECOND, CellId, Endpoint, Micros, NodeId
from lattice.wire import (
    Ack,
    Challenge,
    Compare,
    Delta,
    Digest,
    Graft,
    IHave,
    Message,
    Ping,
    PingReq,
    Response,
    Rumour,
    WireCell,
)
from tests.lattice.cluster import CLUSTER, Cluster, signer_of

STORM_BYTES = 4_000_000
"""As the simulator's `no-storm` has it."""
ENDLESS = Config(answer_bytes_per_s=10**12, answer_bytes_burst=10**12)
ELSEWHERE: Endpoint = ("10.9.9.9", 9)
STRANGER = NodeId(b"stranger" * 2)
QUESTIONS: dict[str, Callable[[Cluster], Message]] = {
    "Graft": lambda cluster: Graft(tuple(held(cluster)[:64])),
    "Compare": lambda cluster: Compare(7, (bytes(4),) * 16),
    "PingReq": lambda cluster: PingReq(7, cluster.engines[2].node, ELSEWHERE),
}


def settled(config: Config | None = None) -> Cluster:
    """Three nodes with 200 kB of policy."""
    cluster = Cluster(3, config=config)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    cluster.publish(0, *(f"# {number} {'x' * 900}\n" for number in range(200)))
    cluster.run(5 * SECOND)
    assert cluster.equal()
    return cluster


def held(cluster: Cluster) -> list[CellId]:
    """What node 0 holds, as all of its peers know."""
    return sorted(cluster.engines[0]._cells._cells)


def ask(
    cluster: Cluster, message: Message, sender: NodeId, source: Endpoint, later_us: int = 0
) -> list[tuple[Endpoint, bytes]]:
    """Node 0 takes this datagram; what it sends, and to where."""
    now = Micros(cluster.now + later_us)
    frame = Plain(CLUSTER).close(sender, wire.encode(message), now)
    effects = cluster.engines[0].handle(DatagramReceived(frame, source), now)
    return [(effect.target, effect.data) for effect in effects if isinstance(effect, SendDatagram | SendStream)]


def messages(sent: Sequence[tuple[Endpoint, bytes]]) -> list[Message]:
    return [wire.decode(Plain(CLUSTER).open(frame)[1], 1 << 16) for _, frame in sent]


def by_graft(cluster: Cluster, peer: NodeId, source: Endpoint) -> int:
    ids, sent = held(cluster), 0
    for step in range(300):
        graft = Graft(tuple(ids[step % 3 * 64 : step % 3 * 64 + 64]))
        sent += sum(len(frame) for _, frame in ask(cluster, graft, peer, source, step * 3 * MILLISECOND))
    return sent


def by_comparing(cluster: Cluster, peer: NodeId, source: Endpoint) -> int:
    """And says each time that it has what came last, and nothing else."""
    got: list[CellId] = []
    sent = 0
    for step in range(300):
        later_us = step * 3 * MILLISECOND
        (digest,) = messages(ask(cluster, Compare(7, (bytes(4),) * 16), peer, source, later_us))
        assert isinstance(digest, Digest)
        lie = Digest(digest.shards, digest.answer_salt, Bloom.of(got, len(got), digest.answer_salt), 0)
        answer = ask(cluster, lie, peer, source, later_us)
        sent += sum(len(frame) for _, frame in answer)
        found = [delta.cells for delta in messages(answer) if isinstance(delta, Delta)]
        got = [CellId(cell_id(cluster, cell.data)) for cells in found for cell in cells] or got
    return sent


def cell_id(cluster: Cluster, data: bytes) -> bytes:
    return next(cell.id for cell in cluster.engines[0]._cells._cells.values() if cell.data == data)


@pytest.mark.parametrize("asks", [by_graft, by_comparing])
def test_who_asks_for_the_same_in_a_loop_has_its_share_and_brings_about_no_storm(
    asks: Callable[[Cluster, NodeId, Endpoint], int],
) -> None:
    cluster = settled()
    sent = asks(cluster, cluster.engines[1].node, cluster.endpoint(1))
    assert 500_000 < sent < STORM_BYTES // SHARES
    later_us = 900 * MILLISECOND
    other = ask(cluster, Graft(tuple(held(cluster)[:8])), cluster.engines[2].node, cluster.endpoint(2), later_us)
    assert len([cell for rumour in messages(other) if isinstance(rumour, Rumour) for cell in rumour.cells]) == 8
    assert cluster.engines[0].counters()["answers over the rate"] > 0


@pytest.mark.parametrize("asks", [by_graft, by_comparing])
def test_it_would_be_a_storm_without_the_bound(asks: Callable[[Cluster, NodeId, Endpoint], int]) -> None:
    cluster = settled(ENDLESS)
    assert asks(cluster, cluster.engines[1].node, cluster.endpoint(1)) > STORM_BYTES


def asked_while_it_pushes() -> tuple[int, int]:
    """How many bytes of rumours and of deltas node 0 sends within a second in which it publishes 250 kB and both others
    ask for all it has, again and again: at a tenth of the rates, so that there is enough to ask for."""
    ours = Config()
    cluster = settled(
        Config(
            rumour_bytes_per_s=ours.rumour_bytes_per_s // 10,
            rumour_bytes_burst=ours.rumour_bytes_burst // 10,
            answer_bytes_per_s=ours.answer_bytes_per_s // 10,
            answer_bytes_burst=ours.answer_bytes_burst // 10,
        )
    )
    engine = cluster.engines[0]
    ops, _ = cluster.composed(0, *(f"# {number} {'y' * 900}\n" for number in range(250)))
    said = list(engine.handle(LocalUpdate(OpsSubmitted(tuple([op.data for op in ops]))), cluster.now))

    def hears(peer: int, message: Message) -> list[Effect]:
        frame = Plain(CLUSTER).close(cluster.engines[peer].node, wire.encode(message), now)
        effects = engine.handle(DatagramReceived(frame, cluster.endpoint(peer)), now)
        said.extend(effects)
        return effects

    for step in range(100):
        now = Micros(cluster.now + 10 * MILLISECOND * step)
        said += engine.handle(TimerFired(), now)
        hears(1, Graft(tuple(held(cluster)[step % 4 * 64 :][:64])))
        for effect in hears(2, Compare(7, (bytes(4),) * 16)):
            if isinstance(effect, SendDatagram):
                (digest,) = messages([(effect.target, effect.data)])
                assert isinstance(digest, Digest)
                hears(2, Digest(digest.shards, digest.answer_salt, Bloom.of([], 1, digest.answer_salt), 0))
    sent = Counter[type[Message]]()
    for effect in said:
        if isinstance(effect, SendDatagram | SendStream):
            sent[type(messages([(effect.target, effect.data)])[0])] += len(effect.data)
    return sent[Rumour], sent[Delta]


def test_who_pushes_while_it_is_asked_brings_about_no_storm_either() -> None:
    rumours, deltas = asked_while_it_pushes()
    assert rumours + deltas < STORM_BYTES // 10
    assert min(rumours, deltas) > STORM_BYTES // 100, "else nothing was shown"


def test_it_would_if_what_is_asked_for_were_not_taken_from_what_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spreading, "_taken", lambda self, cells: Load(Config().datagram_bytes_max, cells))
    assert sum(asked_while_it_pushes()) > STORM_BYTES // 10


def test_a_cell_is_sent_once_however_often_one_graft_names_it() -> None:
    cluster = settled()
    answer = ask(cluster, Graft((held(cluster)[0],) * 64), cluster.engines[1].node, cluster.endpoint(1))
    assert len(answer) == 1


def test_all_together_have_no_more_than_so_much() -> None:
    alone = bytes(1_000 - ENVELOPE_BYTES - CELL_OVERHEAD_BYTES)  # a KB on the wire, for it shares no datagram
    config = Config(answer_bytes_per_s=2_000, answer_bytes_burst=8_000)
    answers, now = Answers(config, lambda _: None), Micros(SECOND)
    cells = [Cell(CellId(bytes([n]) * 16), CellKind.OP, alone, Urgency.POLICY, (b"w", n)) for n in range(9)]
    peers = [NodeId(bytes([n]) * 16) for n in range(5)]
    assert [len(answers.afford(peer, cells, now)) for peer in peers] == [4, 4, 0, 0, 0]
    assert len(answers.afford(peers[4], cells, Micros(now + SECOND))) == 2, "a second's worth for whoever comes"
    assert answers.afford(peers[3], cells[:1], Micros(now + SECOND)) == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_whoever_is_no_member_is_answered_no_question(question: str) -> None:
    cluster = settled()
    message = QUESTIONS[question](cluster)
    assert ask(cluster, message, cluster.engines[1].node, cluster.endpoint(1)), "a member is"
    asked = ask(cluster, message, STRANGER, ELSEWHERE)
    assert [type(answer) for answer in messages(asked)] == [Challenge]
    (challenge,) = messages(asked)
    assert isinstance(challenge, Challenge)
    assert not ask(cluster, Response(challenge.number), STRANGER, ELSEWHERE), "it is there, and no member"
    assert cluster.engines[0].counters()["questions refused: not of a member"] == 1


def test_a_stranger_s_ping_is_answered_with_no_more_than_that_we_are_here() -> None:
    cluster = settled()
    peer = cluster.engines[1].node
    claim = MemberUpdate(cluster.engines[2].node, MemberState.SUSPECT, cluster.engines[2]._swim.incarnation, peer)
    ask(cluster, Ping(1, bytes(16), (claim,)), peer, cluster.endpoint(1))
    waiting = dict(cluster.engines[0]._swim._piggyback.waiting)
    assert waiting, "there is something to tell"
    for number in range(50):
        (challenge,) = messages(ask(cluster, Ping(number, bytes(16)), STRANGER, ELSEWHERE))
        assert isinstance(challenge, Challenge)
        (ack,) = messages(ask(cluster, Response(challenge.number), STRANGER, ELSEWHERE))
        assert isinstance(ack, Ack)
        assert (ack.updates, ack.cells) == ((), ())
    assert cluster.engines[0]._swim._piggyback.waiting == waiting, "or strangers use up what is to be told to members"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_node_whose_key_was_taken_back_gets_that_word_and_nothing_else(question: str) -> None:
    ca = signer_of("ca")
    cluster = Cluster(3, ca=ca)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    gone = cluster.engines[1].node
    assert ask(cluster, QUESTIONS[question](cluster), gone, cluster.endpoint(1))
    word = sign_revocation(ca, gone).data
    cluster.give(0, LocalUpdate(RevocationsSubmitted((word,))))
    (challenge,) = messages(ask(cluster, QUESTIONS[question](cluster), gone, cluster.endpoint(1)))
    assert isinstance(challenge, Challenge)
    told = messages(ask(cluster, Response(challenge.number), gone, cluster.endpoint(1)))
    assert told == [Rumour((WireCell(CellKind.REVOCATION, word),))]


def test_a_delta_goes_to_where_its_salt_went_whatever_address_stands_on_the_filter() -> None:
    cluster = settled()
    peer, at = cluster.engines[1].node, cluster.endpoint(1)
    (digest,) = messages(ask(cluster, Compare(7, (bytes(4),) * 16), peer, at))
    assert isinstance(digest, Digest)
    empty = Digest(Shards(digest.shards.of, digest.shards.chosen), digest.answer_salt, Bloom.of([], 1, 1), 0)
    sent = ask(cluster, empty, peer, ELSEWHERE)
    assert sum(isinstance(message, Delta) for message in messages(sent)) > 10
    assert {target for target, frame in sent if not isinstance(messages([(target, frame)])[0], Challenge)} == {at}


def test_of_those_who_announce_a_cell_a_few_are_remembered_and_strangers_are_not() -> None:
    count = HOLDERS_MAX + 4
    cluster = Cluster(count)
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    engine, unknown = cluster.engines[0], CellId(b"unknown " * 2)
    ask(cluster, IHave((CellId(b"nobody's" * 2),)), STRANGER, ELSEWHERE)
    assert not engine._spreading._wanted
    for index in range(1, count):
        ask(cluster, IHave((unknown,)), cluster.engines[index].node, cluster.endpoint(index))
    assert len(engine._spreading._wanted[unknown].holders) == HOLDERS_MAX
    effects = engine.handle(TimerFired(), Micros(cluster.now + SECOND))
    sent = messages([(effect.target, effect.data) for effect in effects if isinstance(effect, SendDatagram)])
    assert sum(isinstance(message, Graft) for message in sent) == 1, "one at a time is asked"
