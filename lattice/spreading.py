"""Rumours: pushing what is fresh, announcing what we have, asking for what we lack.

The strategy (`dissemination`) says to whom; this says what is sent, when, and how much:

* Cells with the same next hops share datagrams, and announcements to one peer wait a moment for company. The ops of an
  author all go one way: on trees of their own the later ones overtake the earlier ones, and wait for the slowest.
* A GRAFT goes to the first who announced a cell, then to the next; after the last, anti-entropy will find it.
* A token bucket for each writer: a sick node that changes its mind a hundred times a second is passed on at a bounded
  rate. What is over it is joined and kept, but left to anti-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from lattice.antientropy import most_urgent_first
from lattice.cells import Cell, CellIndex, CellKind
from lattice.dissemination import Strategy
from lattice.outbox import Outbox
from lattice.pacing import affordable
from lattice.reunion import stem_of
from lattice.roster import Roster
from lattice.seal import OVERHEAD_BYTES
from lattice.types import SECOND, CellId, Endpoint, Micros, NodeId
from lattice.wire import IDS_MAX, Delta, Graft, Heal, IHave, Rumour, WireCell

_CELL_OVERHEAD_BYTES = 12
_MESSAGE_OVERHEAD_BYTES = 32
WRITERS_MAX = 4_096
WANTED_MAX = 4_096


class Spreading:
    """The rumours of one node."""

    def __init__(
        self,
        out: Outbox,
        cells: CellIndex,
        strategy: Strategy,
        roster: Callable[[], Roster],
        endpoint_of: Callable[[NodeId], Endpoint],
        age_ms: Callable[[Cell], int],
        waits: Callable[[CellId], bool],
    ) -> None:
        """`age_ms` tells how old our copy of a cell is, which its lease at the receiver needs; `waits`, whether a cell
        that we do not hold came and waits for another (an op for its predecessor)."""
        self._out = out
        self._cells = cells
        self._strategy = strategy
        self._roster = roster
        self._endpoint_of = endpoint_of
        self._age_ms = age_ms
        self._waits = waits
        self._buckets: dict[bytes, tuple[int, Micros]] = {}
        self._announcements: dict[NodeId, list[CellId]] = {}
        self._wanted: dict[CellId, _Wanted] = {}

    def push(self, cells: Sequence[Cell], came_from: NodeId | None) -> None:
        """Start rumours (`came_from` is None), or pass them on."""
        by_peer: dict[NodeId, list[Cell]] = {}
        roster = self._roster()
        for cell in most_urgent_first(cells):
            self._wanted.pop(cell.id, None)
            writer = cell.place[0]
            if not self._may_pass(writer):
                self._out.count("rumours over a writer's rate")
                continue
            seed = tree_of(cell)
            for peer in self._strategy.next_hops(seed, writer, came_from, roster, self._out.prng):
                by_peer.setdefault(peer, []).append(cell)
            self._announce(self._strategy.announce_to(seed, came_from, roster), cell.id)
        alike: dict[tuple[CellId, ...], list[NodeId]] = {}
        for peer in sorted(by_peer):
            alike.setdefault(tuple([cell.id for cell in by_peer[peer]]), []).append(peer)
        for peers in alike.values():
            targets = [self._endpoint_of(peer) for peer in peers]
            for batch in self.batches(by_peer[peers[0]]):
                self._out.send(Rumour(batch), *targets)

    def heal(self, cells: Iterable[Cell], came_from: NodeId | None, side: Roster) -> None:
        """Pass on what the other side of a partition knew (`came_from` is None if we took it in from there)."""
        by_peer: dict[NodeId, list[Cell]] = {}
        for stem, of_stem in groupby(most_urgent_first(cells), stem_of):
            together = list(of_stem)
            for peer in self._strategy.next_hops(stem, b"", came_from, side, self._out.prng):
                by_peer.setdefault(peer, []).extend(together)
        for peer in sorted(by_peer):
            for batch in self.batches(by_peer[peer]):
                self._out.send(Heal(batch), self._endpoint_of(peer))

    def _may_pass(self, writer: bytes) -> bool:
        """Take a token of the writer's: `rumours_per_s` come back, up to `rumours_burst`. Tokens are in millionths."""
        config, now = self._out.config, self._out.now
        full = config.rumours_burst * SECOND
        tokens, since = self._buckets.get(writer, (full, now))
        tokens = min(full, tokens + (now - since) * config.rumours_per_s)
        if len(self._buckets) >= WRITERS_MAX and writer not in self._buckets:
            self._buckets.clear()
        allowed = tokens >= SECOND
        self._buckets[writer] = (tokens - SECOND if allowed else tokens, now)
        return allowed

    # --- announcing, and asking

    def _announce(self, peers: Sequence[NodeId], cell: CellId) -> None:
        if peers and not self._announcements:
            self._out.timers.set("announce", self._out.after(self._out.config.announce_delay_us))
        for peer in peers:
            ids = self._announcements.setdefault(peer, [])
            ids.append(cell)
            if len(ids) >= IDS_MAX:
                self._send_announcement(self._announcements.pop(peer), [peer])

    def on_announce(self) -> None:
        """The moment is over: send what has gathered."""
        alike: dict[tuple[CellId, ...], list[NodeId]] = {}
        for peer in sorted(self._announcements):
            alike.setdefault(tuple(self._announcements[peer]), []).append(peer)
        self._announcements.clear()
        for ids, peers in alike.items():
            self._send_announcement(ids, peers)

    def _send_announcement(self, ids: Sequence[CellId], peers: Sequence[NodeId]) -> None:
        held = tuple([cell for cell in ids if cell in self._cells])  # else superseded meanwhile
        if held:
            present = self._roster().index
            self._out.send(IHave(held), *[self._endpoint_of(peer) for peer in peers if peer in present])

    def on_i_have(self, announcement: IHave, sender: NodeId) -> None:
        for cell in announcement.ids:
            if cell in self._cells:
                continue
            wanted = self._wanted.get(cell)
            if wanted is None:
                if len(self._wanted) >= WANTED_MAX:
                    self._out.count("announcements beyond the limit")
                    return
                wanted = self._wanted[cell] = _Wanted(self._out.after(self._out.config.graft_delay_us))
                self._out.timers.set_earlier("graft", wanted.due)
            if sender not in wanted.holders:
                wanted.holders.append(sender)

    def on_graft_due(self) -> None:
        """Ask for what was announced and has not come."""
        asks: dict[NodeId, list[CellId]] = {}
        for cell in sorted(self._wanted):
            wanted = self._wanted[cell]
            if wanted.due > self._out.now:
                continue
            if cell in self._cells or not wanted.holders or self._waits(cell):
                del self._wanted[cell]
                continue
            asks.setdefault(wanted.holders.pop(0), []).append(cell)
            wanted.due = self._out.after(self._out.config.graft_retry_us)
        for holder in sorted(asks):
            if holder in self._roster().index:
                for start in range(0, len(asks[holder]), IDS_MAX):
                    self._out.send(Graft(tuple(asks[holder][start : start + IDS_MAX])), self._endpoint_of(holder))
        if self._wanted:
            self._out.timers.set("graft", min(wanted.due for wanted in self._wanted.values()))

    def on_graft(self, graft: Graft, source: Endpoint) -> None:
        held = most_urgent_first(self._cells.get(cell) for cell in graft.ids if cell in self._cells)
        for batch in self.batches(affordable(held, self._out.config.delta_bytes_max)):
            self._out.send(Rumour(batch), source)

    # --- deltas

    def send_delta(self, cells: Sequence[Cell], target: Endpoint) -> None:
        """The most urgent cells first."""
        batches = self.batches(cells)
        for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
            self._out.send(Delta(self._cells.root(), batch, left), target)

    def batches(self, cells: Sequence[Cell]) -> list[tuple[WireCell, ...]]:
        return batches(cells, self._out.config.datagram_bytes_max, self._age_ms)


def tree_of(cell: Cell) -> CellId:
    """What seeds the trees of a rumour: its id; of an op, its author. A chain is of use in order only."""
    return stem_of(cell) if cell.kind is CellKind.OP else cell.id


def batches(
    cells: Sequence[Cell], datagram_bytes_max: int, age_ms: Callable[[Cell], int]
) -> list[tuple[WireCell, ...]]:
    """Cut cells, in order, into messages that fit a datagram; a single larger cell makes a message alone."""
    room_max = datagram_bytes_max - OVERHEAD_BYTES - _MESSAGE_OVERHEAD_BYTES
    cut: list[list[WireCell]] = []
    room = 0
    for cell in cells:
        size = len(cell.data) + _CELL_OVERHEAD_BYTES
        if not cut or size > room:
            cut.append([])
            room = room_max
        cut[-1].append(WireCell(cell.kind, cell.data, age_ms(cell)))
        room -= size
    return [tuple(batch) for batch in cut]


class _Wanted:
    """A cell that others announced and we lack."""

    __slots__ = ("due", "holders")

    def __init__(self, due: Micros) -> None:
        self.due = due
        self.holders: list[NodeId] = []
