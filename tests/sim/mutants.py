"""Engines with one mistake each: what a check must find. Few are subtle; each breaks exactly one promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from lattice.cells import Cell, CellKind, Shards, Urgency
from lattice.digest import Bloom
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Effect,
    HealthObserved,
    Input,
    LocalUpdate,
    MemberChanged,
    Notify,
    PolicyChanged,
    RegionChanged,
    Rejected,
    Restored,
    SendDatagram,
    SendStream,
    ServedChanged,
    TimerFired,
)
from lattice.health import SignedRow
from lattice.health_table import HealthTable, Offer
from lattice.key_ring import KeyRing
from lattice.membership import MemberState, MemberUpdate
from lattice.rollouts import Served
from lattice.seal import Plain, Sealed
from lattice.types import AuthorId, CellId, Endpoint, Level, Micros, NodeId, VersionId
from lattice.view import LatticeView
from lattice.wire import Compare, Digest


def plant(part: object, name: str, mistake: Callable[..., object]) -> None:
    """Have a part that has slots do this instead of its own: it takes no function, but another class."""
    part.__class__ = type(type(part).__name__, (type(part),), {"__slots__": (), name: staticmethod(mistake)})


class SendsTooMuch(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        too_long = bytes(self._config.datagram_bytes_max + 1)
        return [*super().handle(event, now), SendDatagram(too_long, ("10.0.0.0", 7_946))]


class NeverLetsTimePass(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        self.due = now
        return effects


class ForgetsItsLives(Engine):
    """Neither its disk nor its clock tells it that it lived before."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        raise_to = self._swim.raise_incarnation
        plant(self._swim, "raise_incarnation", lambda incarnation: raise_to(1))


class BelievesSignatures(Engine):
    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "verifier": _Yes()})


class _Yes:
    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        return True


class ForgetsVersions(Engine):
    """Without floors, an older row that comes late is news."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        self._health.table._floors.clear()
        return super().handle(event, now)


class IgnoresGrants(Engine):
    """A CA is configured, and nobody asks what it has said."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._grants.check_node = lambda *_: None  # type: ignore[method-assign]


class RaisesOthers(Engine):
    """Puts a claim about somebody under an incarnation of its own invention."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        members = self._swim.members

        def invented(update: MemberUpdate, now: Micros) -> bool:
            known = members.get(update.node)
            if known is None or update.state <= known.state:
                return False
            members._put(structs.replace(known, incarnation=known.incarnation + 3, state=update.state))
            return True

        plant(members, "hear", invented)


class RevivesTheDead(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        for member in self._swim.members.all():
            if member.state is MemberState.DOWN:
                self._swim.members._put(structs.replace(member, state=MemberState.ALIVE))
                self._out.stale_view = True
        return super().handle(event, now)


class BelievesLastWords(Engine):
    """The row that a member died with brings it back, and needs no later one."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        for member in self._swim.members.all():
            row = self._row_of(member.node)
            last = row is not None and (row.incarnation, row.seq) == (member.incarnation, member.seq)
            if member.state is MemberState.DOWN and last:
                self._swim.members._put(structs.replace(member, state=MemberState.ALIVE))
                self._out.stale_view = True
        return super().handle(event, now)


