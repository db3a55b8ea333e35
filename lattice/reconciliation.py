"""When two nodes compare what they hold: roots on every ping and ack, and an exchange when they differ.

Whoever pinged begins, after a moment: a rumour on its way often makes the roots equal by then. An exchange that brought
nothing new is not followed by another before the next ping: what still differs is something that one side refuses, and
nothing is gained by insisting. The exchange itself is in `antientropy`.

When the sides of a partition meet again, all of one lack the same, and see it at the same time; one exchange would do,
for what it brings is passed on (`reunion`). So each waits until nothing of the kind has come for a while, and then for
a time drawn so that of any number of nodes few begin early: the later half of them in the last slot, half of the others
in the one before, and so on. What the first ones bring sends the others back to waiting. (Feedback for multicast by
exponentially distributed timers: Nonnenmacher and Biersack, 1998.) And with the other side a node has one exchange at
a time, or everybody there would answer the one that was away alone with the same. So has a node whose link is narrow.
It sees that by the parts of a delta, which come in one by one; or by its own deltas, of which most are lost to whomever
it sends them (`Pacing.loses_to_most`). It waits long for its partner, for all that comes and goes waits in the link's
queues, and whoever it asks meanwhile sends the same. But not for ever: parts that come slowly and without end may be
all there is to a narrow link, so after `heal_patience_us` whoever waits has its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lattice.answers import Answers
from lattice.antientropy import Reconciler
from lattice.cells import Cell, CellIndex, Shards
from lattice.outbox import Outbox
from lattice.pacing import Pacing
from lattice.swim import Swim
from lattice.types import SECOND, CellId, Endpoint, Micros, NodeId
from lattice.wire import Compare, Digest


class Reconciliation:
    """The comparisons of one node."""

    __slots__ = (
        "_cells", "_is_other_side", "_last_part", "_narrow_until", "_out", "_pacing", "_paired_at", "_partner",
        "_partner_until", "_quiet_at", "_reconciler", "_roots", "_swim", "_turn_at", "_waiting_since",
    )  # fmt: skip

    def __init__(
        self,
        out: Outbox,
        cells: CellIndex,
        swim: Swim,
        is_other_side: Callable[[NodeId], bool],
        waiting: Callable[[], Iterable[CellId]],
        answers: Answers,
    ) -> None:
        """`is_other_side` says whether a member was away lately (`reunion`); `waiting` is as of a `Reconciler`."""
        self._out = out
        self._cells = cells
        self._swim = swim
        self._is_other_side = is_other_side
        self._reconciler = Reconciler(cells, out.prng, waiting)
        self._pacing = Pacing(out.config, answers)
        self._roots: dict[NodeId, bytes] = {}
        self._waiting_since: dict[NodeId, Micros] = {}
        self._last_part: tuple[NodeId, Micros] | None = None
        """From whom, and when, a part of the delta under way came last."""
        self._narrow_until = Micros(0)
        """Until when one exchange is all that our link bears."""
        self._quiet_at = Micros(0)
        self._turn_at = Micros(0)
        """When we may begin with the other side."""
        self._partner: NodeId | None = None
        self._partner_until = Micros(0)
        self._paired_at = Micros(0)
        """When the turn began that it is now: an exchange with another than before, or after nobody's for a while."""

    def stirred(self) -> None:
        """A rumour brought news: more of it may be on its way."""
        self._quiet_at = self._out.after(self._out.config.reconcile_quiet_us)

    def healed(self) -> None:
        """Somebody on our side is taking in what the other side knows: that is being done, then."""
        self._turn_at = self._out.after(self._out.config.heal_quiet_us + self._late_mostly())

    def _late_mostly(self) -> int:
        """Of n nodes about one draws a time in the first slot, and half of them one in the last."""
        slots = len(self._swim.members).bit_length()
        slot_us, prng = self._out.config.heal_slot_us, self._out.prng
        early = slots - prng.below(1 << slots).bit_length()  # 0 for every other, 1 for every fourth, …
        return (slots - early) * slot_us + prng.below(slot_us)

    def compare(self, peer: NodeId, root: bytes) -> bool:
        """A member's root, as it just said. Whether it differs from ours."""
        if root == self._cells.root:
            if peer in self._roots:
                self.forget(peer)
            return False
        if peer in self._swim.members:
            self._roots[peer] = root
        return True

    def soon(self, peer: NodeId) -> None:
        """Begin in a moment, if the roots still differ then."""
        if peer in self._roots:
            wait_us = self._out.prng.jitter(self._out.config.reconcile_delay_us)
            self._out.timers.set_earlier(f"reconcile {peer.hex()}", self._out.after(wait_us))

    def begin(self, peer: NodeId) -> None:
        """The moment is over. While rumours bring news it is too early: what we would ask for is on its way."""
        now, not_before, may_at = self._out.now, self._not_before(peer), self._may_begin_at(peer)
        if peer in self._roots and max(not_before, may_at) > now:
            patience_over = self._waiting_since.setdefault(peer, now) + self._patience_us()
            again_at = max(not_before, min(may_at, patience_over))
            if again_at > now:
                self._out.timers.set(f"reconcile {peer.hex()}", Micros(again_at))
                return
        self._waiting_since.pop(peer, None)
        member = self._swim.members.get(peer)
        root = self._roots.pop(peer, None)
        if member is not None and member.present and root is not None and root != self._cells.root:
            self._out.count("reconciliations begun")
            self._begin_with(peer)
            self._last_part = None
            self._out.send(self._reconciler.open(peer, now, member.endpoint), member.endpoint)

    def _not_before(self, peer: NodeId) -> Micros:
        """Until when it would do harm, whatever else waits."""
        taken_until = min(self._narrow_until, self._partner_until) if not self._is_partner(peer) else Micros(0)
        return max(taken_until, self._pacing.lost_until(peer))

    def _may_begin_at(self, peer: NodeId) -> Micros:
        if not self._is_other_side(peer):
            return max(self._quiet_at, self._turn_at)
        if self._is_partner(peer):
            return self._out.now
        return max(self._quiet_at, self._turn_at, self._partner_until)

    def _patience_us(self) -> int:
        config = self._out.config
        return config.heal_patience_us if self._turn_at > self._out.now else config.reconcile_patience_us

    # --- one exchange at a time with the other side

    def _is_partner(self, peer: NodeId) -> bool:
        return peer == self._partner and self._partner_until > self._out.now

    def _begin_with(self, peer: NodeId) -> None:
        if peer != self._partner:
            self._paired_at = self._out.now
        self._pair_with(peer)

    def _pair_with(self, peer: NodeId) -> None:
        """Wait for what this peer promised. Where the link is narrow no longer than a turn lasts, and then for a while
        for nobody, so that others begin."""
        config, now = self._out.config, self._out.now
        if self._partner_until + config.narrow_pair_us <= now:
            self._paired_at = now
        self._partner = peer
        if self._narrow_until > now:
            over_at = Micros(self._paired_at + config.heal_patience_us)
            self._partner_until = min(self._out.after(config.narrow_pair_us), over_at)
        else:
            self._partner_until = self._out.after(config.heal_pair_us)

    def compared(self, compare: Compare, sender: NodeId, source: Endpoint) -> None:
        yields = not self._is_partner(sender) or self._out.node < sender  # of two that began with each other, one does
        now = self._out.now
        taken = self._partner_until > now and (self._is_other_side(sender) or self._narrow_until > now)
        if taken and yields:
            self._out.count("reconciliations put off")
            return
        answer = self._reconciler.compared(sender, compare, now, source)
        if answer is not None:
            self._begin_with(sender)
            self._out.send(answer, source)

    def digested(self, digest: Digest, sender: NodeId) -> tuple[list[Cell], Endpoint]:
        """The cells that the sender lacks, most urgent first, and where they are to go: to where we asked. Raises
        `WireError` for a filter we did not ask for."""
        asked_at = self._reconciler.asked_at(digest.salt)
        missing, answer = self._reconciler.digested(sender, digest, self._out.now)
        if answer is not None:
            self._out.send(answer, asked_at)
        return missing, asked_at

    def afford(self, peer: NodeId, missing: list[Cell], shards: Shards) -> list[Cell]:
        """What of these, which a peer's filter over these shards lacks, is to be sent now."""
        chosen = self._pacing.afford(peer, missing, shards, self._out.now)
        if missing and not chosen:
            self._out.count("deltas held back")
        if missing and self._pacing.lost_until(peer) and self._pacing.loses_to_most(self._out.now):
            self._narrow_until = self._out.after(self._out.config.narrow_linger_us)
        return chosen

    def brought(self, peer: NodeId, left: int) -> None:
        """A part of what we lacked has come, and so many are left: go on when no more of them do."""
        if peer not in self._roots:
            return
        config, now = self._out.config, self._out.now
        self._pair_with(peer)
        wait_us, last = config.reconcile_delay_us, self._last_part
        self._last_part = (peer, now) if left else None
        if left:
            apart_us = min(now - last[1], SECOND) if last is not None and last[0] == peer else 0
            wait_us = max(wait_us, config.graft_retry_us, 2 * apart_us)
            if apart_us > config.narrow_us:
                self._narrow_until = self._out.after(config.narrow_linger_us)
                self._pair_with(peer)
        self._out.timers.set(f"reconcile {peer.hex()}", self._out.after(wait_us))

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
