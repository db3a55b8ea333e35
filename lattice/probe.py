"""SWIM's probes: ping, and if no ack comes, ask others to ping; and if none comes still, suspect.

::

    us ──ping──▶ target                            within the target's round trip: alive
       ──ping_req──▶ k others ──ping──▶ target     until the probe ends: alive if any ack comes back
       ──ping again──▶ target, wherever it was     and again, for as long: one lost datagram says nothing, and on a
                                                   link that loses a quarter a lone second one is lost as often
                              ──nack──▶ us         "I tried, too": when all k say so, there is nothing to wait for
    otherwise: suspect

Whose turn it is says the clock (`turns`): every member is probed once an interval, by another each time. A probe
may outlast the interval: its time is set by round trips, the interval by how soon a crash is to be found and at what
cost, and neither need wait for the other.

How long a crash is then doubted depends on the slowest of those who are asked, for all of them must say that they
tried. So of twice as many who are drawn the nearer half is asked: still of many areas, and not where a word takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from msgspec import Struct

from lattice.prng import Prng
from lattice.rtt import LATE_US
from lattice.timers import NEVER_COMES
from lattice.turns import Turns
from lattice.types import Endpoint, Micros, NodeId

RELAYS_MAX = 256
PINGS_MAX = 5
"""Of one probe to the target itself, in equal steps. Where a quarter of all datagrams is lost a ping and its ack come
through in 56 of 100 cases: with two pings and three helpers 4.5 probes of 100 failed, with five pings 0.7 (N = 16)."""


@dataclass(slots=True)
class Relay:
    """A ping that we sent in somebody else's stead."""

    asked_by: Endpoint
    nonce: int
    """Of whoever asked."""
    subject: NodeId
    due: Micros
    """When we say that no answer came, and after that, when we forget."""
    ends: Micros
    said_nack: bool = False


