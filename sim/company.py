"""The processes that run one cluster together: usually this one alone.

Several run some shards each (`sim.shards`, `sim.parallel`). All of them do the same: each knows every host's place, key
and fate, performs every act of the timeline and asks every question of the checks, in the same order and at the same
virtual times. But a host's engine is in that process alone which runs its shard (`Host.here`). What is known of engines
alone they exchange in two ways, which cost nothing where there is one process:

* `gather`: all come to the same place of the same act or question, and each says what it has found.
* `tell`: a fact that others may need sooner than that travels with the frames. Nobody needs it before the lookahead is
  over, as no frame could have brought it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.host import Host

T = TypeVar("T")


class Company:
    """This process alone."""

    def __init__(self) -> None:
        self.hearers: dict[str, Callable[..., object]] = {}
        """By kind of fact, who is told of it."""

    alone = True

    def pass_time(self, cluster: Cluster, until: int) -> None:
        """Let time pass in every shard that this process runs."""
        cluster.run_until(until)

    def gather(self, value: T) -> list[T]:
        """What each process says here, in the same order in all."""
        return [value]

    def tell(self, kind: str, *fact: object) -> None:
        """Have the others know this before any frame could tell them: plain values only."""

    def on(self, kind: str, hear: Callable[..., object]) -> None:
        """Have this hear what others `tell` of this kind."""
        self.hearers[kind] = hear

    def of(self, host: Host, ask: Callable[[], T]) -> T:
        """What the process says that has the host's engine; all must ask."""
        said = self.gather((ask(),) if host.here else None)
        return next(one for one in said if one is not None)[0]

    def events(self, own: int) -> int:
        """How many inputs were taken in all, as far as is known here."""
        return own
