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

from collections.abc import Iterable, Sequence

from lattice import canonical, wire
from lattice.cells import Cell, CellIndex, CellKind
from lattice.config import Config
from lattice.dissemination import Strategy, Tree
from lattice.errors import LatticeError, UntrustedError
from lattice.events import (
    DatagramReceived,
    Effect,
    HealthObserved,
    Input,
    LeaveRequested,
    LocalChange,
    LocalUpdate,
    OpAccepted,
    OpsSubmitted,
    PeerDiscovered,
    PolicyApplied,
    PolicyChanged,
    Restored,
    SetTimer,
    StreamFrameReceived,
    TimerFired,
)
from lattice.health import open_row
from lattice.health_plane import HealthPlane, Self
from lattice.identity import Signer, Verifier, node_id_of
from lattice.membership import Member, MemberState, MemberUpdate
from lattice.outbox import Outbox
from lattice.policy_ops import SignedOp
from lattice.policy_store import PolicyStore
from lattice.prng import Prng
from lattice.reconciliation import Reconciliation
from lattice.roster import Roster
from lattice.seal import Seal
from lattice.spreading import Spreading
from lattice.swim import Swim
from lattice.types import AuthorId, Endpoint, Micros, NodeId, VersionId
from lattice.view import LatticeView, MemberView
from lattice.wire import Ack, Compare, Delta, Digest, Graft, IHave, Leave, Message, Ping, PingReq, Rumour, WireCell


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
        strategy: Strategy | None = None,
    ) -> None:
        """`endpoint` is where peers reach us; an empty host means that the first peer to answer tells us. `area` is
        the group of near sites that ours belongs to (`roster.area_of`)."""
        self.node = node_id_of(signer.public_key)
        self._config = config
        self._verifier = verifier
        self._seal = seal
        self._us = Self(site, area, endpoint, {})
        self._started = False
        self._deadline: Micros | None = None
        self._view: LatticeView | None = None
        self._roster: Roster | None = None

        self._out = Outbox(self.node, config, seal, prng, now)
        self._cells = CellIndex()
        self._policy = PolicyStore(authors, verifier)
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
            self._out, self._cells.root, self._health.our_row, self._on_member_changed, self._health.issue
        )
        self._spreading = Spreading(
            self._out,
            self._cells,
            strategy or Tree(),
            self._present,
            self._swim.endpoint_of,
            self._health.age_ms,
        )
        self._reconciliation = Reconciliation(self._out, self._cells, self._swim)

    # --- the edge

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        """Take one input; the effects to perform, in order."""
        self._out.begin(now)
        match event:
            case DatagramReceived(data, source):
                self._on_frame(data, source, "datagram")
            case StreamFrameReceived(data, source):
                self._on_frame(data, source, "frame")
            case TimerFired():
                self._on_timer()
            case LocalUpdate(change):
                self._on_local(change)
            case Restored(records):
                self._on_restored(records)
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
            )
        return self._view

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped, by reason, sorted."""
        return dict(sorted(self._out.counters.items()))

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
                    self._swim.incarnation = canonical.integer(canonical.unpack(value, 16), "incarnation")
                elif table == "op":
                    self._admit_op(value)
                elif table == "peer":
                    self._swim.dial(canonical.endpoint(canonical.unpack(value, 128), "peer"))
            except LatticeError as error:
                self._out.count(f"restore: {error.reason}")
        self._tell_policies({})

    def _on_timer(self) -> None:
        if not self._started:
            self._started = True
            self._swim.start()
            self._health.start()
        while (name := self._out.timers.pop_due(self._out.now)) is not None:
            kind, _, argument = name.partition(" ")
            match kind:
                case "swim":
                    self._swim.on_interval()
                case "ack":
                    self._swim.on_ack_late()
                case "dial":
                    self._swim.on_dial()
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
            case HealthObserved(observations):
                self._health.observed(observations)
            case OpsSubmitted(ops):
                self._take_cells([WireCell(CellKind.OP, op) for op in ops], None, None, push=True)
            case PolicyApplied(policy, version):
                if self._us.applied.get(policy) != version:
                    self._us.applied[policy] = version
                    self._out.stale_view = True
                    self._health.issue_within(self._config.confirm_delay_us)
            case LeaveRequested():
                self._health.fall_silent()
                self._swim.leave()

    def _on_frame(self, data: bytes, source: Endpoint, what: str) -> None:
        try:
            sender, _, body = self._seal.open(data)
            message = wire.decode(body, self._config.frame_bytes_max)
            if sender == self.node:
                self._swim.that_was_us(source)  # discovery found ourselves
                self._out.count("own frames heard")
                return
            self._out.count(f"in {type(message).__name__}")
            if what == "frame" and sender in self._swim.members:
                source = self._swim.endpoint_of(sender)  # a stream's port is not where its sender listens
            self._on_message(message, sender, source)
            if what == "datagram":
                self._swim.meet_sender(sender, source)
        except LatticeError as error:
            self._out.reject(what, error, source)

    def _on_message(self, message: Message, sender: NodeId, source: Endpoint) -> None:
        match message:
            case Ping(_, root, updates, cells):
                self._take_cells(cells, sender, source, push=False)
                self._swim.hear(updates)
                self._reconciliation.compare(sender, root)
                self._swim.on_ping(message, sender, source)
            case Ack(_, subject, root, seen_as, updates, cells):
                self._learn_own_endpoint(seen_as)
                self._take_cells(cells, sender, source, push=False)
                self._swim.hear(updates)
                self._swim.on_ack(message)
                if sender == subject:
                    self._reconciliation.compare(sender, root)
                    self._reconciliation.soon(sender)
            case PingReq():
                self._swim.on_ping_req(message, source)
            case Rumour(cells):
                self._take_cells(cells, sender, source, push=True)
            case IHave():
                self._spreading.on_i_have(message, sender)
            case Graft():
                self._spreading.on_graft(message, source)
            case Compare():
                self._reconciliation.compared(message, sender, source)
            case Digest():
                self._spreading.send_delta(self._reconciliation.digested(message, sender, source), source)
            case Delta(root, cells):
                fresh = self._take_cells(cells, sender, source, push=False)
                self._reconciliation.compare(sender, root)
                if fresh:  # else what still differs is something that one of us refuses: the next ping is soon enough
                    self._reconciliation.soon(sender)
            case Leave(incarnation):
                self._swim.hear((MemberUpdate(sender, MemberState.LEFT, incarnation),))

    def _learn_own_endpoint(self, seen_as: Endpoint) -> None:
        if not self._us.endpoint[0] and seen_as[0]:
            self._us.endpoint = (seen_as[0], self._us.endpoint[1] or seen_as[1])
            self._out.stale_view = True
            self._health.issue_within(self._config.confirm_delay_us)

    # --- cells

    def _take_cells(
        self, cells: Iterable[WireCell], sender: NodeId | None, source: Endpoint | None, push: bool
    ) -> bool:
        """Join what came (`sender` is None if it came from here); whether any of it was news."""
        fresh: list[Cell] = []
        heirs: list[Cell] = []
        for cell in cells:
            try:
                admitted = self._admit_op(cell.data) if cell.kind is CellKind.OP else self._admit_row(cell, source)
            except LatticeError as error:
                self._out.reject("row" if cell.kind is CellKind.ROW else "op", error, source)
            else:
                fresh += admitted[:1]
                heirs += admitted[1:]
        if push:
            self._spreading.push(fresh, sender)
            self._spreading.push(heirs, self.node if sender else None)  # these came earlier, and from somebody else
        return bool(fresh)

    def _admit_row(self, cell: WireCell, source: Endpoint | None) -> list[Cell]:
        signed = open_row(cell.data, self._verifier)
        members = self._swim.members
        if signed.observer == self.node:
            if signed.order > (self._health.table.order_of(self.node) or (0, 0, b"")):
                # A word of ours from an earlier life.
                self._swim.refute(max(signed.row.incarnation, self._swim.incarnation))
            return []
        if signed.observer not in members and len(members) >= self._config.members_max:
            raise UntrustedError("too many members", f"{self._config.members_max} are known")
        placed = self._health.place(signed, cell.age_ms * 1_000, source)
        if placed is None:
            return []
        self._swim.meet(signed.row, signed.observer)
        self._roster = None
        return [placed]

    def _admit_op(self, data: bytes) -> list[Cell]:
        before = {policy.policy: policy.version for policy in self._policy.policies()}
        accepted = self._policy.admit(data)
        fresh = [_op_cell(signed) for signed in accepted]
        for signed, cell in zip(accepted, fresh, strict=True):
            self._cells.add(cell)
            if self._started:  # else it was restored: written already, and nobody waits for it
                self._out.persist("op", signed.id, signed.data)
                self._out.notify(OpAccepted(signed.id))
        self._out.stale_view = self._out.stale_view or bool(accepted)
        if self._started:
            self._tell_policies(before)
        return fresh

    def _tell_policies(self, before: dict[str, VersionId]) -> None:
        for policy in self._policy.policies():
            if before.get(policy.policy) != policy.version:
                self._out.notify(PolicyChanged(policy.policy, policy.version))

    # --- members

    def _on_member_changed(self, member: Member) -> None:
        self._roster = None
        self._health.mute(member.node, not member.present)

    def _is_present(self, node: NodeId) -> bool:
        member = self._swim.members.get(node)
        return node == self.node or (member is not None and member.present)

    def _present(self) -> Roster:
        """Everybody present, ourselves included, as the trees see them."""
        if self._roster is None:
            present = (self._swim.members.get(node) for node in self._swim.members.present())
            others = ((member.area, member.node) for member in present if member)
            self._roster = Roster.of(self.node, [(self._us.area, self.node), *others])
        return self._roster

    def _view_members(self) -> tuple[MemberView, ...]:
        applied: dict[NodeId, tuple[tuple[str, VersionId], ...]] = {
            signed.observer: signed.row.applied for signed in self._health.table.rows()
        }
        ours = tuple(sorted(self._us.applied.items()))
        us = MemberView(self.node, self._us.site, self._us.endpoint, "alive", self._swim.incarnation, ours)
        others = [
            MemberView(
                member.node,
                member.site,
                member.endpoint,
                member.state.name.lower(),
                member.incarnation,
                applied.get(member.node, ()),
            )
            for member in self._swim.members.all()
        ]
        return tuple(sorted([us, *others], key=lambda member: (member.site, member.node)))


def _node(argument: str) -> NodeId:
    return NodeId(bytes.fromhex(argument))


def _op_cell(signed: SignedOp) -> Cell:
    return Cell(signed.cell, CellKind.OP, signed.data, 1, (signed.op.author, signed.op.seq))
