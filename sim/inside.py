"""The simulator's look inside an engine: the only module that reads, or prepares, what no node shows.

Checks of a promise need facts that the promise is about (which row is held, which members are known) at a price that
can be paid after every step; `Engine.view` sorts everything. And large runs begin converged (`graft`), because the
first meeting of a thousand empty nodes is a million introductions of no interest. When the engine changes, this file
does, and a test compares a grafted cluster with one that met by itself.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from heapq import heapify
from operator import attrgetter
from typing import Final

from lattice.answers import PEERS_MAX
from lattice.antientropy import SALTS_MAX
from lattice.cells import CellIndex, Shards
from lattice.config import Config
from lattice.dialing import Standing
from lattice.engine import Engine
from lattice.events import LocalUpdate, OpsSubmitted
from lattice.health import Row, SignedRow
from lattice.health_plane import row_cell
from lattice.health_table import HealthTable, HeldRow, Placement
from lattice.membership import Member, MemberState
from lattice.policy_ops import OpId
from lattice.prng import Prng
from lattice.probe import RELAYS_MAX
from lattice.rollouts import Served
from lattice.roster import Everybody
from lattice.seal import Seal
from lattice.spreading import LEARNED_MAX, WANTED_MAX, WRITERS_MAX
from lattice.swim import incarnation_at
from lattice.types import AuthorId, CellId, Endpoint, Level, Micros, NodeId
from sim.overlay import shared

ROW_PURPOSE = b"row"
"""What a row's signature is bound to (`lattice.health`)."""


def holds_op(engine: Engine, op: bytes) -> bool:
    return OpId(op) in engine.policy


def holds_ops(engine: Engine, ops: Set[bytes]) -> bool:
    """Whether the engine holds all of these."""
    return engine._policy._chains.ops.keys() >= ops


def served(engine: Engine, policy: str) -> Served | None:
    """Which version of a policy the engine has its router serve."""
    return engine._rollouts.served(policy)


def row_of(engine: Engine) -> SignedRow | None:
    """The engine's own row."""
    held = engine._health.table.get(engine.node)
    return held.signed if held else None


def voice_of(engine: Engine, region: str) -> Level | None:
    """At which level the engine's own row reports the region; None when it does not, or has no voice."""
    own = row_of(engine)
    if own is None or own.row.isolated:
        return None
    return next((report.level for report in own.row.reports if report.region == region), None)


def held_row(engine: Engine, node: NodeId) -> Row | None:
    held = engine._health.table.get(node)
    return held.signed.row if held else None


def incarnation_known(engine: Engine, node: NodeId) -> int:
    """In which incarnation the engine knows a member; 0 when it knows none."""
    member = engine._swim.members._members.get(node)
    return 0 if member is None else member.incarnation


def voices_against(engine: Engine, node: NodeId) -> int:
    """How many accuse this member, as far as the engine has heard and counted."""
    suspicion = engine._swim._suspicions.get(node)
    return len(suspicion.accusers) if suspicion is not None else 0


def held_rows(engine: Engine) -> list[SignedRow]:
    return engine._health.table.rows()


def empty_table(engine: Engine) -> HealthTable:
    """Another table of the kind that this engine joins rows in; it counts no voices."""
    table = type(engine._health.table)()
    table._revoice = lambda *_: set()  # type: ignore[method-assign]
    return table


def cells_in(engine: Engine, shards: Shards) -> list[CellId]:
    return engine._cells.ids_in(shards)


def seal_of(engine: Engine) -> Seal:
    """The engine's own envelope: for whoever speaks in its name."""
    return engine._out._seal


def everybody(engine: Engine) -> Everybody:
    """Members that this engine counts as there, and itself: one object for all that have come to see the same."""
    return engine._swim.members.everybody


def root_of(engine: Engine) -> bytes:
    return engine._cells.root


def cells_count(engine: Engine) -> int:
    return len(engine._cells)


def incarnation_of(engine: Engine) -> int:
    return engine._swim.incarnation


def effective_of(engine: Engine, region: str) -> Level:
    """What this node acts on."""
    outlook = engine._health._outlooks.get(region)
    return outlook.effective if outlook else Level.UNKNOWN


def verdict_of(engine: Engine, region: str) -> Level:
    outlook = engine._health._outlooks.get(region)
    return outlook.verdict if outlook else Level.UNKNOWN


def content_hash(engine: Engine) -> bytes:
    return engine.policy.content_hash()


def forked_authors(engine: Engine) -> tuple[AuthorId, ...]:
    return engine.policy.forked()


QUEUES: Final = (
    "timers", "dials", "piggyback", "relays", "salts", "peer roots", "wanted", "learned", "buckets", "rumours in line",
    "ops waiting", "rows", "floors",
)  # fmt: skip
"""Every queue that hostile or unlucky input could make grow."""
OPS_WAITING_MAX: Final = 1_024


def queue_lengths(engine: Engine) -> tuple[int, ...]:
    """How long each of `QUEUES` is: asked after every step of a small cluster."""
    swim, spreading, table = engine._swim, engine._spreading, engine._health.table
    reconciliation = engine._reconciliation
    return (
        len(engine._out.timers._heap),
        len(swim.calls.book._dials),
        len(swim._piggyback),
        len(swim._probe._relays),
        len(reconciliation._reconciler._salts),
        len(reconciliation._roots),
        len(spreading._wanted),
        len(spreading._learned),
        len(spreading._rows) + len(spreading._ops) + len(spreading._answers._each),
        len(spreading._line),
        sum(map(len, engine._policy._chains._shares.values())),
        len(table._rows),
        len(table._floors),
    )


