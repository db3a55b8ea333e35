"""Rumours: pushing what is fresh, announcing what we have, asking for what we lack.

The strategy (`dissemination`) says to whom; this says what is sent, when, and how much:

* Cells with the same next hops share datagrams, and announcements to one peer wait a moment for company. The ops of one
  publish all go one way: on trees of their own the later ones overtake the earlier ones, and wait for the slowest.
  Each publish has a way of its own, so no node relays all that an author says.
* The first ops of a publish go from their node to every area; those after them from area to area, or the node that
  starts them would send each some seventy times.
* A GRAFT goes to the first who announced a cell, then to the next; after the last, anti-entropy will find it. An op
  that comes without its predecessor announces that, too: whoever passes the one on mostly has the other.
* An op that waits for its predecessor is passed on all the same: each node then repairs its own losses, at the same
  time as those below it, and not one after the other.
* What a comparison brought first is passed on when the rumour of it comes: trees count on each of their nodes.
* A token bucket for each writer: a sick node that changes its mind a hundred times a second is passed on at a bounded
  rate. What is over it is joined and kept, but left to anti-entropy. And one of bytes for all (`rumour_line`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from itertools import groupby
from typing import Final

from lattice.answers import Answers
from lattice.antientropy import most_urgent_first
from lattice.batching import Load, fits
from lattice.cells import Cell, CellIndex, CellKind
from lattice.dissemination import Strategy
from lattice.outbox import Outbox
from lattice.pacing import affordable
from lattice.reunion import stem_of
from lattice.roster import Roster
from lattice.rumour_line import PATIENT, RumourLine
from lattice.token_bucket import TokenBuckets
from lattice.types import SECOND, CellId, Endpoint, Micros, NodeId
from lattice.wire import IDS_MAX, Delta, Graft, Heal, IHave, Rumour

_OP: Final = CellKind.OP
"""To ask a class for a member takes five times as long, and every rumour is asked."""
WRITERS_MAX = 4_096
WANTED_MAX = 4_096
HOLDERS_MAX = 16
"""Of one cell that is wanted: a node hears of it in four trees."""
LEARNED_MAX = 4_096
LEARNED_US = 2 * SECOND
"""A rumour that has not come by then comes no more."""
WIDE_OPS = 51
"""So many ops of a publish go straight to every area, which is soonest: to fifty relays, a burst's bytes."""


