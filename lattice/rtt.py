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

from typing import TypeAlias

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


Estimate: TypeAlias = tuple[int, int, int]
"""A smoothed round trip times 8, how much it varies times 4, as Jacobson kept them, so that shifts lose nothing; and of
how many samples it is. Each sample makes another one: so small a tuple is sooner made than an object is changed."""


def after(estimate: Estimate | None, sample_us: int) -> Estimate:
    """What one more sample makes of it; the first one makes it alone."""
    if estimate is None:
        return sample_us * 8, sample_us * 2, 1
    srtt_8, var_4, samples = estimate
    error = sample_us - (srtt_8 >> 3)
    return srtt_8 + error, var_4 + (error if error >= 0 else -error) - (var_4 >> 2), samples + 1


def timeout_of(estimate: Estimate) -> int:
    """What hardly any answer exceeds."""
    srtt_8, var_4, _ = estimate
    return (srtt_8 >> 3) + var_4


class RttTable:
    """The estimates of one node."""

    __slots__ = ("_areas", "_late", "_least_us", "_members", "_most_us")

    def __init__(self, least_us: int, most_us: int) -> None:
        self._least_us = min(least_us, most_us)
        self._most_us = most_us
        self._members: dict[NodeId, Estimate] = {}
        self._areas: dict[str, Estimate] = {}
        self._late: dict[NodeId, tuple[int, Micros]] = {}
        """Whose answers were later than the clamp: the latest, and until when that counts. Of hardly any member."""

    def observe(self, node: NodeId, area: str, sample_us: int, now: Micros) -> None:
        if sample_us > self._most_us:
            self.observe_late(node, sample_us, now)
            return
        if self._late:
            self._remember(node, sample_us, now)
        members, areas = self._members, self._areas
        members[node] = after(members.get(node), sample_us)
        near = areas.get(area)
        if near is None and len(areas) >= AREAS_MAX:
            areas.clear()  # rows may name any area; measuring again costs a few patient probes
        areas[area] = after(near, sample_us)

    def observe_late(self, node: NodeId, sample_us: int, now: Micros) -> None:
        """An answer that came after its probe, or later than the clamp. Its area has nothing to do with that: the
        member's own link has."""
        sample_us = min(sample_us, LATE_US)
        self._remember(node, sample_us, now)
        self._members[node] = after(self._members.get(node), sample_us)

    def _remember(self, node: NodeId, sample_us: int, now: Micros) -> None:
        """Keep how late its answers were, as far as this one leaves it."""
        latest_us, until = self._late.pop(node, (0, now))
        if until <= now:
            latest_us = 0
        latest_us = max(sample_us, latest_us - (latest_us >> 3))
        if latest_us > self._most_us:
            self._late[node] = latest_us, Micros(now + LATE_KEPT_US) if sample_us > self._most_us else until

    def timeout_us(self, node: NodeId, area: str, now: Micros) -> int:
        """How long to wait for an answer of this member."""
        known = self._members.get(node)
        timeout = timeout_of(known) if known is not None else 0
        if known is None or known[2] < SAMPLES_TRUSTED:
            near = self._areas.get(area)
            usual = timeout_of(near) if near is not None else UNMEASURED_US
            if usual > UNMEASURED_US and near is not None and near[2] < SAMPLES_TRUSTED:
                usual = UNMEASURED_US
            if usual > timeout:
                timeout = usual
        most_us = self._most_us
        if timeout > most_us:
            latest_us, until = self._late.get(node, (0, now))
            return min(timeout, latest_us) if until > now else most_us
        return timeout if self._least_us < timeout else self._least_us  # noqa: FURB136  (`max` takes five times as long)

    def forget(self, node: NodeId) -> None:
        self._members.pop(node, None)
        self._late.pop(node, None)
