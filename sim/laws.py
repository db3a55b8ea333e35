"""Promises that the lattice's laws make, and those of the router over it, looked at in running engines.

Each is proven by a planted mistake that trips it (`tests/sim/test_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lattice.engine import Engine
from lattice.events import Effect, Input, Restored
from lattice.health import SignedRow
from lattice.health_table import HealthTable
from lattice.types import CellId, Level, Micros
from lattice.view import LatticeView
from router.decision.decide import Decision
from sim import inside
from sim.checks import Check
from sim.host import Host
from sim.stage import Stage

PAIRED_MAX = 64
"""In a larger cluster two nodes' rows are more than a look may cost."""


class Joins(Check):
    name = "joins-agree"
    promise = f"two nodes' rows join to the same, whichever comes first and however often (to {PAIRED_MAX} nodes)"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._agreed: set[tuple[tuple[CellId, ...], ...]] = set()
        """What was found to join to the same: two nodes are compared again only when either holds other rows."""

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        hosts = self.stage.cluster.hosts
        other = hosts[(host.index + 1) % len(hosts)]
        if len(hosts) > PAIRED_MAX or other is host:
            return
        others = inside.held_rows(other.engine)
        pair = tuple(sorted(tuple([row.cell for row in held]) for held in (rows, others)))
        if pair[0] == pair[1] or pair in self._agreed:
            return
        now = Micros(self.stage.cluster.now)
        forth, back = inside.empty_table(host.engine), inside.empty_table(host.engine)
        first = _join(forth, [*rows, *others], now)
        if not first == _join(back, [*others, *rows], now) == _join(forth, [*others, *rows], now):
            raise self.broken(host, f"its rows and those of {other.site} join to different sets by order")
        self._agreed.add(pair)


def _join(table: HealthTable, rows: Sequence[SignedRow], now: Micros) -> list[bytes]:
    """What the table holds when these rows have come too."""
    for row in rows:
        table.offer(row, 0, now)
    return [row.cell for row in table.rows()]


class RestartIsSame(Check):
    name = "restart-is-same"
    promise = "a process that restarts on the disk of the last one holds the same policy before it hears anything"
    inputs = (Restored,)
    """What a life begins with, but on an empty disk."""

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._before: dict[int, bytes] = {}
        """By host, what the process before this one held."""

    def restarted(self, host: Host, before: Engine) -> None:
        self._before[host.index] = inside.content_hash(before)

    def stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        before = self._before.get(host.index)
        if before is not None and host.began_whole and before != inside.content_hash(host.engine):
            raise self.broken(host, "its policy after the restart is not the one before it")


class NeverStarved(Check):
    name = "never-starved"
    promise = "while a node holds any region for well, and has ejected none of its endpoints, its users are sent to one"

    def routed(self, host: Host, decision: Decision) -> None:
        if decision.region is not None or "ejected" in decision.reason:
            return
        well = [name for name in self.stage.world.regions if _well(host, name)]
        if well:
            raise self.broken(host, f"denied ({decision.reason}) although {', '.join(well)} is well")


class NoBlackHole(Check):
    name = "no-black-hole"
    promise = "a node that holds a region for DOWN sends no request there first while another is well"

    def routed(self, host: Host, decision: Decision) -> None:
        if decision.region is None or inside.effective_of(host.engine, decision.region) != Level.DOWN:
            return
        if any(_well(host, name) for name in self.stage.world.regions):
            raise self.broken(host, f"sent to {decision.region}, which it holds for DOWN")


def _well(host: Host, region: str) -> bool:
    return Level.HEALTHY <= inside.effective_of(host.engine, region) <= Level.DEGRADED


LAWS: tuple[type[Check], ...] = (Joins, RestartIsSame, NeverStarved, NoBlackHole)
