"""What is let into the lattice: each cell is judged by the rules of its kind, and joined or refused.

=========== ===========================================================================================================
row         the observer's own signature, a grant for its site, a version that is later than the one held (`health`)
op          the pipeline of `policy_store`; one op may bring others along that waited for it
evidence    two rows that contradict each other, signed by one key (`equivocation`), of somebody who is known here
revocation  the CA's signature (`grants`); whatever that key said is judged anew
purge       an author's signature, while it lasts (`purges`)
=========== ===========================================================================================================

A cell that is refused changes nothing, and raises `LatticeError` here; whoever handed it over is never answered. What
comes back from the disk passes the same rules, but is written down no second time and told to nobody (`restoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lattice import canonical
from lattice.cells import Cell, CellIndex, CellKind, Urgency
from lattice.equivocation import open_proof, prove
from lattice.errors import LatticeError, UntrustedError
from lattice.events import Holds, KeyRevoked, OpAccepted, PolicyChanged, Purged
from lattice.grants import Grants
from lattice.health import open_row, row_id_of
from lattice.health_plane import HealthPlane, Self
from lattice.identity import Verifier
from lattice.outbox import Outbox
from lattice.policy_ops import OpId, SignedOp, hlc_moment, op_id_of
from lattice.policy_store import PolicyStore
from lattice.presence import Presence
from lattice.purges import Purges, open_purge, purge_id_of
from lattice.record import Record
from lattice.rollout_plane import ROLLOUT_TABLE, RolloutPlane
from lattice.row_records import ROW_TABLE, restored_row
from lattice.seal_records import SealRecords
from lattice.swim import Swim
from lattice.types import AuthorId, CellId, Endpoint, NodeId, VersionId
from lattice.wire import WireCell

REFUSED_FOR_GOOD = frozenset(
    {
        "author without capability",
        "controller exceeds its role",
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

STRANGERS_MAX = 1_024
OP_TABLE = "op"
REVOKED_TABLE = "revoked"


class Admitted(Record):
    """What of a frame's cells was news."""

    fresh: list[Cell]
    """Ops among them that wait for another: for whoever lacks those only, waiting for ours would be a waste."""
    came_back: list[Cell]
    """The sender's own word, of a sender that was not there."""


