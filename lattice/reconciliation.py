"""When two nodes compare what they hold: roots on every ping and ack, and an exchange when they differ.

Whoever pinged begins, after a moment: a rumour on its way often makes the roots equal by then. An exchange that brought
nothing new is not followed by another before the next ping: what still differs is something that one side refuses, and
nothing is gained by insisting. The exchange itself is in `antientropy`.
"""

from __future__ import annotations

from lattice.antientropy import Reconciler
from lattice.cells import Cell, CellIndex
from lattice.outbox import Outbox
from lattice.swim import Swim
from lattice.types import CellId, Endpoint, Micros, NodeId
from lattice.wire import Compare, Digest


class Reconciliation:
    """The comparisons of one node."""

    def __init__(self, out: Outbox, cells: CellIndex, swim: Swim) -> None:
        self._out = out
        self._cells = cells
        self._swim = swim
        self._reconciler = Reconciler(cells, out.prng)
        self._roots: dict[NodeId, bytes] = {}
        self._waiting_since: dict[NodeId, Micros] = {}
        self._stirred = Micros(0)

    def stirred(self) -> None:
        """A rumour brought news: more of it may be on its way."""
        self._stirred = self._out.now

    def compare(self, peer: NodeId, root: bytes) -> None:
        """A member's root, as it just said."""
        if root == self._cells.root():
            self.forget(peer)
        elif peer in self._swim.members:
            self._roots[peer] = root

    def soon(self, peer: NodeId) -> None:
        """Begin in a moment, if the roots still differ then."""
        if peer in self._roots:
            wait_us = self._out.prng.jitter(self._out.config.reconcile_delay_us)
            self._out.timers.set_earlier(f"reconcile {peer.hex()}", self._out.after(wait_us))

    def begin(self, peer: NodeId) -> None:
        """The moment is over. While rumours bring news it is too early: what we would ask for is on its way."""
        config, now = self._out.config, self._out.now
        quiet_at = self._stirred + config.reconcile_quiet_us
        if quiet_at > now and peer in self._roots:
            patience_over = self._waiting_since.setdefault(peer, now) + config.reconcile_patience_us
            if patience_over > now:
                self._out.timers.set(f"reconcile {peer.hex()}", Micros(min(quiet_at, patience_over)))
                return
        self._waiting_since.pop(peer, None)
        member = self._swim.members.get(peer)
        root = self._roots.pop(peer, None)
        if member is not None and member.present and root is not None and root != self._cells.root():
            self._out.count("reconciliations begun")
            self._out.send(self._reconciler.open(peer, self._out.now), member.endpoint)

    def compared(self, compare: Compare, sender: NodeId, source: Endpoint) -> None:
        answer = self._reconciler.compared(sender, compare, self._out.now)
        if answer is not None:
            self._out.send(answer, source)

    def digested(self, digest: Digest, sender: NodeId, source: Endpoint) -> list[Cell]:
        """The cells that the sender lacks, most urgent first. Raises `WireError` for a filter we did not ask for."""
        missing, answer = self._reconciler.digested(sender, digest, self._out.now)
        if answer is not None:
            self._out.send(answer, source)
        return missing

    def refuse(self, cell: CellId) -> None:
        """This cell is not for us: claim to have it, or peers would send it for ever in place of what we lack."""
        self._reconciler.refuse(cell)

    def forgive(self) -> None:
        """What was refused may not be any more: let peers send it once again."""
        self._reconciler.forgive()

    def forget(self, peer: NodeId) -> None:
        """There is nothing to begin."""
        if self._roots.pop(peer, None) is not None:
            self._waiting_since.pop(peer, None)
            self._out.timers.cancel(f"reconcile {peer.hex()}")
