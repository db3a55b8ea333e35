"""How a run begins: everybody already knows everybody, or nobody anybody.

A converged start lets each engine sign its row as a member of a full cluster, and gives every engine the same base of
all rows, which they share as long as they do not differ (`overlay`). Their refreshes are spread evenly
over the refresh interval, as those of a cluster that has been up for a while. A cold start only tells nodes where a
few seeds are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lattice.events import Effect, HealthObserved, LocalUpdate, PeerDiscovered, TimerFired
from lattice.health import Observation, SignedRow, open_row
from lattice.prng import Prng
from lattice.types import Micros
from sim import inside
from sim.cluster import Cluster
from sim.host import Host

Observing = Callable[[Host], Sequence[Observation]]
"""What a host sees of the regions at the start; empty when it watches none."""


def start_converged(cluster: Cluster, hosts: Sequence[Host], observing: Observing, until: int) -> None:
    """Start these hosts as if they had been up for long. `until` is when the run ends at the latest."""
    now = Micros(cluster.now)
    seed = cluster.maker.seed
    places = cluster.network.topology.places
    members = []
    for host in hosts:
        place = places[host.index]
        members.append(inside.member_record(host.node, place.name, place.area, host.endpoint, host.read_clock(now)))
    crowd = inside.Crowd(members)
    rows: dict[int, SignedRow] = {}
    for host in hosts:
        clock, observations = host.read_clock(now), tuple(observing(host))
        effects: list[Effect] = []
        if host.here:
            crowd.introduce(host.engine)
            effects += host.engine.handle(TimerFired(), clock)
            if observations:
                effects += host.engine.handle(LocalUpdate(HealthObserved(observations)), clock)
            row = inside.row_of(host.engine)
            assert row is not None, "a started engine has signed its row"
            rows[host.index] = row
        cluster.adopt(host, effects)
    for said in cluster.company.gather([(index, row.data) for index, row in rows.items()]):
        for index, data in said:
            if index not in rows:
                rows[index] = open_row(data, cluster.maker.verifier)
    base = inside.Base([rows[host.index] for host in hosts], now, Micros(until))
    refresh_us = cluster.maker.config.row_refresh_for(len(hosts))
    for host in hosts:
        if not host.here:
            continue
        spread = Prng.seeded(f"{seed}/start/{host.index}").below(refresh_us) + 1
        inside.graft(host.engine, base, Micros(host.read_clock(now) + spread))
        crowd.gather(host.engine)
        cluster.arm(host)
    cluster.journal.note(now, f"{len(hosts)} hosts started converged")


def start_cold(cluster: Cluster, hosts: Sequence[Host], seeds: Sequence[Host], over_us: int) -> None:
    """Start these hosts one after the other within `over_us`, each knowing only the seeds' addresses."""
    for position, host in enumerate(hosts):
        at = cluster.now + over_us * position // max(1, len(hosts))
        cluster.scheduler.call(at, _starter(cluster, host, seeds))


def _starter(cluster: Cluster, host: Host, seeds: Sequence[Host]) -> Callable[[], None]:
    def begin() -> None:
        cluster.start(host)
        meet(cluster, host, seeds)

    return begin


def meet(cluster: Cluster, host: Host, seeds: Sequence[Host]) -> None:
    """Tell a host where the seeds are, as its configuration would."""
    for seed in seeds:
        if seed is not host:
            cluster.tell(host, PeerDiscovered(seed.endpoint))
