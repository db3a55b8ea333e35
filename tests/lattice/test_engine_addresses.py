"""Sites that hear each other on two networks: one of them is lost, and nobody is."""

from __future__ import annotations

import pytest

from lattice.events import IdConflict, LocalUpdate, MemberChanged, PeerDiscovered
from lattice.prng import Prng
from lattice.types import MILLISECOND, SECOND, Endpoint
from tests.lattice.cluster import HOSTS, ON_LINK, Cluster

OLD, NEW, _ = HOSTS
BOTH = OLD, NEW


class Networks:
    """Two networks, of which some may be lost to some nodes (by index)."""

    def __init__(self) -> None:
        self.lost: set[tuple[str, int]] = set()

    def __call__(self, source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        ends = {(target[0], source[1] - 1), (target[0], target[1] - 1)}
        return [] if ends & self.lost else [MILLISECOND + prng.below(MILLISECOND)]

    def lose(self, host: str, *indices: int) -> None:
        self.lost |= {(host, index) for index in indices}


def on_both(count: int, networks: Networks, seed: str = "0") -> Cluster:
    """As mDNS brings them together: each hears of each on both networks, and each is then heard on both."""
    cluster = Cluster(count, seed, networks, wildcard=True)
    for index in range(count):
        for other in range(count):
            for host in BOTH if other != index else ():
                cluster.give(index, LocalUpdate(PeerDiscovered((host, other + 1))))
                cluster.run(20 * MILLISECOND)
    cluster.run_until(cluster.all_know_all, 10 * SECOND)
    cluster.run(20 * SECOND)
    cluster.notified.clear()
    return cluster


def called_down(cluster: Cluster) -> list[MemberChanged]:
    return [note for _, _, note in cluster.notified if isinstance(note, MemberChanged) and note.state == "down"]


@pytest.mark.parametrize("lost", [OLD, NEW])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_network_that_is_lost_parts_nobody_who_hears_each_other_on_another(count: int, lost: str) -> None:
    networks = Networks()
    cluster = on_both(count, networks)
    networks.lose(lost, *range(count))
    cluster.run(60 * SECOND)
    assert not called_down(cluster)
    assert not [note for _, _, note in cluster.notified if isinstance(note, IdConflict)]
    left = NEW if lost == OLD else OLD
    assert {member.endpoint[0] for engine in cluster.engines for member in engine.view().members} == {left}


@pytest.mark.parametrize("lost", [OLD, NEW])
def test_a_site_that_loses_one_of_its_networks_is_called_on_the_other(lost: str) -> None:
    networks = Networks()
    cluster = on_both(5, networks)
    networks.lose(lost, 0)
    cluster.run(60 * SECOND)
    assert not called_down(cluster)


def test_who_was_lost_on_both_is_found_on_whichever_comes_back() -> None:
    for back in BOTH:
        networks = Networks()
        cluster = on_both(3, networks)
        networks.lose(OLD, 0)
        networks.lose(NEW, 0)
        cluster.run(60 * SECOND)
        assert called_down(cluster)
        networks.lost.remove((back, 0))
        cluster.run_until(cluster.all_know_all, 90 * SECOND)


def test_a_network_of_link_local_addresses_serves_though_nobody_can_name_its_own() -> None:
    """Their scope is each machine's own: it is in no row and no message, and what was written down here has it."""
    lost = [False]

    def judge(source: Endpoint, target: Endpoint, prng: Prng) -> list[int]:
        pair = {source[1], target[1]}
        return [MILLISECOND] if target[0] == ON_LINK and not (lost[0] and pair == {1, 2}) else []

    cluster = Cluster(4, judge=judge, wildcard=True)
    for index in range(4):
        for other in range(4):
            if other != index:
                cluster.give(index, LocalUpdate(PeerDiscovered((ON_LINK, other + 1))))
    cluster.run_until(cluster.all_know_all, 10 * SECOND)
    lost[0] = True  # from here on two of them are known to each other by the others' pings
    cluster.run(30 * SECOND)
    assert not called_down(cluster)
    rows = [signed.row for engine in cluster.engines for signed in engine._health.table.rows()]
    assert {row.endpoint[0] for row in rows} == {""}
    refused = [name for engine in cluster.engines for name in engine.counters() if "rejected" in name]
    assert not refused
    lost[0] = False
    for index in range(4):
        cluster.crash(index)
    for index in range(4):
        cluster.restart(index)
    cluster.run_until(cluster.all_know_all, 60 * SECOND)
