"""The engine's whole edge on one screen: what goes in, what comes out.

Inputs and notifications are past tense, effects imperative. `Engine.handle(input, now)` turns one input into a list of
effects; whoever owns the engine (the trio driver, the simulator, a test) performs them in order before the next input.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from lattice.health import Observation
from lattice.identity import Grant
from lattice.record import Record
from lattice.rollouts import RolloutId, Served, Word
from lattice.types import AuthorId, Endpoint, Level, NodeId, VersionId

# --- local changes: what this node's own router, discovery and operators tell the engine


class PeerDiscovered(Record):
    """Something may be listening there. A hint: identity is proven by what it signs."""

    endpoint: Endpoint


class SeedsResolved(Record):
    """Where the configured seeds are now, all of them; it replaces the last one."""

    endpoints: tuple[Endpoint, ...]


class HealthObserved(Record):
    """This node's whole opinion of every region it watches; it replaces the last one."""

    observations: tuple[Observation, ...]


class OpsSubmitted(Record):
    """Signed policy ops from an operator, as they go on the wire, in chain order."""

    ops: tuple[bytes, ...]


class PolicyApplied(Record):
    """The router put this version into force; the node's row says so."""

    policy: str
    version: VersionId


class RolloutJudged(Record):
    """What came of this site's own requests under a rollout's version, in that stage: `PASSED` or `CONDEMNED`."""

    rollout: RolloutId
    stage: int
    word: Word


class Certified(Record):
    """The CA has granted this node anew; its row shows this grant from now on."""

    grant: Grant


class RevocationsSubmitted(Record):
    """The CA's word on keys that it takes back, as signed."""

    revocations: tuple[bytes, ...]


class PurgesSubmitted(Record):
    """An operator's words that what is cached of some paths is wrong, as signed."""

    purges: tuple[bytes, ...]


class LeaveRequested(Record):
    """The node is about to stop: tell the peers, so that they need not find out."""


class LoopLagged(Record):
    """The driver came so late to a timer or an input: this node is starved, and must not blame its peers for it."""

    lag_us: int


class RecordsLost(Record):
    """What was persisted is gone, or some of it: persist everything again."""


LocalChange: TypeAlias = (
    PeerDiscovered
    | SeedsResolved
    | HealthObserved
    | OpsSubmitted
    | PolicyApplied
    | RolloutJudged
    | Certified
    | RevocationsSubmitted
    | PurgesSubmitted
    | LeaveRequested
    | LoopLagged
    | RecordsLost
)

# --- inputs


class DatagramReceived(Record):
    data: bytes
    source: Endpoint


class StreamFrameReceived(Record):
    """One whole frame of a stream; the port of `source` is that of the connection, not where the peer listens."""

    data: bytes
    source: Endpoint


class TimerFired(Record):
    """It is `Engine.due`, or later; the engine knows what is due. Also the first input of all."""


class LocalUpdate(Record):
    change: LocalChange


class Restored(Record):
    """Records that `Persist` wrote in an earlier life, in any order, before the first timer."""

    records: tuple[tuple[str, bytes, bytes], ...]
    """(table, key, value)"""


Input: TypeAlias = DatagramReceived | StreamFrameReceived | TimerFired | LocalUpdate | Restored

# --- notifications


class MemberChanged(Record):
    node: NodeId
    site: str
    state: str


class IdConflict(Record):
    """The key of a node is in use at another address at the same time: one of the two must be stopped by a person."""

    node: NodeId
    """It may be this node itself."""
    endpoint: Endpoint
    """Where the other one was seen."""


class RegionChanged(Record):
    """This node's effective level of a region changed."""

    region: str
    old: Level
    new: Level
    reason: str


class VerdictChanged(Record):
    """The lattice's verdict on a region changed, as seen from here."""

    region: str
    old: Level
    new: Level


class RegionDoubted(Record):
    """A peer newly reports a region worse than this node sees it: a reason to look for oneself, at once."""

    region: str
    site: str
    level: Level


class PolicyChanged(Record):
    """Another version of a policy serves from now on; `view().policies` has it."""

    policy: str
    version: VersionId


class ServedChanged(Record):
    """By a rollout, this site is to serve another version of a policy from now on, or the same in another stage."""

    policy: str
    served: Served


class RolledBack(Record):
    """So many sites found a rollout's version bad that everybody goes back; this one stays there."""

    policy: str
    rollout: RolloutId
    version: VersionId


class OpAccepted(Record):
    op: bytes
    """The op's 16-byte id."""


class EquivocationProven(Record):
    """An observer's key signed two rows of one version: its word does not count from now on, here and everywhere."""

    node: NodeId
    site: str
    incarnation: int
    spent: bool
    """No later incarnation of this key counts either."""


class KeyRevoked(Record):
    """The CA has taken a key back: a node's, perhaps this one's own, or an author's."""

    key: NodeId | AuthorId
    name: str
    """The site of the node, if it is known."""


class Purged(Record):
    """What was cached of these paths until now is not to be used any more."""

    host: str
    path: str
    author: AuthorId


class Rejected(Record):
    """Something was refused and counted; state is unchanged."""

    what: str
    """"datagram", "frame", or the kind of a cell."""
    reason: str
    source: Endpoint | None


Notification: TypeAlias = (
    MemberChanged
    | IdConflict
    | RegionChanged
    | VerdictChanged
    | RegionDoubted
    | PolicyChanged
    | ServedChanged
    | RolledBack
    | OpAccepted
    | EquivocationProven
    | KeyRevoked
    | Purged
    | Rejected
)

# --- effects


class Holds(IntEnum):
    """Which frames may not leave before a record is durable."""

    NOTHING = 0
    """What it says can be had again, or is outgrown, should it be lost."""
    CELLS = 1
    """Frames that carry cells: under this incarnation or in this place of a chain we say one thing only, whatever
    happens to this process. Probes and their answers say nothing of the kind, and a slow disk must not delay them."""
    FRAMES = 2
    """All frames: it is what keeps their nonces from being used again."""


class SendDatagram(Record):
    data: bytes
    target: Endpoint
    cells: bool = False
    """It carries cells: see `Holds`."""


class SendStream(Record):
    """A frame too large for a datagram, delivered whole or not at all."""

    data: bytes
    target: Endpoint
    cells: bool = True
    """As of a datagram."""


class Persist(Record):
    """Write a record, or remove it (`value` is None). What it holds back leaves once it is durable, be it an effect of
    this call or of a later one."""

    table: str
    key: bytes
    value: bytes | None
    holds: Holds = Holds.NOTHING


class Notify(Record):
    notification: Notification


Effect: TypeAlias = SendDatagram | SendStream | Persist | Notify
