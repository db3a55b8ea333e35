"""What a node knows, frozen: the one thing that the router, the screens and the simulator read of an engine."""

from __future__ import annotations

from lattice.health import Report
from lattice.record import Record
from lattice.rollouts import Entry, RolloutId, Served, Start, Word
from lattice.types import AuthorId, CellId, Endpoint, Level, Micros, NodeId, VersionId


class Witness(Record):
    """One voice in a verdict."""

    node: NodeId
    site: str
    level: Level
    since_ms: int
    """When the observer's level became this one, by the observer's clock (milliseconds since the Unix epoch)."""
    saturation_ppm: int = 0
    """Used share of the region's capacity, as the region told the observer; 0 when it did not."""


class RegionView(Record):
    """What is concluded about a region, and from whose word."""

    region: str
    effective: Level
    """What this node acts on: the worse of `verdict` and `own`, unless `reason` says otherwise."""
    verdict: Level
    own: Level
    reason: str
    """Why `effective` is what it is: "verdict", "own evidence", "overruled", "isolated" or "no evidence"."""
    since: Micros
    """When `effective` became what it is, here."""
    witnesses: tuple[Witness, ...]
    """Every fresh voice, one per node, worst first."""

    @property
    def saturation_ppm(self) -> int:
        """How full the region is: the middle one of the voices that were told, the lesser of two; 0 without any."""
        told = sorted(witness.saturation_ppm for witness in self.witnesses if witness.saturation_ppm)
        return told[(len(told) - 1) // 2] if told else 0


class MemberView(Record):
    """Our record of one node, ourselves included."""

    node: NodeId
    site: str
    endpoint: Endpoint
    state: str
    """"alive", "suspect", "down" or "left"."""
    incarnation: int
    applied: tuple[tuple[str, VersionId], ...]
    """Which version of each policy the node says is in force there, by its own signed row."""
    at_e6: tuple[int, int] | None = None
    """Where its site is, in millionths of a degree; None when it does not say."""
    reports: tuple[Report, ...] = ()
    """How it sees each region, as its row says: by region."""


class QuarantineView(Record):
    """A node whose key signed two rows of one version: proven, and the same on every node."""

    node: NodeId
    site: str
    incarnations: tuple[int, ...]
    """In which it is proven, sorted."""
    spent: bool
    """Proven so often that no row of this key votes again; else a greater incarnation does."""
    evidence: tuple[CellId, ...] = ()
    """The cells that hold the proofs, in the order of `incarnations`."""


class ForkView(Record):
    """An author whose key signed two ops in one place of its chain: proven, and the same on every node."""

    author: AuthorId
    seq: int
    """What it published from here on counts for nothing."""
    evidence: tuple[bytes, ...]
    """The ids of two such ops."""


class PolicyView(Record):
    """One policy: the version that serves, and any that was published concurrently."""

    policy: str
    version: VersionId
    blocks: tuple[str, ...]
    """The statements in order; joined without a separator they are the text that was published."""
    author: AuthorId
    message: str
    published_ms: int
    """By the author's clock, milliseconds since the Unix epoch."""
    rivals: tuple[VersionId, ...]
    """Heads published concurrently, which lost by (timestamp, hash): a person should end this."""


class RolloutView(Record):
    """A version's way to all sites, as this node knows it."""

    id: RolloutId
    start: Start
    stage: int
    message: str
    """Of the version."""
    state: str
    """"under way", "complete" (everybody is to serve it), "aborted", "rolled back" (so many sites found it bad), or
    "set aside" (another rollout on the same base counts)."""
    abort: Entry | None
    sites: tuple[tuple[str, bool, Word], ...]
    """Every site with a fresh row that votes: whether it is in the stage, and what it says."""
    passed: bool
    """More than half of the sites in the stage found the version good."""
    here: Word
    """What this site has found, or concluded."""
    serves: bool
    """Whether this site serves the version, or is about to."""


class LatticeView(Record):
    """A consistent snapshot, sorted throughout."""

    node: NodeId
    site: str
    now: Micros
    isolated: bool
    """Everything fails from here, so this node suspects itself: it does not vote, and serves by last known good."""
    members: tuple[MemberView, ...]
    regions: tuple[RegionView, ...]
    policies: tuple[PolicyView, ...]
    root: bytes
    """16 bytes over every cell held; equal roots mean equal knowledge."""
    cells: int
    quarantined: tuple[QuarantineView, ...] = ()
    """Observers caught saying two things; by node."""
    forks: tuple[ForkView, ...] = ()
    """Authors whose key signed two ops in one place: set aside from there on; by author."""
    revoked: tuple[NodeId | AuthorId, ...] = ()
    """The nodes and authors whose keys the CA has taken back."""
    served: tuple[tuple[str, Served], ...] = ()
    """By policy, which version this site is to serve, of those that have rollouts; of the others it is the head's."""
    standings: tuple[tuple[str, VersionId], ...] = ()
    """Of the same policies: which version whoever is in no stage serves."""
    rollouts: tuple[RolloutView, ...] = ()
    """Those that no later publish has ended: by policy, the earliest first."""

    def standing(self, policy: str) -> VersionId | None:
        """Which version of a policy whoever is in no stage serves: what the next one comes after."""
        for name, version in self.standings:
            if name == policy:
                return version
        return next((each.version for each in self.policies if each.policy == policy), None)

    def serving(self, policy: str) -> Served | None:
        """Which version of a policy this site is to serve; None if there is no such policy."""
        for name, served in self.served:
            if name == policy:
                return served
        return next((Served(each.version) for each in self.policies if each.policy == policy), None)
