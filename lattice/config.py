"""Every knob of the engine, with its unit and where its default comes from."""

from __future__ import annotations

from dataclasses import dataclass

from lattice.types import MILLISECOND, SECOND

ROWS_A_REFRESH = 8
"""How many rows a node takes in each `row_refresh_us` at most, where nothing changes: with their announcements a
large part of what an idle cluster says."""


@dataclass(frozen=True, slots=True)
class Config:
    """The timing and the limits of one engine. All durations are microseconds."""

    lifeguard: bool = True
    """False: plain SWIM, for comparison. Suspicion is `suspicion_us` for all, there are no nacks, no local health, no
    second pings, no pushed claims, and a claim of death is believed on one member's word."""
    swim_interval_us: int = 400 * MILLISECOND
    """One member is pinged each interval (SWIM's protocol period; memberlist's LAN default is 1 s). A crashed member
    meets its first probe after half an interval in the mean and little more than one at most (`turns`)."""
    ack_timeout_us: int = 500 * MILLISECOND
    """The longest that a direct ping waits before others are asked to try (`rtt`). memberlist: 500 ms on a LAN,
    always."""
    ack_timeout_min_us: int = 50 * MILLISECOND
    """And the shortest: a scheduler's hiccup is no loss."""
    probe_us: int = SECOND
    """How long a probe may take in all, helpers included."""
    ping_req_count: int = 3
    """How many members are asked to ping in our stead (k in the paper; memberlist: 3)."""
    suspicion_us: int = SECOND
    """How long a suspect may refute when `confirmations` others accuse it, too. memberlist: 4 × log10(n) × 1 s, for
    news that rides on pings; here accusation and refutation travel along trees, in well under a second."""
    suspicion_max_mult: int = 6
    """And so many times as long when nobody else accuses it (as in memberlist)."""
    confirmations: int = 3
    """How many independent accusers besides the first make a suspicion as short as it gets (K; memberlist: 3)."""
    stall_us: int = 250 * MILLISECOND
    """A timer handled so late means that we were not listening: what we think we missed proves nothing. 0: never."""
    claims_per_s: int = 20
    """How many claims a node pushes in the long run; what is over it rides on pings, as in plain SWIM."""
    claims_burst: int = 100
    updates_per_frame_max: int = 8
    """Membership changes that ride on one ping or ack."""
    retransmit_mult: int = 4
    """Each change rides on `retransmit_mult × ceil(log10(n + 1))` frames (memberlist: 4)."""

    row_refresh_us: int = 60 * SECOND
    """How often a row that nothing changed is issued again, stretched with the cluster: see `row_refresh_for`."""
    row_refresh_max_us: int = 24 * 3600 * SECOND
    row_lease_refreshes: int = 4
    """A row stands for this many refreshes after its observer was last known to be there."""
    confirm_delay_us: int = 2 * SECOND
    """How long (give or take a quarter) an observation waits that only confirms what the lattice already says."""
    metrics_delay_us: int = 5 * SECOND
    """The same for a change in metrics that changes no level."""
    overrule_us: int = 2 * SECOND
    """A verdict that our own trials contradict for this long is overruled here."""

    announce_delay_us: int = 20 * MILLISECOND
    """How long an announcement waits for others to the same peer."""
    heal_quiet_us: int = 200 * MILLISECOND
    """How long nothing of the kind must have come before a node compares itself with the other side: a few hops."""
    heal_slot_us: int = 100 * MILLISECOND
    """And then it waits for up to log2(n) of these, most nodes for most of them: in one, the first can be heard of."""
    heal_patience_us: int = 5 * SECOND
    """But no longer than this in all."""
    heal_pair_us: int = 300 * MILLISECOND
    """How long a node waits for what the other side promised before it compares with somebody else there."""
    announce_late_us: int = 300 * MILLISECOND
    """The same for one of many ops, which takes more hops: sooner it would be asked for while it is on its way."""
    gap_delay_us: int = 30 * MILLISECOND
    """How long an op's predecessor may be late before it is asked for: datagrams overtake each other."""
    graft_delay_us: int = 10 * MILLISECOND
    """How long an announced cell may be missing before it is asked for."""
    graft_retry_us: int = 150 * MILLISECOND
    """And before the next who announced it is asked: a round trip over most of the world."""
    rumours_per_s: int = 20
    """How many cells of one writer are passed on in the long run (Fly's certificate loop, 2024, had no such bound)."""
    rumours_burst: int = 100
    """And at once."""
    ops_burst: int = 1_024
    """Of an author's ops: the largest policy is 513 of them, so each publish goes out whole, and a tool that publishes
    in a loop does not."""
    rumour_bytes_per_s: int = 1_300_000
    """What a node pushes in the long run, of all that it passes on: 10 Mbit/s. What peers are given for the asking is
    taken from it too, so that rumours wait while much is asked for."""
    rumour_bytes_burst: int = 2_000_000
    """And at once. With a second's worth, or a second's answers, in no second 4 MB (the simulator's `no-storm`)."""
    answer_bytes_per_s: int = 900_000
    """What all peers may have of a node for the asking in the long run, and any one of them half of it (`answers`).
    Less than it pushes, or two peers who ask in a loop would have it push nothing."""
    answer_bytes_burst: int = 900_000
    """And at once."""
    rumours_waiting_max: int = 4_096
    """Cells that stand in line for that; what finds no place there is left to anti-entropy."""
    reconcile_delay_us: int = 30 * MILLISECOND
    """How long unequal roots may stand before a reconciliation begins: rumours in flight often end it first."""
    reconcile_quiet_us: int = 100 * MILLISECOND
    """And for so long no rumour must have brought news: longer than a hop, and than a repair of one."""
    reconcile_patience_us: int = SECOND
    """But where rumours never cease, a reconciliation begins all the same."""
    delta_bytes_max: int = 64 * 1024
    """At most so much in answer to one filter; the rest follows in the next round."""
    delta_bytes_min: int = 1_200
    """And where most of it does not arrive no less than a datagram (`pacing`)."""
    narrow_us: int = 75 * MILLISECOND
    """Parts of a delta that come in so far apart came over a narrow link: 1,200 bytes in so long are 128 kbit/s."""
    narrow_pair_us: int = 1_500 * MILLISECOND
    """How long a node whose link is narrow waits for its partner before it compares with somebody else: as long as an
    answer takes through queues that are full both ways."""
    narrow_linger_us: int = 3 * SECOND
    """And for how long a link is narrow after it was seen to be."""
    delta_wait_us: int = 300 * MILLISECOND
    """How long the last answer may take before it is held to be lost: a round trip over any path, and some."""
    delta_wait_max_us: int = 4 * SECOND
    """And how long at most, where it was lost again and again."""

    redial_us: int = SECOND
    """First wait before an endpoint that did not answer is tried again; doubles up to `redial_max_us`."""
    redial_max_us: int = 30 * SECOND
    rows_kept: bool = True
    """Whether others' rows outlive a restart. A simulation of thousands would keep millions of them in one memory."""
    forget_us: int = 24 * 3600 * SECOND
    """A member that has been gone so long is forgotten (Serf's `reconnect_timeout`: 24 h)."""

    datagram_bytes_max: int = 1_200
    """QUIC's floor (RFC 9000, 14): passes every path that IPv6 passes, unfragmented."""
    frame_bytes_max: int = 64 * 1024
    """One stream frame."""
    members_max: int = 20_000
    leave_told_max: int = 1_024
    """How many peers a leaving node tells: all, up to here, for nobody is believed who says it of another. Sixty bytes
    each."""
    dials_max: int = 256
    """Endpoints under trial at a time; discovery beyond it is dropped and counted."""

    def row_refresh_for(self, members: int) -> int:
        """The refresh interval in a cluster of so many: constant up to `ROWS_A_REFRESH` members, then proportional.

        So the cost of refreshing all rows is the same per node and second however large the cluster is; a member's
        failure is SWIM's to find, not the lease's.
        """
        return min(self.row_refresh_us * max(ROWS_A_REFRESH, members) // ROWS_A_REFRESH, self.row_refresh_max_us)
