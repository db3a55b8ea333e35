"""What is proved of capacity: without any one region, or any one group, the others are built for what they get.

What a zone demands may come as any mixture of requests, and so go any mixture of *ways*: by a rule that requests from
there can pass while its window is open, or by a route's own tiers; and where nearest means to whoever decides, or to
the client, by any mixture of places. A region's load is linear in these mixtures, hence greatest where each zone goes
wholly the one way that loads the region most. So one sum for every region, loss and moment of the week is a proof.

What may spill is moved on, from where a threshold is passed to where there is room. That is hardest where all the
regions of a way are loaded most, so these sums are made too: the worst that is known of, and no proof.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, TypeAlias

from router.decision.layout import Candidate, Layout, SitePlace, lay_out, lay_out_next_to
from router.decision.program import Program
from router.decision.weeks import open_together
from router.policy.conditions import And, Condition, Match, Not, Or
from router.policy.errors import Findings
from router.policy.span import Span
from router.policy.syntax import Route, Zone, is_to_client

SUMS_MAX: Final = 600_000
"""Of so many losses, moments, zones and ways: about two seconds."""

_Regions: TypeAlias = frozenset[str]


class _Way(NamedTuple):
    """A way for requests to go, from one place."""

    rule: str
    """"" for a route's own tiers."""
    span: Span
    candidates: tuple[Candidate, ...] = ()
    """None when the way is a refusal."""
    sticks: bool = False
    spill_above_ppm: int | None = None


_Ways: TypeAlias = tuple[int, ...]
"""Ways by number, the most general last."""
_Shares: TypeAlias = list[tuple[tuple[str, int], ...]]
"""By the number of a way: who gets how many parts of what goes there."""


def check_capacity(program: Program, findings: Findings) -> None:
    zones = [zone for zone in program.zones.values() if zone and zone.demand_rps]
    declared = sorted(name for name, region in program.regions.items() if region.capacity_rps is not None)
    if not zones or not declared:
        return
    for name, region in program.regions.items():
        if region.capacity_rps is None:
            findings.add(
                "E410",
                region.span,
                f"{name} declares no capacity, and {declared[0]} does: so nothing is proved of what zones demand",
                "`capacity` of every region, or of none",
                "add one, like: capacity 4000rps",
            )
    if len(declared) == len(program.regions):
        _prove(program, zones, findings)


def _prove(program: Program, zones: list[Zone], findings: Findings) -> None:
    losses = [("", _Regions())]
    losses += [(f"without region {name}, ", _Regions((name,))) for name in program.regions]
    losses += [(f"without group {name}, ", members) for name, members in program.groups.items()]
    ways: dict[_Way, int] = {}
    moments = list(_moments(program, zones, ways))
    sums = (len(ways) + sum(len(gone) for demands in moments for gone in demands)) * len(losses)
    if sums > SUMS_MAX:
        findings.add(
            "E406",
            program.routes[0].span,
            f"whether regions are built for what zones demand could not be proved in {sums} sums, of {len(zones)} "
            f"zones, {len(losses)} losses and {len(moments)} states of windows",
            f"at most {SUMS_MAX}",
            "give `demand` to fewer zones",
        )
        return
    numbered = list(ways)
    spilling = {_Regions(each.region for each in way.candidates) for way in numbered if way.spill_above_ppm is not None}
    said: set[str] = set()
    for what, lost in losses:
        shares = [_shares(way, lost) for way in numbered]
        for demands in moments:
            over = [name for name, rps in _most(demands, shares).items() if rps > _capacity(program, name)]
            for target in [*({name} for name in over), *sorted(spilling, key=sorted)]:
                taken = [(_worst(gone, rps, target, shares), rps) for gone, rps in demands.items()]
                for name, rps in _loads(program, numbered, shares, taken, lost).items():
                    if rps > _capacity(program, name) and name not in said:
                        said.add(name)
                        by = dict.fromkeys(numbered[way][:2] for way, _ in taken if name in dict(shares[way]))
                        _add(findings, what, name, rps, _capacity(program, name), list(by))


def _add(findings: Findings, what: str, name: str, rps: int, capacity: int, by: list[tuple[str, Span]]) -> None:
    """`by` is through which rules, and from where in the policy."""
    by.sort(key=lambda each: (not each[0], each[1].line, each[1].column))
    through = " and ".join(f"rule {rule}" for rule, _ in by if rule)
    findings.add(
        "E403",
        by[0][1],
        f"{what}{f'by {through} ' if through else ''}{name} gets {rps}rps and is built for {capacity}rps",
        "enough capacity when any one region or group is lost",
        "add a tier and `spill above 85%`, or capacity",
    )


def _capacity(program: Program, name: str) -> int:
    return program.regions[name].capacity_rps or 0