class Exaggerates(Engine):
    """Signs worse than what it was told."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if isinstance(event, LocalUpdate) and isinstance(event.change, HealthObserved):
            worse = tuple(replace(observation, level=Level.DEGRADED) for observation in event.change.observations)
            event = LocalUpdate(HealthObserved(worse))
        return super().handle(event, now)


class ListensToOneVoice(Engine):
    """The verdict is whatever the worst witness says."""

    def view(self) -> LatticeView:
        view = super().view()
        regions = tuple(
            structs.replace(region, verdict=max((witness.level for witness in region.witnesses), default=Level.UNKNOWN))
            for region in view.regions
        )
        return structs.replace(view, regions=regions)


class TrustsOnlyItself(Engine):
    def view(self) -> LatticeView:
        view = super().view()
        regions = tuple(structs.replace(region, effective=region.own or region.effective) for region in view.regions)
        return structs.replace(view, regions=regions)


class LetsTheDeadVote(Engine):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._health.table.mute = lambda observer, muted: set()  # type: ignore[method-assign]  # the planted mistake


class ServesTheUnpublished(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        if isinstance(event, TimerFired):
            effects = [*effects, Notify(PolicyChanged("default", VersionId(bytes(16))))]
        return effects


class LosesOps(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        self._policy._chains.ops.clear()
        return super().handle(event, now)


class SeesForks(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        self._policy.forked = lambda: (AuthorId(bytes(16)),)  # type: ignore[method-assign]  # the planted mistake
        return super().handle(event, now)


class DialsWithoutLimit(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        self._swim.calls.book._dials_max = 1_000_000
        for number in range(20):
            self._swim.calls.book.add(("198.51.100.1", 1 + (now + number) % 60_000), now)
        return super().handle(event, now)


class CountsFrames(Engine):
    """Everything that is heard, however often, leaves a trace in what is replicated."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if isinstance(event, DatagramReceived):
            self._out.count("frames")
            number = self._out.counters()["frames"]
            self._cells.add(Cell(CellId(number.to_bytes(16, "big")), CellKind.OP, b"", Urgency.UP, (self.node, number)))
        return super().handle(event, now)


class ShowsAnotherRoot(Engine):
    def view(self) -> LatticeView:
        return structs.replace(super().view(), root=bytes(16))


class ChokesOnOps(Engine):
    """The contagious update: the handler raises on a certain cell."""

    error: type[Exception] = KeyError

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._admission.admit_op = self._choke  # type: ignore[method-assign]  # the planted mistake

    def _choke(self, data: bytes, own: bool = False) -> list[Cell]:
        raise self.error("a field that older versions lack")


class CriesWolf(Engine):
    """Announces now and then that somebody is down who is not."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        others = [member for member in self._swim.members.all() if member.node != self.node]
        if isinstance(event, TimerFired) and others:
            effects = [*effects, Notify(MemberChanged(others[0].node, others[0].site, "down"))]
        return effects


class NeverCallsAgain(Engine):
    """Whoever was once thought dead stays so: nobody is called again, and claims of life are not believed."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._swim.calls.on_due = lambda: None  # type: ignore[method-assign]  # the planted mistake
        introduce = self._swim.members.introduce

        def once(
            node: NodeId, site: str, area: str, endpoint: Endpoint, incarnation: int, now: Micros, seq: int = 0
        ) -> bool:
            known = self._swim.members.get(node)
            if known is not None and not known.present:
                return False
            return introduce(node, site, area, endpoint, incarnation, now, seq)

        plant(self._swim.members, "introduce", once)


class IgnoresOps(Engine):
    """Only the first node takes any policy."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if self._us.endpoint[0] != "10.0.0.0":
            self._admission.admit_op = lambda data, own=False: []  # type: ignore[method-assign]


class KeepsToItself(Engine):
    """Never says what it sees."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if isinstance(event, LocalUpdate) and isinstance(event.change, HealthObserved):
            return []
        return super().handle(event, now)


class HoardsCells(Engine):
    """Every node holds a cell that no other can have."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._hoarded = False

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if not self._hoarded and isinstance(event, DatagramReceived):
            self._hoarded = True
            cell = CellId(self.node)
            self._cells.add(Cell(cell, CellKind.OP, b"", Urgency.UP, (self.node, 1)))
        return super().handle(event, now)

    def _on_message(self, *given: Any, **named: Any) -> Any:
        if not isinstance(given[0], Compare | Digest):  # else it would try to give it away
            super()._on_message(*given, **named)


class Storms(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        if isinstance(event, TimerFired):
            effects = [*effects, *[SendStream(bytes(60_000), self._us.endpoint)] * 80]
        return effects


class Chatters(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        if isinstance(event, TimerFired):
            effects = [*effects, *[SendDatagram(bytes(1_000), self._us.endpoint)] * 4]
        return effects


class AnswersNoise(Engine):
    """Tells whoever sent it what was wrong with it."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        effects = super().handle(event, now)
        refused = [one for one in effects if isinstance(one, Notify) and isinstance(one.notification, Rejected)]
        if refused and isinstance(event, DatagramReceived):
            effects = [*effects, SendDatagram(b"what was that?", event.source)]
        return effects


