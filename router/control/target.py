"""What the control API asks of a node: the seam between `control` (HTTP, JSON) and `node` (the composition).

A test drives the API with a target of its own. Methods that only look are plain; those that wait for the engine are
async. A target refuses with `RefusalError`; a policy text that does not hold raises `PolicyError`, an op that the
apply pipeline refuses a `LatticeError`. All three become a 4xx answer and leave state unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from lattice.checkpoint import is_due
from lattice.identity import Grant
from lattice.key_ring import KeyId
from lattice.policy_ops import hlc_ms
from lattice.policy_store import ChainHead, PolicyStore
from lattice.types import AuthorId, Endpoint, Level, NodeId, VersionId
from lattice.view import LatticeView
from router.decision.decide import Decision, Request


class RefusalError(Exception):
    """The node will not do that. `status` is the HTTP status, `remedy` the next step; state is unchanged."""

    def __init__(self, status: int, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Traffic:
    """What this node's proxy has done since it started."""

    requests: int
    by_region: tuple[tuple[str, int], ...]
    """Answers by the region that gave them, sorted by name."""
    errors: int
    """Answers that failed for a user: 502, 503, 504, or a body cut short."""
    retries: int


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something notable, for people and for the demo's clock."""

    at_ms: int
    kind: str
    """"region", "verdict", "policy", "rollout", "member", "version", "clock", "eject", "lift"; more kinds may come."""
    text: str
    detail: tuple[tuple[str, str], ...] = ()
    """By kind. region and verdict: region, old, new. policy: policy, version. member: site, state. eject and lift:
    endpoint, region."""


@dataclass(frozen=True, slots=True)
class Published:
    """A policy version that this node has accepted."""

    policy: str
    version: VersionId
    ops: int
    """How many ops it took; 0 when that text was already in force."""


@dataclass(frozen=True, slots=True)
class PolicyHead:
    """What composing an author's next version starts from (`lattice.authoring.compose`)."""

    cluster: str
    """Bound into every signature."""
    chain: ChainHead
    """The author's last op as this node knows it."""
    parent: VersionId | None
    """The version that serves everybody who is in no stage of a rollout."""
    supersedes: tuple[str, ...]
    """Keys of the heads that the next version ends."""
    blocks_known: frozenset[str]
    """Hashes of the statements that are there already and need not be sent again."""
    checkpoint_due: bool = False
    """The author's chain holds more that is dead than what lives: whoever signs next should shorten it."""


