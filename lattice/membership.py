"""Who is there: SWIM's membership table (Das, Gupta, Motivala, 2002).

A claim about a member is (incarnation, state), and claims are totally ordered::

    alive(i) < suspect(i) < down(i) < left(i) < alive(i + 1) < …

so a table is a map of maxima, and news may arrive in any order. Only a member itself raises its incarnation, by a
signed row: to refute what is said of it, and when it starts. Hence whoever hears that it is suspected answers "alive,
i + 1", and a claim of death stands only if nobody answers it. A claim about an incarnation of which there is no row yet
is passed over; it rides on several frames, and the row is on its way.

Of two halves of a network each calls the other's members down, and each of those goes on signing rows meanwhile. So a
claim of death says which row it is about, and a later one of the same incarnation answers it, too: who was alive to
write it need write no other (`reunion`). An isolated member's row does not, for that one may be deaf.

A member comes to exist by its signed row, which says who and where it is; claims about strangers are ignored. Members
that are gone stay in the table (and are called again, so that a long partition heals by itself) until forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from lattice.record import Record
from lattice.roster import Everybody
from lattice.types import Endpoint, Micros, NodeId

NOBODY = NodeId(bytes(16))
ADDRESSES_MAX = 4
"""Of a member: enough for two networks and an old lease of each."""


class MemberState(IntEnum):
    """In the order in which one overrides another within an incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DOWN = 2
    LEFT = 3


STATE_NAMES: Final = tuple(state.name.lower() for state in MemberState)
"""As they are shown, by state."""
_SUSPECT: Final = MemberState.SUSPECT
"""To ask the class for it takes several times as long, and every probe asks who is present."""
_BY_NODE: Final = attrgetter("node")


class MemberUpdate(Record):
    """One claim about one member."""

    node: NodeId
    state: MemberState
    incarnation: int
    by: NodeId = NOBODY
    """Whose finding it is. It orders nothing: it tells independent voices apart."""
    seq: int = 0
    """Of a claim of death: the last row of that incarnation that whoever makes it had seen."""


class Member(Record):
    """Our record of another node."""

    node: NodeId
    site: str
    area: str
    endpoint: Endpoint
    incarnation: int
    state: MemberState
    changed: Micros
    seq: int = 0
    """Of a member that is down: the last row it was seen to sign before. A later one says that it is not."""
    also: tuple[Endpoint, ...] = ()
    """Where it was before, by its own frames and rows, the last first: on another network it may be there still."""

    @property
    def present(self) -> bool:
        """Alive, or only suspected not to be."""
        return self.state <= _SUSPECT

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """Where it may be, the likeliest first."""
        return (self.endpoint, *self.also)


class Membership:
    """Every other node we know of, by id."""

    __slots__ = ("_members", "_members_max", "_nearby", "area", "everybody", "get")

    def __init__(self, us: NodeId, area: str, members_max: int) -> None:
        self.keep_in({})
        self._members_max = members_max
        self._nearby: dict[Endpoint, tuple[NodeId, ...]] = {}
        """By address, whose it is or was (`Member.addresses`): who is called asks, and of thousands hardly any is
        there."""
        self.area = area
        """Ours."""
        self.everybody = Everybody.of([(area, us)])
        """Members that are alive or suspect, and ourselves."""

    def keep_in(self, members: dict[NodeId, Member]) -> None:
        """Have this table from now on, with whom it holds."""
        self._members = members
        self.get: Callable[[NodeId], Member | None] = members.get
        """Our record of a node, None where it is no member. The table's own method: every frame asks."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._members

    def __iter__(self) -> Iterator[Member]:
        """In no order that anything may hang on."""
        return iter(self._members.values())

    def all(self) -> list[Member]:
        """By id."""
        return [self._members[node] for node in sorted(self._members)]

    def at(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, list[Member]]:
        """The members at each of these, by id; of those that are gone, also who was there once."""
        found: dict[Endpoint, list[Member]] = {}
        for endpoint in endpoints:
            known = [self._members[node] for node in self._nearby.get(endpoint, ()) if node in self._members]
            there = [each for each in known if each.endpoint == endpoint or not each.present]
            if there:
                found[endpoint] = sorted(there, key=_BY_NODE)
        return found

    def is_present(self, node: NodeId) -> bool:
        """Whether it is a member that is alive or suspect."""
        member = self._members.get(node)
        return member is not None and member.state <= _SUSPECT

    def introduce(
        self, node: NodeId, site: str, area: str, endpoint: Endpoint, incarnation: int, now: Micros, seq: int = 0
    ) -> bool:
        """A verified row says that this node exists, there, in this incarnation. Whether that changed its state.

        The row proves that the node was alive when it wrote it: it lifts any claim about an earlier incarnation, and a
        claim of death about an earlier row. `seq` is the row's, or 0 for one that shall not lift.
        """
        known = self._members.get(node)
        if known is None:
            if len(self._members) >= self._members_max:
                return False
            self._put(Member(node, site, area, endpoint, incarnation, MemberState.ALIVE, now))
            return True
        if incarnation > known.incarnation:
            self._put(Member(node, site, area, endpoint, incarnation, MemberState.ALIVE, now))
            return not known.present
        if incarnation == known.incarnation and known.state == MemberState.DOWN and seq > known.seq:
            self._put(Member(node, site, area, endpoint, incarnation, MemberState.ALIVE, now))
            return True
        if incarnation == known.incarnation and (site, area, endpoint) != (known.site, known.area, known.endpoint):
            self._put(replace(known, site=site, area=area, endpoint=endpoint))
        return False

    def hear(self, update: MemberUpdate, now: Micros) -> bool:
        """Take a claim if it is news; whether it was. Claims about strangers are not."""
        known = self._members.get(update.node)
        if known is None or update.incarnation != known.incarnation or update.state <= known.state:
            return False  # ahead of the member's row, too: only that raises an incarnation, else a liar could for good
        self._put(replace(known, state=update.state, changed=now, seq=update.seq))
        return True

    def reached_at(self, node: NodeId, endpoint: Endpoint) -> bool:
        """A frame of the node's own came from there: better than what anybody says. Whether that was news."""
        known = self._members.get(node)
        if known is None or known.endpoint == endpoint:
            return False
        self._put(replace(known, endpoint=endpoint))
        return True

    def forget(self, node: NodeId) -> None:
        known = self._members.pop(node, None)
        if known is None:
            return
        self._leave(known.addresses, node)
        if known.present:
            self.everybody = self.everybody.lacking(known.area, node)

    def _put(self, member: Member) -> None:
        node = member.node
        known = self._members.get(node)
        if known is not None:
            if known.endpoint != member.endpoint:
                left = [each for each in known.addresses if each[0] and each != member.endpoint]
                member = replace(member, also=tuple(left[: ADDRESSES_MAX - 1]))
            elif known.also != member.also:
                member = replace(member, also=known.also)
        self._members[node] = member
        if known is None or known.endpoint != member.endpoint or known.also != member.also:
            if known is not None:
                self._leave(known.addresses, node)
            for address in member.addresses:
                self._nearby[address] = (*self._nearby.get(address, ()), node)
        was = known.area if known is not None and known.present else None
        area = member.area if member.present else None
        if was != area:
            if was is not None:
                self.everybody = self.everybody.lacking(was, node)
            if area is not None:
                self.everybody = self.everybody.having(area, node)

    def _leave(self, addresses: Iterable[Endpoint], node: NodeId) -> None:
        """It is no longer to be found at these."""
        for address in addresses:
            others = tuple([other for other in self._nearby[address] if other != node])
            if others:
                self._nearby[address] = others
            else:
                del self._nearby[address]
