"""The control API's JSON, as types: what a node answers, and what `status` and the demo read back.

Ids are lower-case hexadecimal, levels upper-case names, endpoints `address:port` with brackets around IPv6, times
milliseconds since the Unix epoch. A reader ignores fields it does not know, so fields may be added.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from lattice.canonical import INTEGER_MAX
from lattice.identity import Grant
from lattice.policy_ops import OpId
from lattice.policy_store import ChainHead
from lattice.types import AuthorId, VersionId
from lattice.view import LatticeView, MemberView, PolicyView, RegionView
from router.control.target import (
    ControlTarget,
    NodeEvent,
    PolicyHead,
    Proof,
    Published,
    RegionSignal,
    RegionSnapshot,
    RegionSteering,
    Standing,
)
from router.decision.decide import Decision, Request
from router.policy.errors import PolicyError
from router.site.config_reader import endpoint_text

DEFAULT_POLICY = "default"
"""The policy that the router puts into force, and that is meant where none is named."""
OPS_MEDIA_TYPE = "application/vnd.edgelattice.ops"
"""A msgpack array of signed ops, in chain order."""

EVENTS_MAX = 200
"""How many of the last events a view carries: some minutes of a lively cluster, some 30 KB."""

LATENCY_MS_MAX = 3_600_000
EPOCH_IN_MS_FROM = 100_000_000_000
"""A timestamp from here on can only be milliseconds: as seconds it would lie past the year 5000."""


class WitnessBody(msgspec.Struct, frozen=True):
    site: str
    node: str
    level: str
    since_ms: int


class RegionBody(msgspec.Struct, frozen=True):
    region: str
    effective: str
    verdict: str
    own: str
    reason: str
    since_ms: int
    witnesses: list[WitnessBody]


class SteeringBody(msgspec.Struct, frozen=True):
    """What the node makes of a region; see `RegionSteering`."""

    region: str
    planned: str
    reason: str
    recover_after_us: int
    penalty: int
    suppress: int | None
    suppressed: bool
    returns_ms: int | None
    saturation_ppm: int
    rtt_us: int | None
    away_ppm: int = 0


class MemberBody(msgspec.Struct, frozen=True):
    node: str
    site: str
    address: str
    state: str
    incarnation: int
    applied: dict[str, str]
    at_e6: tuple[int, int] | None = None
    """Latitude and longitude of its site in millionths of a degree."""


class PolicyBody(msgspec.Struct, frozen=True):
    policy: str
    version: str
    author: str
    message: str
    published_ms: int
    applied_ms: int | None
    rivals: list[str]


class QuarantineBody(msgspec.Struct, frozen=True):
    """A node whose key said two things of one moment: it does not vote until it begins anew, or never again."""

    node: str
    site: str
    incarnations: list[int]
    spent: bool
    evidence: list[str]
    """The ids of the cells that prove it, one an incarnation."""


class ForkBody(msgspec.Struct, frozen=True):
    """An author whose key signed two ops in one place: what it published from there on counts for nothing."""

    author: str
    seq: int
    evidence: list[str]
    """The ids of two such ops."""


class TrafficBody(msgspec.Struct, frozen=True):
    requests: int
    by_region: dict[str, int]
    errors: int
    retries: int


class ViewBody(msgspec.Struct, frozen=True):
    """`GET /v1/view`."""

    node: str
    site: str
    now_ms: int
    isolated: bool
    root: str
    cells: int
    members: list[MemberBody]
    regions: list[RegionBody]
    policies: list[PolicyBody]
    traffic: TrafficBody
    ejected: list[str]
    counters: dict[str, int]
    events: list[dict[str, str | int]]
    """`at_ms`, `kind`, `text`, and what else belongs to the kind (see `NodeEvent.detail`)."""
    warnings: list[str] = []
    """What somebody should do something about: a certificate that ends."""
    quarantined: list[QuarantineBody] = []
    forked: list[ForkBody] = []
    steering: list[SteeringBody] = []
    revoked: list[str] = []
    """Ids of the nodes and authors whose keys the CA has taken back."""


class RevokedBody(msgspec.Struct, frozen=True):
    """`POST /v1/revocations`: all keys that are revoked, by id."""

    revoked: list[str]


class AttemptBody(msgspec.Struct, frozen=True):
    region: str
    tier: str
    level: str
    endpoint: str


class DecisionBody(msgspec.Struct, frozen=True):
    """`GET /v1/decide`."""

    route: str
    zone: str
    proposed: str | None
    region: str | None
    tier: str
    reason: str
    status: int
    attempts: list[AttemptBody]
    country: str = ""
    """Where the node's location database has the client, if the policy asks; so the next three."""
    continent: str = ""
    asn: int = 0
    location: int = 0
    """To a degree: 1 + 360 (latitude + 90) + (longitude + 180), rounded; 0 when it is not known."""


