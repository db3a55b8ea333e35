"""Request in, `Decision` out: a few look-ups in a `RouteTable`, on every node the same.

Route (by host, then path) -> zone (by client address) -> lane -> its options, best first, without the endpoints that
are ejected here. Integers and strings only, no clock and no randomness: equal rows, policy, site, request and ejections
give equal decisions, so any node can recompute another's. Total: whatever the request holds, the answer is a region or
a written denial; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lattice.types import Endpoint
from router.decision.plan import Attempt, Lane, Option, RouteTable
from router.decision.rendezvous import ranking
from router.policy.syntax import Deny
from router.policy.zones import Client, read_client

__all__ = ["ATTEMPTS_MAX", "REGION_ATTEMPTS_MAX", "Attempt", "Decision", "Request", "decide"]

ATTEMPTS_MAX = 8
"""Endpoints a decision lists. Each costs a connection: who has met eight dead ones should answer, not search."""
REGION_ATTEMPTS_MAX = 3
"""Endpoints of one region among them, so that a large dead region never hides its standbys."""
NO_ROUTE = "no route"
NO_ROUTE_STATUS = 404


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request a decision may depend on."""

    client: str
    """The client's numeric address; anything else is in no zone."""
    host: str
    """As sent: any case, with or without a port."""
    path: str
    """As sent; a query is ignored."""
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Decision:
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


def decide(table: RouteTable, request: Request, ejected: AbstractSet[Endpoint]) -> Decision:
    """Decide one request. `ejected` holds the endpoints not to be tried, whatever their region's level."""
    program = table.program
    client = read_client(request.client)
    zone = program.addresses.zone_of(client)
    path = request.path
    if "?" in path:
        path = path.partition("?")[0]
    for index in program.hosts.routes_for(request.host):
        pattern = program.paths[index]
        if pattern is None or pattern.matches(path):
            break
    else:
        return Decision("", zone, None, None, "", NO_ROUTE, NO_ROUTE_STATUS, ())
    route = program.routes[index].name
    lane = table.lanes[table.layout.lane_of[index][zone]]
    attempts: list[Attempt] = []
    chosen: Option | None = None
    for option in lane.options:
        taken = 0
        for attempt in option.attempts if len(option.attempts) == 1 else _in_order(option, request.client, client):
            if attempt.endpoint not in ejected:
                attempts.append(attempt)
                taken += 1
                if taken == REGION_ATTEMPTS_MAX:
                    break
        if taken and chosen is None:
            chosen = option
        if len(attempts) >= ATTEMPTS_MAX:
            break
    proposed = lane.candidates[0].region
    if chosen is not None:
        reason = lane.reason(chosen)
        return Decision(route, zone, proposed, chosen.region, chosen.tier, reason, 0, tuple(attempts[:ATTEMPTS_MAX]))
    if isinstance(lane.otherwise, Deny):
        return Decision(route, zone, proposed, None, "", lane.lost("denied"), lane.otherwise.status, ())
    attempts = _last_resort(lane, request.client, client, ejected)
    first = attempts[0]
    reason = lane.lost("fail open")
    return Decision(route, zone, proposed, first.region, first.tier, reason, 0, tuple(attempts[:ATTEMPTS_MAX]))


def _in_order(option: Option, text: str, client: Client | None) -> list[Attempt]:
    """A region's endpoints, the one this client belongs to first."""
    family, address = client or (0, 0)
    key = address.to_bytes(16 if family == 6 else 4, "big") if family else text.encode("utf-8", "surrogatepass")
    attempts = option.attempts
    return [attempts[index] for index in ranking(key, option.names)]


def _last_resort(lane: Lane, text: str, client: Client | None, ejected: AbstractSet[Endpoint]) -> list[Attempt]:
    """The primary tier as if it were well; what is not ejected goes first, since its last word was not a refusal."""
    attempts = [
        attempt for option in lane.last_resort for attempt in _in_order(option, text, client)[:REGION_ATTEMPTS_MAX]
    ]
    return sorted(attempts, key=lambda attempt: attempt.endpoint in ejected)