class HidesCells(Engine):
    """Its filters show nothing, so peers send it everything again and again."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._reconciliation._reconciler._digest = self._empty  # type: ignore[method-assign]  # the planted mistake

    @staticmethod
    def _empty(shards: Shards, covered: Sequence[int], salt: int, answer_salt: int) -> Digest:
        return Digest(shards, salt, Bloom.of([], 1, salt), answer_salt)


class DropsOldKeys(Engine):
    """As soon as it seals with another key it no longer opens the one before."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        seal = self._seal
        if isinstance(seal, Sealed) and len(seal.ring.keys) > 1 and seal.ring.used.label != "first":
            seal.rekey(KeyRing((seal.ring.used,)))
        return super().handle(event, now)


class ReadsEveryVersion(Engine):
    """Takes a frame's version for the one that it speaks from now on."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if isinstance(event, DatagramReceived) and isinstance(self._seal, Plain):
            self._seal._prefix = event.data[:1] + self._seal._prefix[1:]
        return super().handle(event, now)


class KeepsTheLast(HealthTable):
    """Whatever came last is the observer's row."""

    def offer(self, signed: SignedRow, age_us: int, now: Micros, ours: bool = False) -> Offer:
        self._floors.pop(signed.observer, None)
        return super().offer(signed, age_us, now, ours)


class JoinsByArrival(Engine):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._health.table = KeepsTheLast()


class ForgetsPolicy(Engine):
    def handle(self, event: Input, now: Micros) -> list[Effect]:
        if isinstance(event, Restored):
            event = Restored(tuple(record for record in event.records if record[0] != "op"))
        return super().handle(event, now)


class KeepsNewsToItself(Engine):
    """Its router never hears that a region changed."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        return [one for one in super().handle(event, now) if not self._hides(one)]

    def _hides(self, effect: Effect) -> bool:
        return isinstance(effect, Notify) and isinstance(effect.notification, RegionChanged)


class TellsOnlyBadNews(KeepsNewsToItself):
    """Its router never hears that a region is well again."""

    def _hides(self, effect: Effect) -> bool:
        return super()._hides(effect) and effect.notification.new < Level.DOWN  # type: ignore[union-attr]


class JoinsEveryStage(Engine):
    """Serves what is rolled out, whoever's turn it is."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        served = self._rollouts.served

        def at_once(policy: str) -> Served | None:
            usual, found = served(policy), self._policy.rollouts(policy)
            if usual is None or not found:
                return usual
            return Served(found[-1].start.version, found[-1].id, found[-1].stage, usual.version)

        self._rollouts.served = at_once  # type: ignore[method-assign]  # the planted mistake


class TriesOnItsOwn(Engine):
    """Whatever the others found, it goes on until it has found it, too."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._rollouts.heard = self._rollouts.refresh  # type: ignore[method-assign]  # the planted mistake


class NeverGoesBack(Engine):
    """Its router is told of a version to try, and not of the one before."""

    def handle(self, event: Input, now: Micros) -> list[Effect]:
        return [one for one in super().handle(event, now) if not self._hides(one)]

    def _hides(self, effect: Effect) -> bool:
        change = effect.notification if isinstance(effect, Notify) else None
        return isinstance(change, ServedChanged) and change.served.rollout is None


class ServesTheHead(Engine):
    """No rollout ever changes what it serves."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._rollouts.served = self._head  # type: ignore[method-assign]  # the planted mistake

    def _head(self, policy: str) -> Served | None:
        head = self._policy.head(policy)
        return None if head is None else Served(head.version)
