"""One node's replication engine: inputs and `now` in, effects out.

The parts know their business: `swim` who is there, `health_plane` how the regions are, `policy_store` what is in force,
`spreading` and `reconciliation` how it travels. The engine opens what arrives, hands it to them, and keeps the contract
that the trio driver, the simulator and the tests rely on:

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

from collections.abc import Iterable, Iterator, Sequence

from lattice import canonical, wire
from lattice.cells import Cell, CellIndex, CellKind
from lattice.config import Config
from lattice.dissemination import Strategy, Tree
from lattice.equivocation import contradict, open_proof, prove
from lattice.errors import LatticeError, UntrustedError
from lattice.events import (
    Certified,
    DatagramReceived,
    Effect,
    HealthObserved,
    Holds,
    Input,
    KeyRevoked,
    LeaveRequested,
    LocalChange,
    LocalUpdate,
    LoopLagged,
    OpAccepted,
    OpsSubmitted,
    PeerDiscovered,
    PolicyApplied,
    PolicyChanged,
    Purged,
    PurgesSubmitted,
    RecordsLost,
    RevocationsSubmitted,
    SeedsResolved,
    SetTimer,
    StreamFrameReceived,
    TimerFired,
)
from lattice.grants import Grants
from lattice.health import Row, open_row, row_id_of
from lattice.health_plane import HealthPlane, Self
from lattice.identity import Signer, Verifier, node_id_of
from lattice.membership import Member, MemberState, MemberUpdate
from lattice.outbox import RECEIVED, Outbox
from lattice.own_address import OwnAddress
from lattice.policy_ops import OpId, SignedOp, op_id_of
from lattice.policy_store import PolicyStore
from lattice.prng import Prng
from lattice.purges import Purges, open_purge, purge_id_of
from lattice.reconciliation import Reconciliation
from lattice.reunion import Reunion
from lattice.roster import Roster
from lattice.row_records import ROW_TABLE, restored_row
from lattice.seal import Seal
from lattice.seal_records import SealRecords
from lattice.spreading import Spreading
from lattice.swim import Swim
from lattice.types import AuthorId, CellId, Endpoint, Micros, NodeId, VersionId
from lattice.view import LatticeView, MemberView
from lattice.wire import (
    Ack,
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
    Rumour,
    WireCell,
)

REFUSED_FOR_GOOD = frozenset(
    {
        "author without capability",
        "unknown namespace",
        "bad content",
        "broken chain",
        "below the checkpoint",
        "follows a refused op",
        "author revoked",
        "bad grant",
        "grant expired",
        "key revoked",
        "not granted",
        "purge is over",
    }
)
"""Why a well-signed cell will be refused again: there is no sense in having it sent again."""


REVOKED_TABLE = "revoked"


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
        self._verifier = verifier
        self._seal = seal
        self._us = Self(site, area, endpoint, {}, signer.grant, at_e6)
        self._grants = Grants(ca_key, verifier)
        self._own_address = OwnAddress(endpoint[0])
        self._started = False
        self._deadline: Micros | None = None
        self._view: LatticeView | None = None
        self._roster: Roster | None = None
        self._stall_us = config.stall_us
        self._stalled_for: Micros | None = None
        self._proves_senders = seal.windows is not None

        self._strategy = strategy or Tree()
        self._out = Outbox(self.node, config, seal, prng, now)
        self._seal_records = SealRecords(seal, self._out.persist)
        self._cells = CellIndex()
        self._policy = PolicyStore(authors, verifier, self._grants)
        self._purges = Purges(self._policy.check_author)
        self._reunion = Reunion()
        self._health = HealthPlane(
            self._out,
            self._cells,
            signer,
            self._us,
            incarnation=lambda: self._swim.incarnation,
            members=lambda: len(self._swim.members),
            push=lambda cells: self._spreading.push(cells, None),
        )
        self._swim = Swim(
            self._out,
            self._cells.root,
            self._health.our_row,
            self._on_member_changed,
            self._health.issue,
            lambda node: self._reunion.returned(node, self._out.now),
            self._row_of,
            lambda claim, came_from: self._strategy.next_hops(
                CellId(claim.node), claim.by, came_from, self._present(), self._out.prng
            ),
        )
        self._spreading = Spreading(
            self._out,
            self._cells,
            self._strategy,
            self._present,
            self._swim.endpoint_of,
            self._health.age_ms,
        )
        self._reconciliation = Reconciliation(
            self._out, self._cells, self._swim, lambda peer: self._reunion.is_other_side(peer, self._out.now)
        )

    # --- the edge

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        """Take one input; the effects to perform, in order."""
        self._out.begin(now)
        if self._started:
            if self._proves_senders:
                self._seal_records.before(now)
            self._health.records.before(now)
            if self._deadline is not None and now - self._deadline > self._stall_us:
                self._notice_stall()
        if isinstance(event, DatagramReceived):
            self._on_frame(event.data, event.source, "datagram")
        elif isinstance(event, TimerFired):
            self._on_timer()
        elif isinstance(event, StreamFrameReceived):
            self._on_frame(event.data, event.source, "frame")
        elif isinstance(event, LocalUpdate):
            self._on_local(event.change)
        else:
            self._on_restored(event.records)
        effects = self._out.effects()
        earliest = self._out.timers.earliest()
        if earliest != self._deadline:
            self._deadline = earliest
            effects.append(SetTimer(earliest))
        return effects

    def view(self) -> LatticeView:
        """What this node knows, as of the last `handle`. The same object until something changes."""
        if self._view is None or self._out.stale_view:
            self._out.stale_view = False
            self._view = LatticeView(
                node=self.node,
                site=self._us.site,
                now=self._out.now,
                isolated=self._health.isolated,
                members=self._view_members(),
                regions=self._health.regions(),
                policies=self._policy.policies(),
                root=self._cells.root(),
                cells=len(self._cells),
                quarantined=self._health.quarantined(),
                forks=self._policy.forks(),
                revoked=tuple(revocation.key for revocation in self._grants.revocations()),
            )
        return self._view

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped, by reason, sorted."""
        return dict(sorted({**self._out.counters, "local health": self._swim.health.score}.items()))

    @property
    def policy(self) -> PolicyStore:
        """For whoever composes a publish: chain, heads and known blocks. Read only."""
        return self._policy

    def is_revoked(self, node: NodeId) -> bool:
        """Whether the CA has taken this node's key back: its streams are refused."""
        return self._grants.is_revoked(node)

    # --- inputs

    def _notice_stall(self) -> None:
        """We come late to our own deadline: whatever was to be heard meanwhile has not been."""
        if self._config.stall_us and self._config.lifeguard and self._deadline != self._stalled_for:
            self._stalled_for = self._deadline
            self._swim.on_stall()

    def _on_restored(self, records: Sequence[tuple[str, bytes, bytes]]) -> None:
        assert not self._started, "Restored comes before the first TimerFired"
        ops = self._policy.in_chain_order(value for table, _, value in records if table == "op")
        others = sorted(
            (record for record in records if record[0] != "op"), key=lambda at: (at[0] != REVOKED_TABLE, at)
        )
        peers: dict[NodeId, Endpoint] = {}
        for table, key, value in [*others, *(("op", b"", data) for data in ops)]:
            try:
                if self._seal_records.restore(table, key, value):
                    continue
                if (table, key) == ("self", b"incarnation"):
                    self._swim.incarnation = canonical.integer(canonical.unpack(value, 16), "incarnation")
                elif table == "op":
                    self._admit_op(value)
                elif table == REVOKED_TABLE:
                    self._admit_revocation(value)
                elif table == ROW_TABLE:
                    self._health.records.touch(NodeId(key))  # if it is not taken, its record goes
                    row, age_us = restored_row(value, self._out.now)
                    self._admit_row(row, age_us, None, None)
                elif table == "peer":
                    peers[NodeId(key)] = canonical.endpoint(canonical.unpack(value, 128), "peer")
            except LatticeError as error:
                self._out.count(f"restore: {error.reason}")
        self._swim.redial(peers)
        self._tell_policies({})

    def _on_timer(self) -> None:
        if not self._started:
            self._started = True
            if self._proves_senders:
                self._seal_records.before(self._out.now)
            self._swim.start()
            self._health.start()
        while (name := self._out.timers.pop_due(self._out.now)) is not None:
            kind, _, argument = name.partition(" ")
            match kind:
                case "swim":
                    self._swim.on_interval()
                case "probe":
                    self._swim.on_probe_due()
                case "tell":
                    self._swim.on_tell()
                case "conflict":
                    pass  # it may be told again
                case "dial":
                    self._swim.on_dial()
                case "stale":
                    self._swim.on_stale_peers()
                case "suspect":
                    self._swim.on_suspicion_over(_node(argument))
                case "forget":
                    if self._swim.on_forget(_node(argument)):
                        self._health.forget(_node(argument))
                        self._reconciliation.forget(_node(argument))
                case "row":
                    self._health.issue()
                case "lease":
                    self._health.lease_over(_node(argument), self._is_present(_node(argument)))
                case "purge":
                    for cell in self._purges.forget(self._out.now):
                        self._cells.discard(cell)
                        self._out.stale_view = True
                    if (end := self._purges.next_end()) is not None:
                        self._out.timers.set("purge", end)
                case "overrule":
                    self._health.conclude([argument])
                case "announce":
                    self._spreading.on_announce()
                case "graft":
                    self._spreading.on_graft_due()
                case "reconcile":
                    self._reconciliation.begin(_node(argument))
                case _:
                    raise AssertionError(f"no timer is called {name!r}")

    def _on_local(self, change: LocalChange) -> None:
        match change:
            case PeerDiscovered(endpoint):
                self._swim.dial(endpoint)
            case SeedsResolved(endpoints):
                self._swim.seed(endpoints)
            case HealthObserved(observations):
                self._health.observed(observations)
            case OpsSubmitted(ops):
                self._take_cells([WireCell(CellKind.OP, op) for op in ops], None, None, push=True)
            case PolicyApplied(policy, version):
                if self._us.applied.get(policy) != version:
                    self._us.applied[policy] = version
                    self._out.stale_view = True
                    self._health.issue_within(self._config.confirm_delay_us)
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
        for revocation in self._grants.revocations():
            self._out.persist(REVOKED_TABLE, revocation.key, revocation.data)
        for data in self._policy.ops():
            self._out.persist("op", op_id_of(data), data)

    def _on_frame(self, data: bytes, source: Endpoint, what: str) -> None:
        try:
            sender, _, body = self._seal.open(data)
            message = wire.decode(body, self._config.frame_bytes_max)
            if sender == self.node:
                self._swim.on_own_frame(message, source)
                return
            self._out.count(RECEIVED[type(message)])
            if what == "frame" and sender in self._swim.members:
                source = self._swim.endpoint_of(sender)  # a stream's port is not where its sender listens
            self._on_message(message, sender, source, streamed=what == "frame")
            if what == "datagram" and not self._grants.is_revoked(sender):
                self._swim.meet_sender(sender, source)
        except LatticeError as error:
            self._out.reject(what, error, source)

    def _on_message(self, message: Message, sender: NodeId, source: Endpoint, streamed: bool = False) -> None:
        if isinstance(message, Ping):
            if not self._is_one_way(message, sender):
                self._take_cells(message.cells, sender, source, push=False)
            if streamed and sender in self._swim.members:
                source = self._swim.endpoint_of(sender)  # it has just introduced itself
            doubted = self._swim.hear(message.updates, sender)
            self._reconciliation.compare(sender, message.root)
            self._swim.on_ping(message, sender, source)
            if doubted and not message.cells:  # else the answer has our row
                self._out.send(Rumour(self._health.our_row()), source)
            return
        if isinstance(message, Ack):
            self._take_cells(message.cells, sender, source, push=False)
            self._learn_own_endpoint(sender, message.seen_as)
            if self._swim.hear(message.updates, sender):  # it held us as gone: here is the proof that we are not
                self._out.send(Rumour(self._health.our_row()), source)
            self._swim.on_ack(message, sender)
            if sender == message.subject:
                self._reconciliation.compare(sender, message.root)
                self._reconciliation.soon(sender)
            return
        match message:
            case IHave():
                self._spreading.on_i_have(message, sender)
            case Rumour(cells):
                self._take_cells(cells, sender, source, push=True)
            case Heal(cells):
                fresh = self._take_cells(cells, sender, source, push=False)
                if fresh:
                    self._reconciliation.healed()
                    self._pass_through(fresh, sender)
            case PingReq():
                self._swim.on_ping_req(message, source)
            case Nack():
                self._swim.on_nack(message, sender)
            case News(updates):
                self._swim.hear(updates, sender)
            case Graft():
                self._spreading.on_graft(message, source)
            case Compare():
                self._reconciliation.compared(message, sender, source)
            case Digest():
                missing = self._reconciliation.digested(message, sender, source)
                self._spreading.send_delta(self._not_theirs(missing, sender), source)
            case Delta(root, cells):
                fresh = self._take_cells(cells, sender, source, push=False)
                if fresh and self._reunion.is_other_side(sender, self._out.now):
                    self._pass_through(fresh, None)
                self._reconciliation.compare(sender, root)
                if fresh:  # else what still differs is something that one of us refuses: the next ping is soon enough
                    self._reconciliation.brought(sender)
            case Leave(incarnation):
                self._swim.hear((MemberUpdate(sender, MemberState.LEFT, incarnation, sender),), sender)

    def _is_one_way(self, ping: Ping, sender: NodeId) -> bool:
        """Whether it only shows that we hear whom we held as gone. When our answer has been heard, its row comes again;
        else a node that nobody hears would hold everybody as back, and gone, and back."""
        if not ping.updates or sender not in self._swim.members or self._is_present(sender):
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
        self, cells: Sequence[WireCell], sender: NodeId | None, source: Endpoint | None, push: bool
    ) -> list[Cell]:
        """Join what came (`sender` is None if it came from here); what of it was news."""
        if not cells:
            return []
        fresh: list[Cell] = []
        heirs: list[Cell] = []
        came_back: list[Cell] = []
        away = sender is not None and not self._is_present(sender)
        was_known = sender is not None and sender in self._swim.members
        for cell in sorted(cells, key=_admission_order):
            try:
                admitted = self._admit(cell, sender, source)
            except LatticeError as error:
                if error.reason in REFUSED_FOR_GOOD:
                    self._reconciliation.refuse(_cell_id(cell))
                self._out.reject(cell.kind.name.lower(), error, source)
            else:
                if away and admitted and admitted[0].place[0] == sender:
                    came_back += admitted
                    continue
                fresh += admitted[:1]
                heirs += admitted[1:]
        if push and fresh:
            if sender is not None:
                self._reconciliation.stirred()
            self._spreading.push(fresh, sender)
        if push and heirs:
            self._spreading.push(heirs, self.node if sender else None)  # these came earlier, and from somebody else
        if came_back:  # its own trees do not reach those whom we see: it, or the network, was away
            if was_known:
                self._reconciliation.healed()
                self._spreading.heal(came_back, None, self._our_side())
            else:
                self._spreading.push(came_back, None)
        return fresh + heirs

    def _pass_through(self, cells: list[Cell], came_from: NodeId | None) -> None:
        """What the other side of a partition knew: our side shall know it, too."""
        self._spreading.heal(cells, came_from, self._our_side())

    def _admit(self, cell: WireCell, sender: NodeId | None, source: Endpoint | None) -> list[Cell]:
        """Judge one cell; what it brought in, itself first. Raises `LatticeError` with nothing changed."""
        match cell.kind:
            case CellKind.ROW:
                return self._admit_row(cell.data, cell.age_ms * 1_000, sender, source)
            case CellKind.OP:
                return self._admit_op(cell.data, own=sender is None)
            case CellKind.EVIDENCE:
                return self._admit_proof(cell.data)
            case CellKind.REVOCATION:
                return self._admit_revocation(cell.data)
            case CellKind.PURGE:
                return self._admit_purge(cell.data)

    def _admit_purge(self, data: bytes) -> list[Cell]:
        purge = open_purge(data, self._verifier)
        if self._grants.is_revoked(purge.author):
            raise UntrustedError("author revoked", purge.author.hex())
        if not self._purges.take(purge, self._out.now):
            return []
        cell = Cell(purge.cell, CellKind.PURGE, data, 1, (purge.author, purge.at_ms))
        self._cells.add(cell)
        self._out.timers.set_earlier("purge", purge.ends)
        self._out.stale_view = True
        self._out.notify(Purged(purge.host, purge.path, purge.author))
        return [cell]

    def _admit_revocation(self, data: bytes) -> list[Cell]:
        revocation = self._grants.open_revocation(data)
        news, replaced = self._grants.take(revocation)
        if not news:
            return []
        if replaced is not None:
            self._cells.discard(replaced.cell)
        cell = Cell(revocation.cell, CellKind.REVOCATION, data, 0, (revocation.key, 0))
        self._cells.add(cell)
        if self._started:
            self._out.persist(REVOKED_TABLE, revocation.key, data)
        node = NodeId(revocation.key)
        member = self._swim.members.get(node)
        site = self._us.site if node == self.node else member.site if member else ""
        self._out.notify(KeyRevoked(revocation.key, site))
        if self._swim.expel(node):
            self._health.forget(node)
            self._reconciliation.forget(node)
            self._roster = None
        before = self._serving()
        self._policy.revoke(AuthorId(revocation.key), revocation.seq, OpId(revocation.op))
        self._drop_void()
        self._reconciliation.forgive()
        self._out.stale_view = True
        if self._started:
            self._tell_policies(before)
        return [cell]

    def _admit_proof(self, data: bytes) -> list[Cell]:
        proof = open_proof(data, self._verifier)
        if proof.observer != self.node and proof.observer not in self._swim.members:
            raise UntrustedError("evidence about a stranger", proof.observer.hex())
        cell = self._health.take_proof(proof)
        if cell is None:
            return []
        if proof.observer == self.node and self._swim.incarnation <= proof.incarnation < canonical.INTEGER_MAX:
            # Our own key, used elsewhere or by an earlier life: only a greater incarnation of it votes again.
            self._swim.refute(proof.incarnation)
        return [cell]

    def _admit_row(self, data: bytes, age_us: int, sender: NodeId | None, source: Endpoint | None) -> list[Cell]:
        signed = open_row(data, self._verifier)
        members = self._swim.members
        if signed.observer == self.node:
            ours = self._health.table.get(self.node)
            if ours is not None and contradict(ours.signed, signed):
                return self._admit_proof(prove(ours.signed, signed).data)
            if signed.order > (self._health.table.order_of(self.node) or (0, 0, b"")):
                self._swim.on_own_row(signed.row, self._us.endpoint)
            return []
        self._grants.check_node(
            signed.observer, signed.row.public_key, signed.row.site, signed.row.grant, self._out.now
        )
        if signed.observer not in members and len(members) >= self._config.members_max:
            raise UntrustedError("too many members", f"{self._config.members_max} are known")
        placed = self._health.place(signed, age_us, source)
        if placed is None:
            return []
        # Whoever listens on a wildcard may not know its own address yet: then it is where its frame came from.
        host = signed.row.endpoint[0] or (source[0] if source and sender == signed.observer else "")
        known = members.get(signed.observer)
        self._swim.meet(signed.row, signed.observer, (host, signed.row.endpoint[1]))
        if known is None or known.area != signed.row.group:
            self._roster = None
        return [placed]

    def _admit_op(self, data: bytes, own: bool = False) -> list[Cell]:
        before = self._serving()
        now_ms = self._out.now // 1_000 if self._started else None
        accepted = self._policy.admit(data, own, now_ms, self._health.majority_clock_ms)
        fresh = [_op_cell(signed) for signed in accepted]
        for signed, cell in zip(accepted, fresh, strict=True):
            self._cells.add(cell)
            if self._started:  # else it was restored: written already, and nobody waits for it
                # What was published here may be signed here, too: no other op may ever take its place in the chain.
                self._out.persist("op", signed.id, signed.data, Holds.CELLS if own else Holds.NOTHING)
                self._out.notify(OpAccepted(signed.id))
        self._drop_void()
        self._out.stale_view = self._out.stale_view or bool(accepted)
        if self._started:
            self._tell_policies(before)
        return fresh

    def _drop_void(self) -> None:
        """After the checkpoint or the revocation that says so is on its way to the disk."""
        for void in self._policy.take_void():
            self._cells.discard(void.cell)
            self._out.persist("op", void.id, None)
            self._out.count("void ops dropped")

    def _serving(self) -> dict[str, VersionId]:
        return {policy.policy: policy.version for policy in self._policy.policies()}

    def _tell_policies(self, before: dict[str, VersionId]) -> None:
        for policy in self._policy.policies():
            if before.get(policy.policy) != policy.version:
                self._out.notify(PolicyChanged(policy.policy, policy.version))

    # --- members

    def _on_member_changed(self, member: Member) -> None:
        self._roster = None
        self._reunion.changed(member.node)
        self._health.mute(member.node, not member.present)

    def _is_present(self, node: NodeId) -> bool:
        member = self._swim.members.get(node)
        return node == self.node or (member is not None and member.present)

    def _present(self) -> Roster:
        """Everybody present, ourselves included, as the trees see them."""
        if self._roster is None:
            self._roster = Roster.of(self.node, self._places())
        return self._roster

    def _our_side(self) -> Roster:
        """Those of them who were never gone."""
        return self._reunion.our_side(self.node, self._places())

    def _places(self) -> Iterator[tuple[str, NodeId]]:
        yield self._us.area, self.node
        for node in self._swim.members.present():
            member = self._swim.members.get(node)
            assert member is not None, "whoever is present is a member"
            yield member.area, node

    def _not_theirs(self, cells: list[Cell], peer: NodeId) -> list[Cell]:
        """Without the rows of the other side, if the peer is there: what it has of those is newer."""
        if not self._reunion.is_other_side(peer, self._out.now):
            return cells
        return [cell for cell in cells if cell.kind is not CellKind.ROW or self._is_ours(NodeId(cell.place[0]))]

    def _is_ours(self, node: NodeId) -> bool:
        """Whether a node was never gone."""
        return self._is_present(node) and not self._reunion.is_other_side(node, self._out.now)

    def _row_of(self, node: NodeId) -> Row | None:
        held = self._health.table.get(node)
        return held.signed.row if held is not None else None

    def _view_members(self) -> tuple[MemberView, ...]:
        rows = {signed.observer: signed.row for signed in self._health.table.rows()}
        ours = tuple(sorted(self._us.applied.items()))
        us = MemberView(
            self.node, self._us.site, self._us.endpoint, "alive", self._swim.incarnation, ours, self._us.at_e6
        )
        others = [
            MemberView(
                member.node,
                member.site,
                member.endpoint,
                member.state.name.lower(),
                member.incarnation,
                rows[member.node].applied if member.node in rows else (),
                rows[member.node].at_e6 if member.node in rows else None,
            )
            for member in self._swim.members.all()
        ]
        return tuple(sorted([us, *others], key=lambda member: (member.site, member.node)))


def _node(argument: str) -> NodeId:
    return NodeId(bytes.fromhex(argument))


def _admission_order(cell: WireCell) -> tuple[bool, CellKind]:
    """Who is revoked first, evidence after the rows: it is about members."""
    return cell.kind is not CellKind.REVOCATION, cell.kind


def _cell_id(cell: WireCell) -> CellId:
    if cell.kind is CellKind.PURGE:
        return purge_id_of(cell.data)
    return row_id_of(cell.data) if cell.kind is CellKind.ROW else CellId(op_id_of(cell.data))


def _op_cell(signed: SignedOp) -> Cell:
    return Cell(signed.cell, CellKind.OP, signed.data, 1, (signed.op.author, signed.op.seq))
