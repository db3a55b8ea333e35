"""Whose word about a client's address is taken: laws of the chain, then cases, then forgeries."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.trusted_hops import ENTRIES_MAX, TrustedHops

HOPS = TrustedHops([ip_network("10.0.0.0/8"), ip_network("2001:db8:ed9e::/48")])
TRUSTED = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(network="2001:db8:ed9e::/48").map(str)
USERS = st.ip_addresses(network="203.0.113.0/24").map(str) | st.ip_addresses(network="2001:db8:1::/48").map(str)
ANYTHING = st.text(max_size=40) | TRUSTED | USERS


def forwarded(address: str) -> str:
    return f'for="[{address}]:4711";proto=https' if ":" in address else f"by=_edge;For={address}"


@given(USERS, st.lists(ANYTHING, max_size=5))
def test_a_stranger_is_whoever_connects(peer: str, said: list[str]) -> None:
    assert HOPS.client_by_x_forwarded_for(peer, said) == peer
    assert HOPS.client_by_forwarded(peer, said) == peer
    assert TrustedHops().client_by_x_forwarded_for(peer, said) == peer


@given(st.lists(ANYTHING, max_size=5), USERS, st.lists(TRUSTED, max_size=5), TRUSTED)
def test_the_rightmost_whom_we_do_not_trust_is_the_client(
    forged: list[str], user: str, hops: list[str], peer: str
) -> None:
    """Whatever the user itself sent stands to the left of it, and changes nothing."""
    assert HOPS.client_by_x_forwarded_for(peer, [*forged, ", ".join([user, *hops])]) == user
    assert HOPS.client_by_forwarded(peer, [*forged, ", ".join(map(forwarded, [user, *hops]))]) == user


@given(st.lists(ANYTHING, max_size=8), TRUSTED)
def test_whatever_is_said_the_client_is_an_address(said: list[str], peer: str) -> None:
    for client in (HOPS.client_by_x_forwarded_for(peer, said), HOPS.client_by_forwarded(peer, said)):
        assert str(ip_address(client)) == client


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["203.0.113.9, unknown"], "10.0.0.1"),
        (["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["203.0.113.9:55000"], "203.0.113.9"),
        (["[2001:db8::1]:55000"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["::ffff:10.0.0.2,"], "10.0.0.1"),
        (["203.0.113.09"], "10.0.0.1"),
    ],
)
def test_x_forwarded_for(said: list[str], client: str) -> None:
    assert HOPS.client_by_x_forwarded_for("10.0.0.1", said) == client


@pytest.mark.parametrize(
    ("said", "client"),
    [
        (['for="_gazonk"'], "10.0.0.1"),
        (['For="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        (["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
        (["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
        (["for=192.0.2.43", "for=10.9.9.9"], "192.0.2.43"),
        (["for=192.0.2.43, proto=http"], "10.0.0.1"),
        (['for="192.0.2.43, for=10.0.0.9'], "10.0.0.1"),
        (['by="a,b;c\\"";for=192.0.2.43'], "192.0.2.43"),
        (["for=unknown"], "10.0.0.1"),
        ([" " * 30_000 + ";" * 30_000 + "for=192.0.2.43"], "192.0.2.43"),
    ],
)
def test_forwarded(said: list[str], client: str) -> None:
    assert HOPS.client_by_forwarded("10.0.0.1", said) == client


def test_a_chain_of_hops_without_end_ends() -> None:
    said = [", ".join(["203.0.113.9"] + ["10.0.0.2"] * 10_000)]
    assert HOPS.client_by_x_forwarded_for("10.0.0.1", said) == "10.0.0.2"
    short = [", ".join(["203.0.113.9"] + ["10.0.0.2"] * (ENTRIES_MAX - 1))]
    assert HOPS.client_by_x_forwarded_for("10.0.0.1", short) == "203.0.113.9"


def test_who_is_trusted() -> None:
    assert "10.255.255.255" in HOPS
    assert "::ffff:10.0.0.1" in HOPS
    assert "11.0.0.0" not in HOPS
    assert "2001:db8:ed9e:ffff::" in HOPS
    assert "not an address" not in HOPS
    assert not TrustedHops()
