"""Deltas to a peer, by what its filters tell of the last one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.answers import Answers
from lattice.cells import Cell, CellKind, Shards, Urgency
from lattice.config import Config
from lattice.pacing import LATELY_US, PEERS_MAX, Pacing, affordable
from lattice.types import SECOND, CellId, Micros, NodeId

CONFIG = Config()
POLICY = Urgency.POLICY
PEER = NodeId(b"p" * 16)
ALL = Shards(16, tuple(range(16)))
CELL_BYTES = 600


def cells(count: int) -> list[Cell]:
    return [
        Cell(CellId(number.to_bytes(2, "little") + bytes(14)), CellKind.OP, bytes(CELL_BYTES), POLICY, (b"w", number))
        for number in range(count)
    ]


def new_pacing(answer_bytes_per_s: int = 10**12) -> Pacing:
    """Whose answers little bounds but the pace."""
    config = Config(answer_bytes_per_s=answer_bytes_per_s, answer_bytes_burst=2 * answer_bytes_per_s)
    return Pacing(CONFIG, Answers(config, lambda _: None))


def size(sent: list[Cell]) -> int:
    return sum(len(cell.data) for cell in sent)


def test_where_everything_arrives_nobody_waits_and_nothing_is_smaller() -> None:
    pacing, left, now, rounds = new_pacing(), cells(1_000), Micros(SECOND), 0
    while left:
        sent = pacing.afford(PEER, left, ALL, now)
        assert size(sent) > CONFIG.delta_bytes_max - CELL_BYTES or sent == left
        assert pacing.lost_until(PEER) == 0
        left, now, rounds = left[len(sent) :], Micros(now + 1_000), rounds + 1
    assert rounds == 1_000 * CELL_BYTES // CONFIG.delta_bytes_max + 1


def test_what_was_just_sent_is_not_sent_again_before_it_can_have_arrived() -> None:
    pacing, left, now = new_pacing(), cells(200), Micros(SECOND)
    sent = pacing.afford(PEER, left, ALL, now)
    for wait in (0, 100_000, CONFIG.delta_wait_us - 1):
        assert pacing.afford(PEER, left, ALL, Micros(now + wait)) == []
    again = pacing.afford(PEER, left, ALL, Micros(now + CONFIG.delta_wait_us))
    assert again == left[: len(again)], "the most urgent are the most urgent still"
    assert size(again) <= CONFIG.delta_bytes_max // 2
    assert len(sent) > len(again) > 0
    assert pacing.lost_until(PEER) == now + CONFIG.delta_wait_us + 2 * CONFIG.delta_wait_us
    assert pacing.afford(NodeId(b"q" * 16), left, ALL, now) == sent, "another peer has a pace of its own"


def test_a_filter_over_other_shards_says_nothing_of_the_last_delta() -> None:
    pacing, left, now = new_pacing(), cells(200), Micros(SECOND)
    pacing.afford(PEER, [cell for cell in left if cell.id in Shards(16, (0,))], ALL, now)
    elsewhere = [cell for cell in left if cell.id in Shards(16, (1,))]
    assert pacing.afford(PEER, elsewhere, Shards(16, (1,)), now) == elsewhere
    pacing.afford(PEER, elsewhere, Shards(16, (1,)), Micros(now + CONFIG.delta_wait_us))  # lost: it is waited for
    other, later = Shards(16, (2,)), Micros(now + CONFIG.delta_wait_us + 1)
    third = [cell for cell in left if cell.id in other]
    assert pacing.afford(PEER, third, other, later) == []
    assert pacing.afford(PEER, third, other, pacing.lost_until(PEER)) == third


@given(st.integers(4_000, 400_000), st.integers(1, 400))
def test_over_any_link_everything_arrives_and_little_is_sent_in_vain(bytes_per_s: int, count: int) -> None:
    """A link that carries what it can and drops the rest; the peer asks again 30 ms after the last part."""
    pacing, left, now, sent_bytes = new_pacing(), cells(count), Micros(SECOND), 0
    free_at = now
    while left:
        sent = pacing.afford(PEER, left, ALL, now)
        sent_bytes += size(sent)
        arrived = set()
        for cell in sent:
            begins = max(free_at, now)
            if begins - now <= 400_000:  # what the link's queue holds
                free_at = Micros(begins + CELL_BYTES * SECOND // bytes_per_s)
                arrived.add(cell.id)
        now = Micros(max(free_at, now) + 30_000)
        left = [cell for cell in left if cell.id not in arrived]
    wanted = count * CELL_BYTES
    assert sent_bytes <= 2 * wanted + 2 * CONFIG.delta_bytes_max
    in_vain = sum(CONFIG.delta_wait_us << doubled for doubled in range(5))
    assert now - SECOND <= in_vain + 4 * wanted * SECOND // bytes_per_s + 4 * SECOND


def test_whoever_loses_most_of_what_it_sends_to_most_has_a_narrow_link_itself() -> None:
    pacing, left, now = new_pacing(), cells(200), Micros(SECOND)
    peers = [NodeId(bytes([number]) * 16) for number in range(5)]
    soon = Micros(now + CONFIG.delta_wait_us)

    def lose(peer: NodeId) -> None:
        pacing.afford(peer, left, ALL, now)
        pacing.afford(peer, left, ALL, soon)

    lose(peers[0])
    assert not pacing.loses_to_most(soon), "one peer's link may be narrow"
    for peer in peers[3:]:
        got = pacing.afford(peer, left, ALL, now)
        pacing.afford(peer, left[len(got) :], ALL, soon)
    lose(peers[1])
    assert not pacing.loses_to_most(soon), "two of four: two peers' links may be"
    lose(peers[2])
    assert pacing.loses_to_most(soon)
    assert not pacing.loses_to_most(Micros(soon + LATELY_US + 1)), "it was so lately"


def test_the_memory_of_peers_is_bounded_and_the_longest_silent_is_forgotten() -> None:
    pacing, left = new_pacing(), cells(200)
    peers = [NodeId(number.to_bytes(16, "big")) for number in range(PEERS_MAX + 1)]
    for peer in peers:
        pacing.afford(peer, left, ALL, Micros(SECOND))
    assert pacing.afford(peers[-1], left, ALL, Micros(SECOND)) == []
    assert pacing.afford(peers[0], left, ALL, Micros(SECOND)) != []
    assert len(pacing._paces) == PEERS_MAX


def test_one_cell_at_least_however_large() -> None:
    assert affordable(cells(3), 1) == cells(1)
    assert affordable(cells(3), 2 * CELL_BYTES) == cells(2)
    assert affordable([], 1) == []


def test_what_may_not_be_sent_now_is_not_taken_for_sent() -> None:
    pacing, left = new_pacing(answer_bytes_per_s=2_100), cells(200)
    sent = pacing.afford(PEER, left, ALL, Micros(SECOND))
    assert size(sent) == 1_800, "a share of what there is, with three envelopes"
    left = left[len(sent) :]
    assert pacing.afford(PEER, left, ALL, Micros(SECOND)) == []
    again = pacing.afford(PEER, left, ALL, Micros(2 * SECOND))
    assert again == left[: len(again)] != []
