"""Where each author's ops stand: chains, generations, forks, and ops that wait for their predecessor.

An author's ops form *generations*, each a hash chain of its own that begins with an *anchor* (the op whose sequence
number is its generation's `base`). The first generation begins with op 1. A checkpoint is a later generation: it states
anew whatever of its author's data still lives, and its last op *seals* it. From the seal on, the older generations of
that author are void, on every node that holds the seal; what arrives of them later is refused by its number alone.

Per author, the sealed generations are totally ordered by (base, anchor's hash), and the greatest is in force. The state
is thus (greatest sealed generation, ops of it and of greater ones): joining two states takes the greater generation and
the union of what is not below it, so it is a join-semilattice, and the order of arrival cannot matter. A replica that
was away for years brings nothing back: everything it holds of that author is below.

A revoked author's chain is *pinned* at an op that the CA names: what leads up to that op by its hashes counts, and
nothing else, forks and checkpoints from beyond it included. Of two pins the lesser holds.

A generation that is not sealed yet counts for nothing, so a checkpoint takes force at once or not at all. Two ops in
one place of a generation are a fork: its ops from there on are set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from lattice.errors import OpError
from lattice.policy_ops import GENESIS, OpId, SignedOp
from lattice.types import AuthorId
from lattice.view import ForkView

WAITING_MAX = 1_024
"""Ops without a predecessor, of all authors."""
WAITING_SHARE_MAX = 512
"""And of one of them. A publish is one op a KiB; what does not fit is offered again once the gap has closed."""
REFUSED_MAX = 1_024
"""Ops known to be bad, the latest: whatever follows one of them is bad as well, and need not wait for it."""
Generation: TypeAlias = "tuple[int, OpId]"
"""(base, id of the anchor). All first generations are one, so that two first ops are a fork."""
FIRST: Generation = (1, GENESIS)
Pin: TypeAlias = "tuple[int, OpId]"
"""(sequence number, id) of the last op of an author that counts."""


class Chains:
    """All ops held, by author and generation."""

    def __init__(self) -> None:
        self.ops: dict[OpId, SignedOp] = {}
        self._generations: dict[OpId, Generation] = {}
        self._held: dict[AuthorId, dict[Generation, _Held]] = {}
        self._in_force: dict[AuthorId, Generation] = {}
        self._waiting: dict[OpId, dict[OpId, SignedOp]] = {}
        self._shares: dict[AuthorId, dict[OpId, SignedOp]] = {}
        self._refused: dict[OpId, None] = {}
        self._pins: dict[AuthorId, Pin] = {}

    # --- reading

    def in_force(self, author: AuthorId) -> Generation:
        return self._in_force.get(author, FIRST)

    def tip(self, author: AuthorId) -> SignedOp | None:
        """The last op of the generation in force."""
        held = self._held.get(author, {}).get(self.in_force(author))
        return held.tip if held else None

    def standing(self, author: AuthorId) -> list[SignedOp]:
        """The ops that count: those of the generation in force, before any fork, in chain order."""
        held = self._held.get(author, {}).get(self.in_force(author))
        return held.standing(self._pins.get(author)) if held else []

    def stands(self, signed: SignedOp) -> bool:
        """Whether an accepted op counts."""
        generation = self._generations.get(signed.id)
        if generation is None or generation != self.in_force(signed.op.author):
            return False
        pin = self._pins.get(signed.op.author)
        held = self._held[signed.op.author][generation]
        if pin is not None and pin[1] in held.ops:
            return signed.id in held.up_to(pin[1])
        return held.fork is None or signed.op.seq < held.fork

    def knows(self, author: AuthorId) -> bool:
        """Whether any op of the author is held."""
        return author in self._held

    def authors(self) -> list[AuthorId]:
        return sorted(self._held)

    def forks(self) -> tuple[ForkView, ...]:
        """Authors whose generation in force has two ops in one place, with the place and two of its ops; by author."""
        found = []
        for author in sorted(self._held.keys() - self._pins.keys()):
            held = self._held[author].get(self.in_force(author))
            if held is not None and held.fork is not None:
                twins = sorted(op.id for op in held.ops.values() if op.op.seq == held.fork)[:2]
                found.append(ForkView(author, held.fork, tuple(twins)))
        return tuple(found)

    def is_taken(self, signed: SignedOp) -> bool:
        """Whether another op of this author and base is in the same place: to accept this one would be a fork."""
        generations = self._held.get(signed.op.author, {})
        return any(
            signed.op.seq in held.places
            for generation, held in generations.items()
            if generation[0] == signed.op.base and signed.id not in held.ops
        )

    def waiting(self) -> int:
        return sum(map(len, self._shares.values()))

    def waiting_ops(self) -> list[OpId]:
        """Sorted."""
        return sorted(op for share in self._shares.values() for op in share)

    def waits(self, op: OpId) -> bool:
        """Whether this op is here, and its predecessor is not."""
        return any(op in share for share in self._shares.values())

    def awaited_by(self, ops: Iterable[OpId]) -> list[OpId]:
        """The predecessors that these ops, here or not, wait for, and that do not wait themselves."""
        waiting = (share[op].op.previous for op in ops for share in self._shares.values() if op in share)
        return [previous for previous in waiting if not self.waits(previous)]

    # --- growing

    def follows(self, signed: SignedOp) -> bool:
        """Whether the predecessor is here, or none is needed.

        Raises `OpError` if the op is below its author's checkpoint, or the predecessor is here and cannot be it, or was
        refused.
        """
        op = signed.op
        if self._is_beyond(signed):
            raise OpError("author revoked", f"op {op.seq}: of this author op {self._pins[op.author][0]} is the last")
        if self._is_below(signed):
            raise OpError(
                "below the checkpoint", f"op {op.seq}: its author has begun anew at {self.in_force(op.author)[0]}"
            )
        if op.seq == op.base:
            if (op.base == 1) != (op.previous == GENESIS):
                raise OpError("broken chain", f"op {op.seq} must name the op before it, and the first op none")
            return True
        if op.previous == GENESIS:
            raise OpError("broken chain", f"op {op.seq} names no predecessor")
        if op.previous in self._refused:
            raise OpError("follows a refused op", f"op {op.seq}: the one before it was refused, and so is this one")
        before = self.ops.get(op.previous)
        if before is None:
            return False
        links = (before.op.author, before.op.base, before.op.seq + 1) == (op.author, op.base, op.seq)
        if not links or before.op.hlc >= op.hlc:
            raise OpError("broken chain", f"op {op.seq} does not follow op {before.op.seq} it names")
        return True

    def _is_below(self, signed: SignedOp) -> bool:
        base, anchor = self.in_force(signed.op.author)
        return signed.op.base < base or (signed.op.seq == signed.op.base == base and base > 1 and signed.id < anchor)

    def _is_beyond(self, signed: SignedOp) -> bool:
        pin = self._pins.get(signed.op.author)
        return pin is not None and (signed.op.seq > pin[0] or (signed.op.seq == pin[0] and signed.id != pin[1]))

    def pin(self, author: AuthorId, pin: Pin) -> list[SignedOp]:
        """From now on this op is the author's last that counts; the ops that are void by that."""
        if author in self._pins and self._pins[author] <= pin:
            return []
        self._pins[author] = pin
        self._refused.clear()  # what was below a checkpoint may count again, if the checkpoint is beyond the pin
        beyond = [signed for held in self._held.get(author, {}).values() for signed in held.ops.values()]
        beyond = [signed for signed in beyond if self._is_beyond(signed)]
        for signed in beyond:
            generation = self._generations.pop(signed.id)
            del self.ops[signed.id]
            self._held[author][generation].ops.pop(signed.id)
            self.drop_heirs(signed.id)
        left = {
            generation: _Held.of(held.ops.values())
            for generation, held in self._held.pop(author, {}).items()
            if held.ops
        }
        if left:
            self._held[author] = left
        sealed = [generation for generation, held in left.items() if any(op.op.seals for op in held.ops.values())]
        self._in_force.pop(author, None)
        if sealed:
            self._in_force[author] = max(sealed)
        for waiting in [heir for heir in self._shares.get(author, {}).values() if self._is_beyond(heir)]:
            self._forget_waiting(waiting.id)
        return sorted(beyond, key=lambda signed: (signed.op.seq, signed.id))

    def add(self, signed: SignedOp) -> tuple[bool, list[SignedOp]]:
        """Take an op that `follows`: whether more than this op counts differently now, and the ops that are void."""
        op = signed.op
        generation = self._generation_of(signed)
        self.ops[signed.id] = signed
        self._generations[signed.id] = generation
        held = self._held.setdefault(op.author, {}).setdefault(generation, _Held())
        forked = held.add(signed)
        if op.seals and generation > self.in_force(op.author):
            self._in_force[op.author] = generation
            return True, self._put_out(op.author, generation)
        pin = self._pins.get(op.author)
        return (forked or (pin is not None and signed.id == pin[1])) and generation == self.in_force(op.author), []

    def _generation_of(self, signed: SignedOp) -> Generation:
        if signed.op.base == 1:
            return FIRST
        return (signed.op.base, signed.id) if signed.op.seq == signed.op.base else self._generations[signed.op.previous]

    def _put_out(self, author: AuthorId, limit: Generation) -> list[SignedOp]:
        """Drop all generations below the limit, and what waits to join them."""
        void: list[SignedOp] = []
        for generation in sorted(self._held[author]):
            if generation < limit:
                void += self._held[author].pop(generation).ops.values()
        for signed in void:
            del self.ops[signed.id]
            del self._generations[signed.id]
            self.drop_heirs(signed.id)
        stale = [
            heir.id
            for heirs in self._waiting.values()
            for heir in heirs.values()
            if heir.op.author == author and heir.op.base < limit[0]
        ]
        for heir in stale:
            self._forget_waiting(heir)
        return void

    # --- waiting

    def wait(self, signed: SignedOp) -> bool:
        """Keep an op until its predecessor is here; whether it was not kept already. Raises `OpError` when too many
        wait.

        Of one author, those nearest to the gap are kept: they are of use first. When all places are taken, whoever
        holds most of them gives one up, so that one author's gaps keep nobody else's ops out.
        """
        author, share = signed.op.author, self._shares.setdefault(signed.op.author, {})
        if signed.id in share:
            return False
        if len(share) >= WAITING_SHARE_MAX:
            self._give_up(author, unless_after=signed)
        elif self.waiting() >= WAITING_MAX:
            most = max(sorted(self._shares), key=lambda author: len(self._shares[author]))
            self._give_up(most, unless_after=signed if most == author else None)
        share[signed.id] = signed
        self._waiting.setdefault(signed.op.previous, {})[signed.id] = signed
        return True

    def _give_up(self, author: AuthorId, unless_after: SignedOp | None) -> None:
        farthest = max(self._shares[author].values(), key=lambda signed: (signed.op.seq, signed.id))
        if unless_after is not None and (farthest.op.seq, farthest.id) <= (unless_after.op.seq, unless_after.id):
            raise OpError("too many ops wait", f"{len(self._shares[author])} ops of this author wait for predecessors")
        self._forget_waiting(farthest.id)

    def release(self, previous: OpId) -> list[SignedOp]:
        """Those that waited for this op wait no longer."""
        heirs = self._waiting.pop(previous, {})
        for heir in heirs.values():
            del self._shares[heir.op.author][heir.id]
        return [heirs[key] for key in sorted(heirs)]

    def refuse(self, op: OpId) -> None:
        """It is bad, for good. What waits for it, directly or not, goes: a chain of any length, hence no recursion."""
        for gone in (op, *self.drop_heirs(op)):
            self._refused.pop(gone, None)
            self._refused[gone] = None
        while len(self._refused) > REFUSED_MAX:
            del self._refused[next(iter(self._refused))]

    def drop_heirs(self, op: OpId) -> list[OpId]:
        """Whatever waited for this op, directly or not."""
        dropped: list[OpId] = []
        queue = [op]
        while queue:
            heirs = [heir.id for heir in self.release(queue.pop())]
            dropped += heirs
            queue += heirs
        return dropped

    def _forget_waiting(self, op: OpId) -> None:
        for previous in sorted(previous for previous, heirs in self._waiting.items() if op in heirs):
            del self._shares[self._waiting[previous].pop(op).op.author][op]
            if not self._waiting[previous]:
                del self._waiting[previous]


