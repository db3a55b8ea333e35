"""What is proved of a policy's settings: capacity without any one region or group, panic, affinity, retries."""

from __future__ import annotations

import itertools
from typing import Final

from router.decision.layout import Layout, SitePlace, lay_out
from router.decision.program import Program
from router.policy.conditions import And, Condition, Match, Not, Or
from router.policy.errors import Findings
from router.policy.settings import IDEMPOTENT_METHODS, SAFE_METHODS, Settings
from router.policy.span import Span
from router.policy.syntax import Named, Route, Tier, Zone
from router.policy.values import write_duration, write_percent

LOADS_MAX: Final = 400_000
"""Loads worked out for one route: of so many rules, losses and zones."""


def check_settings(program: Program, route: Route, findings: Findings) -> None:
    arms: list[tuple[Settings, tuple[Tier, ...]]] = [(route.settings, route.tiers)]
    arms += [(rule.settings.over(route.settings), rule.tiers) for rule in route.rules if rule.refuse is None]
    said: set[Span] = set()
    for settings, tiers in arms:
        if (retry := settings.retry) and retry.span not in said:
            unsafe = [method for method in retry.methods if method not in IDEMPOTENT_METHODS]
            if unsafe:
                said.add(retry.span)
                findings.add(
                    "E405",
                    retry.span,
                    f"{', '.join(unsafe)} may be retried, and so done twice",
                    f"idempotent methods: {', '.join(IDEMPOTENT_METHODS)} ({', '.join(SAFE_METHODS)} change nothing)",
                    "leave them out: what never reached a region is tried again anyway",
                )
        if (stick := settings.stick) and stick.span not in said:
            for name in sorted(may_take(program, tiers)):
                drain = program.regions[name].drain_us
                if drain is not None and drain < stick.lifetime_us:
                    said.add(stick.span)
                    findings.add(
                        "E404",
                        stick.span,
                        f"users stick for {write_duration(stick.lifetime_us)}, but {name} drains for "
                        f"{write_duration(drain)} only",
                        "an affinity no longer than the drain of every region it may choose",
                        f"write: for {write_duration(drain)}",
                    )
                    break


def check_capacity(program: Program, findings: Findings) -> None:
    """Losing any one region, or any one group, must leave the others within what they are built for.

    Each rule in turn is thought to take all of a zone's demand, where requests from there can pass its tests; the other
    zones go by the first rule that is certain to take them, or by the route's own tiers.
    """
    zones = [zone for zone in program.zones.values() if zone and zone.demand_rps and zone.latitude_e6 is not None]
    if not zones or any(region.capacity_rps is None for region in program.regions.values()):
        return
    losses = [("no region", frozenset[str]())]
    losses += [(f"region {name}", frozenset((name,))) for name in program.regions]
    losses += [(f"group {name}", members) for name, members in program.groups.items()]
    layout = lay_out(program, SitePlace("", 0, 0))
    for index, route in enumerate(program.routes):
        possible = [_arms(route, zone) for zone in zones]
        focuses = sorted({arm for arms in possible for arm in arms})
        if len(focuses) * len(losses) * len(zones) > LOADS_MAX:
            findings.add(
                "E406",
                route.span,
                f"whether the regions are built for route {route.name} could not be proved for {len(focuses)} rules, "
                f"{len(losses)} losses and {len(zones)} zones",
                f"a product of at most {LOADS_MAX}",
                "give `demand` to fewer zones",
            )
            return
        for focus, (what, lost) in itertools.product(focuses, losses):
            load = dict.fromkeys(program.regions, 0)
            for zone, arms in zip(zones, possible, strict=True):
                arm = focus if focus in arms else arms[-1]
                lanes = layout.lane_of[index] if arm == len(route.rules) else layout.rule_lanes[index][arm]
                if lanes is not None:  # else the rule refuses them
                    _serve(program, load, lanes[zone.name], layout, zone.demand_rps or 0, lost)
            for name, rps in load.items():
                capacity = program.regions[name].capacity_rps or 0
                if rps > capacity:
                    said = f"{name} gets {rps}rps and is built for {capacity}rps"
                    if focus < len(route.rules):
                        said = f"by rule {route.rules[focus].name} {said}"
                    findings.add(
                        "E403",
                        route.rules[focus].span if focus < len(route.rules) else route.span,
                        f"without {what}, {said}" if lost else said,
                        "enough capacity when any one region or group is lost",
                        "add a tier and `spill above 85%`, or capacity",
                    )
                    return


