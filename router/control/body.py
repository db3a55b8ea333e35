"""The control API's JSON, as types: what a node answers and is told, and what commands and the demo read.

Ids are lower-case hexadecimal, levels upper-case names, endpoints `address:port` with brackets around IPv6, times
milliseconds since the Unix epoch. A reader ignores fields it does not know, so fields may be added.

Types alone (`router.control.answers` fills them), so that a command that only asks a node loads nothing of one.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from lattice.canonical import INTEGER_MAX

DEFAULT_POLICY = "default"
"""The policy that the router puts into force, and that is meant where none is named."""
OPS_MEDIA_TYPE = "application/vnd.edgelattice.ops"
"""A msgpack array of signed ops, in chain order."""

LATENCY_MS_MAX = 3_600_000


class WitnessBody(msgspec.Struct, frozen=True):
    site: str
    node: str
    level: str
    since_ms: int
    latency_us: int = 0
    errors_ppm: int = 0
    evidence: int = 0
    """How many samples stand behind the level. Of all three the least of the bucket that the row carries."""


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
    """Which serves everybody who is in no stage of a rollout."""
    author: str
    message: str
    published_ms: int
    applied_ms: int | None
    rivals: list[str]
    in_force: str = ""
    """The version by which this node decides; nothing if it has none."""
    trial: str = ""
    """What that version is on trial as, if it is: "canary ID"."""


class RolloutSiteBody(msgspec.Struct, frozen=True):
    """One site, in one rollout."""

    site: str
    inside: bool
    """The stage in force holds it."""
    word: str
    """What it says of the version: "undecided", "passed", "rolled back" or "condemned"."""
    in_force: str
    """Which version is in force there, by its own word; nothing if it does not say."""


class AbortBody(msgspec.Struct, frozen=True):
    author: str
    message: str
    at_ms: int


class RolloutBody(msgspec.Struct, frozen=True):
    """A version's way to all sites."""

    id: str
    policy: str
    version: str
    base: str
    """What sites go back to."""
    stages: list[int]
    """Percent of all sites."""
    stage: int
    """The place of the one in force, from 0."""
    first: list[str]
    """Sites that are in from the first stage on."""
    author: str
    message: str
    started_ms: int
    start: str
    """As its author wrote it, for whoever signs what follows."""
    state: str
    """"under way", "complete", "aborted", "rolled back" or "set aside"."""
    abort: AbortBody | None
    passed: bool
    """More than half of the sites in the stage found it good."""
    sites: list[RolloutSiteBody]
    """Every site whose word counts."""


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
    rollouts: list[RolloutBody] = []
    """Those that no later publish has ended."""


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
    version: str = ""
    """Of the policy, by which it was decided; nothing before there is one."""
    trial: str = ""
    """What that version is on trial as, if it is: "canary ID"."""


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


class UpdateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /update`. `error_rate` is a fraction, `timestamp` Unix seconds or milliseconds; both may be fractional."""

    region: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=LATENCY_MS_MAX)]
    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    capacity_pct: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e15)] | None = None
    proof: ProofBody | None = None


class DiagnosticBody(msgspec.Struct, frozen=True):
    code: str
    line: int
    column: int
    message: str
    expected: str
    hint: str
    width: int = 1
    """How many characters from `column` on are meant."""


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every answer from 400 on."""

    error: str
    path: str = ""
    """Which part of the request: a JSON path, a query parameter or a header."""
    remedy: str = ""
    diagnostics: list[DiagnosticBody] = []
    rendered: str = ""
    """The diagnostics as people read them, with source lines and carets."""
