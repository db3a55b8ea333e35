"""Request in, `Decision` out: a few look-ups in a `RouteTable`, on every node the same.

Route (by host, then path) -> zone (by client address, ASN, country, continent) -> rule -> lane -> its options, best
first, without the endpoints that are ejected here. Integers and strings only, no clock and no randomness: equal rows,
policy, site, time, request and ejections give equal decisions, so any node can recompute another's. Total: whatever the
request holds, the answer is a region or a written denial; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from lattice.record import Record
from lattice.types import Endpoint
from router.decision.plan import Attempt, Lane, Option, RouteTable, standing
from router.decision.predicates import NO_RULE
from router.decision.program import Program
from router.decision.rendezvous import ranking
from router.decision.request import Request, bucket, client_bytes, key_bytes
from router.policy.settings import NO_SETTINGS, Settings
from router.policy.syntax import Deny
from router.policy.zones import Client, read_client

__all__ = [
    "ATTEMPTS_MAX",
    "REGION_ATTEMPTS_MAX",
    "Attempt",
    "Decision",
    "Request",
    "Settled",
    "decide",
    "settle",
    "warm",
]

ATTEMPTS_MAX = 8
"""Endpoints a decision lists. Each costs a connection: who has met eight dead ones should answer, not search."""
REGION_ATTEMPTS_MAX = 3
"""Endpoints of one region among them, so that a large dead region never hides its standbys."""
WARM_MAX = 8_192
"""Decisions that `warm` makes beforehand, about 10 MiB."""
NO_ROUTE = "no route"
NO_ROUTE_STATUS = 404


class Decision(NamedTuple):
    """Where a request goes, and why."""

    route: str
    """The route's name; "" when none matches."""
    zone: str
    """The client's zone; "" when it is in none."""
    proposed: str | None
    """The region policy alone wants: everything healthy, nothing ejected. None when no route matches."""
    region: str | None
    """The region chosen; None when the request is denied."""
    tier: str
    """The tier the region was chosen from; "" when denied."""
    reason: str
    """Header-safe ASCII: "primary", "secondary: fra DOWN", "fail open: ...", "denied: ..." or "no route"."""
    status: int
    """The HTTP status to answer with when `region` is None (404 without a route); else 0."""
    attempts: tuple[Attempt, ...]
    """What to try, in order: the region's endpoints, then the standbys'. None twice; empty when denied."""
    rule: str = ""
    """The rule of the route that decided; "" when the route's own tiers did."""
    settings: Settings = NO_SETTINGS
    """Retry, hedge, timeouts and affinity, for the data plane to keep."""


class Settled(Record):
    """A decision that was made once, and under which ejections it, or its stand-in, still is what would be decided."""

    decision: Decision
    first: Endpoint | None
    """Of its attempts; None when it has none."""
    others: frozenset[Endpoint]
    """The rest of its attempts, and those of the stand-in."""
    stand_in: Decision | None
    """What is decided when only `first` is ejected; None when that must be worked out."""

    def under(self, ejected: AbstractSet[Endpoint]) -> Decision | None:
        """The decision while these are ejected; None when it must be worked out."""
        if ejected and not self.others.isdisjoint(ejected):
            return None
        return self.stand_in if self.first in ejected else self.decision


def decide(table: RouteTable, request: Request, ejected: AbstractSet[Endpoint]) -> Decision:
    """Decide one request. `ejected` holds the endpoints not to be tried, whatever their region's level."""
    client = read_client(request.client)
    return settle(table, request, ejected, client, table.program.addresses.zone_of(client))[0]


def route_at(program: Program, host: str, path: str) -> str:
    """The route of a host and path, by name; "" if there is none. As `settle` finds it."""
    path = path.partition("?")[0]
    for index in program.hosts.routes_for(host):
        pattern = program.paths[index]
        if pattern is None or pattern.matches(path):
            return program.routes[index].name
    return ""


def settle(
    table: RouteTable, request: Request, ejected: AbstractSet[Endpoint], client: Client | None, zone: str
) -> tuple[Decision, Settled | None]:
    """Decide for a client whose address is read and whose zone by address is known; and say how long that holds."""
    program = table.program
    if not zone and program.geo is not None:
        zone = program.geo.zone_of(request)
    path = request.path
    if "?" in path:
        path = path.partition("?")[0]
    hosts = program.hosts
    for index in hosts.exact.get(request.host) or hosts.routes_for(request.host):
        pattern = program.paths[index]
        if pattern is None or pattern.matches(path):
            break
    else:
        return Decision("", zone, None, None, "", NO_ROUTE, NO_ROUTE_STATUS, ()), None
    choose = table.choosers[index]
    number = NO_RULE if choose is None else choose(request, path, zone, client)
    settled: Settled | None = table.usual[index][number].get(zone)
    if settled is not None:
        if not ejected:
            return settled.decision, settled
        if (found := settled.under(ejected)) is not None:
            return found, settled
    return _decide(table, request, ejected, client, zone, index, number)


