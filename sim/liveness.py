"""Promises that come true once faults have healed: something good, in time. Each says what is missing until then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lattice.events import Notification, OpAccepted
from lattice.roster import Everybody
from lattice.types import Level
from lattice.verdict import verdict_of
from sim import inside
from sim.checks import Check
from sim.host import Host
from sim.stage import Stage

T = TypeVar("T")
ROOTS_NODES_MAX = 64
"""In a larger cluster some row is always on its way, so that roots are hardly ever all equal at one instant."""
SHOWN_MAX = 4


def some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN_MAX]) + (f" and {len(items) - SHOWN_MAX} more" if len(items) > SHOWN_MAX else "")


class Settled(Check):
    """A promise about the surviving core: every process that runs, liars not counted."""

    liveness = True

    def core(self) -> list[Host]:
        return [host for host in self.stage.cluster.living() if host.index not in self.stage.liars]

    def ours(self) -> list[Host]:
        """Those of them whose engines this process has."""
        return [host for host in self.core() if host.here]

    def everywhere(self, found: Sequence[tuple[int, T]]) -> list[T]:
        """What each process found of its own hosts, (host, what), in order of the hosts."""
        said = [one for each in self.stage.cluster.company.gather(list(found)) for one in each]
        return [what for _, what in sorted(said, key=lambda one: one[0])]

    def finished(self) -> None:
        missing = self.pending()
        if missing is not None:
            raise self.broken(None, missing)


class AllKnowAll(Settled):
    name = "all-know-all"
    promise = "every running node counts every running node, and no other, as there"

    def pending(self) -> str | None:
        living = {host.node for host in self.stage.cluster.living()}
        counted: dict[Everybody, tuple[int, int]] = {}
        found = []
        for host in self.ours():
            everybody = inside.everybody(host.engine)
            if everybody not in counted:
                present = set(everybody.nodes)
                counted[everybody] = len(living - present), len(present - living)
            missing, extra = counted[everybody]
            if missing or extra:
                found.append((host.index, f"{host.site} (misses {missing}, counts {extra} that are gone)"))
        wrong = self.everywhere(found)
        return f"{len(wrong)} of {len(living)} nodes do not see who is there: {some(wrong)}" if wrong else None


class SamePolicy(Settled):
    name = "same-policy"
    promise = "every running node holds the same policy content"

    def pending(self) -> str | None:
        by_hash: dict[bytes, list[str]] = {}
        found = [(host.index, (inside.content_hash(host.engine), host.site)) for host in self.ours()]
        for content, site in self.everywhere(found):
            by_hash.setdefault(content, []).append(site)
        if len(by_hash) <= 1:
            return None
        groups = sorted(by_hash.values(), key=len)
        return f"{len(groups)} different policy contents; {some(groups[0])} differ"


class LastPolicy(Settled):
    name = "last-policy-wins"
    promise = "the version published last is in force everywhere, if a surviving node with an undamaged disk had it"

    def pending(self) -> str | None:
        wanted = self._wanted()
        found = []
        for host in self.ours():
            serving = {policy.policy: policy.version for policy in host.engine.policy.policies()}
            missed = sum(serving.get(policy) not in versions for policy, versions in wanted.items())
            found += [(host.index, host.site)] * missed
        behind = self.everywhere(found)
        return f"{len(behind)} nodes do not serve the last version: {some(behind)}" if behind else None

    def _wanted(self) -> dict[str, set[object]]:
        """By policy, the last version that cannot have been lost, and those after it, which may not have been."""
        published = [change for change in self.stage.changes if change.kind == "policy"]
        sure = [host.index for host in self.ours() if not host.ever_damaged]
        here = [any(index in change.learned for index in sure) for change in published]
        kept = [any(each) for each in zip(*self.stage.cluster.company.gather(here), strict=True)]
        wanted: dict[str, set[object]] = {}
        for change, is_kept in zip(published, kept, strict=True):
            policy = change.name.split()[1]
            if is_kept:
                wanted[policy] = {change.key}
            elif policy in wanted:
                wanted[policy].add(change.key)
        return wanted


class OpsEverywhere(Settled):
    name = "nothing-lost"
    promise = "every op that a surviving node with an undamaged disk accepted is on every node"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._accepted: dict[bytes, set[int]] = {}

    def heard(self, host: Host, notification: Notification) -> None:
        if isinstance(notification, OpAccepted):
            self._accepted.setdefault(notification.op, set()).add(host.index)

    def pending(self) -> str | None:
        survivors = {host.index for host in self.core() if not host.ever_damaged}
        for each in self.stage.cluster.company.gather({op: list(by) for op, by in self._accepted.items()}):
            for op, by in each.items():
                self._accepted.setdefault(op, set()).update(by)
        asked, ours = [op for op, by in sorted(self._accepted.items()) if by & survivors], self.ours()
        without: dict[bytes, list[str]] = {}
        for op, site in self.everywhere(
            [(host.index, (op, host.site)) for op in asked for host in ours if not inside.holds_op(host.engine, op)]
        ):
            without.setdefault(op, []).append(site)
        lost = [f"{op[:4].hex()} (not at {some(sites)})" for op, sites in sorted(without.items())]
        return f"{len(lost)} accepted ops are not everywhere: {some(lost)}" if lost else None


class TrueVerdicts(Settled):
    name = "verdict-is-truth"
    promise = "where honest watchers are a quorum, every node's verdict of a region is the truth"

    def pending(self) -> str | None:
        wrong = []
        for name, region in self.stage.world.regions.items():
            expected = self._expected(region.watchers, name)
            if expected is None:
                continue
            said = [(host, inside.verdict_of(host.engine, name)) for host in self.ours()]
            off = self.everywhere([(host.index, (host.site, level.name)) for host, level in said if level != expected])
            if off:
                site, level = off[0]
                wrong.append(f"{name} is {expected.name}, {len(off)} nodes say otherwise ({site}: {level})")
        return some(wrong) if wrong else None

    def _expected(self, watchers: tuple[int, ...], region: str) -> Level | None:
        """What the quorum rule must come to; None when liars or dead watchers leave it open."""
        hosts = self.stage.cluster.hosts
        votes: dict[str, Level] = {}
        for index in watchers:
            host = hosts[index]
            if host.alive and index not in self.stage.liars:
                seen = self.stage.world.seen[index][region]
                votes[host.site] = max(votes.get(host.site, Level.UNKNOWN), seen)
        liars = {hosts[index].site for index in watchers if hosts[index].alive and index in self.stage.liars}
        if not votes or (liars and len(liars) * 2 >= len(votes) + len(liars)):
            return None
        seen_levels = set(votes.values())
        if len(seen_levels) != 1 or (seen_levels == {Level.DOWN} and len(votes) < 2):
            return None if liars else verdict_of(votes.values())
        if len(votes) + len(liars) < 2:
            return verdict_of(votes.values())
        return seen_levels.pop()


class SameRoots(Settled):
    name = "same-roots"
    promise = f"at some instant after healing all nodes hold the same cells (up to {ROOTS_NODES_MAX} nodes)"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._were_equal = False

    def pending(self) -> str | None:
        if self._were_equal or len(self.stage.cluster.hosts) > ROOTS_NODES_MAX:
            return None
        roots: dict[bytes, list[str]] = {}
        found = [(host.index, (inside.root_of(host.engine), host.site)) for host in self.ours()]
        for root, site in self.everywhere(found):
            roots.setdefault(root, []).append(site)
        if len(roots) <= 1:
            self._were_equal = True
            return None
        smallest = min(roots.values(), key=lambda sites: (len(sites), sites))
        return f"{len(roots)} different sets of cells; {some(smallest)} differ"


LIVENESS: tuple[type[Settled], ...] = (AllKnowAll, SamePolicy, LastPolicy, OpsEverywhere, TrueVerdicts, SameRoots)