class Probe(Struct, gc=False):
    """One of our own: made as fast as a record is, for each is made anew, and changed where its answer is late."""

    target: NodeId
    nonce: int
    """Of the first ping, and of those that helpers send."""
    began: Micros
    """When that was sent."""
    due: Micros
    """When to ping again, or to give up."""
    ends: Micros
    ack_us: int
    """How long the first answer was waited for."""
    helpers: tuple[NodeId, ...] | None = None
    """Whom we asked; None while the first answer is awaited."""
    nacked: tuple[NodeId, ...] = ()
    further: tuple[tuple[int, Micros], ...] = ()
    """(nonce, when it was sent) of each further ping to the target itself: most probes need none."""
    measured: bool = False
    """Whether an ack after its end has told how long the target takes."""

    def sent_at(self, nonce: int) -> Micros | None:
        """When the target itself was pinged with this; None if it was not."""
        return self.began if nonce == self.nonce else dict(self.further).get(nonce)

    @property
    def step_us(self) -> int:
        """How long each further ping is waited for."""
        return max(self.ack_us, -(-(self.ends - self.began) // PINGS_MAX))

    def lacks(self, nonce: int, helper: NodeId) -> bool:
        """Whether this is a helper of ours that has not said yet that it gets no answer either."""
        return self.sent_at(nonce) is not None and helper in (self.helpers or ()) and helper not in self.nacked

    @property
    def listened_until(self) -> int:
        """Until when a nack still counts, as long again as the probe: from far away it may well come after its end."""
        return 2 * self.ends - self.began

    @property
    def kept_until(self) -> int:
        """Until when an ack tells how long the target takes."""
        return max(self.listened_until, self.began + LATE_US)


class ProbeCycle:
    """Which members are being probed, and whose probes we carry."""

    __slots__ = ("_failed", "_prng", "_relays", "_us", "first", "turns", "under_way")

    def __init__(self, us: NodeId, interval_us: int, prng: Prng) -> None:
        self._us = us
        self._prng = prng
        self.turns = Turns(us, interval_us, prng)
        self.first = NEVER_COMES
        """When something is due next, `NEVER_COMES` while nothing is."""
        self.under_way: dict[NodeId, Probe] = {}
        """By target. For others to read."""
        self._relays: dict[int, Relay] = {}
        self._failed: dict[NodeId, Probe] = {}
        """The last of each target, for what comes after it (`Probe.kept_until`)."""

    def begin(self, target: NodeId, now: Micros, ack_us: int, probe_us: int) -> Probe:
        """Probe this member: its first answer is due after `ack_us`, and all is over after `probe_us`, or after twice
        `ack_us` if that is longer."""
        if probe_us < 2 * ack_us:
            probe_us = 2 * ack_us
        due, ends = now + ack_us, now + probe_us
        probe = self.under_way[target] = Probe(target, self._prng.token(), now, due, ends, ack_us)
        if due < self.first:
            self.first = due
        return probe

    def again(self, probe: Probe, now: Micros) -> int:
        """A nonce for another ping to the target, so that its ack tells which ping it answers. The next one is due a
        step later, unless less than another is left then."""
        nonce = self._prng.token()
        probe.further += ((nonce, now),)
        step_us = probe.step_us
        following = now + step_us
        self._wait(probe, following if following + step_us <= probe.ends else probe.ends)
        return nonce

    def wait_on(self, probe: Probe) -> None:
        """The target itself is asked no more; its helpers may still be answered."""
        self._wait(probe, probe.ends)

    def _wait(self, probe: Probe, until: Micros) -> None:
        probe.due = until
        self._settle()

    def ask(
        self,
        probe: Probe,
        everybody: Sequence[NodeId],
        count: int,
        suspects: Collection[NodeId],
        far_us: Callable[[NodeId], int],
    ) -> tuple[NodeId, ...]:
        """Whom to ask to ping the target in our stead: of twice as many who are drawn those who are not as far, and
        nobody who may be gone himself."""
        drawn = self._prng.sample(everybody, 2 * count + 2 + len(suspects))
        able = [node for node in drawn if node not in (probe.target, self._us) and node not in suspects]
        probe.helpers = tuple(sorted(able[: 2 * count], key=far_us)[:count])
        return probe.helpers

    def end(self, probe: Probe) -> None:
        del self.under_way[probe.target]
        self._settle()

    def _fail(self, probe: Probe) -> None:
        self.end(probe)
        self._failed[probe.target] = probe

    def carry(self, relay: Relay) -> int | None:
        """Take on somebody's probe: the nonce of the ping to send, or None when too many are carried already."""
        if len(self._relays) >= RELAYS_MAX:
            return None
        nonce = self._prng.token()
        self._relays[nonce] = relay
        self._settle()
        return nonce

    def acked(self, nonce: int, subject: NodeId) -> Micros | None:
        """An ack came, from the subject itself or passed on. If it ends a probe, when the ping was sent that it is
        for."""
        probe = self.under_way.get(subject)
        if probe is None:
            return None
        sent_at = probe.began if nonce == probe.nonce else probe.sent_at(nonce)
        if sent_at is not None:
            del self.under_way[subject]
            self._settle()
        return sent_at

    def acked_late(self, nonce: int, subject: NodeId, now: Micros) -> Micros | None:
        """An ack came from the subject itself that ends no probe. If it is the first since one failed, of that one, and
        not too late, when the ping was sent that it is for. Nacks of that probe are heard as before."""
        probe = self._failed.get(subject)
        if probe is None or probe.measured or now > probe.kept_until:
            return None
        sent_at = probe.sent_at(nonce)
        probe.measured = sent_at is not None
        return sent_at

    def acked_for(self, nonce: int, subject: NodeId) -> Relay | None:
        """An ack came that ends no probe of ours: whom to pass it on to, once."""
        relay = self._relays.get(nonce)
        if relay is None or relay.subject != subject:
            return None
        del self._relays[nonce]
        self._settle()
        return relay

    def nacked(self, nonce: int, subject: NodeId, helper: NodeId) -> Probe | None:
        """A helper got no answer either. The probe, if with that all have spoken: it is over."""
        probe = self.under_way.get(subject)
        if probe is None or not probe.lacks(nonce, helper):
            return None
        probe.nacked += (helper,)
        if len(probe.nacked) < len(probe.helpers or ()):
            return None
        self._fail(probe)
        return probe

    def nacked_late(self, nonce: int, subject: NodeId, helper: NodeId, now: Micros) -> bool:
        """Whether a helper's nack came after its probe had failed, but not too late to be heard."""
        probe = self._failed.get(subject)
        if probe is None or now > probe.listened_until:
            return False
        if not probe.lacks(nonce, helper):
            return False
        probe.nacked += (helper,)
        return True

    def due(self, now: Micros) -> list[Probe]:
        """Probes whose last answer is late, and those that failed, which are over (`ends`); by target."""
        late = [self.under_way[target] for target in sorted(self.under_way) if self.under_way[target].due <= now]
        for probe in late:
            if probe.ends <= now and probe.helpers is not None:
                self._fail(probe)
        if self._failed:
            self._failed = {target: probe for target, probe in self._failed.items() if probe.kept_until >= now}
        return late

    def relays_due(self, now: Micros) -> list[Relay]:
        """Carried probes that no answer came to: tell whoever asked, once. Its ack is passed on even afterwards."""
        late: list[Relay] = []
        for nonce in sorted(nonce for nonce, relay in self._relays.items() if relay.due <= now):
            relay = self._relays[nonce]
            if not relay.said_nack:
                relay.said_nack = True
                late.append(relay)
            relay.due = relay.ends
            if relay.ends <= now:
                del self._relays[nonce]
        self._settle()
        return late

    def forget(self, target: NodeId) -> None:
        """Nothing that comes after its last probe counts any more."""
        self._failed.pop(target, None)

    def forget_all(self) -> None:
        """We were not listening: answers may have come and gone, so nothing follows from their absence."""
        self.under_way.clear()
        self._relays.clear()
        self._failed.clear()
        self._settle()

    def _settle(self) -> None:
        """What was due first may be over, or later."""
        self.first = NEVER_COMES
        if self.under_way or self._relays:  # mostly there is nothing once an answer has come
            probes, relays = self.under_way.values(), self._relays.values()
            self.first = min([probe.due for probe in probes] + [relay.due for relay in relays])