class Spreading:
    """The rumours of one node."""

    def __init__(
        self,
        out: Outbox,
        cells: CellIndex,
        strategy: Strategy,
        roster: Callable[[], Roster],
        includes: Callable[[NodeId], bool],
        endpoint_of: Callable[[NodeId], Endpoint],
        age_ms: Callable[[Cell], int],
        waits: Callable[[CellId], bool],
        answers: Answers,
    ) -> None:
        """`includes` tells whether somebody is in the roster; `age_ms`, how old our copy of a cell is, which its lease
        at the receiver needs; `waits`, whether a cell that we do not hold came and waits for another (an op for its
        predecessor)."""
        self._out = out
        self._cells = cells
        self._strategy = strategy
        self._roster = roster
        self._includes = includes
        self._endpoint_of = endpoint_of
        self._age_ms = age_ms
        self._waits = waits
        self._answers = answers
        config = out.config
        self._rows = TokenBuckets[bytes](config.rumours_per_s, config.rumours_burst, WRITERS_MAX)
        self._ops = TokenBuckets[bytes](config.rumours_per_s, config.ops_burst, WRITERS_MAX)
        self._line = RumourLine(config.rumour_bytes_per_s, config.rumour_bytes_burst, config.rumours_waiting_max)
        self._announcements: dict[str, deque[tuple[Micros, CellId, Sequence[NodeId]]]] = {}
        """(when it is to be out, what, to whom), by the timer that they wait for."""
        self._wanted: dict[CellId, _Wanted] = {}
        self._learned: dict[CellId, tuple[Cell, Micros]] = {}

    def push(self, cells: Sequence[Cell], came_from: NodeId | None) -> None:
        """Start rumours (`came_from` is None), or pass them on."""
        for cell in most_urgent_first(cells):
            self._wanted.pop(cell.id, None)
            writers = self._ops if cell.kind is _OP else self._rows
            if not writers.take(cell.place[0], self._out.now):
                self._out.count("rumours over a writer's rate")
            elif not self._line.put(cell, came_from):
                self._out.count("rumours beyond the limit")
        self.on_turn()

    def learned(self, cells: Sequence[Cell]) -> None:
        """These came by comparing, maybe before the rumours of them, which are still to be passed on."""
        for cell in cells:
            self._learned[cell.id] = (cell, self._out.after(LEARNED_US))
        while len(self._learned) > LEARNED_MAX:
            del self._learned[next(iter(self._learned))]

    def still_to_pass(self, rumours: Iterable[CellId]) -> list[Cell]:
        """Which of these were learned of before their rumours came."""
        if not self._learned:
            return []
        known = [self._learned.pop(rumour, None) for rumour in rumours]
        return [found[0] for found in known if found is not None and found[1] >= self._out.now]

    def on_turn(self) -> None:
        """Send what stands in line, as much of it as may go now."""
        loads, roster, now = self._loads(), self._roster(), self._out.now
        while (turn := self._line.take(now)) is not None:
            cell, came_from = turn
            if not self._cells.holds(cell.id) and not self._waits(cell.id):
                continue  # superseded while it stood there
            seed, late = tree_of(cell), self._is_late(cell)
            hops = self._strategy.next_hops(seed, cell.place[0], came_from, roster, self._out.prng, narrow=late)
            if hops:
                pay = self._line.spend if cell.urgency >= PATIENT else self._line.take_along
                pay(sum([loads[peer].add(cell) for peer in hops]), now)
            self._announce(self._strategy.announce_to(seed, came_from, roster), cell.id, late)
        if (due := self._line.due(now)) is not None:
            self._out.timers.set("turn", due)
        alike: dict[tuple[CellId, ...], list[NodeId]] = {}
        for peer in sorted(loads):
            alike.setdefault(tuple([cell.id for part in loads[peer].parts for cell in part]), []).append(peer)
        for peers in alike.values():
            targets = [self._endpoint_of(peer) for peer in peers]
            for batch in loads[peers[0]].batches(self._age_ms):
                self._out.send(Rumour(batch), *targets)

    def heal(self, cells: Iterable[Cell], came_from: NodeId | None, side: Roster) -> None:
        """Pass on what the other side of a partition knew (`came_from` is None if we took it in from there)."""
        loads = self._loads()
        for stem, of_stem in groupby(most_urgent_first(cells), stem_of):
            together = list(of_stem)
            for peer in self._strategy.next_hops(stem, b"", came_from, side, self._out.prng):
                for cell in together:
                    loads[peer].add(cell)
        self._line.take_along(sum(load.bytes for load in loads.values()), self._out.now)
        for peer in sorted(loads):
            for batch in loads[peer].batches(self._age_ms):
                self._out.send(Heal(batch), self._endpoint_of(peer))

    def _is_late(self, cell: Cell) -> bool:
        """Whether it is one of many. What goes as a stream never is: each hop of those costs three times its path."""
        if cell.moment[1] < WIDE_OPS:
            return False
        return fits(cell, self._out.config.datagram_bytes_max)

    # --- announcing, and asking

    def _announce(self, peers: Sequence[NodeId], cell: CellId, late: bool) -> None:
        if not peers:
            return
        timer = "announce late" if late else "announce"
        waiting = self._announcements.setdefault(timer, deque())
        due = self._out.after(self._delay_us(timer))
        if not waiting:
            self._out.timers.set(timer, due)
        waiting.append((due, cell, peers))

    def on_announce(self, timer: str) -> None:
        """The moment is over: send what has gathered. Of many what came just now waits on, for it may be on its way."""
        waiting = self._announcements.get(timer, deque())
        until = self._out.after(self._delay_us(timer) if timer == "announce" else self._delay_us(timer) // 2)
        by_peer: dict[NodeId, list[CellId]] = {}
        while waiting and waiting[0][0] <= until:
            _, cell, peers = waiting.popleft()
            for peer in peers:
                by_peer.setdefault(peer, []).append(cell)
        alike: dict[tuple[CellId, ...], list[NodeId]] = {}
        for peer in sorted(by_peer):
            alike.setdefault(tuple(by_peer[peer]), []).append(peer)
        for ids, peers in alike.items():
            for start in range(0, len(ids), IDS_MAX):
                self._send_announcement(ids[start : start + IDS_MAX], peers)
        if waiting:
            self._out.timers.set(timer, waiting[0][0])

    def _delay_us(self, timer: str) -> int:
        config = self._out.config
        return config.announce_delay_us if timer == "announce" else config.announce_late_us

    def _send_announcement(self, ids: Sequence[CellId], peers: Sequence[NodeId]) -> None:
        held = tuple(filter(self._cells.holds, ids))  # else superseded meanwhile
        if held:
            present = filter(self._includes, peers)
            self._out.send(IHave(held), *map(self._endpoint_of, present))

    def on_i_have(self, announcement: IHave, sender: NodeId) -> None:
        self._hear_of(announcement.ids, sender, self._out.config.graft_delay_us)

    def on_gap(self, missing: Sequence[CellId], sender: NodeId) -> None:
        """The sender passed on what follows these, so it has them."""
        self._hear_of(missing, sender, self._out.config.gap_delay_us)

    def _hear_of(self, cells: Sequence[CellId], sender: NodeId, delay_us: int) -> None:
        for cell in cells:
            if self._cells.holds(cell):
                continue
            if not self._includes(sender):
                return  # nobody would ask it
            wanted = self._wanted.get(cell)
            if wanted is None:
                if len(self._wanted) >= WANTED_MAX:
                    self._out.count("announcements beyond the limit")
                    return
                wanted = self._wanted[cell] = _Wanted(self._out.after(delay_us))
                self._out.timers.set_earlier("graft", wanted.due)
            if sender not in wanted.holders and len(wanted.holders) < HOLDERS_MAX:
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
            if self._includes(holder):
                for start in range(0, len(asks[holder]), IDS_MAX):
                    self._out.send(Graft(tuple(asks[holder][start : start + IDS_MAX])), self._endpoint_of(holder))
        if self._wanted:
            self._out.timers.set("graft", min(wanted.due for wanted in self._wanted.values()))

    def on_graft(self, graft: Graft, sender: NodeId, source: Endpoint) -> None:
        held = most_urgent_first(self._cells.get(cell) for cell in dict.fromkeys(graft.ids) if cell in self._cells)
        answer = self._answers.afford(sender, affordable(held, self._out.config.delta_bytes_max), self._out.now)
        for batch in self._taken(answer).batches(self._age_ms):
            self._out.send(Rumour(batch), source)

    # --- deltas

    def send_delta(self, cells: Sequence[Cell], target: Endpoint) -> None:
        """The most urgent cells first."""
        batches = self._taken(cells).batches(self._age_ms)
        for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
            self._out.send(Delta(self._cells.root, batch, left), target)

    def not_in_line(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that do not go out soon in any case."""
        return [cell for cell in cells if cell.id not in self._line]

    def _loads(self) -> defaultdict[NodeId, Load]:
        """What is to go to each peer."""
        return defaultdict(partial(Load, self._out.config.datagram_bytes_max))

    def _taken(self, cells: Iterable[Cell]) -> Load:
        """What a peer has for the asking. What stands in line waits for what it costs."""
        load = Load(self._out.config.datagram_bytes_max, cells)
        self._line.spend(load.bytes, self._out.now)
        return load


def tree_of(cell: Cell) -> CellId:
    """What seeds the trees of a rumour: its id; of an op, its author and the millisecond that it was published in. The
    ops of one publish are of use in order only, and share both."""
    if cell.kind is not _OP:
        return cell.id
    return CellId(blake2b(cell.place[0] + cell.moment[0].to_bytes(8, "big"), digest_size=16).digest())


class _Wanted:
    """A cell that others announced and we lack."""

    __slots__ = ("due", "holders")

    def __init__(self, due: Micros) -> None:
        self.due = due
        self.holders: list[NodeId] = []