def _moments(program: Program, zones: list[Zone], ways: dict[_Way, int]) -> Iterator[dict[_Ways, int]]:
    """What is demanded at each moment that windows tell apart: by the ways it may go, which many zones have alike.
    `ways` numbers them."""
    layouts = _Layouts(program)
    windows = {
        (index, number): rule.windows
        for index, route in enumerate(program.routes)
        for number, rule in enumerate(route.rules)
    }
    for opened in open_together(windows):
        demands: dict[_Ways, int] = defaultdict(int)
        for zone in zones:
            found = [
                ways.setdefault(way, len(ways))
                for index, route in enumerate(program.routes)
                for arm in _arms(route, zone, {number for of_route, number in opened if of_route == index})
                for way in layouts.ways(index, arm, zone)
            ]
            demands[tuple(dict.fromkeys(found))] += zone.demand_rps or 0
        yield demands


class _Layouts:
    """The ways of a policy, from every place that makes a difference."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._anywhere = lay_out(program, SitePlace("", 0, 0))
        self._next_to: list[Layout] = []

    def ways(self, index: int, arm: int, zone: Zone) -> Iterator[_Way]:
        route = self._program.routes[index]
        rule = route.rules[arm] if arm < len(route.rules) else None
        name, span = (rule.name, rule.span) if rule else ("", route.span)
        if rule and rule.refuse:
            yield _Way(name, span)
            return
        tiers = rule.tiers if rule else route.tiers_for(zone.name)
        for layout in self._layouts(zone.latitude_e6 is None or any(map(is_to_client, tiers))):
            of_zones = layout.rule_lanes[index][arm] if rule else layout.lane_of[index]
            assert of_zones is not None, "it does not refuse"
            numbers, _, settings, _ = layout.lanes[of_zones[zone.name]]
            candidates = tuple([layout.candidates[number] for number in numbers])
            spill = settings.spill.above_ppm if settings.spill else None
            yield _Way(name, span, candidates, settings.stick is not None, spill)

    def _layouts(self, by_place: bool) -> list[Layout]:
        if not by_place:
            return [self._anywhere]
        if not self._next_to:
            self._next_to = [lay_out_next_to(self._program, name) for name in self._program.regions]
        return self._next_to


def _shares(way: _Way, lost: _Regions) -> tuple[tuple[str, int], ...]:
    """Who gets how many parts of what goes this way; nobody when it is refused, or all are lost."""
    left = [each for each in way.candidates if each.region not in lost]
    first = [each for each in left if each.tier == left[0].tier]
    if not (way.sticks or (first and first[0].weight)):
        first = first[:1]
    return tuple([(each.region, each.weight or 1) for each in first])


def _most(demands: Mapping[_Ways, int], shares: _Shares) -> dict[str, int]:
    """The most that each region can get before anything is spilled."""
    load: dict[str, int] = defaultdict(int)
    for gone, rps in demands.items():
        most: dict[str, int] = {}
        for way in gone:
            parts = shares[way]
            whole = sum([part for _, part in parts])
            for name, part in parts:
                most[name] = max(most.get(name, 0), rps * part // whole)
        for name, each in most.items():
            load[name] += each
    return load


def _worst(gone: _Ways, rps: int, target: AbstractSet[str], shares: _Shares) -> int:
    """The way that brings most to these regions; of equals the most general one."""

    def brought(way: int) -> int:
        parts = shares[way]
        whole = sum([part for _, part in parts])
        return sum([rps * part // whole for name, part in parts if name in target])

    return max(reversed(gone), key=brought)


def _loads(
    program: Program, ways: list[_Way], shares: _Shares, taken: Iterable[tuple[int, int]], lost: _Regions
) -> dict[str, int]:
    """What every region gets, in requests a second, when all that is demanded goes these ways."""
    load = dict.fromkeys(program.regions, 0)
    spilling: list[tuple[_Way, dict[str, int]]] = []
    for way, rps in taken:
        whole = sum(part for _, part in shares[way])
        got = {name: rps * part // whole for name, part in shares[way]}
        for name, each in got.items():
            load[name] += each
        if ways[way].spill_above_ppm is not None:
            spilling.append((ways[way], got))
    for spilled, got in spilling:
        _spill(program, load, spilled, got, lost)
    return load


def _spill(program: Program, load: dict[str, int], way: _Way, got: dict[str, int], lost: _Regions) -> None:
    """Move what came this way and is above the threshold down the order, as far as there is room."""
    order = [each.region for each in way.candidates if each.region not in lost]
    room = {name: _capacity(program, name) * (way.spill_above_ppm or 0) // 1_000_000 for name in order}
    for place, name in enumerate(order):
        excess = min(load[name] - room[name], got.get(name, 0))
        for other in order[place + 1 :]:
            if excess <= 0:
                break
            moved = min(excess, max(0, room[other] - load[other]))
            load[name] -= moved
            load[other] += moved
            excess -= moved


def _arms(route: Route, zone: Zone, opened: set[int]) -> tuple[int, ...]:
    """The rules that may take requests from a zone, the last certainly; past the rules are the route's own tiers."""
    found = []
    for number, rule in enumerate(route.rules):
        by_date = any(not window.days for window in rule.windows)
        if rule.windows and number not in opened and not by_date:
            continue
        holds = _holds_in(rule.condition, zone.name)
        if holds is not False:
            found.append(number)
        if holds and rule.share is None and (not rule.windows or number in opened):
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
