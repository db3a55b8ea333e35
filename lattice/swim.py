"""Who is there, and how we know: SWIM's probes, suspicion and refutation, and the calling of endpoints.

Several ideas come together here, each with a module of its own: the table of claims (`membership`), the probes
(`probe`) and how long they wait (`rtt`), how well we are ourselves (`awareness`), how long suspects live (`suspicion`),
endpoints that are called (`calling`), one key in two places (`twins`). What a change of somebody's state means for
health and policy is not known here: it is told to `on_change`. That somebody doubts *us* is told to `on_doubted`.

**A member is where it was last heard, and may be where it was before.** Whose first answer is late is pinged again at
every address that its own frames and rows came from (at most `membership.ADDRESSES_MAX`), by us and by those we ask,
who know others; the first to be answered is where it is from then on. So a site on two networks that loses one is
called on the other before anybody doubts it. A new address counts once its member has shown that it hears there
(`challenges`).

**Nobody is declared down on another's word.** What spreads is accusations: "it does not answer me", with the accuser's
name. Each node collects them and concludes for itself when its own suspicion timer runs out; a peer's "it is down" is
one more accusation. So a sick node's wrong conclusion stays its own. A helper's nack is an accusation as well, so a
crash is suspected from the start in the name of everybody who tried, and the suspicion is short; a suspicion that
comes of a bad link or a sick accuser finds no second voice, and lasts until the suspect has heard and refuted it.
Accusations are pushed along the trees that rumours take, rooted at the accuser, so all nodes conclude at about the same
time; whoever they miss hears from the pings. The accused stands in none of those trees, or it would swallow the news of
its own death: each node leaves out whom the accusation names. It is told by the accuser itself, again and again (the
buddy system of Lifeguard). Whoever passes on what was refuted has missed the row that did it, and is told that by any
who has it.

**Who answers late is asked less often.** Behind a full link an answer takes longer than a probe: a second queued each
way, over 64 kbit/s. If all probes of such a member failed, four accusers told it so five times a second each, it
answered each of them with its row, and that alone would keep the link full for good. So an ack that comes after its
probe is measured (`rtt`), and by what was measured the next probe waits, the suspect has time, is told, and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lattice import canonical, wire
from lattice.awareness import LocalHealth
from lattice.calling import Calls
from lattice.cells import CellIndex
from lattice.challenges import Challenges, Given
from lattice.errors import WireError
from lattice.events import Holds, IdConflict, MemberChanged
from lattice.health import Row
from lattice.membership import STATE_NAMES, Member, Membership, MemberState, MemberUpdate
from lattice.outbox import Outbox
from lattice.piggyback import Piggyback, retransmits
from lattice.probe import Probe, ProbeCycle, Relay
from lattice.rtt import RttTable
from lattice.suspicion import Suspicion
from lattice.token_bucket import TokenBuckets
from lattice.twins import Moves, OwnTwin
from lattice.types import CLOCK_UNSET_BEFORE_US, MILLISECOND, SECOND, Endpoint, Micros, NodeId
from lattice.wire import Ack, Leave, Nack, News, Ping, PingReq, WireCell

INCARNATION_LEAP_MAX = 2**32
"""How far ahead a claim about us may be: a node that lost its disk was not started so often, and one unsigned word
must not use up the numbers that a row may carry."""
NACK_PERCENT = 80
"""A nack is sent no later than this share of the time that whoever asks will wait (the paper's 80 %)."""
GREETING_PACE_US = 200 * MILLISECOND
"""Members that come back are pinged, one in so long: hundreds may, when a partition ends, and who is pinged before
its row has come another way brings it across once more (at 50 ms the bytes of a heal are a tenth more)."""
TELLINGS = 5
"""How often an accuser tells the accused within the shortest suspicion: a link that loses a quarter of all datagrams
loses so many in a row once in a thousand times."""
ANSWERS = 4
"""How often an accuser may have our row within the time that its own answers take at most. Where that is half a second
it has it each time that it tells us, which is every 200 ms then."""
CONFLICT_TOLD_US = 60 * SECOND
_ALIVE: Final = MemberState.ALIVE
"""To ask the class for it takes many times as long, and every ping and ack asks whether its receiver is."""


def incarnation_at(now: Micros) -> int:
    """The least that a life begun now takes: the date in seconds, so that one which lost its disk takes no number of an
    earlier one, and signs nothing under it that contradicts what that one signed (of lives within one second the rows
    begin at their millisecond). 0 where the clock was never set."""
    return now // SECOND if now >= CLOCK_UNSET_BEFORE_US else 0


class Swim:
    """Membership of one node."""

    __slots__ = (
        "_answered_of_others", "_answered_of_us", "_cells", "_greets_at", "_hops", "_leaving", "_moves", "_next_at",
        "_on_change", "_on_doubted", "_on_missed", "_on_return", "_our_row", "_out", "_piggyback", "_probe", "_pushes",
        "_row_of", "_rtt", "_stalled", "_suspicions", "_twin", "calls", "challenges", "due", "health", "incarnation",
        "members",
    )  # fmt: skip

    def __init__(
        self,
        out: Outbox,
        area: str,
        cells: CellIndex,
        our_row: Callable[[], tuple[WireCell, ...]],
        on_change: Callable[[Member], None],
        on_doubted: Callable[[], None],
        on_return: Callable[[NodeId], None],
        row_of: Callable[[NodeId], Row | None],
        hops: Callable[[MemberUpdate, NodeId | None], list[NodeId]],
        on_missed: Callable[[Sequence[NodeId], NodeId], None],
    ) -> None:
        """`area` is ours; the root of `cells` and `our_row` are what pings carry; `on_change` hears of members that
        came, went or came back, and `on_return` before that of the last; `row_of` is the row held of a node; `hops`
        says to whom a claim is passed on that came from there; `on_missed` hears whose later rows a peer has missed."""
        self._out = out
        self._cells = cells
        self._our_row = our_row
        self._on_change = on_change
        self._on_doubted = on_doubted
        self._on_return = on_return
        self._row_of = row_of
        self._hops = hops
        self._on_missed = on_missed
        self.incarnation = 0
        config = out.config
        self.members = Membership(out.node, area, config.members_max)
        self.health = LocalHealth(config.lifeguard)
        self._probe = ProbeCycle(out.node, config.swim_interval_us, out.prng)
        self._rtt = RttTable(config.ack_timeout_min_us, config.ack_timeout_us)
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._piggyback = Piggyback()
        self._pushes: TokenBuckets[None] = TokenBuckets(config.claims_per_s, config.claims_burst, 1)
        self.calls = Calls(out, self.members, self._call)
        self._twin = OwnTwin()
        self._moves = Moves()
        self._answered_of_us: dict[NodeId, Micros] = {}
        self._answered_of_others: dict[NodeId, Micros] = {}
        """When a member was last sent rows for what it said: ours, and those of others."""
        self.challenges = Challenges()
        self._next_at = Micros(0)
        """When the next member is probed."""
        self.due = out.now
        """When `on_due` is to be called, be it for that or for a probe under way. With nearly every input it is another
        moment, so it is none of the engine's named timers."""
        self._leaving = False
        self._stalled: Micros | None = None
        self._greets_at = Micros(0)

    def start(self) -> None:
        """Take the next incarnation and begin to probe."""
        self.raise_incarnation(max(self.incarnation + 1, incarnation_at(self._out.now)))
        self._next_at = self._out.after(self._out.prng.below(self._out.config.swim_interval_us) + 1)
        self._arm()

    def raise_incarnation(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self._out.persist("self", b"incarnation", canonical.pack(incarnation), Holds.CELLS)

    def persist_all(self) -> None:
        """Write down again what an earlier call has written down."""
        self._out.persist("self", b"incarnation", canonical.pack(self.incarnation), Holds.CELLS)
        for member in self.members.all():
            self._out.persist("peer", member.node, canonical.pack(member.endpoint))
        self.calls.persist_all()

    def endpoint_of(self, node: NodeId) -> Endpoint:
        member = self.members.get(node)
        assert member is not None, "only members are sent to by id"
        return member.endpoint

    # --- messages

    def on_ping(self, nonce: int, sender: Member | None, source: Endpoint, introduced: bool = False) -> None:
        """`sender` is None where it is no member; who has just introduced itself is answered with our row."""
        ours = self._our_row() if introduced else ()
        news = self._news_for(sender) if sender is not None else ()  # each claim rides on a few frames only
        body = wire.ack_body(nonce, self._out.node, self._cells.root, source, news, ours)
        self._out.send_body(body, bool(ours), source)

    def on_ack(self, nonce: int, subject: NodeId, root: bytes, sender: Member | None) -> None:
        """`sender` is None where it is no member."""
        sent_at = self._probe.acked(nonce, subject)
        if sent_at is not None:
            if self.health.score:
                self._recover()
            if sender is not None and sender.node == subject:  # a detour measures nothing
                now = self._out.now
                self._rtt.observe(subject, sender.area, now - sent_at, now)
            self._arm()
            return
        if sender is not None and sender.node == subject:
            now = self._out.now
            sent_at = self._probe.acked_late(nonce, subject, now)
            if sent_at is not None:
                self._rtt.observe_late(subject, now - sent_at, now)
                return
        relay = self._probe.acked_for(nonce, subject)
        if relay is not None:
            self._out.send(Ack(relay.nonce, subject, root, relay.asked_by), relay.asked_by)

    def on_ping_req(self, request: PingReq, source: Endpoint) -> None:
        """Probe in somebody's stead. Raises `WireError` when too many probes are carried already."""
        config = self._out.config
        left_us = max(0, config.probe_us - config.ack_timeout_us)  # of whoever asks, at the least
        subject = self.members.get(request.subject)
        due = self._out.after(min(self._ack_us(request.subject, subject), left_us * NACK_PERCENT // 100))
        ends = max(due, self._out.after(config.probe_us))
        carried = self._probe.carry(Relay(source, request.nonce, request.subject, due, ends))
        if carried is None:
            raise WireError("too many relays", "more probes are carried for others than we can keep in mind")
        ping = Ping(carried, self._cells.root, self._news_for(subject))
        # Whoever asks hears the subject on a network that we may not be on, and the other way round.
        for target in dict.fromkeys((request.target, *(subject.addresses if subject is not None else ()))):
            if target[0]:
                self._out.send(ping, target)
        self._arm()

    def on_nack(self, nack: Nack, sender: NodeId) -> None:
        probe = self._probe.nacked(nack.nonce, nack.subject, sender)
        if probe is not None:
            self._failed(probe)
        elif self._probe.nacked_late(nack.nonce, nack.subject, sender, self._out.now):
            self._recover()  # it was counted among the silent
            member = self.members.get(nack.subject)
            if member is not None and member.present:
                suspect, incarnation = MemberState.SUSPECT, member.incarnation
                self.hear((MemberUpdate(member.node, suspect, incarnation, sender),), None)

    def hear(self, updates: Iterable[MemberUpdate], sender: NodeId | None) -> bool:
        """Claims about members from `sender` (None: our own). Whether one is that we are not well: our row answers."""
        doubted, missed = False, set[NodeId]()
        for update in updates:
            if update.node == self._out.node:
                doubted = self._hear_of_us(update) or doubted
            elif self._is_refuted(update):
                missed.add(update.node)
            elif self._is_answered(update):
                self._out.count("claims answered by a later row")
            elif sender is not None and self._is_hearsay(update, sender):
                self._accuse(update.node, update.incarnation, sender, sender)
            elif update.state in (MemberState.ALIVE, MemberState.LEFT) or not self._out.config.lifeguard:
                if self.members.hear(update, self._out.now):
                    self._on_news(update)
            else:
                # Who declares it down speaks for itself; who passes an accusation on, for the accuser, if we know it.
                # That may be us: our own word comes back, or what we said as a helper.
                known = update.by == self._out.node or update.by in self.members
                passed_on = update.state == MemberState.SUSPECT and known
                by = update.by if passed_on or sender is None else sender
                self._accuse(update.node, update.incarnation, by, sender)
        if missed and not doubted and sender is not None and self.members.is_present(sender):
            self._on_missed(sorted(missed), sender)
        return doubted

    def _is_refuted(self, update: MemberUpdate) -> bool:
        """Whether it is an accusation of somebody who has raised its incarnation since, and is here."""
        if update.state not in (MemberState.SUSPECT, MemberState.DOWN) or not self._out.config.lifeguard:
            return False
        member = self.members.get(update.node)
        return member is not None and member.present and update.incarnation < member.incarnation

    def _is_answered(self, update: MemberUpdate) -> bool:
        """Whether it is a claim of death about a row that a later one of the same incarnation has followed."""
        row = self._row_of(update.node) if update.state == MemberState.DOWN else None
        return row is not None and row.incarnation == update.incarnation and _lifts(row) > update.seq

    def _is_hearsay(self, update: MemberUpdate, sender: NodeId) -> bool:
        """Whether somebody says of another that is there that it has left: an accusation like any other, which it
        refutes. Whoever leaves says so itself, to each; of whom nobody hears any more anybody may say why."""
        if update.state != MemberState.LEFT or sender == update.node or not self._out.config.lifeguard:
            return False
        return self.members.is_present(update.node)

    def leaves(self, member: NodeId, incarnation: int, source: Endpoint) -> None:
        """A member says goodbye. Not from where it never was: whoever has the cluster's keys can seal a frame in its
        name."""
        known = self.members.get(member)
        if known is not None and source not in known.addresses:
            self._out.count("goodbyes refused: from elsewhere")
        else:
            self.hear((MemberUpdate(member, MemberState.LEFT, incarnation, member),), member)

    # --- where its frames come from

    def is_at(self, node: NodeId, source: Endpoint) -> bool:
        """Whether a node is known to hear there: it proved it before, or its own row says so."""
        member = self.members.get(node)
        if member is None:
            return False
        if source in member.addresses:
            return True
        row = self._row_of(node)
        return row is not None and row.endpoint == source

    def meet_sender(self, sender: NodeId, source: Endpoint, counter: int) -> None:
        """Where a frame is known to come from is where its sender is; to a stranger we introduce ourselves."""
        known = self.members.get(sender)
        if known is None:
            self.calls.try_at(source)
        elif known.endpoint != source and not self._moves.is_late(sender, counter):
            self._moved(sender, known.endpoint, source, counter)
            if not self._moves.contested(sender, self._out.now) and self.members.reached_at(sender, source):
                self._out.stale_view = True
                if not known.endpoint[0]:  # it does not know it either, and so its row never says it
                    self._out.persist("peer", sender, canonical.pack(source))
                    self.calls.met(source)

    def meet(self, row: Row, observer: NodeId, endpoint: Endpoint) -> None:
        """A verified row says who is there, and that it is alive in that incarnation; `endpoint` is where."""
        known = self.members.get(observer)
        if known is not None and not endpoint[0]:
            endpoint = known.endpoint
        now, seq = self._out.now, _lifts(row)
        changed = self.members.introduce(observer, row.site, row.group, endpoint, row.incarnation, now, seq)
        member = self.members.get(observer)
        assert member is not None, "there was room"
        if member is known:
            return  # as nearly always
        if known is None or known.incarnation < member.incarnation:
            self._acquit(observer)
            self._piggyback.drop(observer)
        if known is not None and known.endpoint != member.endpoint and known.incarnation < member.incarnation:
            self._moved(observer, known.endpoint, member.endpoint)  # else it is one process, that says it has moved
        if known is None or known.endpoint != member.endpoint:
            self._out.persist("peer", observer, canonical.pack(member.endpoint))
            self.calls.met(member.endpoint)
        lifted = known is not None and known.state == MemberState.SUSPECT and member.state == MemberState.ALIVE
        if changed and known is not None:
            self.calls.met(*member.addresses)
            self._on_return(observer)
            if self._out.now >= self._greets_at:
                # It is back, or we are: if we are what was away, its answer says that it holds us as gone.
                self._greets_at = self._out.after(GREETING_PACE_US)
                self._ping(member, self._out.prng.token())
        if changed or lifted:
            self._tell(member)

    def _call(self, endpoint: Endpoint, there: Sequence[Member]) -> None:
        claims, nonce = tuple(self._claim(member) for member in there[:1]), self._out.prng.token()
        self.challenges.give(nonce, Given(None, endpoint))
        self._out.send(Ping(nonce, self._cells.root, claims, self._our_row()), endpoint)

    # --- one key in two places

    def on_own_frame(self, source: Endpoint, ours: bool) -> None:
        """A frame in our name: `ours`, when discovery found ourselves, or a member's address has become ours; else of
        a twin's."""
        self._out.count("own frames heard")
        if ours:
            self.calls.met(source)
        else:
            self._conflict(self._out.node, source)

    def on_own_row(self, row: Row, here: Endpoint) -> None:
        """A verified row of ours that is ahead of us: of an earlier life, or of a twin."""
        elsewhere = row.endpoint != here and bool(here[0] and row.endpoint[0])
        if elsewhere:
            if not self._twin.outrun(self._out.now):
                self._out.count("refutations put off: id conflict")
                return
            if self._twin.alive:
                self._conflict(self._out.node, row.endpoint)
        self.refute(max(row.incarnation, self.incarnation))

    def _moved(self, node: NodeId, old: Endpoint, new: Endpoint, counter: int = 0) -> None:
        if self._moves.moved(node, old, new, self._out.now, counter):
            self._conflict(node, new)

    def _conflict(self, node: NodeId, endpoint: Endpoint) -> None:
        self._out.count("id conflicts")
        timer = f"conflict {node.hex()}"
        if timer not in self._out.timers:  # told once a while; counted always
            self._out.timers.set(timer, self._out.after(CONFLICT_TOLD_US))
            self._out.notify(IdConflict(node, endpoint))

    # --- probing

    def on_due(self) -> None:
        """It is time for probes that want something, or for the next one."""
        if self._probe.first <= self.due:
            self._look_after_probes()
        elif self._next_at <= self.due:
            self._probe_next()
        self._arm()

    def _probe_next(self) -> None:
        out, stretch, turns = self._out, self.health.stretch, self._probe.turns
        target = turns.pick(self.members.everybody.nodes, out.now, self._probe.under_way, stretch == 1)
        if target is not None:
            member = self.members.get(target)
            assert member is not None, "only who is present is picked"
            now = out.now
            ack_us = self._rtt.timeout_us(target, member.area, now) * stretch
            probe = self._probe.begin(target, now, ack_us, out.config.probe_us * stretch)
            self._ping(member, probe.nonce)
        self._next_at = turns.following(stretch - 1)

    def _look_after_probes(self) -> None:
        """First answers that are late, probes that failed, and those that we carry."""
        now, config = self._out.now, self._out.config
        for relay in self._probe.relays_due(now):
            if config.lifeguard:
                self._out.send(Nack(relay.nonce, relay.subject), relay.asked_by)
        for probe in self._probe.due(now):
            asked = probe.helpers is not None
            if asked and probe.ends <= now:
                self._failed(probe)
                continue
            member = self.members.get(probe.target)
            if member is None or not member.present:
                self._probe.end(probe)
                continue
            if not asked:
                suspects = self._suspicions if config.lifeguard else ()
                everybody, count = self.members.everybody.nodes, config.ping_req_count
                for helper in self._probe.ask(probe, everybody, count, suspects, self._far_us):
                    self._out.send(PingReq(probe.nonce, member.node, member.endpoint), self.endpoint_of(helper))
            if config.lifeguard:
                for address in member.addresses:
                    self._ping(member, self._probe.again(probe, now), address)
            else:
                self._probe.wait_on(probe)

    def _failed(self, probe: Probe) -> None:
        """Nobody got an answer."""
        known = self._suspicions.get(probe.target)
        if known is None or self._out.node not in known.accusers:
            silent = set(probe.helpers or ()) - {*probe.nacked, *self._suspicions}
            self.health.worse(len(silent) if probe.helpers else 1)
        member = self.members.get(probe.target)
        if member is not None and member.present:
            self._out.count("probes failed")
            accusers = (self._out.node, *sorted(probe.nacked))
            suspect, incarnation = MemberState.SUSPECT, member.incarnation
            self.hear((MemberUpdate(member.node, suspect, incarnation, by) for by in accusers), None)

    def on_tell(self) -> None:
        """Suspects that we accuse hear it from us until they have refuted it, or are gone."""
        ours = [node for node in sorted(self._suspicions) if self._out.node in self._suspicions[node].accusers]
        for node in ours:
            suspicion, member = self._suspicions[node], self._known(node)
            if suspicion.tell_at > self._out.now:
                continue
            suspicion.tell_at = self._out.after(suspicion.least_us // TELLINGS)
            for address in member.addresses:
                self._ping(member, self._out.prng.token(), address)
        if ours:
            self._out.timers.set("tell", min(self._suspicions[node].tell_at for node in ours))

    def _ping(self, member: Member, nonce: int, address: Endpoint | None = None) -> None:
        body = wire.ping_body(nonce, self._cells.root, self._news_for(member))
        self._out.send_body(body, False, address or member.endpoint)

    def _ack_us(self, node: NodeId, member: Member | None) -> int:
        return self._rtt.timeout_us(node, member.area if member is not None else "", self._out.now)

    def _refutes_in_us(self, member: Member) -> int:
        """How long a suspect takes to hear and to be heard: most answer well within half of the usual term."""
        return max(self._out.config.suspicion_us, 2 * self._ack_us(member.node, member))

    def _far_us(self, node: NodeId) -> int:
        return self._ack_us(node, self.members.get(node))

    def _arm(self) -> None:
        due = self._next_at
        if self._probe.first < due:
            due = self._probe.first
        self.due = due

    # --- suspecting

    def _accuse(self, node: NodeId, incarnation: int, by: NodeId, came_from: NodeId | None) -> None:
        member = self.members.get(node)
        if member is None or incarnation != member.incarnation or by == node:
            return
        if not member.present:
            if came_from is not None and node not in self._piggyback:
                self._piggyback.add(self._claim(member))  # whoever still only suspects it has missed the news
            return
        accuser = self.members.get(by)
        if by != self._out.node and (accuser is None or not accuser.present):
            return
        # What is kept of hundreds who go at once names them by the ids that we have, not by copies off the wire.
        node, by = member.node, self._out.node if accuser is None else accuser.node
        suspicion = self._suspicions.get(node)
        if suspicion is None:
            config, now = self._out.config, self._out.now
            wanted = max(0, min(config.confirmations, self.members.everybody.count - 2))
            least_us = self._refutes_in_us(member)
            suspicion = Suspicion(now, wanted, least_us, least_us * config.suspicion_max_mult, f"suspect {node.hex()}")
            self._suspicions[node] = suspicion
        if not suspicion.accuse(by):
            return
        claim = MemberUpdate(node, MemberState.SUSPECT, incarnation, by)
        if self.members.hear(claim, self._out.now):
            self._tell(self._known(node))
        self._piggyback.add(claim)
        self._push(claim, came_from)
        if by == self._out.node:
            suspicion.tell_at = self._out.now
            self._out.timers.set_earlier("tell", self._out.now)
        self._out.timers.set(suspicion.timer, max(suspicion.deadline(self.health.stretch), self._out.now))

    def _push(self, claim: MemberUpdate, came_from: NodeId | None) -> None:
        if not self._pushes.take(None, self._out.now):
            self._out.count("claims over the rate")
            return
        for hop in self._hops(claim, came_from):
            self._out.send(News((claim,)), self.endpoint_of(hop))

    def _recover(self) -> None:
        """A misfortune of ours less: whom we suspect need not be spared any longer than our health now asks for.

        Where answers take longer than a probe, its nacks come after it has counted against us; without this the death
        of every far member is known late to whoever found it first.
        """
        if self.health.score:
            self.health.better()
            stretch, now = self.health.stretch, self._out.now
            for _, suspicion in sorted(self._suspicions.items()):
                self._out.timers.set_earlier(suspicion.timer, max(suspicion.deadline(stretch), now))

    def on_suspicion_over(self, node: NodeId) -> None:
        member, suspicion = self.members.get(node), self._suspicions.get(node)
        if member is None or member.state != MemberState.SUSPECT:
            return
        if suspicion is not None and suspicion.deadline(self.health.stretch) > self._out.now:
            self._out.timers.set(suspicion.timer, suspicion.deadline(self.health.stretch))
            return
        node = member.node
        row = self._row_of(node)
        seq = row.seq if row is not None and row.incarnation == member.incarnation else 0
        down = MemberUpdate(node, MemberState.DOWN, member.incarnation, self._out.node, seq)
        if self.members.hear(down, self._out.now):
            self._on_news(down)

    def _acquit(self, node: NodeId) -> None:
        self._suspicions.pop(node, None)
        self._out.timers.cancel(f"suspect {node.hex()}")

    def on_stall(self) -> None:
        """We were not listening for a while: nothing follows from what we did not hear."""
        if self._stalled == self._out.now:
            return
        self._stalled = self._out.now
        self._out.count("stalls")
        self.health.worse()
        self._probe.forget_all()
        until = self._out.after(self._out.config.suspicion_us)
        for node in sorted(self._suspicions):
            self._suspicions[node].hold(until)

    def on_forget(self, node: NodeId) -> bool:
        """Whether the member is still gone, and so forgotten."""
        member = self.members.get(node)
        return member is not None and not member.present and self.expel(node)

    def expel(self, node: NodeId) -> bool:
        """Forget a member, whatever its state; whether it was one."""
        if node not in self.members:
            return False
        self._acquit(node)
        self._piggyback.drop(node)
        self.members.forget(node)
        self._rtt.forget(node)
        self._probe.forget(node)
        self._moves.forget(node)
        self._answered_of_us.pop(node, None)
        self._answered_of_others.pop(node, None)
        self._out.persist("peer", node, None)
        return True

    def leave(self) -> None:
        """Tell everybody: it is our own word that counts."""
        self._leaving = True
        told_max = self._out.config.leave_told_max
        drawn = self._out.prng.sample(self.members.everybody.nodes, told_max + 1)
        for node in [node for node in drawn if node != self._out.node][:told_max]:
            self._out.send(Leave(self.incarnation), self.endpoint_of(node))

    # --- claims

    def _hear_of_us(self, update: MemberUpdate) -> bool:
        """Whether somebody says that we are not well. A greater incarnation says that we are, unless our row does; who
        speaks of an earlier one has missed that row, and is told it."""
        ahead = update.incarnation - self.incarnation
        if update.state == MemberState.ALIVE or self._leaving or ahead >= INCARNATION_LEAP_MAX:
            return False
        if ahead >= 0 and not self._is_answered(update):
            self.refute(update.incarnation)
        return True

    def begins_answer(self, doubter: NodeId, of_us: bool) -> bool:
        """Whether it is sent rows now for what it says of us, or of others: not when it was a moment ago, by how long
        its answers take. Whoever accuses us says so several times a round trip. If so, the next moment begins."""
        answered = self._answered_of_us if of_us else self._answered_of_others
        member, last, now = self.members.get(doubter), answered.get(doubter), self._out.now
        if member is None:
            return True
        if last is not None and now < last + self._ack_us(doubter, member) // ANSWERS:
            return False
        answered[doubter] = now
        return True

    def refute(self, claimed: int) -> None:
        self._out.count("refutations")
        self.health.worse()
        self.raise_incarnation(claimed + 1)
        self._on_doubted()

    def _on_news(self, update: MemberUpdate) -> None:
        """A claim that changed what we hold; in plain SWIM a suspicion, too."""
        member = self._known(update.node)
        self._acquit(update.node)
        self._piggyback.drop(update.node)
        self._piggyback.add(update)
        if update.state == MemberState.SUSPECT:
            self._out.timers.set(f"suspect {update.node.hex()}", self._out.after(self._out.config.suspicion_us))
        else:
            self._out.timers.set(f"forget {update.node.hex()}", self._out.after(self._out.config.forget_us))
            if update.state == MemberState.DOWN:
                self.calls.lost(member)
        self._tell(member)

    def _tell(self, member: Member) -> None:
        self._on_change(member)
        self._out.notify(MemberChanged(member.node, member.site, STATE_NAMES[member.state]))
        self._out.stale_view = True

    def _known(self, node: NodeId) -> Member:
        member = self.members.get(node)
        assert member is not None, "whom we probe, suspect or have news of is a member"
        return member

    def _claim(self, member: Member) -> MemberUpdate:
        """What we hold of a member, as our own word."""
        suspicion = self._suspicions.get(member.node)
        by = suspicion.accusers[0] if suspicion is not None and member.state == MemberState.SUSPECT else self._out.node
        return MemberUpdate(member.node, member.state, member.incarnation, by, member.seq)

    def _news_for(self, peer: Member | None) -> tuple[MemberUpdate, ...]:
        """What rides along: first of all what is wrongly said of the peer itself (None where it is no member), so that
        it can refute it."""
        news: tuple[MemberUpdate, ...] = ()
        if self._piggyback.waiting:
            limit = retransmits(self._out.config.retransmit_mult, len(self.members) + 1)
            news = self._piggyback.take(self._out.config.updates_per_frame_max, limit)
        if peer is not None and peer.state is not _ALIVE:
            news = (self._claim(peer), *(update for update in news if update.node != peer.node))
        return news


def _lifts(row: Row) -> int:
    """The number of a row that says that its observer is there and hears. Isolated, it might be deaf: then none."""
    return 0 if row.isolated else row.seq