def queue_limits(config: Config, members: int) -> tuple[int, ...]:
    """How long each of `QUEUES` may be at a node that knows so many members."""
    return (
        64 * members + 1_024,
        config.dials_max,
        config.members_max,
        RELAYS_MAX,
        SALTS_MAX,
        members + 1,
        WANTED_MAX,
        LEARNED_MAX,
        2 * WRITERS_MAX + PEERS_MAX,
        config.rumours_waiting_max,
        OPS_WAITING_MAX,
        config.members_max + 1,
        config.members_max + 1,
    )


# --- a converged start


class Crowd:
    """The members of a converged cluster, as every one of them will know the others: built once, shared by all, in the
    order in which views show them, for what is sorted is soon sorted."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = {member.node: member for member in sorted(members, key=attrgetter("site", "node"))}
        self.everybody = Everybody.of((member.area, member.node) for member in members)
        self._nearby = {member.endpoint: (member.node,) for member in members}

    def introduce(self, engine: Engine) -> None:
        """Make this what the engine knows, before it starts: so its first row has a large cluster's lease.

        Until `gather` it counts nobody as present, so that its first row is on no way to anybody.
        """
        known = engine._swim.members
        known.keep_in(shared(self.members))
        known._nearby = shared(self._nearby)
        del known._members[engine.node]

    def remember(self, gone: Sequence[Member]) -> None:
        """Members that everybody here holds as down."""
        self.members.update((member.node, member) for member in gone)
        self._nearby.update((member.endpoint, (member.node,)) for member in gone)

    def gather(self, engine: Engine) -> None:
        """A started engine counts everybody as present."""
        engine._swim.members.everybody = self.everybody


def member_record(node: NodeId, site: str, area: str, endpoint: Endpoint, now: Micros) -> Member:
    """How others will know this node once its engine has started."""
    return Member(node, site, area, endpoint, max(1, incarnation_at(now)), MemberState.ALIVE, now)


class Base:
    """The rows of a converged cluster, tallied and indexed once, in the order in which tables list them."""

    def __init__(self, rows: Sequence[SignedRow], now: Micros, until: Micros) -> None:
        self.table = HealthTable()
        self.cells = CellIndex()
        self.leases: list[tuple[Micros, str]] = []
        """Those that end before the run does."""
        for signed in sorted(rows, key=attrgetter("observer")):
            offer = self.table.offer(signed, 0, now)
            assert offer.placement is Placement.NEW, "one row a node"
            self.cells.add(row_cell(signed))
            if offer.expires <= until:
                self.leases.append((offer.expires, f"lease {signed.observer.hex()}"))


def graft(engine: Engine, base: Base, row_due: Micros) -> None:
    """Give a started engine what everybody knows, and set when it refreshes its row.

    A lease that ends after the run gets no timer; then rows can be shared, for only the end of a lease renews it.
    """
    table = engine._health.table
    own = row_of(engine)
    assert own is not None
    if base.leases:
        table._rows = {
            observer: HeldRow(held.signed, held.born, held.expires) for observer, held in base.table._rows.items()
        }
    else:
        table._rows = shared(base.table._rows)
    table._floors = shared(base.table._floors)
    for region in base.table.regions():
        tally, ready = table.tally(region), base.table.tally(region)
        tally._voices = dict(ready._voices)
        tally._sites = {site: dict(voices) for site, voices in ready._sites.items()}
        tally._counts = list(ready._counts)
        tally._witnesses = None
    cells = engine._cells
    cells._cells = shared(base.cells._cells)
    cells._total = base.cells._total
    cells._sums, cells._counts = list(base.cells._sums), list(base.cells._counts)
    cells.root = base.cells.root
    assert own.cell in cells, "the base was made of these very rows"
    timers = engine._out.timers
    timers._deadlines.update((name, deadline) for deadline, name in base.leases)
    timers._deadlines["row"] = row_due
    for name in ("announce", "graft"):
        timers._deadlines.pop(name, None)
    timers._heap = [(deadline, name) for name, deadline in timers._deadlines.items()]
    heapify(timers._heap)
    timers._settle()
    engine._spreading._announcements.clear()
    engine._out.effects = []  # nobody is told what it thinks of the regions from the start
    engine._health.conclude(base.table.regions())
    _be_due(engine)


def lose(engine: Engine, gone: Sequence[Member], prng: Prng) -> None:
    """Make a grafted engine call members that it has held as down for long, and not count their votes."""
    now, longest_us = engine._out.now, engine._config.redial_max_us
    dials = engine._swim.calls.book
    for member in prng.shuffled(gone):
        engine._health.table.mute(member.node, True)
        if dials.add(member.endpoint, now, prng.below(longest_us), Standing.KNOWN):
            dials._dials[member.endpoint].wait_us = longest_us
    engine._out.effects = []
    engine._health.conclude(engine._health.table.regions())
    engine._swim.calls.arm()
    _be_due(engine)


def hand_ops(engine: Engine, ops: Sequence[bytes]) -> None:
    """Let a grafted engine hold these since long: it tells nobody."""
    engine.handle(LocalUpdate(OpsSubmitted(tuple(ops))), engine._out.now)
    engine._spreading._announcements.clear()
    engine._out.timers.cancel("announce")
    _be_due(engine)


def settle(engine: Engine) -> None:
    """Give a grafted engine tables of its own: what it handles then costs what it costs in life."""
    members, table, cells = engine._swim.members, engine._health.table, engine._cells
    members.keep_in(dict(members._members.items()))
    members._nearby = dict(members._nearby.items())
    table._rows = dict(table._rows.items())
    table._floors = dict(table._floors.items())
    cells._cells = dict(cells._cells.items())


def _be_due(engine: Engine) -> None:
    """As after an input: its timers are others."""
    engine.due = min(engine._swim.due, engine._out.timers.first)