class Admission:
    """Of one node."""

    def __init__(
        self,
        out: Outbox,
        cells: CellIndex,
        us: Self,
        verifier: Verifier,
        grants: Grants,
        policy: PolicyStore,
        health: HealthPlane,
        swim: Swim,
        presence: Presence,
        rollouts: RolloutPlane,
        on_refused: Callable[[CellId], None],
        on_forgiven: Callable[[], None],
        on_expelled: Callable[[NodeId], None],
    ) -> None:
        """`on_refused` hears of cells that will be refused again, `on_forgiven` when that may have changed, and
        `on_expelled` of members whose key was taken back."""
        self._out = out
        self._cells = cells
        self._us = us
        self._verifier = verifier
        self._grants = grants
        self._policy = policy
        self._health = health
        self._swim = swim
        self._presence = presence
        self._rollouts = rollouts
        self._on_refused = on_refused
        self._on_forgiven = on_forgiven
        self._on_expelled = on_expelled
        self._purges = Purges(policy.check_operator)
        self._strangers: dict[NodeId, None] = {}
        """Whom we were shown evidence about and had not met."""
        self.restoring = True
        """Until this node starts."""

    # --- from the network, or from here

    def take(
        self, cells: Sequence[WireCell], sender: NodeId | None, source: Endpoint | None, at: Endpoint | None
    ) -> Admitted:
        """Join what came (`sender` is None if it came from here) from `source`; refusals are counted and told. `at` is
        where the sender is known to hear us."""
        admitted = Admitted([], [])
        away = sender is not None and not self._presence.includes(sender)
        for cell in sorted(cells, key=_order) if len(cells) > 1 else cells:
            try:
                news = self._admit(cell, sender, source, at)
            except LatticeError as error:
                if error.reason in REFUSED_FOR_GOOD:
                    self._on_refused(cell_id_of(cell))
                self._out.reject(cell.kind.name.lower(), error, source)
            else:
                if away and news and news[0].place[0] == sender:
                    admitted.came_back.extend(news)
                else:
                    admitted.fresh.extend(news)
        return admitted

    def _admit(self, cell: WireCell, sender: NodeId | None, source: Endpoint | None, at: Endpoint | None) -> list[Cell]:
        """Judge one cell: itself, or what it proves, if that is news. Raises `LatticeError` with nothing changed."""
        match cell.kind:
            case CellKind.ROW:
                return self._admit_row(cell.data, cell.age_ms * 1_000, sender, source, at)
            case CellKind.OP:
                return self.admit_op(cell.data, own=sender is None)
            case CellKind.EVIDENCE:
                return self._admit_proof(cell.data)
            case CellKind.REVOCATION:
                return self._admit_revocation(cell.data)
            case CellKind.PURGE:
                return self._admit_purge(cell.data)

    # --- from the disk, and to it

    def restore(self, records: Sequence[tuple[str, bytes, bytes]], seal_records: SealRecords) -> None:
        """What an earlier life wrote: who is revoked first, ops in the order of their chains."""
        ops = self._policy.in_chain_order(value for table, _, value in records if table == OP_TABLE)
        others = sorted(
            (record for record in records if record[0] != OP_TABLE), key=lambda at: (at[0] != REVOKED_TABLE, at)
        )
        peers: dict[NodeId, Endpoint] = {}
        for table, key, value in [*others, *((OP_TABLE, b"", data) for data in ops)]:
            try:
                if seal_records.restore(table, key, value):
                    continue
                if (table, key) == ("self", b"incarnation"):
                    self._swim.incarnation = canonical.integer(canonical.unpack(value, 16), "incarnation")
                elif table == OP_TABLE:
                    self.admit_op(value)
                elif table == REVOKED_TABLE:
                    self._admit_revocation(value)
                elif table == ROW_TABLE:
                    self._health.records.touch(NodeId(key))  # if it is not taken, its record goes
                    row, age_us = restored_row(value, self._out.now)
                    self._admit_row(row, age_us, None, None, None)
                elif table == ROLLOUT_TABLE:
                    self._rollouts.restore(key, value)
                elif table == "peer":
                    peers[NodeId(key)] = peer_record(value)
            except LatticeError as error:
                self._out.count(f"restore: {error.reason}")
        self._swim.calls.redial(peers)
        self._tell_policies({})

    def persist_all(self) -> None:
        """The records of what was let in for good, as if none had ever been written."""
        for revocation in self._grants.revocations():
            self._out.persist(REVOKED_TABLE, revocation.key, revocation.data)
        for data in self._policy.ops():
            self._out.persist(OP_TABLE, op_id_of(data), data)
        self._rollouts.persist_all()

    # --- rows, and evidence about them

    def _admit_row(
        self, data: bytes, age_us: int, sender: NodeId | None, source: Endpoint | None, at: Endpoint | None
    ) -> list[Cell]:
        cell = row_id_of(data)
        if self._cells.holds(cell) and self._cells.get(cell).data == data:
            self._out.count("rows known")
            return []
        signed = open_row(data, self._verifier, cell)
        members, config = self._swim.members, self._out.config
        observer, row = signed.observer, signed.row
        if observer == self._out.node:
            ours = self._health.table.get(self._out.node)
            if ours is not None and (against := ours.contradicted_by(signed)) is not None:
                return self._admit_proof(prove(against, signed).data)
            if ours is not None and signed.cell != ours.signed.cell:
                ours.remember(signed)  # its like may come
            if signed.order > (self._health.table.order_of(self._out.node) or (0, 0, b"")):
                self._swim.on_own_row(row, self._us.endpoint)
            return []
        self._grants.check_node(observer, row.public_key, row.site, row.grant, self._out.now)
        known = members.get(observer)
        if known is None and len(members) >= config.members_max:
            raise UntrustedError("too many members", f"{config.members_max} are known")
        previous = self._health.table.get(observer)
        placed = self._health.place(signed, age_us, source)
        if placed is None:
            return []
        # Whoever listens on a wildcard may not know its own address yet: then it is where it hears us.
        says = row.endpoint
        host = says[0] or (at[0] if at and sender == observer else "")
        said_before = previous.signed.row.endpoint if previous is not None else None
        if known is not None and known.endpoint[0] and said_before in (says, ("", says[1])):
            host = ""  # nothing new, or what peers told it a while ago: where its frames come from is later news
        self._swim.meet(row, observer, (host, says[1]))
        if observer in self._strangers:
            del self._strangers[observer]
            self._on_forgiven()
        return [placed]

    def _admit_proof(self, data: bytes) -> list[Cell]:
        proof = open_proof(data, self._verifier)
        if proof.observer != self._out.node and proof.observer not in self._swim.members:
            # It comes first, and would come first again and again, in place of all else that we lack.
            self._on_refused(proof.id)
            self._strangers[proof.observer] = None
            if len(self._strangers) > STRANGERS_MAX:
                del self._strangers[next(iter(self._strangers))]
            raise UntrustedError("evidence about a stranger", proof.observer.hex())
        cell = self._health.take_proof(proof)
        if cell is None:
            return []
        if proof.observer == self._out.node and self._swim.incarnation <= proof.incarnation < canonical.INTEGER_MAX:
            # Our own key, used elsewhere or by an earlier life: only a greater incarnation of it votes again.
            self._swim.refute(proof.incarnation)
        return [cell]

    # --- policy, and who may speak of it

    def admit_op(self, data: bytes, own: bool = False) -> list[Cell]:
        """`own` is what was submitted here. As `_admit`."""
        cell = CellId(op_id_of(data))
        if not own and self._cells.holds(cell) and self._cells.get(cell).data == data:
            self._out.count("ops known")
            return []
        before = self._serving()
        now_ms = self._out.now // 1_000 if not self.restoring else None
        accepted = self._policy.admit(data, own, now_ms, self._health.majority_clock_ms)
        for signed in accepted:
            self._cells.add(_op_cell(signed))
            if not self.restoring:
                # What was published here may be signed here, too: no other op may ever take its place in the chain.
                self._out.persist(OP_TABLE, signed.id, signed.data, Holds.CELLS if own else Holds.NOTHING)
                self._out.notify(OpAccepted(signed.id))
        self._drop_void()
        self._out.stale_view = self._out.stale_view or bool(accepted)
        if not self.restoring:
            self._tell_policies(before)
        return [_op_cell(signed) for signed in accepted[:1] or self._policy.take_put_off()]

    def _admit_revocation(self, data: bytes) -> list[Cell]:
        revocation = self._grants.open_revocation(data)
        news, replaced = self._grants.take(revocation)
        if not news:
            return []
        if replaced is not None:
            self._cells.discard(replaced.cell)
        cell = Cell(revocation.cell, CellKind.REVOCATION, data, Urgency.REVOKE, (revocation.key, 0))
        self._cells.add(cell)
        if not self.restoring:
            self._out.persist(REVOKED_TABLE, revocation.key, data)
        node = NodeId(revocation.key)
        member = self._swim.members.get(node)
        site = self._us.site if node == self._out.node else member.site if member else ""
        self._out.notify(KeyRevoked(revocation.key, site))
        if self._swim.expel(node):
            self._on_expelled(node)
        before = self._serving()
        self._policy.revoke(AuthorId(revocation.key), revocation.seq, OpId(revocation.op))
        self._drop_void()
        self._on_forgiven()
        self._out.stale_view = True
        if not self.restoring:
            self._tell_policies(before)
        return [cell]

    def _drop_void(self) -> None:
        """After the checkpoint or the revocation that says so is on its way to the disk."""
        for void in self._policy.take_void():
            self._cells.discard(void.cell)
            self._out.persist(OP_TABLE, void.id, None)
            self._out.count("void ops dropped")

    def _serving(self) -> dict[str, VersionId]:
        return {policy.policy: policy.version for policy in self._policy.policies()}

    def _tell_policies(self, before: dict[str, VersionId]) -> None:
        for policy in self._policy.policies():
            if before.get(policy.policy) != policy.version:
                self._out.notify(PolicyChanged(policy.policy, policy.version))
        self._rollouts.heard()

    # --- purges

    def _admit_purge(self, data: bytes) -> list[Cell]:
        purge = open_purge(data, self._verifier)
        if self._grants.is_revoked(purge.author):
            raise UntrustedError("author revoked", purge.author.hex())
        if not self._purges.take(purge, self._out.now):
            return []
        cell = Cell(purge.cell, CellKind.PURGE, data, Urgency.POLICY, (purge.author, purge.at_ms))
        self._cells.add(cell)
        self._out.timers.set_earlier("purge", purge.ends)
        self._out.stale_view = True
        self._out.notify(Purged(purge.host, purge.path, purge.author))
        return [cell]

    def on_purges_over(self) -> None:
        """The earliest end of a purge has come."""
        for cell in self._purges.forget(self._out.now):
            self._cells.discard(cell)
            self._out.stale_view = True
        if (end := self._purges.next_end()) is not None:
            self._out.timers.set("purge", end)


def _order(cell: WireCell) -> tuple[bool, CellKind]:
    """Who is revoked first, evidence after the rows: it is about members."""
    return cell.kind is not CellKind.REVOCATION, cell.kind


def cell_id_of(cell: WireCell) -> CellId:
    if cell.kind is CellKind.PURGE:
        return purge_id_of(cell.data)
    return row_id_of(cell.data) if cell.kind is CellKind.ROW else CellId(op_id_of(cell.data))


def _op_cell(signed: SignedOp) -> Cell:
    op = signed.op
    return Cell(signed.cell, CellKind.OP, signed.data, Urgency.POLICY, (op.author, op.seq), hlc_moment(op.hlc))


def peer_record(data: bytes) -> Endpoint:
    """Where a peer was, as it was written down on this machine: unlike what comes from others it may have a scope."""
    host, port = canonical.array(canonical.unpack(data, 128), "peer", length=2)
    address, _, scope = canonical.text(host, "peer", 64).partition("%")
    address, port = canonical.endpoint((address, port), "peer")
    return f"{address}%{scope}" if scope else address, port
