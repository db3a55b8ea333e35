"""Calling endpoints where somebody may be: how nodes meet, and how those who lost each other meet again.

Who is worth a call, and how soon, is the dial book's (`dialing`). Here it is kept: what discovery and the site file
name is put in, and so is every address of a member that is down (`membership`: one that stood on two networks may come
back on either); what a member is met at is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lattice import canonical
from lattice.dialing import DialBook, Standing
from lattice.membership import Member, Membership
from lattice.outbox import Outbox
from lattice.types import Endpoint, NodeId

REDIALS_AT_ONCE = 3
"""A restarted node calls so many of the peers it knew at once; one answer brings it all the others."""


class Calls:
    """Of one node."""

    def __init__(self, out: Outbox, members: Membership, call: Callable[[Endpoint, Sequence[Member]], None]) -> None:
        """`call` pings an endpoint and introduces us; along with it go the members that were there, by what we know."""
        config = out.config
        self._out = out
        self._members = members
        self._call = call
        self.book = DialBook(config.redial_us, config.redial_max_us, config.dials_max, config.forget_us)
        self._restored: dict[NodeId, Endpoint] = {}

    def try_at(self, endpoint: Endpoint) -> bool:
        """Somebody may be there. False, and nothing changed, when there is no room."""
        added = self.book.add(endpoint, self._out.now)
        self.arm()
        return added

    def seed(self, endpoints: Iterable[Endpoint]) -> None:
        """These are the configured ones from now on."""
        self.book.seed(endpoints, self._out.now)
        self.arm()

    def redial(self, peers: Mapping[NodeId, Endpoint]) -> None:
        """Peers of an earlier life: a few at once, the others spread, for a whole fleet may be restarting with us."""
        self._restored = dict(sorted(peers.items()))
        for place, endpoint in enumerate(self._out.prng.shuffled(sorted(set(peers.values())))):
            wait_us = 0 if place < REDIALS_AT_ONCE else self._out.prng.below(self._out.config.redial_max_us)
            if not self.book.add(endpoint, self._out.now, wait_us, Standing.KNOWN):
                self._out.count("discovery: too many endpoints")
        if peers:
            self._out.timers.set("stale peers", self._out.after(self._out.config.forget_us))
        self.arm()

    def on_stale_peers(self) -> None:
        """Peers of an earlier life that were not met in this one: their records go."""
        for node, _ in self._not_met():
            self._out.persist("peer", node, None)
        self._restored = {}

    def persist_all(self) -> None:
        """Write down again where those of them are who may still be met."""
        for node, endpoint in self._not_met():
            self._out.persist("peer", node, canonical.pack(endpoint))

    def _not_met(self) -> list[tuple[NodeId, Endpoint]]:
        return [(node, endpoint) for node, endpoint in self._restored.items() if node not in self._members]

    def lost(self, member: Member) -> None:
        """It is down: call it until it answers, wherever it was."""
        for address in member.addresses:
            wait_us = self._out.prng.below(self._out.config.redial_us)
            self.book.add(address, self._out.now, wait_us, Standing.KNOWN)
        self.arm()

    def met(self, *endpoints: Endpoint) -> None:
        """Somebody is there, or it is our own."""
        for endpoint in endpoints:
            self.book.drop(endpoint)

    def arm(self) -> None:
        due = self.book.earliest()
        if due is not None:
            self._out.timers.set("dial", max(due, self._out.now))

    def on_due(self) -> None:
        due = self.book.due(self._out.now, self._out.prng)
        there = self._members.at(due)
        for endpoint in due:
            members = there.get(endpoint, ())
            if any(member.present for member in members):
                self.book.drop(endpoint)
            else:
                self._call(endpoint, members)
        self.arm()
