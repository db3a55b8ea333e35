"""Where peers reach us, by what most of them say."""

from __future__ import annotations

from lattice.own_address import VOICE_US, VOICES_MAX, OwnAddress
from lattice.types import Micros, NodeId

OLD, NEW, LIE = "10.0.0.1", "10.9.9.9", "203.0.113.66"
PEERS = [NodeId(bytes([number]) * 16) for number in range(1, 21)]


def said(address: OwnAddress, host: str, peers: list[NodeId], now: int = 0) -> list[bool]:
    return [address.heard(peer, host, Micros(now)) for peer in peers]


def test_the_first_word_is_taken_and_a_configured_address_stays() -> None:
    address = OwnAddress("")
    assert said(address, "", PEERS[:1]) == [False]
    assert said(address, OLD, PEERS[:1]) == [True]
    assert address.host == OLD
    told = OwnAddress(OLD)
    assert not any(said(told, NEW, PEERS))
    assert told.host == OLD


def test_an_address_that_changed_is_followed_once_all_but_one_say_so() -> None:
    address = OwnAddress("")
    said(address, OLD, PEERS[:6])
    changes = said(address, NEW, PEERS[:6])
    assert changes == [False, False, False, False, True, False]
    assert address.host == NEW


def test_with_a_single_peer_its_word_counts() -> None:
    address = OwnAddress("")
    said(address, OLD, PEERS[:1])
    assert said(address, NEW, PEERS[:1]) == [True]


def test_one_liar_neither_moves_us_nor_holds_us_back() -> None:
    liar, honest = PEERS[0], PEERS[1:4]
    address = OwnAddress("")
    said(address, OLD, [*honest, liar])
    for now in range(50):
        assert not address.heard(liar, LIE, Micros(now))
    said(address, OLD, [liar], 60)
    assert any(said(address, NEW, honest, 61))
    assert address.host == NEW


def test_peers_who_see_us_differently_for_good_do_not_make_us_waver() -> None:
    address = OwnAddress("")
    changes = [
        address.heard(peer, (OLD, NEW)[index % 2], Micros(now))
        for now in range(100)
        for index, peer in enumerate(PEERS[:6])
    ]
    assert sum(changes) == 1


def test_voices_are_few_and_fresh() -> None:
    address = OwnAddress("")
    said(address, OLD, PEERS)
    assert len(address._voices) == VOICES_MAX
    assert said(address, NEW, PEERS[:1], VOICE_US + 1) == [True], "the others have been silent for a minute"
