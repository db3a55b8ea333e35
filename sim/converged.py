"""How a run begins: everybody already knows everybody, or nobody anybody.

A converged start makes all engines, lets each sign its row as a member of a full cluster, and gives every engine the
same base of all rows, which they share as long as they do not differ (`overlay`). Their refreshes are spread evenly
over the refresh interval, as those of a cluster that has been up for a while. A cold start only tells nodes where a
few seeds are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lattice.events import HealthObserved, LocalUpdate, PeerDiscovered, TimerFired
from lattice.health import Observation
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
        members.append(inside.member_record(host.engine, place.name, place.area, host.endpoint, host.read_clock(now)))
    crowd = inside.Crowd(members)
    rows = []
    for host in hosts:
        here = host.read_clock(now)
        crowd.introduce(host.engine)
        effects = host.engine.handle(TimerFired(), here)
        observations = tuple(observing(host))
        if observations:
            effects = [*effects, *host.engine.handle(LocalUpdate(HealthObserved(observations)), here)]
        cluster.adopt(host, effects)
        row = inside.row_of(host.engine)
        assert row is not None, "a started engine has signed its row"
        rows.append(row)
    base = inside.Base(rows, now, Micros(until))
    refresh_us = cluster.maker.config.row_refresh_for(len(hosts))
    for host in hosts:
        spread = Prng.seeded(f"{seed}/start/{host.index}").below(refresh_us) + 1
        inside.graft(host.engine, base, Micros(host.read_clock(now) + spread))
        crowd.gather(host.engine)
        cluster.arm(host, inside.earliest_timer(host.engine))
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