def head_at(
    store: PolicyStore, cluster: str, policy: str, author: AuthorId, parent: VersionId | None = None
) -> PolicyHead:
    """The start of an author's next version, as a store knows it, which comes after the `parent`: by default the head
    that serves."""
    head = store.head(policy)
    return PolicyHead(
        cluster=cluster,
        chain=store.chain(author),
        parent=parent or (head.version if head else None),
        supersedes=store.context(policy),
        blocks_known=store.blocks_known(author),
        checkpoint_due=is_due(store, author),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """A version of a policy that nobody ended: the one that serves, or one that was published concurrently."""

    version: VersionId
    author: AuthorId
    message: str
    published_ms: int
    text: str | None
    """None: this head says that the policy is deleted."""
    serves: bool


def standing_at(store: PolicyStore, policy: str) -> tuple[Standing, ...]:
    """Every version that stands, the serving one first, the latest of the others next."""
    found = []
    heads = store.heads(policy)[::-1]
    for head in heads:
        manifest = store.manifest(head.version)
        message = manifest.message if manifest else ""
        text = store.text_of(head.version) if manifest else None
        found.append(Standing(head.version, head.author, message, hlc_ms(head.hlc), text, head is heads[0]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RegionSignal:
    """What a region, or someone watching it, says of it: one `POST /update`."""

    region: str
    latency_ms: int
    error_rate_ppm: int
    capacity_pct: int
    """Share of its capacity in use, 0 to 100."""
    timestamp_ms: int
    """Milliseconds since the Unix epoch by the sender's clock; it orders that sender's signals, nothing else."""


@dataclass(frozen=True, slots=True)
class Proof:
    """That a signal is its region's own word (`router.health.region_word`)."""

    public_key: bytes
    grant: Grant
    """The CA's word that this key may speak for that region."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class RegionSnapshot:
    """A region as `GET /snapshot` shows it; None where there is no evidence yet."""

    region: str
    latency_ms: int | None
    error_rate_ppm: int | None
    capacity_pct: int | None
    timestamp_ms: int | None
    level: Level


@dataclass(frozen=True, slots=True)
class RegionSteering:
    """What this node makes of a region beside the lattice's levels: hysteresis, damping, distance, fullness."""

    region: str
    planned: Level
    """The level that decisions are made with: the agreed one, damped."""
    reason: str
    """Why the level that this node itself measured is what it is."""
    recover_after_us: int
    """How long it must be clean before this node finds it better, and what is DOWN takes part again."""
    penalty: int
    """Of flap damping, now."""
    suppress: int | None
    """Above which the region is held; None without damping."""
    suppressed: bool
    returns_ms: int | None
    """When damping, cooldown or probation lets it back at the earliest; None when neither holds it."""
    saturation_ppm: int
    rtt_us: int | None
    """As probes measured it; None before they have."""
    away_ppm: int = 0
    """What share of its users does not go back to it yet, though it is well again."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """One of the cluster's keys that this node has; never the key itself."""

    id: KeyId
    label: str
    used: bool
    """It seals what this node sends."""


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What a peer's frames say of its keys."""

    node: NodeId
    key: KeyId
    """Its last frame was sealed with this one."""
    frames: tuple[tuple[KeyId, int], ...]
    """How many of its frames came under each key since this node's keys were last changed."""
    uses_ours: bool
    """It seals with the key that this node seals with."""
    has_ours: bool
    """It has the same keys as this node."""


@dataclass(frozen=True, slots=True)
class KeysState:
    """The cluster's keys as one node knows them; no keys when it is insecure."""

    keys: tuple[KeyState, ...]
    ring_tag: bytes
    peers: tuple[PeerKeys, ...]


class ControlTarget(Protocol):
    """A node, as the control API sees it."""

    def view(self) -> LatticeView: ...

    def decide(self, request: Request) -> Decision:
        """What this node would do with that request now. Counts nothing and sends nothing."""
        ...

    def located(self, request: Request) -> Request:
        """With the client's country, continent and ASN, where the policy asks for them and this node knows."""
        ...

    def steering(self) -> Sequence[RegionSteering]:
        """Every region of the policy in force, by name."""
        ...

    def traffic(self) -> Traffic: ...

    def ejected(self) -> AbstractSet[Endpoint]: ...

    def events(self) -> Sequence[NodeEvent]:
        """Oldest first."""
        ...

    def counters(self) -> Mapping[str, int]:
        """What was done, sent, received and refused, by reason: engine, transport, proxy, probes."""
        ...

    def applied_ms(self, policy: str) -> int | None:
        """When the serving version came into force here, milliseconds since the epoch; None if it has not."""
        ...

    def in_force(self, policy: str) -> tuple[VersionId, str] | None:
        """The version by which requests are decided here, and what it is on trial as, or nothing."""
        ...

    def policy_text(self, policy: str) -> str | None:
        """The text in force here, which is the last good one; None when there is none."""
        ...

    def version_text(self, version: VersionId) -> str | None:
        """The text of any version that is here."""
        ...

    def policy_head(self, policy: str, author: AuthorId) -> PolicyHead: ...

    def standing(self, policy: str) -> Sequence[Standing]:
        """Every version of a policy that nobody ended, the serving one first."""
        ...

    def policy_ops(self) -> Sequence[bytes]:
        """Every policy op held, as it was signed, in an order in which each follows its predecessor."""
        ...

    async def submit_revocations(self, revocations: tuple[bytes, ...]) -> None:
        """Take the CA's word on keys that it takes back, and pass it on. Raises `LatticeError` for what is none."""
        ...

    async def submit_purges(self, purges: tuple[bytes, ...]) -> None:
        """Forget what is cached of some paths, and pass it on. Raises `LatticeError` for what no author signed."""
        ...

    def warnings(self) -> Sequence[str]:
        """What whoever keeps this node should do something about, in words."""
        ...

    def keys(self) -> KeysState:
        """The cluster's keys here, and which peers lag behind."""
        ...

    def snapshot(self) -> Sequence[RegionSnapshot]:
        """Sorted by region."""
        ...

    def update_signal(self, signal: RegionSignal, proof: Proof | None) -> None:
        """Fold a signal into this node's grading; `proof` shows that it is the region's own word.

        Raises `RefusalError` for a region that no policy names, or a signal that does not come from where it must.
        """
        ...

    async def publish_text(self, policy: str, text: str, message: str) -> Published:
        """Check, sign with the node's own author key, and submit.

        Raises `PolicyError`, or `RefusalError` with 403 when the node holds no author key.
        """
        ...

    async def submit_ops(self, policy: str, ops: tuple[bytes, ...]) -> Published:
        """Submit ops signed elsewhere. Raises `LatticeError`, `PolicyError` or `RefusalError`."""
        ...