def _decide(
    table: RouteTable,
    request: Request,
    ejected: AbstractSet[Endpoint],
    client: Client | None,
    zone: str,
    index: int,
    number: int,
) -> tuple[Decision, Settled | None]:
    """The decision on a rule of a route, or on the route's own tiers; remembered when it is everybody's."""
    route = table.program.routes[index]
    rule, lanes = "", table.layout.lane_of[index]
    if number != NO_RULE:
        chosen_rule, of_rule = route.rules[number], table.layout.rule_lanes[index][number]
        rule = chosen_rule.name
        if of_rule is None:
            assert chosen_rule.refuse is not None, "a rule without lanes refuses"
            reason = f"denied: {chosen_rule.refuse.reason or rule}"
            refused = Decision(route.name, zone, None, None, "", reason, chosen_rule.refuse.status, (), rule)
            always = table.usual[index][number][zone] = Settled(refused, None, frozenset(), None)
            return refused, always
        lanes = of_rule
    lane = table.lane_near(lanes[zone], request.location)
    if not _is_plain(lane):
        decision = _decide_for_user(lane, route.name, zone, rule, request, client, ejected)
        return decision, _settled(decision) if _is_clear(lane, ejected) else None
    if not ejected and (usual := _plain(lane, route.name, zone, rule)) is not None:
        if not lane.roams:
            table.usual[index][number][zone] = usual
        return usual.decision, usual
    attempts, chosen = _attempts(lane.options, client, request.client, ejected)
    if chosen is None:
        proposed = lane.candidates[0].region
        return _without(lane, route.name, zone, proposed, rule, request, client, ejected), None
    decision = _on_lane(lane, route.name, zone, rule, attempts, chosen)
    return decision, _settled(decision) if _is_clear(lane, ejected) else None


def warm(table: RouteTable) -> Iterator[None]:
    """Settle, off the request path, what all clients of a zone get: one lane a step, most general first, up to
    `WARM_MAX`. Without it the first client of each does."""
    left = WARM_MAX
    for index, route in enumerate(table.program.routes):
        for number in (NO_RULE, *range(len(route.rules))):
            of_rule = table.layout.lane_of[index] if number == NO_RULE else table.layout.rule_lanes[index][number]
            rule = "" if number == NO_RULE else route.rules[number].name
            known = table.usual[index][number]
            for zone, place in (of_rule or {}).items():
                lane = table.lanes[place]
                if zone in known or lane.roams or not _is_plain(lane):
                    continue
                if (usual := _plain(lane, route.name, zone, rule)) is not None:
                    known[zone] = usual
                    yield
                    left -= 1
                    if not left:
                        return


def _is_plain(lane: Lane) -> bool:
    """Whether the order of its regions is the same for everybody."""
    return not (lane.classes or lane.settings.stick or lane.candidates[0].weight)


def _on_lane(lane: Lane, route: str, zone: str, rule: str, attempts: tuple[Attempt, ...], chosen: Option) -> Decision:
    proposed, reason = lane.candidates[0].region, lane.reason(chosen)
    return Decision(route, zone, proposed, chosen.region, chosen.tier, reason, 0, attempts, rule, lane.settings)


def _plain(lane: Lane, route: str, zone: str, rule: str) -> Settled | None:
    """What everybody gets while nothing is ejected, and the stand-in; None when the order depends on who asks."""
    ahead = lane.options[: ATTEMPTS_MAX + 1]
    if not ahead:
        return None
    attempts = []
    for option in ahead:
        if len(option.attempts) != 1:
            return None
        attempts.append(option.attempts[0])
    decision = _on_lane(lane, route, zone, rule, tuple(attempts[:ATTEMPTS_MAX]), ahead[0])
    first, *others = [attempt.endpoint for attempt in attempts]
    stand_in = _on_lane(lane, route, zone, rule, tuple(attempts[1:]), ahead[1]) if others else None
    return Settled(decision, first, frozenset(others), stand_in)


def _is_clear(lane: Lane, ejected: AbstractSet[Endpoint]) -> bool:
    """Whether something may serve and nothing of it is ejected: only then does a decision outlive other ejections."""
    if not lane.options:
        return False
    return not ejected or not any(attempt.endpoint in ejected for option in lane.options for attempt in option.attempts)


def _settled(decision: Decision) -> Settled | None:
    if not decision.attempts:
        return None
    first, *others = [attempt.endpoint for attempt in decision.attempts]
    return Settled(decision, first, frozenset(others), None)