class PublishedBody(msgspec.Struct, frozen=True):
    """`POST /v1/policy`."""

    policy: str
    version: str
    ops: int


class HeadBody(msgspec.Struct, frozen=True):
    """`GET /v1/policy/head`: what composing on the operator's machine starts from."""

    cluster: str
    policy: str
    author: str
    seq: int
    previous: str
    hlc: int
    parent: str | None
    supersedes: list[str]
    blocks_known: list[str]
    base: int = 1
    checkpoint_due: bool = False


class StandingBody(msgspec.Struct, frozen=True):
    version: str
    author: str
    message: str
    published_ms: int
    text: str | None
    """None: this one says that the policy is deleted."""
    serves: bool


class StandingsBody(msgspec.Struct, frozen=True):
    """`GET /v1/policy/versions`: the versions that nobody ended, the serving one first."""

    policy: str
    versions: list[StandingBody]


class KeyBody(msgspec.Struct, frozen=True):
    id: str
    label: str
    used: bool


class PeerKeysBody(msgspec.Struct, frozen=True):
    node: str
    site: str
    state: str
    key: str
    frames: dict[str, int]
    uses_ours: bool
    has_ours: bool


class KeysBody(msgspec.Struct, frozen=True):
    """`GET /v1/keys`: ids and labels, never a key."""

    site: str
    keys: list[KeyBody]
    peers: list[PeerKeysBody]


class SnapshotRegionBody(msgspec.Struct, frozen=True):
    region: str
    latency_ms: int | None
    error_rate: float | None
    capacity_pct: int | None
    timestamp: float | None
    level: str


class SnapshotBody(msgspec.Struct, frozen=True):
    """`GET /snapshot`."""

    regions: list[SnapshotRegionBody]


class ProofBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a signal is its region's own word; all but `until` hexadecimal."""

    key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    until: Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]
    grant: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]
    signature: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]

    @classmethod
    def of(cls, proof: Proof) -> ProofBody:
        grant = proof.grant
        return cls(proof.public_key.hex(), grant.until_s, grant.signature.hex(), proof.signature.hex())

    def proof(self, region: str) -> Proof:
        grant = Grant(region, self.until, bytes.fromhex(self.grant))
        return Proof(bytes.fromhex(self.key), grant, bytes.fromhex(self.signature))


class UpdateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /update`. `error_rate` is a fraction, `timestamp` Unix seconds or milliseconds; both may be fractional."""

    region: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=LATENCY_MS_MAX)]
    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    capacity_pct: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e15)] | None = None
    proof: ProofBody | None = None

    def signal(self, now_ms: int) -> RegionSignal:
        """The signal in integers; one without a timestamp was taken at `now_ms`."""
        told = now_ms if self.timestamp is None else self.timestamp
        timestamp_ms = int(told) if told >= EPOCH_IN_MS_FROM else int(told * 1_000)
        return RegionSignal(
            region=self.region,
            latency_ms=round(self.latency_ms),
            error_rate_ppm=round(self.error_rate * 1_000_000),
            capacity_pct=round(self.capacity_pct),
            timestamp_ms=timestamp_ms,
        )


class DiagnosticBody(msgspec.Struct, frozen=True):
    code: str
    line: int
    column: int
    message: str
    expected: str
    hint: str
    width: int = 1
    """How many characters from `column` on are meant."""


def diagnostic_bodies(error: PolicyError | None) -> list[DiagnosticBody]:
    """What is wrong with a policy; nothing when nothing is."""
    diagnostics = () if error is None else error.diagnostics
    return [DiagnosticBody(d.code, d.line, d.column, d.message, d.expected, d.hint, d.width) for d in diagnostics]


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every answer from 400 on."""

    error: str
    path: str = ""
    """Which part of the request: a JSON path, a query parameter or a header."""
    remedy: str = ""
    diagnostics: list[DiagnosticBody] = []
    rendered: str = ""
    """The diagnostics as people read them, with source lines and carets."""


def view_body(target: ControlTarget, own_counters: dict[str, int]) -> ViewBody:
    """All that a node knows and did, at one moment."""
    view: LatticeView = target.view()
    traffic = target.traffic()
    counters = {**target.counters(), **own_counters}
    return ViewBody(
        node=view.node.hex(),
        site=view.site,
        now_ms=view.now // 1_000,
        isolated=view.isolated,
        root=view.root.hex(),
        cells=view.cells,
        members=[_member(member) for member in view.members],
        regions=[_region(region) for region in view.regions],
        policies=[_policy(policy, target.applied_ms(policy.policy)) for policy in view.policies],
        traffic=TrafficBody(traffic.requests, dict(traffic.by_region), traffic.errors, traffic.retries),
        ejected=[endpoint_text(endpoint) for endpoint in sorted(target.ejected())],
        counters={name: counters[name] for name in sorted(counters)},
        events=[_event(event) for event in list(target.events())[-EVENTS_MAX:]],
        warnings=list(target.warnings()),
        quarantined=[
            QuarantineBody(
                node=caught.node.hex(),
                site=caught.site,
                incarnations=list(caught.incarnations),
                spent=caught.spent,
                evidence=[cell.hex() for cell in caught.evidence],
            )
            for caught in view.quarantined
        ],
        forked=[ForkBody(fork.author.hex(), fork.seq, [op.hex() for op in fork.evidence]) for fork in view.forks],
        steering=[_steering(region) for region in target.steering()],
        revoked=[key.hex() for key in view.revoked],
    )


def _steering(region: RegionSteering) -> SteeringBody:
    return SteeringBody(
        region=region.region,
        planned=region.planned.name,
        reason=region.reason,
        recover_after_us=region.recover_after_us,
        penalty=region.penalty,
        suppress=region.suppress,
        suppressed=region.suppressed,
        returns_ms=region.returns_ms,
        saturation_ppm=region.saturation_ppm,
        rtt_us=region.rtt_us,
        away_ppm=region.away_ppm,
    )


def decision_body(decision: Decision, request: Request) -> DecisionBody:
    return DecisionBody(
        route=decision.route,
        zone=decision.zone,
        proposed=decision.proposed,
        region=decision.region,
        tier=decision.tier,
        reason=decision.reason,
        status=decision.status,
        attempts=[
            AttemptBody(attempt.region, attempt.tier, attempt.level.name, endpoint_text(attempt.endpoint))
            for attempt in decision.attempts
        ],
        country=request.country,
        continent=request.continent,
        asn=request.asn,
        location=request.location,
    )


def published_body(published: Published) -> PublishedBody:
    return PublishedBody(published.policy, published.version.hex(), published.ops)


def head_body(policy: str, author: AuthorId, head: PolicyHead) -> HeadBody:
    return HeadBody(
        cluster=head.cluster,
        policy=policy,
        author=author.hex(),
        seq=head.chain.seq,
        previous=head.chain.id.hex(),
        hlc=head.chain.hlc,
        parent=None if head.parent is None else head.parent.hex(),
        supersedes=list(head.supersedes),
        blocks_known=sorted(head.blocks_known),
        base=head.chain.base,
        checkpoint_due=head.checkpoint_due,
    )


def standings_body(policy: str, versions: Iterable[Standing]) -> StandingsBody:
    return StandingsBody(
        policy,
        [
            StandingBody(
                version=standing.version.hex(),
                author=standing.author.hex(),
                message=standing.message,
                published_ms=standing.published_ms,
                text=standing.text,
                serves=standing.serves,
            )
            for standing in versions
        ],
    )


def head_of(body: HeadBody) -> PolicyHead:
    """The reverse of `head_body`. Raises ValueError if an id is not hexadecimal."""
    return PolicyHead(
        cluster=body.cluster,
        chain=ChainHead(body.seq, OpId(bytes.fromhex(body.previous)), body.hlc, body.base),
        parent=None if body.parent is None else VersionId(bytes.fromhex(body.parent)),
        supersedes=tuple(body.supersedes),
        blocks_known=frozenset(body.blocks_known),
        checkpoint_due=body.checkpoint_due,
    )


def keys_body(target: ControlTarget) -> KeysBody:
    """The keys here, and what is known of those of every member; "?" for one who is no member any more."""
    view, state = target.view(), target.keys()
    members = {member.node: member for member in view.members}
    peers = []
    for peer in state.peers:
        member = members.get(peer.node)
        peers.append(
            PeerKeysBody(
                node=peer.node.hex(),
                site=member.site if member else "?",
                state=member.state if member else "?",
                key=peer.key.hex(),
                frames={key.hex(): count for key, count in peer.frames},
                uses_ours=peer.uses_ours,
                has_ours=peer.has_ours,
            )
        )
    return KeysBody(
        site=view.site,
        keys=[KeyBody(key.id.hex(), key.label, key.used) for key in state.keys],
        peers=sorted(peers, key=lambda peer: (peer.site, peer.node)),
    )


def snapshot_body(regions: list[RegionSnapshot]) -> SnapshotBody:
    return SnapshotBody(
        [
            SnapshotRegionBody(
                region=region.region,
                latency_ms=region.latency_ms,
                error_rate=None if region.error_rate_ppm is None else region.error_rate_ppm / 1_000_000,
                capacity_pct=region.capacity_pct,
                timestamp=None if region.timestamp_ms is None else region.timestamp_ms / 1_000,
                level=region.level.name,
            )
            for region in regions
        ]
    )


def _member(member: MemberView) -> MemberBody:
    return MemberBody(
        node=member.node.hex(),
        site=member.site,
        address=endpoint_text(member.endpoint) if member.endpoint[0] else f"*:{member.endpoint[1]}",
        state=member.state,
        incarnation=member.incarnation,
        applied={policy: version.hex() for policy, version in member.applied},
        at_e6=member.at_e6,
    )


def _region(region: RegionView) -> RegionBody:
    return RegionBody(
        region=region.region,
        effective=region.effective.name,
        verdict=region.verdict.name,
        own=region.own.name,
        reason=region.reason,
        since_ms=region.since // 1_000,
        witnesses=[
            WitnessBody(witness.site, witness.node.hex(), witness.level.name, witness.since_ms)
            for witness in region.witnesses
        ],
    )


def _policy(policy: PolicyView, applied_ms: int | None) -> PolicyBody:
    return PolicyBody(
        policy=policy.policy,
        version=policy.version.hex(),
        author=policy.author.hex(),
        message=policy.message,
        published_ms=policy.published_ms,
        applied_ms=applied_ms,
        rivals=[version.hex() for version in policy.rivals],
    )


def _event(event: NodeEvent) -> dict[str, str | int]:
    return {**dict(event.detail), "at_ms": event.at_ms, "kind": event.kind, "text": event.text}