class _Held:
    """The ops held of one generation."""

    def __init__(self) -> None:
        self.ops: dict[OpId, SignedOp] = {}
        self.places: dict[int, OpId] = {}
        self.fork: int | None = None
        self.tip: SignedOp | None = None
        self._led: dict[OpId, dict[OpId, SignedOp]] = {}
        """What leads up to an op that is here never changes: all of it was here before."""

    def add(self, signed: SignedOp) -> bool:
        """Whether it shows a fork, or an earlier one than was known."""
        self.ops[signed.id] = signed
        seq = signed.op.seq
        if self.tip is None or (seq, signed.id) > (self.tip.op.seq, self.tip.id):
            self.tip = signed
        if self.places.setdefault(seq, signed.id) == signed.id or (self.fork is not None and self.fork <= seq):
            return False
        self.fork = seq
        return True

    @classmethod
    def of(cls, ops: Iterable[SignedOp]) -> _Held:
        held = cls()
        for signed in sorted(ops, key=lambda signed: (signed.op.seq, signed.id)):
            held.add(signed)
        return held

    def standing(self, pin: Pin | None) -> list[SignedOp]:
        if pin is not None and pin[1] in self.ops:
            return sorted(self.up_to(pin[1]).values(), key=lambda signed: signed.op.seq)
        counting = (signed for signed in self.ops.values() if self.fork is None or signed.op.seq < self.fork)
        return sorted(counting, key=lambda signed: signed.op.seq)

    def up_to(self, op: OpId) -> dict[OpId, SignedOp]:
        """The ops that lead up to this one, itself last: by their hashes, so that none can be slipped in."""
        if op not in self._led:
            chain = self._led[op] = {}
            before = op
            while before in self.ops:
                chain[before] = self.ops[before]
                before = chain[before].op.previous
        return self._led[op]
