"""Promises about rollouts: nobody serves what it should not, and in the end everybody what it should.

Each is proven by a planted mistake that trips it (`tests/sim/test_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lattice.health import SignedRow
from lattice.rollouts import Start, Word
from lattice.view import LatticeView
from router.decision.decide import Decision
from sim import inside
from sim.canaries import POLICY
from sim.checks import Check
from sim.host import Host
from sim.liveness import Settled, some


class Contained(Check):
    name = "canary-contained"
    promise = (
        "nobody serves a rollout's version outside its stage, after an abort, or when by its own rows a quorum found "
        "it bad; and its users' requests are decided by the version that it is to serve"
    )

    def looked(self, host: Host, view: LatticeView, rows: Sequence[SignedRow]) -> None:
        for _, served in view.served:
            rollout = next((each for each in view.rollouts if each.id == served.rollout), None)
            if rollout is None:
                continue
            if rollout.abort is not None:
                raise self.broken(host, f"serves rollout {rollout.id.hex()}, which is aborted")
            if not rollout.start.includes(host.site, rollout.stage):
                raise self.broken(host, f"serves rollout {rollout.id.hex()} and is not in stage {rollout.stage}")
            bad = self._bad(host, view, rows, rollout.start, rollout.stage)
            if bad:
                raise self.broken(host, f"serves rollout {rollout.id.hex()}, which {some(bad)} found bad")

    def _bad(self, host: Host, view: LatticeView, rows: Sequence[SignedRow], start: Start, stage: int) -> list[str]:
        """The sites in the stage that found it bad, if they are a quorum of those with a verdict."""
        gone = {member.node for member in view.members if member.state in {"down", "left"}}
        barred = {caught.node for caught in view.quarantined}
        inside_of_it: dict[str, Word] = {}
        for signed in rows:
            row = signed.row
            if row.isolated or signed.observer in gone | barred or not start.includes(row.site, stage):
                continue
            said = [each for each in row.sayings if each.rollout == start.id]
            word = max((each.word for each in said if each.word != Word.PASSED or each.stage >= stage), default=None)
            inside_of_it[row.site] = max(word or Word.UNDECIDED, inside_of_it.get(row.site, Word.UNDECIDED))
        bad = sorted(site for site, word in inside_of_it.items() if word >= Word.ROLLED_BACK)
        decided = [site for site, word in inside_of_it.items() if word is not Word.UNDECIDED]
        return bad if len(bad) >= min(2, len(inside_of_it)) and 2 * len(bad) > len(decided) else []

    def routed(self, host: Host, decision: Decision) -> None:
        if not self.stage.rollouts:
            return
        by, served = self.stage.deciding.get(host.index), inside.served(host.engine, POLICY)
        if served is not None and by != served.version:
            raise self.broken(host, f"decides by {(by or b'').hex()[:8]}, and is to serve {served.version.hex()[:8]}")


class RolloutsEnd(Settled):
    name = "rollouts-end-well"
    promise = "in the end everybody serves the last rollout's version if it is good, and nobody does if it is bad"

    def pending(self) -> str | None:
        last = next(reversed(self.stage.rollouts.values()), None)
        if last is None or any(change.at > last.began for change in self.stage.changes if change.kind == "policy"):
            return None
        found = []
        for host in self.ours():
            served = inside.served(host.engine, POLICY)
            if served is not None and (served.version == last.start.version) == (last.fails_ppm > 0):
                found.append((host.index, host.site))
        wrong = self.everywhere(found)
        what = "serve a bad version" if last.fails_ppm else "do not serve the good version"
        return f"{len(wrong)} nodes {what}: {some(wrong)}" if wrong else None
