"""How long answers take: an estimate for each member, after RFC 6298, in whole microseconds.

``timeout = srtt + 4 × rttvar`` (RFC 6298, 2.3), clamped. Each member is probed seldom (once in n intervals), so a
member never measured is estimated by its area, and where nobody was measured by the size of the earth. A probe that was
sent twice has two nonces, so no sample is ambiguous (what Karn's rule avoids cannot arise).

The clamp is for links that carry what they are given. Behind one that is full an answer takes as long as the queues at
both its ends, which may be more than a whole probe; whoever then asks sooner only makes them longer. So an answer that
comes after its probe is a sample, too, and a member whose answers were later than the clamp is waited for as long as
the latest of them took. Each answer since lets go of an eighth of that; and when none was late for a minute, that is
over: of a thousand members one probes another every seven minutes. Nor does what is later than the clamp say anything
of an area: it is the member's own link.
"""

from __future__ import annotations

from lattice.types import MILLISECOND, SECOND, Micros, NodeId

AREAS_MAX = 1_024
SAMPLES_TRUSTED = 4
"""Before so many, a member's estimate counts only if it is more patient than its area's, and an area's only if it is
less patient than where nothing was measured: the first is three times its one sample."""
UNMEASURED_US = 350 * MILLISECOND
"""Of 79,800 pairs of sites around the world the furthest are 344 ms there and back apart, one in fifty more than 296
(400 sites of `sim.topology`, no jitter). Where it is further, others are asked for nothing until it is measured."""
LATE_US = 4 * SECOND
"""An answer that takes longer says no more than one that takes so long: the queues of a modem are as long."""
LATE_KEPT_US = 60 * SECOND
"""And for so long after such an answer its member is waited for as long as it took."""


class Rtt:
    """One smoothed estimate. Kept times 8 and 4, as Jacobson did, so that shifts lose nothing."""

    __slots__ = ("_srtt_8", "_var_4", "samples")

    def __init__(self, sample_us: int) -> None:
        self._srtt_8 = sample_us * 8
        self._var_4 = sample_us * 2
        self.samples = 1

    def observe(self, sample_us: int) -> None:
        srtt_8 = self._srtt_8
        error = sample_us - (srtt_8 >> 3)
        self.samples += 1
        self._srtt_8 = srtt_8 + error
        self._var_4 += (error if error >= 0 else -error) - (self._var_4 >> 2)

    @property
    def timeout_us(self) -> int:
        """What hardly any answer exceeds."""
        return self._srtt_8 // 8 + self._var_4


class RttTable:
    """The estimates of one node."""

    __slots__ = ("_areas", "_late", "_least_us", "_members", "_most_us")

    def __init__(self, least_us: int, most_us: int) -> None:
        self._least_us = min(least_us, most_us)
        self._most_us = most_us
        self._members: dict[NodeId, Rtt] = {}
        self._areas: dict[str, Rtt] = {}
        self._late: dict[NodeId, tuple[int, Micros]] = {}
        """Whose answers were later than the clamp: the latest, and until when that counts. Of hardly any member."""

    def observe(self, node: NodeId, area: str, sample_us: int, now: Micros) -> None:
        if sample_us > self._most_us:
            self.observe_late(node, sample_us, now)
            return
        near = self._areas.get(area)
        if self._late:
            self._remember(node, sample_us, now)
        self._observe(node, sample_us)
        if near is not None:
            near.observe(sample_us)
            return
        if len(self._areas) >= AREAS_MAX:
            self._areas.clear()  # rows may name any area; measuring again costs a few patient probes
        self._areas[area] = Rtt(sample_us)

    def observe_late(self, node: NodeId, sample_us: int, now: Micros) -> None:
        """An answer that came after its probe, or later than the clamp. Its area has nothing to do with that: the
        member's own link has."""
        sample_us = min(sample_us, LATE_US)
        self._remember(node, sample_us, now)
        self._observe(node, sample_us)

    def _remember(self, node: NodeId, sample_us: int, now: Micros) -> None:
        """Keep how late its answers were, as far as this one leaves it."""
        latest_us, until = self._late.pop(node, (0, now))
        if until <= now:
            latest_us = 0
        latest_us = max(sample_us, latest_us - (latest_us >> 3))
        if latest_us > self._most_us:
            self._late[node] = latest_us, Micros(now + LATE_KEPT_US) if sample_us > self._most_us else until

    def _observe(self, node: NodeId, sample_us: int) -> None:
        known = self._members.get(node)
        if known is None:
            self._members[node] = Rtt(sample_us)
        else:
            known.observe(sample_us)

    def timeout_us(self, node: NodeId, area: str, now: Micros) -> int:
        """How long to wait for an answer of this member."""
        known, near = self._members.get(node), self._areas.get(area)
        timeout = near.timeout_us if near is not None else UNMEASURED_US
        if timeout > UNMEASURED_US and near is not None and near.samples < SAMPLES_TRUSTED:
            timeout = UNMEASURED_US
        most_us = self._most_us
        if known is not None:
            own = known.timeout_us
            if own > timeout or known.samples >= SAMPLES_TRUSTED:
                timeout = own
        if timeout > most_us:
            latest_us, until = self._late.get(node, (0, now))
            return min(timeout, latest_us) if until > now else most_us
        return timeout if self._least_us < timeout else self._least_us  # noqa: FURB136  (`max` takes five times as long)

    def forget(self, node: NodeId) -> None:
        self._members.pop(node, None)
        self._late.pop(node, None)