def _attempts(
    options: Iterable[Option], client: Client | None, text: str, ejected: AbstractSet[Endpoint], key: bytes = b""
) -> tuple[tuple[Attempt, ...], Option | None]:
    """What is left to try, and the option that the first of it belongs to."""
    attempts: list[Attempt] = []
    chosen: Option | None = None
    for option in options:
        taken = 0
        for attempt in option.attempts if len(option.attempts) == 1 else _in_order(option, text, client, key):
            if attempt.endpoint not in ejected:
                attempts.append(attempt)
                taken += 1
                if taken == REGION_ATTEMPTS_MAX:
                    break
        if taken and chosen is None:
            chosen = option
        if len(attempts) >= ATTEMPTS_MAX:
            break
    return tuple(attempts[:ATTEMPTS_MAX]), chosen


def _without(
    lane: Lane,
    route: str,
    zone: str,
    proposed: str,
    rule: str,
    request: Request,
    client: Client | None,
    ejected: AbstractSet[Endpoint],
) -> Decision:
    """Nothing may serve: what the policy says of that."""
    if isinstance(lane.otherwise, Deny):
        said = f"denied: {lane.otherwise.reason}" if lane.otherwise.reason else lane.lost("denied")
        return Decision(route, zone, proposed, None, "", said, lane.otherwise.status, (), rule, lane.settings)
    attempts = _last_resort(lane, request.client, client, ejected)
    first = attempts[0]
    reason = lane.lost("fail open")
    taken = tuple(attempts[:ATTEMPTS_MAX])
    return Decision(route, zone, proposed, first.region, first.tier, reason, 0, taken, rule, lane.settings)


def _decide_for_user(
    lane: Lane,
    route: str,
    zone: str,
    rule: str,
    request: Request,
    client: Client | None,
    ejected: AbstractSet[Endpoint],
) -> Decision:
    """Where the order depends on who asks: affinity, weights, spill."""
    key = user_key(lane.settings, request, client)
    sticky = lane.settings.stick is not None
    first_tier = [option for option in lane.candidates if option.tier == lane.candidates[0].tier]
    proposed = _for_user(first_tier, key, sticky)[0]
    spilled: list[Option] = []
    options: list[Option] = []
    for of_class in lane.classes:
        leaving: list[Option] = []
        for tier in of_class:
            for option in _for_user(tier, key, sticky):
                (leaving if leaves(lane, option.region, key) else options).append(option)
        options += leaving
        spilled += leaving
    endpoint_key = key if sticky else b""
    attempts, chosen = _attempts(options, client, request.client, ejected, endpoint_key)
    if chosen is None:
        return _without(lane, route, zone, proposed.region, rule, request, client, ejected)
    reason = f"panic: {chosen.tier}" if lane.panicked else chosen.tier
    if chosen is not proposed:
        passed = options[: options.index(chosen)]
        elsewhere = leaves(lane, proposed.region, key) if proposed in spilled else ""
        why = "ejected" if proposed in passed else elsewhere or standing(proposed)
        reason = f"{reason}: {proposed.region} {why}"
    return Decision(route, zone, proposed.region, chosen.region, chosen.tier, reason, 0, attempts, rule, lane.settings)


def user_key(settings: Settings, request: Request, client: Client | None) -> bytes:
    """What tells this user apart: the first affinity key that the request has, else the client's address."""
    if settings.stick is not None:
        for key in settings.stick.keys:
            found = key_bytes(key, request, client)
            if found is not None:
                return found
    return client_bytes(request.client, client)


def _for_user(tier: Sequence[Option], key: bytes, sticky: bool) -> Sequence[Option]:
    """The regions of a tier, the one this user belongs to first."""
    if len(tier) < 2 or not (sticky or tier[0].weight):
        return tier
    names = [b"region " + option.region.encode("ascii") for option in tier]
    weights = [option.weight for option in tier] if tier[0].weight else ()
    return [tier[index] for index in ranking(key, names, weights)]


def leaves(lane: Lane, region: str, key: bytes) -> str:
    """Why this user is not to go to a region though it is well: "returning", "spilled", or "" for no reason."""
    for name, ppm in lane.spilling:
        if name == region:
            place = bucket(b"spill " + region.encode("ascii"), key)
            if place < ppm:
                return "returning" if place < dict(lane.returning).get(region, 0) else "spilled"
    return ""


def _in_order(option: Option, text: str, client: Client | None, key: bytes = b"") -> list[Attempt]:
    """A region's endpoints, the one this client belongs to first."""
    attempts = option.attempts
    return [attempts[index] for index in ranking(key or client_bytes(text, client), option.names, option.weights)]


def _last_resort(lane: Lane, text: str, client: Client | None, ejected: AbstractSet[Endpoint]) -> list[Attempt]:
    """The primary tier as if it were well; what is not ejected goes first, since its last word was not a refusal."""
    attempts = [
        attempt for option in lane.last_resort for attempt in _in_order(option, text, client)[:REGION_ATTEMPTS_MAX]
    ]
    return sorted(attempts, key=lambda attempt: attempt.endpoint in ejected)
