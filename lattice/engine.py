"""One node's replication engine: inputs and `now` in, effects out.

The parts know their business: `swim` who is there, `health_plane` how the regions are, `policy_store` what is in force,
`admission` what is let in, `spreading` and `reconciliation` how it travels. The engine opens what arrives, hands it to
them, and keeps the contract that the trio driver, the simulator and the tests rely on:

1. `now` never decreases.
2. Hostile bytes never raise: they are counted, and become ``Notify(Rejected(...))``; state is untouched.
3. Perform all effects, in order, before the next `handle`.
4. After an optional `Restored`, the first input is `TimerFired`; from then on it comes when `due` says. A late wake
   fires everything due, by (deadline, name), at one moment probes last; an early one does nothing.
5. Replicated state only moves up its lattice; joins use integers, tuples and bytes.
6. The same construction, inputs and times give the same effects, byte for byte.
7. Every queue, table and frame has a named limit (`Config`).
8. A restarted node takes a new incarnation.

Whatever every ping passes has slots. An object with a `__dict__` lies in two places, and of a thousand engines that
take turns in one process nothing is in the processor's caches when it is its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from lattice import wire
from lattice.admission import Admission, cell_id_of
from lattice.answers import Answers
from lattice.antientropy import NOWHERE
from lattice.cells import Cell, CellIndex, CellKind
from lattice.challenges import Given
from lattice.config import Config
from lattice.dissemination import Strategy, Tree
from lattice.errors import LatticeError
from lattice.events import (
    Certified,
    DatagramReceived,
    Effect,
    HealthObserved,
    Input,
    LeaveRequested,
    LocalChange,
    LocalUpdate,
    LoopLagged,
    OpsSubmitted,
    PeerDiscovered,
    PolicyApplied,
    PurgesSubmitted,
    RecordsLost,
    RevocationsSubmitted,
    RolloutJudged,
    SeedsResolved,
    StreamFrameReceived,
    TimerFired,
)
from lattice.grants import Grants
from lattice.health import Row, place_in
from lattice.health_plane import HealthPlane, Self
from lattice.identity import Signer, Verifier, node_id_of
from lattice.membership import STATE_NAMES, Member, MemberState
from lattice.outbox import NO_INPUT, Outbox
from lattice.own_address import OwnAddress
from lattice.policy_ops import OpId, op_id_of
from lattice.policy_store import PolicyStore
from lattice.presence import Presence
from lattice.prng import Prng
from lattice.reconciliation import Reconciliation
from lattice.rollout_plane import RolloutPlane
from lattice.seal import Seal, counter_in
from lattice.seal_records import SAVE_INTERVAL_US, SealRecords
from lattice.spreading import Spreading
from lattice.swim import Swim
from lattice.types import MILLISECOND, AuthorId, CellId, Endpoint, Micros, NodeId
from lattice.view import LatticeView, MemberView
from lattice.wire import (
    Ack,
    Challenge,
    Compare,
    Delta,
    Digest,
    Graft,
    Heal,
    IHave,
    Leave,
    Message,
    Nack,
    News,
    Ping,
    PingReq,
    Response,
    Rumour,
    WireCell,
)

ON_ITS_WAY_US: Final = 200 * MILLISECOND
"""A row so young is on its way to whoever still lacks it, over most of the world."""
_NO_ROW: Final = ((), None, ())
"""What is shown of a member of which there is none: what it applies, where it is, how it sees the regions."""
_BY_SITE: Final = attrgetter("site", "node")
_QUESTIONS: Final = (PingReq, Graft, Compare, Digest)
"""What is answered with more than it is, or by asking a third. Whoever we do not know, or whose key was taken back, may
hold the cluster's keys and no more: its pings are answered, and it is told of that revocation, where it has shown to be
(`challenges`), and that is all."""


class Engine:
    """One node. See the module's contract."""

    __slots__ = (
        "_admission", "_cells", "_config", "_grants", "_health", "_out", "_own_address", "_policy",
        "_presence", "_reconciliation", "_records_due", "_rollouts", "_seal", "_seal_records", "_spreading",
        "_stall_us", "_stalled_for", "_started", "_strategy", "_swim", "_us", "_view", "due", "node",
    )  # fmt: skip

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
        area: str = "",
        at_e6: tuple[int, int] | None = None,
        ca_key: bytes | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        """`endpoint` is where peers reach us; an empty host means that the first peer to answer tells us. `area` is
        the group of near sites that ours belongs to (`roster.area_of`), `at_e6` where ours is; `ca_key` the public key
        of the cluster's CA, without which any key may speak as a node, and `signer` then has no grant to show."""
        self.node = node_id_of(signer.public_key)
        self._config = config
        self._seal = seal
        self._us = Self(site, area, endpoint, {}, signer.grant, at_e6)
        self._grants = Grants(ca_key, verifier)
        self._own_address = OwnAddress(endpoint[0])
        self._started = False
        self.due = now
        """When it is to be given `TimerFired`. To be read after each input: it may be earlier than it was, and a timer
        is to be moved then. Where it is later a timer may also run out first, and be set anew."""
        self._records_due = Micros(0)
        self._view: LatticeView | None = None
        self._stall_us = config.stall_us
        self._stalled_for: Micros | None = None

        self._strategy = strategy or Tree()
        self._out = Outbox(self.node, config, seal, prng, now)
        self._seal_records = SealRecords(seal, self._out.persist)
        self._cells = CellIndex()
        self._policy = PolicyStore(authors, verifier, self._grants)
        self._health = HealthPlane(
            self._out,
            self._cells,
            signer,
            self._us,
            incarnation=lambda: self._swim.incarnation,
            members=lambda: len(self._swim.members),
            push=lambda cells: self._spreading.push(cells, None),
            on_sayings=lambda: self._rollouts.heard(),
        )
        self._rollouts = RolloutPlane(
            self._out, self._us, self._policy, self._health.table.sayings, self._health.issue_within
        )
        self._swim = Swim(
            self._out,
            area,
            self._cells,
            self._health.our_row,
            self._on_member_changed,
            self._health.issue,
            lambda node: self._presence.returned(node),
            self._row_of,
            # To its accuser, too: a helper does not know that its nack has become an accusation.
            lambda claim, came_from: self._strategy.next_hops(
                CellId(claim.node), b"", came_from, self._presence.others(claim.node), self._out.prng
            ),
            self._tell_missed,
        )
        self._presence = Presence(self._out, self._swim.members)
        answers = Answers(config, self._out.count)
        self._spreading = Spreading(
            self._out,
            self._cells,
            self._strategy,
            self._presence.everybody,
            self._presence.includes,
            self._swim.endpoint_of,
            self._health.age_ms,
            lambda cell: self._policy.waits(OpId(cell)),
            answers,
        )
        self._reconciliation = Reconciliation(
            self._out,
            self._cells,
            self._swim,
            self._presence.is_other_side,
            lambda: map(CellId, self._policy.waiting_ops()),
            answers,
        )
        self._admission = Admission(
            self._out,
            self._cells,
            self._us,
            verifier,
            self._grants,
            self._policy,
            self._health,
            self._swim,
            self._presence,
            self._rollouts,
            on_refused=self._reconciliation.refuse,
            on_forgiven=self._reconciliation.forgive,
            on_expelled=self._forget,
        )

    # --- the edge

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        """Take one input; the effects to perform, in order."""
        out = self._out
        assert now >= out.now, f"now went back by {out.now - now} us"
        out.now = now
        effects: list[Effect] = []
        out.effects = effects
        if now > self._records_due or now - self.due > self._stall_us:
            self._attend()
        if isinstance(event, DatagramReceived):
            self._on_frame(event.data, event.source, False)
        elif isinstance(event, TimerFired):
            self._on_timer()
        elif isinstance(event, StreamFrameReceived):
            self._on_frame(event.data, event.source, True)
        elif isinstance(event, LocalUpdate):
            self._on_local(event.change)
        else:
            self._on_restored(event.records)
        due, first = self._swim.due, out.timers.first
        if first < due:
            due = first
        self.due = due
        out.effects = NO_INPUT
        return effects

    def view(self) -> LatticeView:
        """What this node knows, as of the last `handle`. The same object until something changes."""
        if self._view is None or self._out.stale_view:
            self._out.stale_view = False
            served, standings, rollouts = self._rollouts.views()
            self._view = LatticeView(
                node=self.node,
                site=self._us.site,
                now=self._out.now,
                isolated=self._health.isolated,
                members=self._view_members(),
                regions=self._health.regions(),
                policies=self._policy.policies(),
                root=self._cells.root,
                cells=len(self._cells),
                quarantined=self._health.quarantined(),
                forks=self._policy.forks(),
                revoked=tuple(revocation.key for revocation in self._grants.revocations()),
                served=served,
                standings=standings,
                rollouts=rollouts,
            )
        return self._view

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped, by reason, sorted."""
        return dict(sorted({**self._out.counters(), "local health": self._swim.health.score}.items()))

    @property
    def policy(self) -> PolicyStore:
        """For whoever composes a publish: chain, heads and known blocks. Read only."""
        return self._policy

    def is_revoked(self, node: NodeId) -> bool:
        """Whether the CA has taken this node's key back: its streams are refused."""
        return self._grants.is_revoked(node)

    def clock_off_ms(self) -> int:
        """See `HealthPlane.clock_off_ms`."""
        return self._health.clock_off_ms()

    # --- inputs

    def _attend(self) -> None:
        """There is more to be seen to than the input: records are to be saved, or we come so late to what was due that
        we have stalled."""
        if not self._started:
            return
        out, now = self._out, self._out.now
        if now > self._records_due:
            self._records_due = out.after(SAVE_INTERVAL_US)
            if self._seal_records.wanted:
                if len(self._swim.members):
                    self._seal_records.hear(*out.asked_and_answered(), now)
                self._seal_records.save(now)
            self._health.records.save()
        if now - self.due > self._stall_us:
            self._notice_stall()

    def _notice_stall(self) -> None:
        """We come late to what was due: whatever was to be heard meanwhile has not been."""
        if self._config.stall_us and self._config.lifeguard and self.due != self._stalled_for:
            self._stalled_for = self.due
            self._swim.on_stall()

    def _on_restored(self, records: Sequence[tuple[str, bytes, bytes]]) -> None:
        assert not self._started, "Restored comes before the first TimerFired"
        self._admission.restore(records, self._seal_records)

    def _on_timer(self) -> None:
        if not self._started:
            self._started = True
            self._admission.restoring = False
            self._seal_records.save(self._out.now)
            self._swim.start()
            self._health.start()
        swim, timers, now = self._swim, self._out.timers, self._out.now
        while swim.due <= now or timers.first <= now:
            if timers.first <= swim.due:
                self._on_named(timers.pop())
            else:
                swim.on_due()

    def _on_named(self, name: str) -> None:
        kind, _, argument = name.partition(" ")
        match kind:
            case "announce":
                self._spreading.on_announce(name)
            case "reconcile":
                self._reconciliation.begin(_node(argument))
            case "tell":
                self._swim.on_tell()
            case "conflict":
                pass  # it may be told again
            case "dial":
                self._swim.calls.on_due()
            case "stale":
                self._swim.calls.on_stale_peers()
            case "suspect":
                self._swim.on_suspicion_over(_node(argument))
            case "forget":
                if self._swim.on_forget(_node(argument)):
                    self._forget(_node(argument))
            case "row":
                self._health.issue()
            case "lease":
                self._health.lease_over(_node(argument), self._presence.includes(_node(argument)))
            case "purge":
                self._admission.on_purges_over()
            case "overrule":
                self._health.conclude([argument])
            case "turn":
                self._spreading.on_turn()
            case "graft":
                self._spreading.on_graft_due()
            case _:
                raise AssertionError(f"no timer is called {name!r}")

    def _on_local(self, change: LocalChange) -> None:
        match change:
            case PeerDiscovered(endpoint):
                if not self._swim.calls.try_at(endpoint):
                    self._out.count("discovery: too many endpoints")
            case SeedsResolved(endpoints):
                self._swim.calls.seed(endpoints)
            case HealthObserved(observations):
                self._health.observed(observations)
            case OpsSubmitted(ops):
                self._take_cells([WireCell(CellKind.OP, op) for op in ops], None, None, push=True)
            case PolicyApplied(policy, version):
                if self._us.applied.get(policy) != version:
                    self._us.applied[policy] = version
                    self._out.stale_view = True
                    self._health.issue_within(self._config.confirm_delay_us)
            case RolloutJudged(rollout, stage, word):
                self._rollouts.judged(rollout, stage, word)
            case Certified(grant):
                if grant != self._us.grant:
                    self._us.grant = grant
                    self._health.issue_within(0)
            case RevocationsSubmitted(revocations):
                self._take_cells([WireCell(CellKind.REVOCATION, data) for data in revocations], None, None, push=True)
            case PurgesSubmitted(purges):
                self._take_cells([WireCell(CellKind.PURGE, data) for data in purges], None, None, push=True)
            case LoopLagged():
                self._swim.on_stall()
            case RecordsLost():
                self._persist_all()
            case LeaveRequested():
                self._health.fall_silent()
                self._swim.leave()
                self._seal_records.save_all()
                self._health.records.save_all()

    def _persist_all(self) -> None:
        """Every record there is, as if none had ever been written."""
        self._swim.persist_all()
        self._seal_records.forget_saved()
        self._health.records.forget_saved()
        self._admission.persist_all()

    def _on_frame(self, data: bytes, source: Endpoint, streamed: bool) -> None:
        """Pings and acks of members that carry nothing are most of what comes: from their fields follows what
        `_on_message` would do with such a message, and it is not made."""
        try:
            sender, body = self._seal.open(data)
            member = self._swim.members.get(sender)
            fields = wire.bare(body) if member is not None and member.endpoint == source and not streamed else None
            if member is None or fields is None:
                self._on_body(body, sender, source, streamed, data)
                return
            if len(fields) == 2:
                nonce, root = fields
                self._out.received[wire.PING] += 1
                self._reconciliation.compare(sender, root)
                self._swim.on_ping(nonce, member, source)
            else:
                nonce, subject, root, seen_as = fields
                self._out.received[wire.ACK] += 1
                if not self._own_address.told:
                    self._learn_own_endpoint(sender, seen_as)
                self._swim.on_ack(nonce, subject, root, member)
                if sender == subject and self._reconciliation.compare(sender, root):
                    self._reconciliation.soon(sender)
        except LatticeError as error:
            self._out.reject("frame" if streamed else "datagram", error, source)

    def _on_body(self, body: bytes, sender: NodeId, source: Endpoint, streamed: bool, data: bytes) -> None:
        message = wire.decode(body, self._config.frame_bytes_max)
        if sender == self.node:
            self._swim.on_own_frame(source, self._seal.closed(counter_in(data)))
            return
        self._out.received[wire.NUMBERS[type(message)]] += 1
        if streamed:
            if sender in self._swim.members:
                source = self._swim.endpoint_of(sender)  # a stream's port is not where its sender listens
            self._on_message(message, sender, source, source, streamed)
            return
        at, given, swim = source, None, self._swim
        member = swim.members.get(sender)
        if member is None or member.endpoint != source:
            given = swim.challenges.answered(message, sender, source)
            at = source if given is not None else self._heard_at(sender, source)
        self._on_message(message, sender, source, at)
        member = swim.members.get(sender)
        if member is not None and member.endpoint == source:
            return
        if at == source or self._heard_at(sender, source) == source:
            self._meet_sender(sender, source, data)
            if given is not None:
                self._answer_late(given, sender)
        elif not isinstance(message, Challenge | Response):
            swim.challenges.ask(self._out, message, sender, source, len(body))

    def _heard_at(self, sender: NodeId, source: Endpoint) -> Endpoint:
        """Where to answer: where this came from if its sender is known to be there, else where it was known to be."""
        member = self._swim.members.get(sender)
        if member is None:
            return NOWHERE
        return source if member.endpoint == source or self._swim.is_at(sender, source) else member.endpoint

    def _answer_late(self, given: Given, sender: NodeId) -> None:
        """Its sender is there: it has what it asked for, or the word that its key was taken back."""
        if not self._tell_revoked(sender, given.source) and given.ping is not None:
            member = self._swim.members.get(sender)
            self._swim.on_ping(given.ping, member, given.source, given.introduced)

    def _meet_sender(self, sender: NodeId, source: Endpoint, data: bytes) -> None:
        if not self._grants.is_revoked(sender):
            self._swim.meet_sender(sender, source, counter_in(data))

    def _on_message(
        self, message: Message, sender: NodeId, source: Endpoint, at: Endpoint, streamed: bool = False
    ) -> None:
        """It came from `source`, and is answered `at`."""
        if isinstance(message, IHave):  # the frequent first
            self._spreading.on_i_have(message, sender)
            return
        if isinstance(message, Rumour):
            self._take_cells(message.cells, sender, source, push=True, at=at)
            return
        if isinstance(message, Ping):
            if message.cells and not self._is_one_way(message, sender):
                self._take_cells(message.cells, sender, source, push=False, at=at)
            if message.cells and sender in self._swim.members:  # it may have just introduced itself
                at = self._swim.endpoint_of(sender) if streamed else self._heard_at(sender, source)
            doubted = bool(message.updates) and self._swim.hear(message.updates, sender)
            self._reconciliation.compare(sender, message.root)
            if at[0]:
                self._swim.on_ping(message.nonce, self._swim.members.get(sender), at, bool(message.cells))
            if (
                doubted and not message.cells and self._swim.begins_answer(sender, of_us=True)
            ):  # else the answer has our row
                self._out.send(Rumour(self._health.our_row()), at)
            return
        if isinstance(message, Ack):
            if message.cells:
                self._take_cells(message.cells, sender, source, push=False, at=at)
            if not self._own_address.told:
                self._learn_own_endpoint(sender, message.seen_as)
            if (
                message.updates
                and self._swim.hear(message.updates, sender)
                and self._swim.begins_answer(sender, of_us=True)
            ):
                self._out.send(Rumour(self._health.our_row()), at)  # it held us as gone: the proof that we are not
            self._swim.on_ack(message.nonce, message.subject, message.root, self._swim.members.get(sender))
            if sender == message.subject and self._reconciliation.compare(sender, message.root):
                self._reconciliation.soon(sender)
            return
        if isinstance(message, _QUESTIONS) and sender not in self._swim.members:
            self._out.count("questions refused: not of a member")
            if at[0]:
                self._tell_revoked(sender, at)
            return
        match message:
            case Heal(cells):
                fresh = self._take_cells(cells, sender, source, push=False, at=at)
                if fresh:
                    self._reconciliation.healed()
                    self._pass_through(fresh, sender)
            case PingReq():
                self._swim.on_ping_req(message, at)
            case Nack():
                self._swim.on_nack(message, sender)
            case News(updates):
                self._swim.hear(updates, sender)
            case Graft():
                self._spreading.on_graft(message, sender, at)
            case Compare():
                self._reconciliation.compared(message, sender, at)
            case Digest():
                missing, asked_at = self._reconciliation.digested(message, sender)
                missing = self._spreading.not_in_line(self._presence.not_theirs(missing, sender))
                self._spreading.send_delta(self._reconciliation.afford(sender, missing, message.shards), asked_at)
            case Delta(root, cells, left):
                fresh = self._take_cells(cells, sender, source, push=False, at=at)
                if fresh and self._presence.is_other_side(sender):
                    self._pass_through(fresh, None)
                else:
                    self._spreading.learned(fresh)
                self._reconciliation.compare(sender, root)
                if fresh:  # else what still differs is something that one of us refuses: the next ping is soon enough
                    self._reconciliation.brought(sender, left)
            case Leave(incarnation):
                self._swim.leaves(sender, incarnation, source)
            case Challenge(number):
                self._out.send(Response(number), source)  # it is no larger, and proves nothing of who asked

    def _tell_revoked(self, sender: NodeId, at: Endpoint) -> bool:
        """One whose key was taken back shall know that, and has nobody else to tell it. Whether it was."""
        revocation = self._grants.revocation(sender)
        if revocation is not None:
            self._out.send(Rumour((WireCell(CellKind.REVOCATION, revocation.data),)), at)
        return revocation is not None

    def _is_one_way(self, ping: Ping, sender: NodeId) -> bool:
        """Whether it only shows that we hear whom we held as gone. When our answer has been heard, its row comes again;
        else a node that nobody hears would hold everybody as back, and gone, and back."""
        if not ping.updates or sender not in self._swim.members or self._presence.includes(sender):
            return False
        return any(update.node == self.node and update.state == MemberState.DOWN for update in ping.updates)

    def _learn_own_endpoint(self, sender: NodeId, seen_as: Endpoint) -> None:
        if sender in self._swim.members and self._own_address.heard(sender, seen_as[0], self._out.now):
            self._us.endpoint = (self._own_address.host, self._us.endpoint[1] or seen_as[1])
            self._out.count("own address learned")
            self._out.stale_view = True
            self._health.issue_within(self._config.confirm_delay_us)

    # --- cells

    def _take_cells(
        self,
        cells: Sequence[WireCell],
        sender: NodeId | None,
        source: Endpoint | None,
        push: bool,
        at: Endpoint | None = None,
    ) -> list[Cell]:
        """Join what came (`sender` is None if it came from here); what of it was news. `at` is where its sender hears
        us."""
        if not cells:
            return []
        was_known = sender is not None and sender in self._swim.members
        admitted = self._admission.take(cells, sender, source, at)
        if push:
            if admitted.fresh and sender is not None:
                self._reconciliation.stirred()
            if to_pass := [*admitted.fresh, *self._spreading.still_to_pass(map(cell_id_of, cells))]:
                self._spreading.push(to_pass, sender)
        if push and sender is not None and self._policy.waiting():
            came = [OpId(op_id_of(cell.data)) for cell in cells if cell.kind is CellKind.OP]
            self._spreading.on_gap([CellId(op) for op in self._policy.awaited_by(came)], sender)
        if admitted.came_back:  # its own trees do not reach those whom we see: it, or the network, was away
            if was_known:
                self._reconciliation.healed()
                self._pass_through(admitted.came_back, None)
            else:
                self._spreading.push(admitted.came_back, None)
        return admitted.fresh

    def _pass_through(self, cells: list[Cell], came_from: NodeId | None) -> None:
        """What the other side of a partition knew: our side shall know it, too."""
        self._spreading.heal(cells, came_from, self._presence.our_side())

    # --- members

    def _on_member_changed(self, member: Member) -> None:
        self._presence.changed(member.node)
        self._health.mute(member.node, not member.present)

    def _forget(self, node: NodeId) -> None:
        self._health.forget(node)
        self._reconciliation.forget(node)

    def _tell_missed(self, nodes: Sequence[NodeId], peer: NodeId) -> None:
        """The peer accuses these of what they have refuted: it is given the rows that did it, as if it had asked."""
        held = [row for row in map(self._health.table.get, nodes) if row is not None]
        rows = tuple(row.signed.cell for row in held if self._out.now - row.born >= ON_ITS_WAY_US)
        if rows and self._swim.begins_answer(peer, of_us=False):
            self._out.count("accusations answered by a later row")
            self._spreading.on_graft(Graft(rows), peer, self._swim.endpoint_of(peer))

    def _row_of(self, node: NodeId) -> Row | None:
        held = self._health.table.get(node)
        return held.signed.row if held is not None else None

    def _view_members(self) -> tuple[MemberView, ...]:
        ours = tuple(sorted(self._us.applied.items()))
        row = self._row_of(self.node)
        us = MemberView(
            self.node,
            self._us.site,
            self._us.endpoint,
            "alive",
            self._swim.incarnation,
            ours,
            self._us.at_e6,
            row.reports if row is not None else (),
        )
        members, held_of = [us], self._health.table.get
        for member in self._swim.members:
            node, state = member.node, STATE_NAMES[member.state]
            held = held_of(node)
            row = held.signed.row if held is not None else None
            applied, at_e6, reports = (row.applied, place_in(row.area), row.reports) if row is not None else _NO_ROW
            members.append(
                MemberView(node, member.site, member.endpoint, state, member.incarnation, applied, at_e6, reports)
            )
        members.sort(key=_BY_SITE)
        return tuple(members)


def _node(argument: str) -> NodeId:
    return NodeId(bytes.fromhex(argument))
