"""Proof that an observer's key said two things, and what follows from it.

Two rows of one (incarnation, sequence number) with different contents, both signed by one key, prove that whoever holds
the key told different peers different things. The pair *is* the proof: every receiver checks the two signatures and the
two versions itself, so nobody has to be believed, and nobody without the key can forge one. (PeerReview, Haeberlen et
al. 2007, calls it verifiable evidence; the same pair is the "EVIDENCE" of accountable consensus.)

**What is replicated is the fact, not the pair.** A cell's id is the hash of (observer, incarnation), so two nodes with
different pairs for the same incarnation hold equal state, and signing a thousand variants of one row makes one cell.

**What follows.** Rows of the proven incarnation, and of every earlier one, do not vote. A greater incarnation votes
again: a machine that came back with an old disk, or was cloned, does this without malice, and its incarnation is what
it raises when it notices (every accused node does, by itself). Proof in three incarnations is no accident any more: the
key is *spent*, and only a new key votes again. More than three proofs say nothing new, so the three of the least
incarnations are kept. That makes the state a bounded join-semilattice: per observer, the least three of a growing set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from lattice import canonical
from lattice.cells import Cell, CellKind, Urgency
from lattice.errors import MalformedError
from lattice.health import ROW_BYTES_MAX, SignedRow, open_row
from lattice.identity import Verifier
from lattice.types import CellId, NodeId

STRIKES: Final = 3
"""Proofs in so many incarnations spend a key: once is a restored disk, twice a cloned machine, three times a habit."""
PROOF_BYTES_MAX: Final = 2 * (ROW_BYTES_MAX + 64) + 64
SPENT: Final = canonical.INTEGER_MAX
"""In place of an incarnation: none of the key's rows votes, ever."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Equivocation:
    """One checked proof."""

    observer: NodeId
    site: str
    incarnation: int
    seq: int
    data: bytes
    """The two rows as they were signed, and nothing of whoever found them."""

    @property
    def id(self) -> CellId:
        version = canonical.pack((self.observer, self.incarnation))
        return CellId(blake2b(version, digest_size=16, person=b"edgelattice evid").digest())

    def cell(self) -> Cell:
        # Its own writer: the accused's rate must not delay the word about it, nor be left out as the word's origin.
        return Cell(self.id, CellKind.EVIDENCE, self.data, Urgency.REVOKE, (self.id, 0))


def contradict(one: SignedRow, two: SignedRow) -> bool:
    """Whether these two are proof against their observer."""
    return one.observer == two.observer and one.order[:2] == two.order[:2] and one.cell != two.cell


def prove(one: SignedRow, two: SignedRow) -> Equivocation:
    """The proof that two rows make, which `contradict` each other."""
    assert contradict(one, two), "two rows of one version, by one observer"
    first, second = sorted((one, two), key=lambda signed: signed.order)
    data = canonical.pack((_FORMAT, first.data, second.data))
    return Equivocation(first.observer, first.row.site, first.row.incarnation, first.row.seq, data)


def open_proof(data: bytes, verifier: Verifier) -> Equivocation:
    """Parse and check a proof from the network.

    Raises `MalformedError` (bytes, or two rows that prove nothing) or `UntrustedError` (either signature); state is
    unchanged.
    """
    fields = canonical.array(canonical.unpack_canonical(data, PROOF_BYTES_MAX), "evidence", length=3)
    if canonical.integer(fields[0], "evidence format") != _FORMAT:
        raise MalformedError("wrong version", f"evidence format {fields[0]!r}, this node reads {_FORMAT}")
    one, two = (open_row(canonical.blob(field, "row", length_max=ROW_BYTES_MAX + 64), verifier) for field in fields[1:])
    if not contradict(one, two) or one.order > two.order:
        raise MalformedError("no evidence", "two rows that do not contradict each other, or in the wrong order")
    return prove(one, two)


class Bench:
    """The proofs one node holds, by whom they are against: at most `STRIKES` each, of observers the caller knows."""

    def __init__(self) -> None:
        self._proofs: dict[NodeId, dict[int, Equivocation]] = {}

    def __contains__(self, observer: NodeId) -> bool:
        return observer in self._proofs

    def proofs(self) -> list[Equivocation]:
        """By observer, then incarnation."""
        return [proof for observer in sorted(self._proofs) for _, proof in sorted(self._proofs[observer].items())]

    def against(self, observer: NodeId) -> list[Equivocation]:
        return [proof for _, proof in sorted(self._proofs.get(observer, {}).items())]

    def take(self, proof: Equivocation) -> tuple[bool, Equivocation | None]:
        """Join a proof: whether it is held from now on (it was not before), and the one it put out, if any."""
        held = self._proofs.get(proof.observer, {})
        if proof.incarnation in held:
            return False, None
        if len(held) < STRIKES:
            self._proofs.setdefault(proof.observer, {})[proof.incarnation] = proof
            return True, None
        greatest = max(held)
        if proof.incarnation > greatest:
            return False, None
        held[proof.incarnation] = proof
        return True, held.pop(greatest)

    def barred(self, observer: NodeId) -> int:
        """The greatest incarnation of the observer whose rows do not vote; 0 if all may, `SPENT` if none ever will."""
        held = self._proofs.get(observer, {})
        return SPENT if len(held) >= STRIKES else max(held, default=0)

    def forget(self, observer: NodeId) -> Iterable[Equivocation]:
        """Drop what is held against an observer that nobody remembers."""
        return list(self._proofs.pop(observer, {}).values())