def _serve(
    program: Program, load: dict[str, int], lane: int, layout: Layout, demand: int, lost: frozenset[str]
) -> None:
    """Add what a zone asks of the regions that are left."""
    numbers, _, settings, _ = layout.lanes[lane]
    left = [layout.candidates[number] for number in numbers if layout.candidates[number].region not in lost]
    first = [each for each in left if each.tier == left[0].tier] if left else []
    if not (settings.stick or (first and first[0].weight)):
        first = first[:1]
    shares = sum(each.weight or 1 for each in first)
    for each in first:
        load[each.region] += demand * (each.weight or 1) // shares
    if settings.spill:
        _spill(program, load, [each.region for each in left], settings.spill.above_ppm)


def _arms(route: Route, zone: Zone) -> tuple[int, ...]:
    """The rules that may take requests from a zone, the last certainly; past the rules are the route's own tiers."""
    found = []
    for number, rule in enumerate(route.rules):
        holds = _holds_in(rule.condition, zone.name)
        if holds is not False:
            found.append(number)
        if holds and not rule.windows and rule.share is None:
            return tuple(found)
    return (*found, len(route.rules))


def _holds_in(condition: Condition | None, zone: str) -> bool | None:
    """Whether a condition holds of every request from a zone; None when that depends on the request."""
    match condition:
        case None:
            return True
        case Match("zone", _, zones):
            return zone in zones
        case Not(inner):
            holds = _holds_in(inner, zone)
            return None if holds is None else not holds
        case And(parts):
            values = [_holds_in(part, zone) for part in parts]
            return False if False in values else None if None in values else True
        case Or(parts):
            values = [_holds_in(part, zone) for part in parts]
            return True if True in values else None if None in values else False
        case _:
            return None


def _spill(program: Program, load: dict[str, int], order: list[str], above_ppm: int) -> None:
    """Move what is above the threshold down the order, as far as there is room."""
    for place, name in enumerate(order):
        room = (program.regions[name].capacity_rps or 0) * above_ppm // 1_000_000
        excess = load[name] - room
        for other in order[place + 1 :]:
            if excess <= 0:
                break
            free = max(0, (program.regions[other].capacity_rps or 0) * above_ppm // 1_000_000 - load[other])
            moved = min(excess, free)
            load[name] -= moved
            load[other] += moved
            excess -= moved


def check_panic(program: Program, findings: Findings) -> None:
    """A tier that health can never leave: without all of it so few candidates are left that health is not believed.

    That is how failover is configured and yet never happens (Envoy's panic threshold, its issues 2671 and 10770).
    """
    layout = lay_out(program, SitePlace("", 0, 0))
    for index, route in enumerate(program.routes):
        arms = [(route.span, layout.lane_of[index])]
        arms += [
            (rule.span, lanes)
            for rule, lanes in zip(route.rules, layout.rule_lanes[index], strict=True)
            if lanes is not None
        ]
        for span, lanes in arms:
            for lane in sorted(set(lanes.values())):
                numbers, _, settings, _ = layout.lanes[lane]
                if settings.panic is None:
                    continue
                tiers = [layout.candidates[number].tier for number in numbers]
                left, every = len(tiers) - tiers.count(tiers[0]), len(tiers)
                below_ppm = settings.panic.below_ppm
                if left and left * 1_000_000 < below_ppm * every:
                    findings.add(
                        "E407",
                        span,
                        f"health can never leave {tiers[0]}: with all of it DOWN, {left} of {every} candidates are "
                        f"left, fewer than {write_percent(below_ppm)}, and in panic it serves all the same",
                        "a panic threshold that the loss of one tier does not reach",
                        f"write: panic below {100 * left // every}%, or give the later tiers more regions",
                    )
                    break


def may_take(program: Program, tiers: tuple[Tier, ...]) -> set[str]:
    found: set[str] = set()
    for tier in tiers:
        if isinstance(tier.choice, Named):
            found |= {region.name for region in tier.choice.regions}
        else:
            found |= set(program.regions) if tier.choice.group is None else program.groups[tier.choice.group]
    return found
