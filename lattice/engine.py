"""One node's replication engine: inputs and `now` in, effects out. Control flow only; the ideas live next door.

The contract, which the trio driver, the simulator and the tests all keep:

1. `now` never decreases.
2. Hostile bytes never raise: they are counted, and become ``Notify(Rejected(...))``; state is untouched.
3. Perform all effects, in order, before the next `handle`.
4. After an optional `Restored`, the first input is `TimerFired`. At most one `SetTimer` comes out of a call, and only
   when the earliest deadline changed. A late wake fires everything due, by (deadline, name); an idle wake does nothing.
5. Replicated state only moves up its lattice; joins use integers, tuples and bytes.
6. The same construction, inputs and times give the same effects, byte for byte.
7. Every queue, table and frame has a named limit (`Config`).
8. A restarted node takes a new incarnation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lattice import canonical, wire
from lattice.antientropy import Reconciler
from lattice.cells import Cell, CellIndex, CellKind
from lattice.config import Config
from lattice.dialing import DialBook
from lattice.dissemination import RandomFanout, Strategy
from lattice.errors import LatticeError, UntrustedError, WireError
from lattice.events import (
    DatagramReceived,
    Effect,
    HealthObserved,
    Input,
    LeaveRequested,
    LocalChange,
    LocalUpdate,
    MemberChanged,
    Notification,
    Notify,
    OpAccepted,
    OpsSubmitted,
    PeerDiscovered,
    Persist,
    PolicyApplied,
    PolicyChanged,
    RegionChanged,
    RegionDoubted,
    Rejected,
    Restored,
    SendDatagram,
    SendStream,
    SetTimer,
    StreamFrameReceived,
    TimerFired,
    VerdictChanged,
)
from lattice.health import Observation, Report, Row, SignedRow, open_row, report_of, sign_row
from lattice.health_table import HealthTable, Placement, lease_ms_for
from lattice.identity import Signer, Verifier, node_id_of
from lattice.membership import Membership, MemberState, MemberUpdate
from lattice.outlook import Outlook, is_isolated
from lattice.piggyback import Piggyback, retransmits
from lattice.policy_ops import SignedOp
from lattice.policy_store import PolicyStore
from lattice.prng import Prng
from lattice.probe import ProbeCycle, Relay
from lattice.seal import OVERHEAD_BYTES, Seal
from lattice.timers import TimerQueue
from lattice.types import AuthorId, Endpoint, Level, Micros, NodeId, VersionId
from lattice.view import LatticeView, MemberView, RegionView
from lattice.wire import Ack, Compare, Delta, Digest, Leave, Message, Ping, PingReq, Rumour, WireCell

INCARNATION_LEAP_MAX = 2**32
"""How far ahead a claim about us may be: a node that lost its disk was not started so often, and one unsigned word
must not use up the numbers that a row may carry."""
_CELL_OVERHEAD_BYTES = 12
_MESSAGE_OVERHEAD_BYTES = 32
_TIMER_SWIM, _TIMER_ACK, _TIMER_ROW, _TIMER_DIAL = "swim", "ack", "row", "dial"


class Engine:
    """One node. See the module's contract."""

    def __init__(
        self,
        *,
        config: Config,
        site: str,
        endpoint: Endpoint,
        signer: Signer,
        verifier: Verifier,
        seal: Seal,
        authors: Iterable[AuthorId],
        prng: Prng,
        now: Micros,
        strategy: Strategy | None = None,
    ) -> None:
        """`endpoint` is where peers reach us; an empty host means that the first peer to answer tells us."""
        self.node = node_id_of(signer.public_key)
        self._config = config
        self._site = site
        self._endpoint = endpoint
        self._signer = signer
        self._verifier = verifier
        self._seal = seal
        self._prng = prng
        self._strategy = strategy or RandomFanout(config.fanout)

        self._incarnation = 0
        self._seq = 0
        self._now = now
        self._started = False
        self._leaving = False
        self._timers = TimerQueue()
        self._deadline: Micros | None = None
        self._effects: list[Effect] = []
        self._counters: Counter[str] = Counter()
        self._view: LatticeView | None = None

        self._members = Membership(config.members_max)
        self._probe = ProbeCycle(prng)
        self._piggyback = Piggyback()
        self._dials = DialBook(config.redial_us, config.redial_max_us, config.dials_max, config.forget_us)
        self._peer_roots: dict[NodeId, bytes] = {}

        self._cells = CellIndex()
        self._reconciler = Reconciler(self._cells, prng)
        self._health = HealthTable()
        self._policy = PolicyStore(authors, verifier)
        self._observations: dict[str, Observation] = {}
        self._applied: dict[str, VersionId] = {}
        self._outlooks: dict[str, Outlook] = {}
        self._isolated = False

    # --- the edge

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        """Take one input; the effects to perform, in order."""
        assert now >= self._now, f"now went back by {self._now - now} us"
        self._now = now
        self._effects = []
        match event:
            case DatagramReceived(data, source) | StreamFrameReceived(data, source):
                self._on_frame(data, source, "datagram" if isinstance(event, DatagramReceived) else "frame")
            case TimerFired():
                self._on_timer()
            case LocalUpdate(change):
                self._on_local(change)
            case Restored(records):
                self._on_restored(records)
        earliest = self._timers.earliest()
        if earliest != self._deadline:
            self._deadline = earliest
            self._effects.append(SetTimer(earliest))
        return self._effects

    def view(self) -> LatticeView:
        """What this node knows, as of the last `handle`. The same object until something changes."""
        if self._view is None:
            self._view = LatticeView(
                node=self.node,
                site=self._site,
                now=self._now,
                isolated=self._isolated,
                members=self._view_members(),
                regions=tuple(self._view_region(region, self._outlooks[region]) for region in sorted(self._outlooks)),
                policies=self._policy.policies(),
                root=self._cells.root(),
                cells=len(self._cells),
            )
        return self._view

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped, by reason, sorted."""
        return dict(sorted(self._counters.items()))

    @property
    def policy(self) -> PolicyStore:
        """For whoever composes a publish: chain, heads and known blocks. Read only."""
        return self._policy

    # --- inputs

    def _on_restored(self, records: Sequence[tuple[str, bytes, bytes]]) -> None:
        assert not self._started, "Restored comes before the first TimerFired"
        ops = self._policy.in_chain_order(value for table, _, value in records if table == "op")
        others = sorted(record for record in records if record[0] != "op")
        for table, key, value in [*others, *(("op", b"", data) for data in ops)]:
            try:
                if (table, key) == ("self", b"incarnation"):
                    self._incarnation = canonical.integer(canonical.unpack(value, 16), "incarnation")
                elif table == "op":
                    self._admit_op(value, None)
                elif table == "peer":
                    self._dials.add(canonical.endpoint(canonical.unpack(value, 128), "peer"), self._now)
            except LatticeError as error:
                self._count(f"restore: {error.reason}")
        self._arm_dials()

    def _on_timer(self) -> None:
        if not self._started:
            self._start()
        while (name := self._timers.pop_due(self._now)) is not None:
            kind, _, argument = name.partition(" ")
            match kind:
                case "swim":
                    self._on_swim_interval()
                case "ack":
                    self._on_ack_late()
                case "row":
                    self._issue_row()
                case "dial":
                    self._on_dial()
                case "suspect":
                    self._on_suspicion_over(NodeId(bytes.fromhex(argument)))
                case "forget":
                    self._on_forget(NodeId(bytes.fromhex(argument)))
                case "lease":
                    self._on_lease_over(NodeId(bytes.fromhex(argument)))
                case "reconcile":
                    self._on_reconcile(NodeId(bytes.fromhex(argument)))
                case "overrule":
                    self._conclude([argument])
                case _:
                    raise AssertionError(f"no timer is called {name!r}")

    def _start(self) -> None:
        self._started = True
        self._raise_incarnation(self._incarnation + 1)
        self._issue_row()
        self._timers.set(_TIMER_SWIM, self._after(self._prng.below(self._config.swim_interval_us) + 1))

    def _on_local(self, change: LocalChange) -> None:
        match change:
            case PeerDiscovered(endpoint):
                if not self._dials.add(endpoint, self._now):
                    self._count("discovery: too many endpoints")
                self._arm_dials()
            case HealthObserved(observations):
                self._on_observed(observations)
            case OpsSubmitted(ops):
                self._push([cell for data in ops for cell in self._admit(CellKind.OP, data, 0, None)], None)
            case PolicyApplied(policy, version):
                if self._applied.get(policy) != version:
                    self._applied[policy] = version
                    self._view = None
                    self._issue_row_within(self._config.confirm_delay_us)
            case LeaveRequested():
                self._leaving = True
                for node in self._prng.sample(self._members.present(), self._config.leave_told_max):
                    self._send(Leave(self._incarnation), node)

    def _on_frame(self, data: bytes, source: Endpoint, what: str) -> None:
        try:
            sender, _, body = self._seal.open(data)
            message = wire.decode(body, self._config.frame_bytes_max)
            if sender == self.node:
                self._dials.drop(source)  # discovery found ourselves
                self._count("own frames heard")
                return
            self._count(f"in {type(message).__name__}")
            if what == "frame" and sender in self._members:
                source = self._members_endpoint(sender)  # a stream's port is not where its sender listens
            self._on_message(message, sender, source)
            if what == "datagram":
                self._meet_sender(sender, source)
        except LatticeError as error:
            self._reject(what, error, source)

    def _on_message(self, message: Message, sender: NodeId, source: Endpoint) -> None:
        match message:
            case Ping(nonce, root, updates, cells):
                self._take_cells(cells, sender, source, push=False)
                self._hear_updates(updates)
                self._compare_roots(sender, root)
                ours = self._our_row() if cells else ()  # an introduction is answered with one
                self._send_to(Ack(nonce, self.node, self._cells.root(), source, self._news_for(sender), ours), source)
            case Ack(nonce, subject, root, seen_as, updates, cells):
                self._learn_own_endpoint(seen_as)
                self._take_cells(cells, sender, source, push=False)
                self._hear_updates(updates)
                relay = self._probe.acked(nonce, subject)
                if relay is not None:
                    self._send_to(Ack(relay.nonce, subject, root, relay.asked_by), relay.asked_by)
                if sender == subject:
                    self._compare_roots(sender, root)
                    self._reconcile_soon(sender)
            case PingReq(nonce, subject, target):
                carried = self._probe.carry(Relay(source, nonce, subject))
                if carried is None:
                    raise WireError("too many relays")
                self._send_to(Ping(carried, self._cells.root(), self._news_for(subject)), target)
            case Rumour(cells):
                self._take_cells(cells, sender, source, push=True)
            case Compare():
                answer = self._reconciler.compared(sender, message, self._now)
                if answer is not None:
                    self._send_to(answer, source)
            case Digest():
                missing, answer = self._reconciler.digested(sender, message, self._now)
                if answer is not None:
                    self._send_to(answer, source)
                self._send_delta(missing, source)
            case Delta(root, cells):
                fresh = self._take_cells(cells, sender, source, push=False)
                self._compare_roots(sender, root)
                if fresh:  # else what still differs is something that one of us refuses: the next ping is soon enough
                    self._reconcile_soon(sender)
            case Leave(incarnation):
                self._hear_updates((MemberUpdate(sender, MemberState.LEFT, incarnation),))

    # --- membership

    def _meet_sender(self, sender: NodeId, source: Endpoint) -> None:
        """Where a frame came from is where its sender is; to a stranger we introduce ourselves."""
        if sender in self._members:
            if self._members.reached_at(sender, source):
                self._view = None
        elif self._dials.add(source, self._now):
            self._arm_dials()

    def _on_swim_interval(self) -> None:
        late = self._probe.unanswered()
        if late is not None:
            member = self._members.get(late)
            if member is not None and member.present:
                self._hear_updates((MemberUpdate(late, MemberState.SUSPECT, member.incarnation),))
        self._probe.drop_relays()
        target = self._probe.begin(self._members.present())
        if target is not None:
            self._send(Ping(self._probe.nonce, self._cells.root(), self._news_for(target)), target)
            self._timers.set(_TIMER_ACK, self._after(self._config.ack_timeout_us))
        self._timers.set(_TIMER_SWIM, self._after(self._config.swim_interval_us))

    def _on_ack_late(self) -> None:
        late = self._probe.unanswered()
        member = late and self._members.get(late)
        if not late or not member:
            return
        for helper in self._probe.helpers(self._members.present(), self._config.ping_req_count):
            self._send(PingReq(self._probe.nonce, late, member.endpoint), helper)

    def _hear_updates(self, updates: Iterable[MemberUpdate]) -> None:
        for update in updates:
            if update.node == self.node:
                ahead = update.incarnation - self._incarnation
                if update.state != MemberState.ALIVE and 0 <= ahead < INCARNATION_LEAP_MAX and not self._leaving:
                    self._refute(update.incarnation)
            elif self._members.hear(update, self._now):
                self._on_member_news(update)

    def _on_member_news(self, update: MemberUpdate) -> None:
        member = self._members.get(update.node)
        assert member is not None, "only claims about members are news"
        self._piggyback.add(update)
        timer = f"suspect {update.node.hex()}"
        if update.state == MemberState.SUSPECT:
            self._timers.set(timer, self._after(self._suspicion_us()))
        else:
            self._timers.cancel(timer)
            self._timers.set(f"forget {update.node.hex()}", self._after(self._config.forget_us))
            self._conclude(self._health.mute(update.node, muted=True))
            if update.state == MemberState.DOWN:
                self._dials.add(member.endpoint, self._now)
                self._arm_dials()
        self._notify(MemberChanged(member.node, member.site, member.state.name.lower()))
        self._view = None

    def _suspicion_us(self) -> int:
        """`suspicion_us`, times the decimal digits of the cluster's size: about log10, in integers."""
        return self._config.suspicion_us * max(1, len(str(len(self._members) + 1)))

    def _on_suspicion_over(self, node: NodeId) -> None:
        member = self._members.get(node)
        if member is not None and member.state == MemberState.SUSPECT:
            self._hear_updates((MemberUpdate(node, MemberState.DOWN, member.incarnation),))

    def _refute(self, claimed: int) -> None:
        """Somebody says that we are not well: a greater incarnation says that we are."""
        self._count("refutations")
        self._raise_incarnation(claimed + 1)
        self._issue_row()

    def _raise_incarnation(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._effects.append(Persist("self", b"incarnation", canonical.pack(incarnation)))

    def _on_dial(self) -> None:
        here = {self._members_endpoint(node) for node in self._members.present()}
        for endpoint in self._dials.due(self._now):
            if endpoint in here:
                self._dials.drop(endpoint)
            else:
                claims = tuple(member.claim() for member in self._members.all() if member.endpoint == endpoint)[:1]
                self._send_to(Ping(self._prng.token(), self._cells.root(), claims, self._our_row()), endpoint)
        self._arm_dials()

    def _members_endpoint(self, node: NodeId) -> Endpoint:
        member = self._members.get(node)
        assert member is not None
        return member.endpoint

    def _arm_dials(self) -> None:
        due = self._dials.earliest()
        if due is not None:
            self._timers.set(_TIMER_DIAL, max(due, self._now))

    def _news_for(self, peer: NodeId) -> tuple[MemberUpdate, ...]:
        """What rides along: first of all what is wrongly said of the peer itself, so that it can refute it."""
        limit = retransmits(self._config.retransmit_mult, len(self._members) + 1)
        news = self._piggyback.take(self._config.updates_per_frame_max, limit)
        member = self._members.get(peer)
        if member is not None and member.state != MemberState.ALIVE:
            news = (member.claim(), *(update for update in news if update.node != peer))
        return news

    def _on_forget(self, node: NodeId) -> None:
        member = self._members.get(node)
        if member is None or member.present:
            return
        self._discard_row(node)
        self._conclude(self._health.forget(node))
        self._members.forget(node)
        self._peer_roots.pop(node, None)
        self._effects.append(Persist("peer", node, None))
        self._view = None

    def _learn_own_endpoint(self, seen_as: Endpoint) -> None:
        if not self._endpoint[0] and seen_as[0]:
            self._endpoint = (seen_as[0], self._endpoint[1] or seen_as[1])
            self._view = None
            self._issue_row_within(self._config.confirm_delay_us)

    # --- our own row

    def _on_observed(self, observations: Sequence[Observation]) -> None:
        self._observations = {observation.region: observation for observation in observations}
        wait: int | None = None
        row = self._our_published()
        published = {report.region: report for report in row.reports} if row else {}
        isolated = is_isolated(observation.level for observation in observations)
        if isolated != self._isolated:
            self._isolated = isolated
            wait = 0
        for region in sorted(self._observations.keys() | published.keys()):
            level = self._observations[region].level if region in self._observations else Level.UNKNOWN
            outlook = self._outlook(region)
            outlook.observe(level, self._now)
            report = self._report(region, published.get(region))
            if report != published.get(region):
                wait = _sooner(wait, self._patience(report, published.get(region), outlook.verdict))
        self._conclude(self._outlooks)
        if wait is not None and self._started:
            self._issue_row_within(wait)

    def _patience(self, report: Report | None, held: Report | None, verdict: Level) -> int:
        """How long a changed report may wait: not at all if it disagrees with the verdict, else with jitter.

        Minimal fan-out: when a region dies, the sites that move the verdict speak at once, and all others, who only
        confirm it, at leisure.
        """
        level = report.level if report else Level.UNKNOWN
        if level == (held.level if held else Level.UNKNOWN):
            return self._prng.jitter(self._config.metrics_delay_us)
        return 0 if level != verdict else self._prng.jitter(self._config.confirm_delay_us)

    def _report(self, region: str, held: Report | None) -> Report | None:
        observation = self._observations.get(region)
        if observation is None:
            return None
        return report_of(observation, held, overrules=self._outlook(region).reason == "overruled")

    def _our_published(self) -> Row | None:
        held = self._health.get(self.node)
        return held.signed.row if held else None

    def _issue_row_within(self, wait_us: int) -> None:
        if not self._started or self._leaving:
            return
        if wait_us == 0:
            self._issue_row()
        else:
            self._timers.set_earlier(_TIMER_ROW, self._after(wait_us))

    def _issue_row(self) -> None:
        """Sign what we assert now, under the next version, and push it."""
        refresh_us = self._config.row_refresh_for(len(self._members) + 1)
        row = self._our_published()
        published = {report.region: report for report in row.reports} if row else {}
        reports = [self._report(region, published.get(region)) for region in sorted(self._observations)]
        self._seq += 1
        signed = sign_row(
            Row(
                public_key=self._signer.public_key,
                incarnation=self._incarnation,
                seq=self._seq,
                issued_ms=self._now // 1_000,
                lease_ms=lease_ms_for(refresh_us, self._config.row_lease_refreshes),
                site=self._site,
                endpoint=self._endpoint,
                isolated=self._isolated,
                reports=tuple(report for report in reports if report is not None),
                applied=tuple(sorted(self._applied.items())),
            ),
            self._signer,
        )
        self._push(self._place_row(signed, 0, None), None)
        self._timers.set(_TIMER_ROW, self._after(self._prng.jitter(refresh_us)))

    def _our_row(self) -> tuple[WireCell, ...]:
        held = self._health.get(self.node)
        return (WireCell(CellKind.ROW, held.signed.data),) if held else ()

    # --- cells: in

    def _take_cells(self, cells: Iterable[WireCell], sender: NodeId, source: Endpoint, push: bool) -> bool:
        """Join what came; whether any of it was news."""
        fresh: list[Cell] = []
        for cell in cells:
            try:
                fresh += self._admit(cell.kind, cell.data, cell.age_ms, source)
            except LatticeError as error:
                self._reject("row" if cell.kind == CellKind.ROW else "op", error, source)
        if push:
            self._push(fresh, sender)
        return bool(fresh)

    def _admit(self, kind: CellKind, data: bytes, age_ms: int, source: Endpoint | None) -> list[Cell]:
        """Join one cell; the cells that were news. Raises `LatticeError` with nothing changed."""
        if kind == CellKind.OP:
            try:
                return self._admit_op(data, source)
            except LatticeError as error:
                if source is not None:
                    raise
                self._reject("op", error, None)
                return []
        signed = open_row(data, self._verifier)
        if signed.observer == self.node:
            if signed.order > (self._health.order_of(self.node) or (0, 0, b"")):
                self._refute(max(signed.row.incarnation, self._incarnation))  # a word of ours from an earlier life
            return []
        return self._place_row(signed, age_ms * 1_000, source)

    def _place_row(self, signed: SignedRow, age_us: int, source: Endpoint | None) -> list[Cell]:
        observer = signed.observer
        if observer != self.node and observer not in self._members and len(self._members) >= self._config.members_max:
            raise UntrustedError("too many members", f"{self._config.members_max} are known")
        held = self._health.get(observer)
        before = held.signed if held else None
        offer = self._health.offer(signed, age_us, self._now)
        if offer.placement is Placement.EQUIVOCATION:
            self._notify(Rejected("row", "equivocation", source))
        if offer.placement is not Placement.NEW:
            self._count(f"rows {offer.placement.name.lower()}")
        if not offer.taken:
            return []
        if before is not None:
            self._cells.discard(before.cell)
        worst = max((report.level for report in signed.row.reports), default=Level.UNKNOWN)
        urgency = 0 if worst >= Level.FAILING else 2
        cell = Cell(signed.cell, CellKind.ROW, signed.data, urgency, (observer, signed.row.seq))
        self._cells.add(cell)
        self._timers.set(f"lease {observer.hex()}", offer.expires)
        if observer != self.node:
            self._meet(signed.row, observer)
            self._doubt(signed.row, before.row if before else None)
        self._conclude(offer.regions)
        return [cell]

    def _meet(self, row: Row, observer: NodeId) -> None:
        known = self._members.get(observer)
        revived = self._members.introduce(observer, row.site, row.endpoint, row.incarnation, self._now)
        member = self._members.get(observer)
        assert member is not None, "there was room"
        if known is None or known.incarnation < member.incarnation:
            self._timers.cancel(f"suspect {observer.hex()}")
            self._piggyback.drop(observer)
        if known is None or known.endpoint != member.endpoint:
            self._effects.append(Persist("peer", observer, canonical.pack(member.endpoint)))
            self._dials.drop(member.endpoint)
        if known is not None and known.state == MemberState.SUSPECT and member.state == MemberState.ALIVE:
            revived = True
        if revived:
            self._conclude(self._health.mute(observer, muted=False))
            self._notify(MemberChanged(observer, member.site, member.state.name.lower()))

    def _doubt(self, row: Row, before: Row | None) -> None:
        """Tell the router when a peer newly finds a region worse than we do: it will look for itself."""
        if row.isolated:
            return
        said = {report.region: report.level for report in before.reports} if before else {}
        for report in row.reports:
            news = report.level >= Level.FAILING and report.level > said.get(report.region, Level.UNKNOWN)
            if news and report.level > self._outlook(report.region).own:
                self._notify(RegionDoubted(report.region, row.site, report.level))

    def _admit_op(self, data: bytes, source: Endpoint | None) -> list[Cell]:
        before = {policy.policy: policy.version for policy in self._policy.policies()}
        accepted = self._policy.admit(data)
        fresh = []
        for signed in accepted:
            fresh.append(_op_cell(signed))
            self._cells.add(fresh[-1])
            self._effects.append(Persist("op", signed.id, signed.data))
            self._notify(OpAccepted(signed.id))
        if accepted:
            self._view = None
            for policy in self._policy.policies():
                if before.get(policy.policy) != policy.version:
                    self._notify(PolicyChanged(policy.policy, policy.version))
        return fresh

    def _on_lease_over(self, observer: NodeId) -> None:
        self._discard_row(observer)
        self._conclude(self._health.expire(observer))

    def _discard_row(self, observer: NodeId) -> None:
        held = self._health.get(observer)
        if held is not None:
            self._cells.discard(held.signed.cell)
            self._view = None

    # --- cells: out

    def _push(self, cells: Sequence[Cell], came_from: NodeId | None) -> None:
        """Start or pass on rumours. Cells with the same next hops share datagrams."""
        if not cells:
            return
        peers = self._members.present()
        by_peer: dict[NodeId, list[Cell]] = {}
        for cell in cells:
            for peer in self._strategy.next_hops(NodeId(cell.place[0]), came_from, peers, self._prng):
                by_peer.setdefault(peer, []).append(cell)
        for peer in sorted(by_peer):
            for batch in self._batches(by_peer[peer]):
                self._send(Rumour(batch), peer)

    def _send_delta(self, cells: Sequence[Cell], target: Endpoint) -> None:
        room = self._config.delta_bytes_max
        affordable: list[Cell] = []
        for cell in cells:
            room -= len(cell.data)
            if affordable and room < 0:
                break
            affordable.append(cell)
        for batch in self._batches(affordable):
            self._send_to(Delta(self._cells.root(), batch), target)

    def _batches(self, cells: Sequence[Cell]) -> list[tuple[WireCell, ...]]:
        """Cut cells, in order, into messages that fit a datagram; a single larger cell makes a message alone."""
        room_max = self._config.datagram_bytes_max - OVERHEAD_BYTES - _MESSAGE_OVERHEAD_BYTES
        batches: list[list[WireCell]] = []
        room = 0
        for cell in cells:
            size = len(cell.data) + _CELL_OVERHEAD_BYTES
            if not batches or size > room:
                batches.append([])
                room = room_max
            age_ms = 0
            if cell.kind == CellKind.ROW and cell.place[0] != self.node:
                age_ms = min(self._health.age_ms(NodeId(cell.place[0]), self._now), wire.AGE_MS_MAX)
            batches[-1].append(WireCell(cell.kind, cell.data, age_ms))
            room -= size
        return [tuple(batch) for batch in batches]

    # --- anti-entropy

    def _compare_roots(self, peer: NodeId, root: bytes) -> None:
        if root == self._cells.root():
            self._peer_roots.pop(peer, None)
            self._timers.cancel(f"reconcile {peer.hex()}")
        elif peer in self._members:
            self._peer_roots[peer] = root

    def _reconcile_soon(self, peer: NodeId) -> None:
        """Whoever pinged begins, after a moment: a rumour on its way often makes the roots equal by then."""
        if peer in self._peer_roots:
            self._timers.set_earlier(
                f"reconcile {peer.hex()}", self._after(self._prng.jitter(self._config.reconcile_delay_us))
            )

    def _on_reconcile(self, peer: NodeId) -> None:
        member = self._members.get(peer)
        root = self._peer_roots.pop(peer, None)
        if member is not None and member.present and root is not None and root != self._cells.root():
            self._count("reconciliations begun")
            self._send(self._reconciler.open(peer, self._now), peer)

    # --- conclusions

    def _outlook(self, region: str) -> Outlook:
        outlook = self._outlooks.get(region)
        if outlook is None:
            outlook = self._outlooks[region] = Outlook()
        return outlook

    def _conclude(self, regions: Iterable[str]) -> None:
        """Work out these regions again, and tell the router what changed."""
        for region in sorted(regions):
            outlook = self._outlook(region)
            verdict = outlook.verdict
            if outlook.hear(self._health.tally(region).verdict(), self._now):
                self._notify(VerdictChanged(region, verdict, outlook.verdict))
            before = outlook.conclude(self._isolated, self._config.overrule_us, self._now)
            if before is not None:
                self._notify(RegionChanged(region, before, outlook.effective, outlook.reason))
            if region not in self._observations and self._health.forget_region(region):
                del self._outlooks[region]  # else peers' rows could fill our memory with names
                continue
            overrules_at = outlook.overrules_at(self._config.overrule_us)
            if overrules_at is not None and overrules_at > self._now:
                self._timers.set(f"overrule {region}", overrules_at)
        self._view = None

    # --- out

    def _send(self, message: Message, node: NodeId) -> None:
        self._send_to(message, self._members_endpoint(node))

    def _send_to(self, message: Message, target: Endpoint) -> None:
        frame = self._seal.close(self.node, wire.encode(message), self._now)
        self._count(f"out {type(message).__name__}")
        self._counters["bytes out"] += len(frame)
        if len(frame) <= self._config.datagram_bytes_max:
            self._effects.append(SendDatagram(frame, target))
        else:
            self._effects.append(SendStream(frame, target))

    def _notify(self, notification: Notification) -> None:
        self._effects.append(Notify(notification))

    def _reject(self, what: str, error: LatticeError, source: Endpoint | None) -> None:
        self._count(f"{what} rejected: {error.reason}")
        self._notify(Rejected(what, str(error), source))

    def _count(self, what: str) -> None:
        self._counters[what] += 1

    def _after(self, delay_us: int) -> Micros:
        return Micros(self._now + delay_us)

    # --- views

    def _view_members(self) -> tuple[MemberView, ...]:
        rows = {signed.observer: signed.row for signed in self._health.rows()}
        us = MemberView(
            self.node, self._site, self._endpoint, "alive", self._incarnation, tuple(sorted(self._applied.items()))
        )
        others = [
            MemberView(
                member.node,
                member.site,
                member.endpoint,
                member.state.name.lower(),
                member.incarnation,
                rows[member.node].applied if member.node in rows else (),
            )
            for member in self._members.all()
        ]
        return tuple(sorted([us, *others], key=lambda member: (member.site, member.node)))

    def _view_region(self, region: str, outlook: Outlook) -> RegionView:
        return RegionView(
            region=region,
            effective=outlook.effective,
            verdict=outlook.verdict,
            own=outlook.own,
            reason=outlook.reason,
            since=outlook.effective_since,
            witnesses=self._health.tally(region).witnesses(),
        )


def _op_cell(signed: SignedOp) -> Cell:
    return Cell(signed.cell, CellKind.OP, signed.data, 1, (signed.op.author, signed.op.seq))


def _sooner(wait: int | None, other: int) -> int:
    return other if wait is None else min(wait, other)
