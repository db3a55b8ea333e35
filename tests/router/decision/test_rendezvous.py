"""Who belongs to which endpoint: stable when another is lost, evenly spread, and the same on every machine."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.decision.rendezvous import ranking

ENDPOINTS = [b"192.0.2.1 80", b"192.0.2.2 80", b"192.0.2.3 80", b"192.0.2.4 80"]


@given(st.binary(min_size=4, max_size=16), st.sets(st.sampled_from(ENDPOINTS), min_size=1), st.data())
def test_losing_an_endpoint_moves_only_its_own_clients(client: bytes, some: set[bytes], data: st.DataObject) -> None:
    endpoints = sorted(some)
    order = [endpoints[index] for index in ranking(client, endpoints)]
    assert sorted(order) == endpoints
    lost = data.draw(st.sampled_from(endpoints))
    left = [endpoint for endpoint in endpoints if endpoint != lost]
    assert [left[index] for index in ranking(client, left)] == [endpoint for endpoint in order if endpoint != lost]


def test_clients_are_spread_evenly() -> None:
    firsts = Counter(ranking(number.to_bytes(4, "big"), ENDPOINTS)[0] for number in range(4_000))
    assert all(900 < firsts[index] < 1_100 for index in range(4))


def test_every_machine_ranks_alike() -> None:
    clients = (b"\x7f\0\0\1", b"\xc0\0\2\7", b"\0" * 15 + b"\1")
    assert [ranking(client, ENDPOINTS) for client in clients] == [[2, 1, 3, 0], [0, 3, 1, 2], [2, 1, 3, 0]]
