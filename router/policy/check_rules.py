"""What must hold of rules, groups, promises and tests: every name means something, every line can take effect."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import partial

from router.policy.conditions import Condition, Match, tests_of
from router.policy.errors import Findings, did_you_mean, listed
from router.policy.scenarios import Action, Expected, Repeat, SetLevel, SetSaturation
from router.policy.span import NOWHERE, Span
from router.policy.syntax import Group, Health, Never, Policy, Region, RegionName, Route, Rule, Zone
from router.policy.values import write_duration

RULES_MAX = 256
"""Rules of one route."""
GROUPS_MAX = 256
TESTS_MAX = 256
NEVERS_MAX = 256
"""Each is proved of every route."""


def check_rules(policy: Policy, regions: Mapping[str, Region], zones: Mapping[str, Zone], findings: Findings) -> None:
    """Check everything but the tiers of rules, which are checked as a route's own are."""
    groups = {group.name: group for group in policy.groups}
    for group in policy.groups:
        _check_group(group, regions, findings)
    for route in policy.routes:
        _check_route(route, zones, findings)
    for never in policy.nevers:
        _check_never(never, regions, groups, zones, findings)
    named = {
        "route": {route.name for route in policy.routes},
        "rule": {rule.name for route in policy.routes for rule in route.rules},
    }
    for test in policy.tests:
        for action in test.actions:
            _check_action(action, named, regions, findings)
    for count, most, what in (
        (len(policy.groups), GROUPS_MAX, "groups"),
        (len(policy.tests), TESTS_MAX, "tests"),
        (len(policy.nevers), NEVERS_MAX, "promises"),
        (max((len(route.rules) for route in policy.routes), default=0), RULES_MAX, "rules in one route"),
    ):
        if count > most:
            findings.add("E001", NOWHERE, f"the policy has {count} {what}", f"at most {most} {what}")


def check_bands(health: Health, findings: Findings) -> None:
    """Hysteresis the right way round: what condemns is worse than what lets back."""
    for what, worse, back in (
        ("latency", health.latency_us_max, health.latency_us_back),
        ("errors", health.errors_ppm_max, health.errors_ppm_back),
        ("saturation", health.saturation_ppm_max, health.saturation_ppm_back),
        ("oldest", health.oldest_us_max, health.oldest_us_back),
    ):
        if worse is not None and back is not None and back > worse:
            findings.add(
                "E209",
                health.span,
                f"the {what} band of health {health.name} is inverted: it recovers above what condemns it",
                "a value after `below` that is at most the one after `above`",
                "swap them",
            )
    damp = health.damp
    if damp and not damp.reuse < damp.suppress:
        findings.add(
            "E211",
            health.span,
            f"health {health.name} damps without end: reuse {damp.reuse} is not below suppress {damp.suppress}",
            "reuse below suppress",
            "write: damp penalty 1000 suppress 2500 reuse 750",
        )
    if damp and damp.half_life_us > damp.longest_us:
        findings.add(
            "E211",
            health.span,
            f"the half-life of health {health.name} is longer than its longest damping",
            f"a half-life of at most {write_duration(damp.longest_us)}",
            "shorten half-life or lengthen max",
        )


def check_group_name(group: str, span: Span, groups: Mapping[str, Group], findings: Findings) -> None:
    if group not in groups:
        findings.add(
            "E314",
            span,
            f"there is no group {group}",
            partial(listed, "a declared group", groups),
            partial(did_you_mean, group, groups),
        )


def check_region_name(region: RegionName, regions: Mapping[str, Region], findings: Findings) -> None:
    if region.name not in regions:
        findings.add(
            "E302",
            region.span,
            f"there is no region {region.name}",
            partial(listed, "a declared region", regions),
            partial(did_you_mean, region.name, regions),
        )


def _check_group(group: Group, regions: Mapping[str, Region], findings: Findings) -> None:
    if not group.regions:
        findings.add("E210", group.span, f"group {group.name} holds no region", "names of regions", "delete the group")
    seen: set[str] = set()
    for region in group.regions:
        check_region_name(region, regions, findings)
        if region.name in seen:
            findings.add(
                "E317", region.span, f"region {region.name} is in the group twice", "each region once", "delete it here"
            )
        seen.add(region.name)
        if region.weight is not None:
            findings.add(
                "E213",
                region.span,
                f"region {region.name} has a weight in a group",
                "weights in tiers only",
                "write it in the tier: primary fra weight 80, ams weight 20",
            )


def _check_route(route: Route, zones: Mapping[str, Zone], findings: Findings) -> None:
    seen: dict[str, Rule] = {}
    for rule in route.rules:
        if rule.name in seen:
            findings.add(
                "E316",
                rule.span,
                f"route {route.name} has a rule {rule.name} on line {seen[rule.name].span.line} already",
                "a name of its own for each rule of a route",
                "rename one of them",
            )
        seen.setdefault(rule.name, rule)
        if rule.refuse is None and not rule.tiers:
            findings.add(
                "E208", rule.span, f"rule {rule.name} neither refuses nor says where to go", "tiers, or deny",
                "add a line: primary nearest",
            )  # fmt: skip
        if rule.refuse is not None and (rule.tiers or rule.otherwise):
            findings.add(
                "E208", rule.span, f"rule {rule.name} refuses and has tiers", "either deny or tiers", "delete one"
            )
        if rule.condition is None and not rule.windows and rule.share is None and rule.span not in findings.damaged:
            findings.add(
                "E212",
                rule.span,
                f"rule {rule.name} has no test: it takes everything",
                "when, during or share",
                "add one, or make its tiers those of the route",
            )
        _check_condition(rule.condition, zones, findings)


def _check_condition(condition: Condition | None, zones: Mapping[str, Zone], findings: Findings) -> None:
    for test in tests_of(condition):
        if isinstance(test, Match) and test.field == "zone":
            for zone in test.values:
                if zone not in zones:
                    findings.add(
                        "E303",
                        test.span,
                        f"there is no zone {zone}",
                        partial(listed, "a declared zone", zones),
                        partial(did_you_mean, zone, zones),
                    )


def _check_never(
    never: Never,
    regions: Mapping[str, Region],
    groups: Mapping[str, Group],
    zones: Mapping[str, Zone],
    findings: Findings,
) -> None:
    _check_condition(never.condition, zones, findings)
    if never.outside is not None:
        check_group_name(never.outside, never.group_span, groups, findings)
    for region in never.regions:
        check_region_name(region, regions, findings)


def _check_action(
    action: Action, named: Mapping[str, AbstractSet[str]], regions: Mapping[str, Region], findings: Findings
) -> None:
    """`named`: the names that there are, by what a test may expect."""
    match action:
        case Repeat(_, actions):
            for inner in actions:
                _check_action(inner, named, regions, findings)
        case SetLevel(region, _, span) | SetSaturation(region, _, span):
            check_region_name(RegionName(region, span=span), regions, findings)
        case Expected("region", value, _, span) if isinstance(value, str):
            check_region_name(RegionName(value, span=span), regions, findings)
        case Expected("load", _, region, span):
            check_region_name(RegionName(region, span=span), regions, findings)
        case Expected("rule" | "route" as what, value, _, span):
            if value not in named[what] and value != "none":
                findings.add(
                    "E315",
                    span,
                    f"there is no {what} {value}",
                    partial(listed, f"a {what} of this policy", named[what]),
                    partial(did_you_mean, str(value), named[what]),
                )
        case _:
            pass
