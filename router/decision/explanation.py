"""Why a request went where it went: which rule, at which line, what each tier kept, and what comes next.

Computed from the same table that decided, so it cannot tell another story; as plain values, for people and JSON alike.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass

from lattice.types import Endpoint, Level, Micros
from router.decision.decide import Decision, decide, leaves, user_key
from router.decision.decision_bytes import plain_decision
from router.decision.plan import Lane, Option, RouteTable, standing
from router.decision.request import Request, key_bytes
from router.health.damping import RegionDamping
from router.policy.printer_parts import print_condition, print_key
from router.policy.syntax import Route, Rule
from router.policy.zones import read_client


@dataclass(frozen=True, slots=True)
class Kept:
    """A region of a tier, and what became of it."""

    region: str
    level: str
    chosen: bool
    why: str
    """Why it was not taken; "" for the chosen one, "standby" for what may be tried next, "returning" when it is well
    again and this user is not among the first to go back."""
    returns_us: int | None = None
    """When damping, cooldown or probation lets it back at the earliest."""


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    where: str
    """file:line of the rule or route that decided; "" without one."""
    tested: str
    """The rule's condition; "" when the route's own tiers decided."""
    tiers: tuple[tuple[str, tuple[Kept, ...]], ...]
    affinity: str
    """The key that told the user apart, as written; "" without affinity."""
    valid_until: int | None


def plain_explanation(explanation: Explanation) -> dict[str, object]:
    """The explanation as JSON has it."""
    tiers = [{"tier": tier, "regions": [asdict(kept) for kept in regions]} for tier, regions in explanation.tiers]
    return {
        "decision": plain_decision(explanation.decision),
        "where": explanation.where,
        "tested": explanation.tested,
        "tiers": tiers,
        "affinity": explanation.affinity,
        "valid_until": explanation.valid_until,
    }


def explain(
    table: RouteTable,
    request: Request,
    ejected: AbstractSet[Endpoint],
    damping: RegionDamping | None = None,
    now: Micros = Micros(0),  # noqa: B008  (an integer)
) -> Explanation:
    """Decide, and say why. Slower than `decide`, and never another answer."""
    decision = decide(table, request, ejected)
    route = next((route for route in table.program.routes if route.name == decision.route), None)
    if route is None:
        return Explanation(decision, "", "", (), "", table.valid_until)
    rule = next((rule for rule in route.rules if rule.name == decision.rule), None)
    line = (rule or route).span.line
    where = f"{table.program.policy.file}:{line}"
    tested = print_condition(rule.condition) if rule and rule.condition else ""
    lane = _lane(table, route, rule, decision.zone, request.location)
    if lane is None:
        return Explanation(decision, where, tested, (), "", table.valid_until)
    tiers: dict[str, list[Kept]] = {}
    key = user_key(lane.settings, request, read_client(request.client))
    for option in lane.candidates:
        leaving = leaves(lane, option.region, key)
        kept = _kept(table, lane, option, decision, ejected, leaving, damping, now)
        tiers.setdefault(option.tier, []).append(kept)
    shown = tuple((tier, tuple(kept)) for tier, kept in tiers.items())
    return Explanation(decision, where, tested, shown, _affinity(lane, request), table.valid_until)


def _lane(table: RouteTable, route: Route, rule: Rule | None, zone: str, location: int) -> Lane | None:
    index = table.program.routes.index(route)
    if rule is None:
        return table.lane(index, zone, location)
    lanes = table.layout.rule_lanes[index][route.rules.index(rule)]
    return None if lanes is None else table.lane_near(lanes[zone], location)


def _kept(
    table: RouteTable,
    lane: Lane,
    option: Option,
    decision: Decision,
    ejected: AbstractSet[Endpoint],
    leaving: str,
    damping: RegionDamping | None,
    now: Micros,
) -> Kept:
    standbys = {attempt.region for attempt in decision.attempts}
    chosen = option.region == decision.region and option.tier == decision.tier
    why = ""
    if not chosen:
        if all(attempt.endpoint in ejected for attempt in option.attempts):
            why = "ejected here"
        elif option not in lane.options:
            why = standing(option)
        elif leaving == "returning" or (leaving and option.region not in standbys):
            why = leaving
        else:
            why = "standby" if option.region in standbys else "not needed"
    level = table.levels.get(option.region, Level.UNKNOWN).name
    returns = damping[option.region].returns_at(now) if damping is not None else None
    return Kept(option.region, level, chosen, why, returns)


def _affinity(lane: Lane, request: Request) -> str:
    if lane.settings.stick is None:
        return ""
    client = read_client(request.client)
    for key in lane.settings.stick.keys:
        if key_bytes(key, request, client) is not None:
            return print_key(key)
    return "the client's address"
