"""The health plane of one node: the rows of all, our own among them, and what we conclude from them.

Minimal fan-out is decided here: an observation that disagrees with the verdict is signed and pushed at once, one that
only confirms it waits, with jitter, for company. So when a region dies the sites that move the verdict speak, and all
others at leisure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lattice import wire
from lattice.cells import Cell, CellIndex, CellKind, Urgency
from lattice.equivocation import SPENT, Bench, Equivocation, prove
from lattice.events import EquivocationProven, RegionChanged, RegionDoubted, Rejected, VerdictChanged
from lattice.health import Observation, Report, Row, SignedRow, report_of, sign_row
from lattice.health_table import NEW, HealthTable, Placement, lease_ms_for
from lattice.identity import Grant, Signer
from lattice.outbox import Outbox
from lattice.outlook import Outlook, is_isolated
from lattice.quantise import bucket_of
from lattice.rollouts import Saying, Word
from lattice.row_records import RowRecords
from lattice.types import MILLISECOND, SECOND, Endpoint, Level, NodeId, VersionId
from lattice.view import QuarantineView, RegionView
from lattice.wire import WireCell

_FAILING: Final = Level.FAILING
_UP, _DOWN, _ROW = Urgency.UP, Urgency.DOWN, CellKind.ROW
"""To ask a class of them for a member takes five times as long, and every row is asked."""
_FULL: Final = bucket_of(1_000_000)
"""The bucket of a region that says that all its capacity is in use."""


@dataclass(slots=True)
class Self:
    """What our row says of us, beside what we observe."""

    site: str
    area: str
    endpoint: Endpoint
    applied: dict[str, VersionId]
    grant: Grant | None = None
    at_e6: tuple[int, int] | None = None
    sayings: tuple[Saying, ...] = ()


def row_cell(signed: SignedRow) -> Cell:
    """A row as it is replicated, as urgent as the worst that it says."""
    urgency, row = _UP, signed.row
    if row.sayings and any(said.word is Word.CONDEMNED for said in row.sayings):
        urgency = _DOWN
    for report in row.reports:
        if report.level >= _FAILING:
            urgency = min(urgency, _DOWN)
        elif report.saturation_bucket >= _FULL:
            urgency = Urgency.DRAIN
    return Cell(signed.cell, _ROW, signed.data, urgency, (signed.observer, row.seq))


class HealthPlane:
    """Rows, verdicts and outlooks."""

    def __init__(
        self,
        out: Outbox,
        cells: CellIndex,
        signer: Signer,
        about_us: Self,
        incarnation: Callable[[], int],
        members: Callable[[], int],
        push: Callable[[Sequence[Cell]], None],
        on_sayings: Callable[[], None],
    ) -> None:
        """`members` counts the others; `push` starts rumours; `on_sayings` hears when what rows say of rollouts, or who
        may vote, may have changed."""
        self._on_sayings = on_sayings
        self._out = out
        self._cells = cells
        self._signer = signer
        self._us = about_us
        self._incarnation = incarnation
        self._members = members
        self._push = push
        self.table = HealthTable()
        self.records = RowRecords(self.table, out.node, out.persist, out.config.rows_kept)
        self._bench = Bench()
        self.isolated = False
        self._seq = out.now % SECOND // MILLISECOND
        """Of our last row; at first the millisecond, as the incarnation of a life without a disk is the second: several
        lives within one second contradict each other no more than those of several do (`swim.incarnation_at`)."""
        self._speaking = False
        self._observations: dict[str, Observation] = {}
        self._outlooks: dict[str, Outlook] = {}

    # --- our own row

    def start(self) -> None:
        self._speaking = True
        self.issue()

    def fall_silent(self) -> None:
        """We are leaving: what we say from now on would only have to be forgotten."""
        self._speaking = False

    def observed(self, observations: Sequence[Observation]) -> None:
        """This node's whole opinion; it replaces the last one."""
        self._observations = {observation.region: observation for observation in observations}
        published = self._published()
        waits: list[int] = []
        isolated = is_isolated(observation.level for observation in observations if not observation.private)
        changed = set[str]()
        if isolated != self.isolated:
            self.isolated = isolated
            waits.append(0)
            changed |= self._outlooks.keys()
        for region in sorted(self._observations.keys() | published.keys()):
            level = self._observations[region].level if region in self._observations else Level.UNKNOWN
            outlook = self._outlook(region)
            if outlook.observe(level, self._out.now) or region not in self._observations:
                changed.add(region)
            held, report = published.get(region), self._report(region, published.get(region))
            if report != held:
                waits.append(self._patience(report, held, outlook.verdict))
        self.conclude(changed)
        if waits:
            self.issue_within(min(waits))

    def _patience(self, report: Report | None, held: Report | None, verdict: Level) -> int:
        """How long a changed report may wait: not at all if it disagrees with the verdict, else with jitter."""
        config, prng = self._out.config, self._out.prng
        level = report.level if report else Level.UNKNOWN
        if level == (held.level if held else Level.UNKNOWN):
            return prng.jitter(config.metrics_delay_us)
        return 0 if level != verdict else prng.jitter(config.confirm_delay_us)

    def _report(self, region: str, held: Report | None) -> Report | None:
        observation = self._observations.get(region)
        if observation is None or observation.private:
            return None
        return report_of(observation, held, overrules=self._outlook(region).reason == "overruled")

    def _published(self) -> dict[str, Report]:
        held = self.table.get(self._out.node)
        return {report.region: report for report in held.signed.row.reports} if held else {}

    def issue_within(self, wait_us: int) -> None:
        """Say what we assert no later than this."""
        if not self._speaking:
            return
        if wait_us == 0:
            self.issue()
        else:
            self._out.timers.set_earlier("row", self._out.after(wait_us))

    def issue(self) -> None:
        """Sign what we assert now, under the next version, and push it.

        Not once our right to speak has ended, here no more than elsewhere: equal rows give equal verdicts. A new
        certificate has us speak at once; until then we go by our own evidence.
        """
        config, grant = self._out.config, self._us.grant
        refresh_us = config.row_refresh_for(self._members() + 1)
        if grant is not None and grant.until_s * SECOND <= self._out.now:
            self._out.count("rows not sent: our certificate has ended")
            self._out.timers.set("row", self._out.after(self._out.prng.jitter(refresh_us)))
            return
        published = self._published()
        reports = [self._report(region, published.get(region)) for region in sorted(self._observations)]
        self._seq += 1
        row = Row(
            public_key=self._signer.public_key,
            incarnation=self._incarnation(),
            seq=self._seq,
            issued_ms=self._out.now // 1_000,
            lease_ms=lease_ms_for(refresh_us, config.row_lease_refreshes),
            site=self._us.site,
            endpoint=self._us.endpoint,
            isolated=self.isolated,
            reports=tuple(report for report in reports if report is not None),
            applied=tuple(sorted(self._us.applied.items())),
            area=self._us.area if self._us.at_e6 is None else "{}@{},{}".format(self._us.area, *self._us.at_e6),
            grant=grant,
            sayings=self._us.sayings,
        )
        placed = self.place(sign_row(row, self._signer), 0, None)
        assert placed is not None, "our own next version is news to us"
        self._push([placed])
        self._out.timers.set("row", self._out.after(self._out.prng.jitter(refresh_us)))

    def our_row(self) -> tuple[WireCell, ...]:
        held = self.table.get(self._out.node)
        return (WireCell(CellKind.ROW, held.signed.data),) if held else ()

    # --- everybody's rows

    def place(self, signed: SignedRow, age_us: int, source: Endpoint | None) -> Cell | None:
        """Join a verified row; its cell if it is the observer's row from now on."""
        before = self.table.get(signed.observer)
        superseded = before.signed.cell if before else None
        offer = self.table.offer(signed, age_us, self._out.now, ours=signed.observer == self._out.node)
        if offer.placement is not NEW:
            if offer.placement is Placement.EQUIVOCATION:
                self._out.notify(Rejected("row", "equivocation", source))
                if offer.against is not None:
                    proven = self.take_proof(prove(offer.against, signed))
                    self._push([proven] if proven else [])
            self._out.count(f"rows {offer.placement.name.lower()}")
        if not offer.taken:
            return None
        if superseded is not None:
            self._cells.discard(superseded)
        cell = row_cell(signed)
        self._cells.add(cell)
        self.records.touch(signed.observer)
        if before is None or offer.expires < before.expires:  # else an earlier row's timer stands
            self._out.timers.set_earlier(f"lease {signed.observer.hex()}", offer.expires)
        self._doubt(signed, before.signed.row if before else None)
        self.conclude(offer.regions)
        if before is None or before.signed.row.sayings != signed.row.sayings:
            self._on_sayings()
        return cell

    def _doubt(self, signed: SignedRow, before: Row | None) -> None:
        """Tell the router when a peer newly finds a region worse than we do: it will look for itself."""
        row = signed.row
        if row.isolated or signed.observer == self._out.node:
            return
        if not self._speaking:
            return  # an earlier life has heard it, or it is too late to look
        bad = [report for report in row.reports if report.level >= _FAILING]
        if not bad or self.table.is_barred(signed.observer, row.incarnation):
            return
        said = {report.region: report.level for report in before.reports} if before else {}
        for report in bad:
            news = report.level > said.get(report.region, Level.UNKNOWN)
            if news and report.level > self._outlook(report.region).own:
                self._out.notify(RegionDoubted(report.region, row.site, report.level))

    def lease_over(self, observer: NodeId, present: bool) -> None:
        """The row's time is up, or that of an earlier one. While its observer is known to be there, it stands on."""
        held, now = self.table.get(observer), self._out.now
        if held is None:
            return
        if held.expires <= now and present:
            self.table.renew(observer, now)
        if held.expires > now:
            self._out.timers.set(f"lease {observer.hex()}", held.expires)
            return
        self._discard(observer)
        self.conclude(self.table.expire(observer))
        self._on_sayings()

    def take_proof(self, proof: Equivocation) -> Cell | None:
        """Join a checked proof; its cell if it is news. The observer's rows lose their votes at once."""
        taken, put_out = self._bench.take(proof)
        if not taken:
            return None
        if put_out is not None:
            self._cells.discard(put_out.id)
        cell = proof.cell()
        self._cells.add(cell)
        self._out.count("equivocations proven")
        barred = self._bench.barred(proof.observer)
        self._out.notify(EquivocationProven(proof.observer, proof.site, proof.incarnation, barred == SPENT))
        self.conclude(self.table.bar(proof.observer, barred))
        self._on_sayings()
        self._out.stale_view = True
        return cell

    def quarantined(self) -> tuple[QuarantineView, ...]:
        """By node."""
        proofs: dict[NodeId, list[Equivocation]] = {}
        for proof in self._bench.proofs():
            proofs.setdefault(proof.observer, []).append(proof)
        return tuple(
            QuarantineView(
                node=observer,
                site=against[-1].site,
                incarnations=tuple(proof.incarnation for proof in against),
                spent=self._bench.barred(observer) == SPENT,
                evidence=tuple(proof.id for proof in against),
            )
            for observer, against in proofs.items()
        )

    def forget(self, observer: NodeId) -> None:
        self._discard(observer)
        for proof in self._bench.forget(observer):
            self._cells.discard(proof.id)
        self.conclude(self.table.forget(observer))
        self._on_sayings()

    def mute(self, observer: NodeId, muted: bool) -> None:
        """Whether the observer is gone, and so may not vote."""
        self.conclude(self.table.mute(observer, muted))
        self._on_sayings()

    def _discard(self, observer: NodeId) -> None:
        held = self.table.get(observer)
        if held is not None:
            self._cells.discard(held.signed.cell)
            self.records.touch(observer)
            self._out.stale_view = True

    def age_ms(self, cell: Cell) -> int:
        """How old our copy of a cell is; only leased cells have an age."""
        if cell.kind is not CellKind.ROW or cell.place[0] == self._out.node:
            return 0
        return min(self.table.age_ms(NodeId(cell.place[0]), self._out.now), wire.AGE_MS_MAX)

    def majority_clock_ms(self) -> int:
        """The date that a majority of the nodes, we among them, have reached by their own rows: the lower median, so
        that fewer than half of them can not move it ahead."""
        now = self._out.now
        dates = [
            signed.row.issued_ms + self.table.age_ms(signed.observer, now)
            for signed in self.table.rows()
            if signed.observer != self._out.node
        ]
        dates = sorted([*dates, now // 1_000])
        return dates[(len(dates) - 1) // 2]

    def clock_off_ms(self) -> int:
        """How far our clock is ahead of that date, or behind it (negative); 0 where two cannot tell who is right."""
        if len(self.table.rows()) < 3:
            return 0
        return self._out.now // 1_000 - self.majority_clock_ms()

    # --- conclusions

    def _outlook(self, region: str) -> Outlook:
        outlook = self._outlooks.get(region)
        if outlook is None:
            outlook = self._outlooks[region] = Outlook()
        return outlook

    def conclude(self, regions: Iterable[str]) -> None:
        """Work out these regions again, and tell the router what changed."""
        now, overrule_us = self._out.now, self._out.config.overrule_us
        for region in sorted(regions):
            outlook, tally = self._outlook(region), self.table.tally(region)
            verdict = outlook.verdict
            if outlook.hear(tally.verdict(), now, tally.is_agreed()):
                self._out.notify(VerdictChanged(region, verdict, outlook.verdict))
            overruled = outlook.reason == "overruled"
            before = outlook.conclude(self.isolated, overrule_us, now)
            if overruled != (outlook.reason == "overruled"):
                self.issue_within(self._out.prng.jitter(self._out.config.confirm_delay_us))  # our row says so
            if before is not None:
                self._out.notify(RegionChanged(region, before, outlook.effective, outlook.reason))
            if not tally and region not in self._observations:
                self.table.forget_region(region)
                del self._outlooks[region]  # else peers' rows could fill our memory with names
                continue
            overrules_at = outlook.overrules_at(overrule_us)
            if overrules_at is not None and overrules_at > now:
                self._out.timers.set(f"overrule {region}", overrules_at)
        self._out.stale_view = True

    def regions(self) -> tuple[RegionView, ...]:
        """By name."""
        return tuple(self._view(region, self._outlooks[region]) for region in sorted(self._outlooks))

    def _view(self, region: str, outlook: Outlook) -> RegionView:
        return RegionView(
            region=region,
            effective=outlook.effective,
            verdict=outlook.verdict,
            own=outlook.own,
            reason=outlook.reason,
            since=outlook.effective_since,
            witnesses=self.table.tally(region).witnesses(),
        )
