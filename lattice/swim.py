"""Who is there, and how we know: SWIM's probes, suspicion and refutation, and the calling of endpoints.

Three ideas come together here, each with a module of its own: the table of claims (`membership`), the probe cycle
(`probe`) and the endpoints under trial (`dialing`). What a change of somebody's state means for health and policy is
not known here: it is told to `on_change`. That somebody doubts *us* is told to `on_doubted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lattice import canonical
from lattice.dialing import DialBook
from lattice.errors import WireError
from lattice.events import MemberChanged
from lattice.health import Row
from lattice.membership import Member, Membership, MemberState, MemberUpdate
from lattice.outbox import Outbox
from lattice.piggyback import Piggyback, retransmits
from lattice.probe import ProbeCycle, Relay
from lattice.types import Endpoint, NodeId
from lattice.wire import Ack, Leave, Ping, PingReq, WireCell

INCARNATION_LEAP_MAX = 2**32
"""How far ahead a claim about us may be: a node that lost its disk was not started so often, and one unsigned word
must not use up the numbers that a row may carry."""


class Swim:
    """Membership of one node."""

    def __init__(
        self,
        out: Outbox,
        root: Callable[[], bytes],
        our_row: Callable[[], tuple[WireCell, ...]],
        on_change: Callable[[Member], None],
        on_doubted: Callable[[], None],
    ) -> None:
        """`root` and `our_row` are what pings carry; `on_change` hears of members that came, went or came back."""
        self._out = out
        self._root = root
        self._our_row = our_row
        self._on_change = on_change
        self._on_doubted = on_doubted
        self.incarnation = 0
        self.members = Membership(out.config.members_max)
        self._probe = ProbeCycle(out.prng)
        self._piggyback = Piggyback()
        config = out.config
        self._dials = DialBook(config.redial_us, config.redial_max_us, config.dials_max, config.forget_us)
        self._leaving = False

    def start(self) -> None:
        """Take the next incarnation and begin to probe."""
        self.raise_incarnation(self.incarnation + 1)
        self._out.timers.set("swim", self._out.after(self._out.prng.below(self._out.config.swim_interval_us) + 1))

    def raise_incarnation(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self._out.persist("self", b"incarnation", canonical.pack(incarnation))

    def endpoint_of(self, node: NodeId) -> Endpoint:
        member = self.members.get(node)
        assert member is not None, "only members are sent to by id"
        return member.endpoint

    # --- messages

    def on_ping(self, ping: Ping, sender: NodeId, source: Endpoint) -> None:
        ours = self._our_row() if ping.cells else ()  # an introduction is answered with one
        self._out.send(Ack(ping.nonce, self._out.node, self._root(), source, self._news_for(sender), ours), source)

    def on_ack(self, ack: Ack) -> None:
        relay = self._probe.acked(ack.nonce, ack.subject)
        if relay is not None:
            self._out.send(Ack(relay.nonce, ack.subject, ack.root, relay.asked_by), relay.asked_by)

    def on_ping_req(self, request: PingReq, source: Endpoint) -> None:
        """Probe in somebody's stead. Raises `WireError` when too many probes are carried already."""
        carried = self._probe.carry(Relay(source, request.nonce, request.subject))
        if carried is None:
            raise WireError("too many relays", "more probes are carried for others than we can keep in mind")
        self._out.send(Ping(carried, self._root(), self._news_for(request.subject)), request.target)

    def hear(self, updates: Iterable[MemberUpdate]) -> None:
        """Claims about members, ourselves perhaps."""
        for update in updates:
            if update.node == self._out.node:
                self._hear_of_us(update)
            elif self.members.hear(update, self._out.now):
                self._on_news(update)

    def meet_sender(self, sender: NodeId, source: Endpoint) -> None:
        """Where a frame came from is where its sender is; to a stranger we introduce ourselves."""
        if sender in self.members:
            if self.members.reached_at(sender, source):
                self._out.stale_view = True
        elif self._dials.add(source, self._out.now):
            self._arm_dials()

    def meet(self, row: Row, observer: NodeId) -> None:
        """A verified row says who is where, and that it is alive in that incarnation."""
        known = self.members.get(observer)
        changed = self.members.introduce(observer, row.site, row.area, row.endpoint, row.incarnation, self._out.now)
        member = self.members.get(observer)
        assert member is not None, "there was room"
        if known is None or known.incarnation < member.incarnation:
            self._out.timers.cancel(f"suspect {observer.hex()}")
            self._piggyback.drop(observer)
        if known is None or known.endpoint != member.endpoint:
            self._out.persist("peer", observer, canonical.pack(member.endpoint))
            self._dials.drop(member.endpoint)
        lifted = known is not None and known.state == MemberState.SUSPECT and member.state == MemberState.ALIVE
        if changed or lifted:
            self._tell(member)

    # --- dialing

    def dial(self, endpoint: Endpoint) -> None:
        """Somebody may be there."""
        if not self._dials.add(endpoint, self._out.now):
            self._out.count("discovery: too many endpoints")
        self._arm_dials()

    def that_was_us(self, endpoint: Endpoint) -> None:
        self._dials.drop(endpoint)

    def _arm_dials(self) -> None:
        due = self._dials.earliest()
        if due is not None:
            self._out.timers.set("dial", max(due, self._out.now))

    def on_dial(self) -> None:
        here = {self.endpoint_of(node) for node in self.members.present()}
        for endpoint in self._dials.due(self._out.now):
            if endpoint in here:
                self._dials.drop(endpoint)
            else:
                claims = tuple(member.claim() for member in self.members.all() if member.endpoint == endpoint)[:1]
                self._out.send(Ping(self._out.prng.token(), self._root(), claims, self._our_row()), endpoint)
        self._arm_dials()

    # --- timers

    def on_interval(self) -> None:
        late = self._probe.unanswered()
        member = late and self.members.get(late)
        if member and member.present:
            self.hear((MemberUpdate(member.node, MemberState.SUSPECT, member.incarnation),))
        self._probe.drop_relays()
        target = self._probe.begin(self.members.present())
        if target is not None:
            self._out.send(Ping(self._probe.nonce, self._root(), self._news_for(target)), self.endpoint_of(target))
            self._out.timers.set("ack", self._out.after(self._out.config.ack_timeout_us))
        self._out.timers.set("swim", self._out.after(self._out.config.swim_interval_us))

    def on_ack_late(self) -> None:
        late = self._probe.unanswered()
        member = late and self.members.get(late)
        if not member:
            return
        for helper in self._probe.helpers(self.members.present(), self._out.config.ping_req_count):
            request = PingReq(self._probe.nonce, member.node, member.endpoint)
            self._out.send(request, self.endpoint_of(helper))

    def on_suspicion_over(self, node: NodeId) -> None:
        member = self.members.get(node)
        if member is not None and member.state == MemberState.SUSPECT:
            self.hear((MemberUpdate(node, MemberState.DOWN, member.incarnation),))

    def on_forget(self, node: NodeId) -> bool:
        """Whether the member is still gone, and so forgotten."""
        member = self.members.get(node)
        if member is None or member.present:
            return False
        self.members.forget(node)
        self._out.persist("peer", node, None)
        return True

    def leave(self) -> None:
        """Tell a few peers, who tell the others."""
        self._leaving = True
        for node in self._out.prng.sample(self.members.present(), self._out.config.leave_told_max):
            self._out.send(Leave(self.incarnation), self.endpoint_of(node))

    # --- claims

    def _hear_of_us(self, update: MemberUpdate) -> None:
        """Somebody says that we are not well: a greater incarnation says that we are."""
        ahead = update.incarnation - self.incarnation
        if update.state != MemberState.ALIVE and 0 <= ahead < INCARNATION_LEAP_MAX and not self._leaving:
            self.refute(update.incarnation)

    def refute(self, claimed: int) -> None:
        self._out.count("refutations")
        self.raise_incarnation(claimed + 1)
        self._on_doubted()

    def _on_news(self, update: MemberUpdate) -> None:
        member = self.members.get(update.node)
        assert member is not None, "only claims about members are news"
        self._piggyback.add(update)
        timer = f"suspect {update.node.hex()}"
        if update.state == MemberState.SUSPECT:
            self._out.timers.set(timer, self._out.after(self._suspicion_us()))
        else:
            self._out.timers.cancel(timer)
            self._out.timers.set(f"forget {update.node.hex()}", self._out.after(self._out.config.forget_us))
            if update.state == MemberState.DOWN:
                self._dials.add(member.endpoint, self._out.now)
                self._arm_dials()
        self._tell(member)

    def _tell(self, member: Member) -> None:
        self._on_change(member)
        self._out.notify(MemberChanged(member.node, member.site, member.state.name.lower()))
        self._out.stale_view = True

    def _suspicion_us(self) -> int:
        """`suspicion_us`, times the decimal digits of the cluster's size: about log10, in integers."""
        return self._out.config.suspicion_us * max(1, len(str(len(self.members) + 1)))

    def _news_for(self, peer: NodeId) -> tuple[MemberUpdate, ...]:
        """What rides along: first of all what is wrongly said of the peer itself, so that it can refute it."""
        limit = retransmits(self._out.config.retransmit_mult, len(self.members) + 1)
        news = self._piggyback.take(self._out.config.updates_per_frame_max, limit)
        member = self.members.get(peer)
        if member is not None and member.state != MemberState.ALIVE:
            news = (member.claim(), *(update for update in news if update.node != peer))
        return news
