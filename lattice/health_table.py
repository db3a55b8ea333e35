"""The rows of one node: joined, leased, and tallied by region.

A row's lease runs by this node's own clock from when it arrived, less the age it arrived with, so a wrong clock
elsewhere neither kills a row nor keeps it; and it begins anew while the observer is known to be there (SWIM tells), so
a row need not be sent again to stand. When a row expires, its version stays behind as a floor: the same row,
coming back from a slower peer, is not news. (That is all that is left of an observer, and it goes when the member is
forgotten.)
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from lattice.equivocation import contradict
from lattice.health import LEASE_MS_MAX, Report, Row, SignedRow
from lattice.quantise import lower_edge
from lattice.record import Record
from lattice.rollouts import Saying
from lattice.types import NEVER, SECOND, Micros, NodeId
from lattice.verdict import Tally


class Placement(Enum):
    """What became of a row that was offered."""

    NEW = auto()
    KNOWN = auto()
    STALE = auto()
    EXPIRED = auto()
    EQUIVOCATION = auto()
    """Another row was signed under the same version: proof that the observer's key says two things."""


@dataclass(slots=True)
class HeldRow:
    signed: SignedRow
    born: Micros
    """By our clock: when the observer last stood behind it, as far as anybody knows."""
    expires: Micros
    other: SignedRow | None = None
    """The greatest other word of the observer that was heard: of what it took the place of, and of what came late; of
    ourselves, what we did not sign. Two lies are mostly outgrown before they meet, be it because the accused is honest
    and noticed one of them."""

    def remember(self, word: SignedRow) -> None:
        """Keep it, if it is the greatest that is not the row itself."""
        if self.other is None or word.order > self.other.order:
            self.other = word

    def contradicted_by(self, word: SignedRow) -> SignedRow | None:
        """What was heard of the observer that proves, with this word, that it says two things."""
        return next((heard for heard in (self.signed, self.other) if heard and contradict(heard, word)), None)


class Offer(Record):
    """What came of offering a row."""

    placement: Placement
    taken: bool = False
    """Whether it is the observer's row from now on."""
    expires: Micros = NEVER
    regions: Set[str] = frozenset()
    """Whose voices may have changed."""
    against: SignedRow | None = None
    """Of an equivocation: the word that it contradicts, while that is at hand."""


NEW: Final = Placement.NEW
"""To ask the class for it takes five times as long, and nearly every row is asked."""
_NOT_TAKEN = {placement: Offer(placement) for placement in Placement}
"""Nothing more is to be said of an offer that is refused: most are, for rows come more than one way."""


