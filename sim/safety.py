"""Promises that hold after every step, whatever happens: nothing bad, ever.

Each is proven by a planted mistake that trips it (`tests/sim/test_mutants.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import gt, lt
from typing import Generic, TypeVar

from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Effect,
    Input,
    MemberChanged,
    Notification,
    OpAccepted,
    Persist,
    PolicyChanged,
)
from lattice.health import SignedRow
from lattice.identity import SIGNATURE_BYTES
from lattice.types import Level, NodeId
from lattice.verdict import verdict_of
from lattice.view import LatticeView, MemberView
from sim import inside
from sim.checks import Check
from sim.host import Host
from sim.signing import KeyedVerifier
from sim.stage import Stage

T = TypeVar("T")
V = TypeVar("V")
SPIN_MAX = 200
"""Timers of one host in one microsecond: more is an engine that never lets time pass."""


def is_incarnation(record: Persist) -> bool:
    """Whether an engine writes down its incarnation: it does so whenever it takes another."""
    return (record.table, record.key) == ("self", b"incarnation")


class Contract(Check):
    name = "contract"
    promise = "frames are within their limits"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        stage.cluster.oversized.append(self._is_oversized)

    def _is_oversized(self, host: Host, frame: bytes) -> None:
        raise self.broken(host, f"a datagram or a stream's frame of {len(frame)} bytes")


class NoSpin(Check):
    name = "no-spin"
    promise = f"no engine asks for more than {SPIN_MAX} timers in one microsecond"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._now = start
        self._asked: Counter[int] = Counter()
        """By host, at this instant."""
        stage.cluster.impatient.append(self._asks)

    def _asks(self, host: Host) -> None:
        now = self.stage.cluster.now
        if now != self._now:
            self._now = now
            self._asked.clear()
        self._asked[host.index] += 1
        if self._asked[host.index] > SPIN_MAX:
            raise self.broken(host, f"{self._asked[host.index]} timers at one instant")


class Incarnations(Check):
    name = "incarnation-rises"
    promise = "a node's incarnation only rises, across restarts on its own disk too"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._last: dict[int, tuple[int, int]] = {}

    def kept(self, host: Host, record: Persist) -> None:
        if not is_incarnation(record):
            return
        incarnation = inside.incarnation_of(host.engine)
        life, last = self._last.get(host.index, (host.life, 0))
        self._last[host.index] = (host.life, incarnation)
        if life == host.life and incarnation < last:
            raise self.broken(host, f"incarnation {incarnation} after {last}")
        if life != host.life and incarnation <= last and host.began_whole:
            raise self.broken(host, f"restarted with incarnation {incarnation}, it had {last}")


class OnlyOwnRows(Check):
    name = "rows-are-signed"
    promise = "every row held carries its observer's own signature"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._verifier = KeyedVerifier()
        self._known: set[bytes] = set()

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        for signed in rows:
            if signed.cell in self._known:
                continue
            payload, signature = signed.data[:-SIGNATURE_BYTES], signed.data[-SIGNATURE_BYTES:]
            if not self._verifier.verify(signed.row.public_key, inside.ROW_PURPOSE, payload, signature):
                raise self.broken(host, f"a row of {signed.row.site} that it did not sign")
            self._known.add(signed.cell)


class Earlier(Generic[T, V]):
    """What a check saw of each node when it looked at a process before. The first time that is kept as it came: many
    processes are looked at once, and there is nothing to compare."""

    def __init__(self, entry: Callable[[T], tuple[NodeId, V]]) -> None:
        self._entry = entry
        self._first: dict[tuple[int, int], Sequence[T]] = {}
        """By host and life."""
        self._tables: dict[tuple[int, int], dict[NodeId, V]] = {}

    def table(self, host: Host) -> dict[NodeId, V]:
        """What is known so far, to be compared with and to be changed."""
        life = (host.index, host.life)
        table = self._tables.get(life)
        if table is None:
            table = self._tables[life] = dict(map(self._entry, self._first.pop(life, ())))
        return table

    def begins(self, host: Host, seen: Sequence[T]) -> bool:
        """Whether this is the first that is seen at that process; then it is kept."""
        life = (host.index, host.life)
        if life in self._tables or life in self._first:
            return False
        self._first[life] = seen
        return True


class RowsRise(Check):
    name = "rows-rise"
    promise = "what a node holds of an observer never goes back to an earlier version within a life"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._held = Earlier[SignedRow, SignedRow](lambda signed: (signed.observer, signed))

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        if self._held.begins(host, rows):
            return
        held = self._held.table(host)
        for signed in rows:
            before = held.get(signed.observer)
            if before is signed:
                continue
            if before is not None and signed.order < before.order:
                went = f"from {before.order[:2]} to {signed.order[:2]}"
                raise self.broken(host, f"the row of {signed.row.site} went {went}")
            held[signed.observer] = signed


class Incarnated(Check):
    name = "incarnation-by-owner"
    promise = "nobody is known in an incarnation that it never had: only a node itself raises its own"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._greatest: dict[NodeId, int] = {}
        """That each node ever had, as far as was asked."""
        stage.cluster.company.on("incarnation", self._greatest.__setitem__)

    def kept(self, host: Host, record: Persist) -> None:
        incarnation = inside.incarnation_of(host.engine) if is_incarnation(record) else 0
        if incarnation > self._greatest.get(host.node, 1):
            self._greatest[host.node] = incarnation
            self.stage.cluster.company.tell("incarnation", host.node, incarnation)

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        known = self._greatest.get
        for member in view.members:
            if member.incarnation <= known(member.node, -1):
                continue
            subject = self.stage.cluster.by_node.get(member.node)
            if subject is None:
                raise self.broken(host, f"a member {member.site} that is no node of this run")
            greatest = self._greatest.get(subject.node, 1)
            if subject.here:
                greatest = max(greatest, inside.incarnation_of(subject.engine))
            self._greatest[subject.node] = greatest
            if member.incarnation > greatest:
                raise self.broken(
                    host, f"{member.site} is known in incarnation {member.incarnation}, it had {greatest}"
                )


class MembersRise(Check):
    name = "members-rise"
    promise = (
        "what a node believes of a member only moves up: alive < suspect < down < left < next incarnation; from down "
        "back to alive within an incarnation only by a later row, of one that is not isolated"
    )

    STATES = ("alive", "suspect", "down", "left")

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._believed = Earlier[MemberView, tuple[int, str]](
            lambda member: (member.node, (member.incarnation, member.state))
        )
        self._buried_with: dict[tuple[int, int, NodeId], int] = {}
        """The last row held of a member when it was found to be down."""

    def heard(self, host: Host, notification: Notification) -> None:
        """Whoever is down may be back before anybody looks again, in a large cluster."""
        if isinstance(notification, MemberChanged) and notification.state == "down":
            incarnation = inside.incarnation_known(host.engine, notification.node)
            self._believed.table(host)[notification.node] = (incarnation, "down")
            self._bury(host, notification.node, incarnation)

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        if self._believed.begins(host, view.members):
            for gone in [member for member in view.members if member.state == "down"]:
                self._bury(host, gone.node, gone.incarnation)
            return
        believed = self._believed.table(host)
        for member in view.members:
            now = (member.incarnation, member.state)
            before = believed.get(member.node)
            if now == before or member.node == host.node:
                continue
            if before is not None and self._order(now) < self._order(before):
                row, seq = inside.held_row(host.engine, member.node), self._seq(host, member.node, member.incarnation)
                answered = before == (now[0], "down") and row is not None and not row.isolated
                if not answered or seq <= self._buried_with[host.index, host.life, member.node]:
                    was = f"{before[1]}({before[0]})"
                    raise self.broken(host, f"{member.site} went from {was} to {member.state}({member.incarnation})")
            if member.state == "down":
                self._bury(host, member.node, member.incarnation)
            believed[member.node] = now

    def _bury(self, host: Host, node: NodeId, incarnation: int) -> None:
        self._buried_with[host.index, host.life, node] = self._seq(host, node, incarnation)

    @staticmethod
    def _seq(host: Host, node: NodeId, incarnation: int) -> int:
        """Of the row held of this incarnation, 0 when there is none."""
        row = inside.held_row(host.engine, node)
        return row.seq if row is not None and row.incarnation == incarnation else 0

    def _order(self, belief: tuple[int, str]) -> tuple[int, int]:
        return belief[0], self.STATES.index(belief[1])


class Witnesses(Check):
    name = "witness-saw-it"
    promise = "every voice in a verdict is one that the witness itself raised"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        for region in view.regions:
            for witness in region.witnesses:
                subject = self.stage.cluster.by_node.get(witness.node)
                said = self.stage.world.said.get((subject.index, region.region), set()) if subject else set()
                if witness.level not in said:
                    raise self.broken(
                        host, f"{witness.site} is quoted with {region.region} {witness.level.name}, it never said so"
                    )


class Verdicts(Check):
    name = "verdict-is-quorum"
    promise = "a verdict is what a quorum of distinct sites reports or exceeds, and two sites at least"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        isolated = [signed for signed in rows if signed.row.isolated]
        if isolated:
            gone = {member.node for member in view.members if member.state in {"down", "left"}}
            isolated = [signed for signed in isolated if signed.observer not in gone]
        for region in view.regions:
            votes: dict[str, Level] = {}
            for witness in region.witnesses:
                votes[witness.site] = max(votes.get(witness.site, Level.UNKNOWN), witness.level)
            silent = {
                signed.row.site
                for signed in isolated
                if any(each.region == region.region for each in signed.row.reports)
            }
            expected = verdict_of(votes.values(), len(silent - votes.keys()))
            if region.verdict != expected:
                voices = ", ".join(f"{site} {level.name}" for site, level in sorted(votes.items()))
                raise self.broken(
                    host, f"{region.region} is {region.verdict.name}, its witnesses make it {expected.name}: {voices}"
                )


class Effective(Check):
    name = "worse-of-both"
    promise = "a node acts on the worse of the verdict and its own evidence, unless it says why not"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        for region in view.regions:
            if region.reason in {"overruled", "isolated"}:
                continue
            if region.effective != max(region.verdict, region.own):
                raise self.broken(
                    host,
                    f"{region.region}: acts on {region.effective.name}, verdict {region.verdict.name}, "
                    f"own {region.own.name}",
                )


class Voters(Check):
    name = "who-may-vote"
    promise = "isolated nodes and members that are down or gone have no voice"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        gone = {member.node: member.state for member in view.members if member.state in {"down", "left"}}
        isolated = {signed.observer for signed in rows if signed.row.isolated}
        for region in view.regions:
            for witness in region.witnesses:
                if witness.node in gone:
                    raise self.broken(host, f"{witness.site} is {gone[witness.node]} and votes on {region.region}")
                if witness.node in isolated:
                    raise self.broken(host, f"{witness.site} is isolated and votes on {region.region}")


class PolicyForward(Check):
    name = "policy-forward"
    promise = "a node never serves an older version than it served before, nor one that nobody published"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._served: dict[tuple[int, int, str], int] = {}

    def heard(self, host: Host, notification: Notification) -> None:
        if not isinstance(notification, PolicyChanged):
            return
        number = self.stage.versions.get(notification.version)
        if number is None:
            raise self.broken(host, f"serves {notification.version[:4].hex()}, which nobody published")
        key = (host.index, host.life, notification.policy)
        if number < self._served.get(key, 0):
            raise self.broken(host, f"went from version {self._served[key]} of {notification.policy} to {number}")
        self._served[key] = number


class OpsKept(Check):
    name = "ops-kept"
    promise = "an op that a node accepted is never lost within a life, nor by a restart on its own disk"
    of_view = False
    """An op that is lost is no news to its node."""

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self.accepted: dict[int, set[bytes]] = {}

    def heard(self, host: Host, notification: Notification) -> None:
        if isinstance(notification, OpAccepted):
            self.accepted.setdefault(host.index, set()).add(notification.op)

    def restarted(self, host: Host, before: Engine) -> None:
        if not host.began_whole:
            self.accepted.pop(host.index, None)  # what a lost disk held must come back from others, in time

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        accepted = self.accepted.get(host.index)
        if accepted and not inside.holds_ops(host.engine, accepted):
            lost = min(op for op in accepted if not inside.holds_op(host.engine, op))
            raise self.broken(host, f"op {lost[:4].hex()} was accepted and is gone")


class NoFork(Check):
    name = "no-fork"
    promise = "an author who signs one chain is never taken for one who signed two"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        if inside.forked_authors(host.engine):
            raise self.broken(host, "the operator's chain is called a fork")


class Bounded(Check):
    name = "bounded"
    promise = "every queue and table of an engine stays within its named limit"
    of_view = False

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._limits: dict[int, tuple[int, ...]] = {}
        """By how many members a node knows."""

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        members = len(view.members)
        limits = self._limits.get(members)
        if limits is None:
            limits = self._limits[members] = inside.queue_limits(self.stage.cluster.maker.config, members)
        lengths = inside.queue_lengths(host.engine)
        if any(map(gt, lengths, limits)):
            for name, length, limit in zip(inside.QUEUES, lengths, limits, strict=True):
                if length > limit:
                    raise self.broken(host, f"{name}: {length}, at most {limit}")


class ReplayIsNothing(Check):
    name = "replay-is-nothing"
    promise = "a frame that was taken before changes no replicated state when it comes again"
    REMEMBERED = 64

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._seen: list[dict[bytes, None]] = [{} for _ in stage.cluster.hosts]
        """By host, the frames that its process took last."""
        self._roots = [b""] * len(stage.cluster.hosts)
        """By host, its root after the last step."""

    def restarted(self, host: Host, before: Engine) -> None:
        self._seen[host.index] = {}

    def stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        index, root = host.index, inside.root_of(host.engine)
        same = self._roots[index] == root
        if not same:
            self._roots[index] = root
        if isinstance(event, DatagramReceived):
            seen, data = self._seen[index], event.data
            if not same and data in seen:
                raise self.broken(host, "a frame taken twice changed what is known")
            seen[data] = None
            if len(seen) > self.REMEMBERED:
                del seen[next(iter(seen))]


class OwnView(Check):
    name = "view-agrees"
    promise = "the view is sorted, names the node itself, and its root and count are those of the cells"

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        if view.root != inside.root_of(host.engine) or view.cells != inside.cells_count(host.engine):
            raise self.broken(host, "root or count is not that of the cells held")
        names = [region.region for region in view.regions]
        nodes = [member.node for member in view.members]
        order = list(zip([member.site for member in view.members], nodes, strict=True))
        if not all(map(lt, names, names[1:])) or order != sorted(order) or len(set(nodes)) < len(nodes):
            raise self.broken(host, "members or regions are not sorted, or twice there")
        if host.node not in nodes:
            raise self.broken(host, "the node itself is not there")


SAFETY: tuple[type[Check], ...] = (
    Contract, NoSpin, Incarnations, OnlyOwnRows, RowsRise, Incarnated, MembersRise, Witnesses, Verdicts, Effective,
    Voters, PolicyForward, OpsKept, NoFork, Bounded, ReplayIsNothing, OwnView,
)  # fmt: skip
