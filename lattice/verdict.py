"""What the lattice concludes of a region: one vote per site, and the level that a quorum reports or exceeds.

Sort the votes from worst to best; the verdict is the vote in place `quorum`. At least a quorum of sites say "this bad
or worse", and so, with a majority as quorum, fewer than half of the voters can lie without moving it: they cannot push
the quorum-th vote past the honest ones in either direction.

* A site is one vote, however many nodes it runs: the worst of its voices (a site half of whose nodes cannot reach a
  region cannot reach it well).
* No evidence, no vote. Isolated and departed observers do not vote either.
* Two distinct sites at least: a lone voice can make a region DEGRADED for others, never worse.
* Where isolated sites are no fewer than voters, nobody knows: UNKNOWN. What fails everywhere isolates one site after
  another, each of which takes its vote back, and the few that are left are not all. Before that, what would be bad if
  the isolated voted is DEGRADED, so that their silence makes nothing well: without either rule a verdict went up and
  down as often as five times while three sites lost two regions, and came to what the last of them happened to say.

`Tally` keeps the counts as voices change, so that a verdict costs a few additions whatever the number of sites;
`verdict_of` is the definition it must agree with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lattice.types import Level, NodeId
from lattice.view import Witness

SITES_MIN = 2


def quorum(voters: int) -> int:
    """How many sites must agree: a majority, and never fewer than `SITES_MIN`."""
    return max(voters // 2 + 1, SITES_MIN)


def verdict_of(votes: Iterable[Level], isolated: int = 0) -> Level:
    """The verdict over one vote per site, while so many others that would say DOWN are isolated; `UNKNOWN` votes are
    abstentions."""
    counts = [0] * len(Level)
    for vote in votes:
        counts[vote] += 1
    return _conclude(counts, isolated)


def _conclude(counts: Sequence[int], isolated: int) -> Level:
    _, healthy, degraded, failing, down = counts
    voters = healthy + degraded + failing + down
    if isolated:
        if isolated >= voters:
            return Level.UNKNOWN
        if degraded + failing + down + isolated >= quorum(voters + isolated):
            return max(Level.DEGRADED, _by_votes(counts))
    return _by_votes(counts)


def _by_votes(counts: Sequence[int]) -> Level:
    _, healthy, degraded, failing, down = counts
    voters = healthy + degraded + failing + down
    if voters >= SITES_MIN:
        needed = quorum(voters)
        if down >= needed:
            return Level.DOWN
        if down + failing >= needed:
            return Level.FAILING
        return Level.DEGRADED if down + failing + degraded >= needed else Level.HEALTHY
    if voters == 0:
        return Level.UNKNOWN
    return Level.HEALTHY if healthy else Level.DEGRADED


class Tally:
    """The voices about one region, and the verdict over them."""

    def __init__(self) -> None:
        self._voices: dict[NodeId, Witness] = {}
        self._sites: dict[str, dict[NodeId, Level]] = {}
        self._isolated: dict[NodeId, str] = {}
        """The sites of those that would speak, did they not doubt themselves."""
        self._counts = [0] * len(Level)
        self._witnesses: tuple[Witness, ...] | None = ()
        """As they are shown; None when somebody has spoken since."""

    def __len__(self) -> int:
        """How many voices there are, and who would have one."""
        return len(self._voices) + len(self._isolated)

    def hear(self, node: NodeId, site: str, level: Level, since_ms: int, saturation_ppm: int = 0) -> bool:
        """Take this as the node's only voice from now on. Whether that changed anything."""
        known, voice = self._voices.get(node), Witness(node, site, level, since_ms, saturation_ppm)
        if known == voice:
            return False
        if not level:  # UNKNOWN
            return self.forget(node)
        if known is None or known.site != site:
            self.forget(node)
        self._voices[node] = voice
        self._witnesses = None
        self._recount(self._sites.setdefault(site, {}), node, level)
        return True

    def doubt(self, node: NodeId, site: str) -> None:
        """The node sees the region DOWN, and is isolated: it has no voice, and only that it is there counts."""
        self.forget(node)
        self._isolated[node] = site

    def forget(self, node: NodeId) -> bool:
        """The node has no voice any more, nor is there. Whether it had one, or was."""
        witness = self._voices.pop(node, None)
        if witness is None:
            return self._isolated.pop(node, None) is not None
        self._witnesses = None
        site = self._sites[witness.site]
        self._recount(site, node, None)
        if not site:
            del self._sites[witness.site]
        return True

    def _recount(self, site: dict[NodeId, Level], node: NodeId, level: Level | None) -> None:
        if site:
            self._counts[max(site.values())] -= 1
        if level is None:
            del site[node]
        else:
            site[node] = level
        if site:
            self._counts[max(site.values())] += 1

    def verdict(self) -> Level:
        """A site that has a voice is not isolated."""
        return _conclude(self._counts, len(set(self._isolated.values()) - self._sites.keys()) if self._isolated else 0)

    def is_agreed(self) -> bool:
        """Whether those who vote say what the verdict is, be it that nobody is isolated, or that it matters not."""
        return not self._isolated or self.verdict() == _by_votes(self._counts)

    def witnesses(self) -> tuple[Witness, ...]:
        """Every voice, worst first, then by site and node."""
        if self._witnesses is None:
            self._witnesses = tuple(sorted(self._voices.values(), key=lambda w: (-w.level, w.site, w.node)))
        return self._witnesses