class HealthTable:
    """Every row held, ours included, and the tally of each region."""

    def __init__(self) -> None:
        self._rows: dict[NodeId, HeldRow] = {}
        self._floors: dict[NodeId, tuple[int, int, bytes]] = {}
        self._muted: set[NodeId] = set()
        self._barred: dict[NodeId, int] = {}
        self._tallies: dict[str, Tally] = {}

    def get(self, observer: NodeId) -> HeldRow | None:
        return self._rows.get(observer)

    def rows(self) -> list[SignedRow]:
        """By observer."""
        return [self._rows[observer].signed for observer in sorted(self._rows)]

    def regions(self) -> list[str]:
        return sorted(self._tallies)

    def tally(self, region: str) -> Tally:
        tally = self._tallies.get(region)
        if tally is None:
            tally = self._tallies[region] = Tally()
        return tally

    def forget_region(self, region: str) -> None:
        """Drop the tally of a region that nobody speaks of."""
        assert not self._tallies[region], "what is said is kept"
        del self._tallies[region]

    def order_of(self, observer: NodeId) -> tuple[int, int, bytes] | None:
        """The greatest version ever seen of an observer."""
        return self._floors.get(observer)

    def offer(self, signed: SignedRow, age_us: int, now: Micros, ours: bool = False) -> Offer:
        """Join one row that the sender has held for `age_us`. Of `ours` what we have signed is not remembered: it would
        take the place of what we have not."""
        observer = signed.observer
        floor, order = self._floors.get(observer), signed.order
        if floor is not None and order <= floor:
            return self._refuse(signed, floor)
        born = Micros(now - age_us)
        expires = _ends(signed.row, born)
        if expires <= now:
            return _NOT_TAKEN[Placement.EXPIRED]
        placement, against = NEW, None
        held, fresh = self._rows.get(observer), HeldRow(signed, born, expires)
        if floor is not None and floor[:2] == order[:2]:
            placement = Placement.EQUIVOCATION  # the greater hash is kept, as on every other node
            against = held.signed if held is not None else None
        if held is not None:
            fresh.other = held.other
            if not ours:
                fresh.remember(held.signed)
        self._floors[observer] = order
        self._rows[observer] = fresh
        regions = self._revoice(observer, signed.row, held.signed.row if held else None)
        return Offer(placement, True, expires, regions, against)

    def _refuse(self, signed: SignedRow, floor: tuple[int, int, bytes]) -> Offer:
        """A word that is not the greatest of its observer."""
        held = self._rows.get(signed.observer)
        if signed.order == floor:
            return _NOT_TAKEN[Placement.EXPIRED if held is None else Placement.KNOWN]
        if held is None:
            return _NOT_TAKEN[Placement.EQUIVOCATION if signed.order[:2] == floor[:2] else Placement.STALE]
        against = held.contradicted_by(signed)
        held.remember(signed)
        return _NOT_TAKEN[Placement.STALE] if against is None else Offer(Placement.EQUIVOCATION, against=against)

    def renew(self, observer: NodeId, now: Micros) -> Micros | None:
        """The observer still stands behind its row: the lease begins anew. When it ends; None if there is no row."""
        held = self._rows.get(observer)
        if held is None:
            return None
        held.born = now
        held.expires = _ends(held.signed.row, now)
        return held.expires

    def expire(self, observer: NodeId) -> set[str]:
        """The row's lease has ended: it goes, its version stays as floor."""
        held = self._rows.pop(observer, None)
        if held is None:
            return set()
        return self._silence(observer, held.signed.row)

    def forget(self, observer: NodeId) -> set[str]:
        """As `expire`, and the floor goes too."""
        regions = self.expire(observer)
        self._floors.pop(observer, None)
        self._muted.discard(observer)
        self._barred.pop(observer, None)
        return regions

    def mute(self, observer: NodeId, muted: bool) -> set[str]:
        """Whether the observer's row may vote: that of a node that is down or has left may not."""
        if muted == (observer in self._muted):
            return set()
        if muted:
            self._muted.add(observer)
        else:
            self._muted.discard(observer)
        held = self._rows.get(observer)
        return self._revoice(observer, held.signed.row, None) if held else set()

    def bar(self, observer: NodeId, incarnation: int) -> set[str]:
        """Rows of the observer up to this incarnation do not vote from now on: its key said two things in it."""
        self._barred[observer] = max(incarnation, self._barred.get(observer, 0))
        held = self._rows.get(observer)
        return self._revoice(observer, held.signed.row, None) if held else set()

    def is_barred(self, observer: NodeId, incarnation: int) -> bool:
        """Whether the observer's rows of this incarnation do not vote."""
        return incarnation <= self._barred.get(observer, 0)

    def age_ms(self, observer: NodeId, now: Micros) -> int:
        """How old our copy of a row is, for whoever we send it to."""
        return max(0, now - self._rows[observer].born) // 1_000

    def sayings(self) -> dict[str, list[Saying]]:
        """What the rows that vote say of rollouts, by site; nothing is said by some."""
        said: dict[str, list[Saying]] = {}
        for observer, held in self._rows.items():
            if self._votes(observer, held.signed.row):
                said.setdefault(held.signed.row.site, []).extend(held.signed.row.sayings)
        return said

    def _votes(self, observer: NodeId, row: Row) -> bool:
        return not row.isolated and self._counts(observer, row)

    def _counts(self, observer: NodeId, row: Row) -> bool:
        return observer not in self._muted and not self.is_barred(observer, row.incarnation)

    def _revoice(self, observer: NodeId, row: Row, before: Row | None) -> set[str]:
        """Let the observer's row vote, if it may, in the place of the one before; whose voices may have changed."""
        changed, votes = set[str](), self._votes(observer, row)
        if before is not None and (before.isolated or not votes):
            changed |= self._silence(observer, before)
        if not votes:
            changed |= self._silence(observer, row)
            if self._counts(observer, row):
                for report in row.reports:
                    if report.level:
                        self.tally(report.region).doubt(observer, row.site)
            return changed
        said: dict[str, Report] = {}
        if before is not None and self._votes(observer, before):
            said = {report.region: report for report in before.reports}
        moved = before is None or before.site != row.site
        for report in row.reports:
            region = report.region
            if said.pop(region, None) is report and not moved:
                continue  # most of a row is as it was
            tally = self.tally(region)
            saturation_ppm = lower_edge(report.saturation_bucket)
            if tally.hear(observer, row.site, report.level, report.since_ms, saturation_ppm) or not tally:
                changed.add(region)
        for region in said:
            self.tally(region).forget(observer)
            changed.add(region)
        return changed

    def _silence(self, observer: NodeId, row: Row) -> set[str]:
        for report in row.reports:
            self.tally(report.region).forget(observer)
        return {report.region for report in row.reports}


def _ends(row: Row, born: Micros) -> Micros:
    """When a row ends that its observer stood behind then: with its lease, or with its observer's right to speak."""
    lease_over = born + row.lease_ms * 1_000
    return Micros(lease_over if row.grant is None else min(lease_over, row.grant.until_s * SECOND))


def lease_ms_for(refresh_us: int, refreshes: int) -> int:
    """A lease that outlives so many refreshes, in whole milliseconds, within what a row may claim."""
    return min(refresh_us * refreshes // 1_000, LEASE_MS_MAX)
