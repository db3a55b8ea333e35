"""From a node's values to the bodies of the control API's answers, and back. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lattice.health import Report
from lattice.identity import Grant
from lattice.policy_ops import OpId
from lattice.policy_store import ChainHead
from lattice.quantise import lower_edge
from lattice.types import AuthorId, NodeId, VersionId
from lattice.view import LatticeView, MemberView, RegionView, Witness
from router.control.body import (
    AttemptBody,
    DecisionBody,
    ForkBody,
    HeadBody,
    KeyBody,
    KeysBody,
    MemberBody,
    PeerKeysBody,
    ProofBody,
    PublishedBody,
    QuarantineBody,
    RegionBody,
    SnapshotBody,
    SnapshotRegionBody,
    StandingBody,
    StandingsBody,
    SteeringBody,
    TrafficBody,
    UpdateBody,
    ViewBody,
    WitnessBody,
)
from router.control.rollout_answers import policy_body, rollouts_body
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
from router.site.config_reader import endpoint_text

EVENTS_MAX = 200
"""How many of the last events a view carries: some minutes of a lively cluster, some 30 KB."""
EPOCH_IN_MS_FROM = 100_000_000_000
"""A timestamp from here on can only be milliseconds: as seconds it would lie past the year 5000."""


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
        regions=_regions(view),
        policies=[
            policy_body(each, view, target.applied_ms(each.policy), target.in_force(each.policy))
            for each in view.policies
        ],
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
        rollouts=rollouts_body(view),
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


def decision_body(decision: Decision, request: Request, in_force: tuple[VersionId, str] | None) -> DecisionBody:
    """A decision, and by which version it is: what `ControlTarget.in_force` says."""
    version, trial = ("", "") if in_force is None else (in_force[0].hex(), in_force[1])
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
        version=version,
        trial=trial,
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


def proof_body(proof: Proof) -> ProofBody:
    grant = proof.grant
    return ProofBody(proof.public_key.hex(), grant.until_s, grant.signature.hex(), proof.signature.hex())


def proof_of(body: ProofBody, region: str) -> Proof:
    """The reverse of `proof_body`, for a signal about `region`."""
    grant = Grant(region, body.until, bytes.fromhex(body.grant))
    return Proof(bytes.fromhex(body.key), grant, bytes.fromhex(body.signature))


def signal_of(body: UpdateBody, now_ms: int) -> RegionSignal:
    """The signal in integers; one without a timestamp was taken at `now_ms`."""
    told = now_ms if body.timestamp is None else body.timestamp
    timestamp_ms = int(told) if told >= EPOCH_IN_MS_FROM else int(told * 1_000)
    return RegionSignal(
        region=body.region,
        latency_ms=round(body.latency_ms),
        error_rate_ppm=round(body.error_rate * 1_000_000),
        capacity_pct=round(body.capacity_pct),
        timestamp_ms=timestamp_ms,
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


def _regions(view: LatticeView) -> list[RegionBody]:
    reports = {(member.node, report.region): report for member in view.members for report in member.reports}
    return [_region(region, reports) for region in view.regions]


def _region(region: RegionView, reports: Mapping[tuple[NodeId, str], Report]) -> RegionBody:
    return RegionBody(
        region=region.region,
        effective=region.effective.name,
        verdict=region.verdict.name,
        own=region.own.name,
        reason=region.reason,
        since_ms=region.since // 1_000,
        witnesses=[_witness(witness, reports.get((witness.node, region.region))) for witness in region.witnesses],
    )


def _witness(witness: Witness, report: Report | None) -> WitnessBody:
    return WitnessBody(
        site=witness.site,
        node=witness.node.hex(),
        level=witness.level.name,
        since_ms=witness.since_ms,
        latency_us=0 if report is None else lower_edge(report.latency_bucket),
        errors_ppm=0 if report is None else lower_edge(report.errors_bucket),
        evidence=0 if report is None else lower_edge(report.evidence_bucket),
    )


def _event(event: NodeEvent) -> dict[str, str | int]:
    return {**dict(event.detail), "at_ms": event.at_ms, "kind": event.kind, "text": event.text}
