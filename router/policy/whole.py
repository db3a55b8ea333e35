"""What must hold of a node of the syntax tree whose fields are right one by one: what they only say together.

Text cannot say otherwise, by its grammar and its builders; programs that write JSON can. Every law raises
`BadValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from router.policy import values
from router.policy.conditions import CONDITION_DEPTH_MAX, FIELDS, VALUES_MAX, WITH_ARGUMENT, Match, Present
from router.policy.errors import excerpt
from router.policy.printer_parts import print_condition
from router.policy.probe import USUAL_PROBE, Probe, ProbeKind, StatusRange
from router.policy.scenarios import ACTIONS_MAX, FACTS, Expected, Fact, Given, Repeat, Scenario, multiplied_out
from router.policy.settings import KEYS, Cache, Key, Stick, Timeouts
from router.policy.syntax import Health, Named, Never, Rule, Zone
from router.policy.values import BadValueError, write_percent
from router.policy.windows import Window
from router.policy.words import (
    BOUND_READERS,
    FACT_READERS,
    KEY_READERS,
    MATCH_READERS,
    as_it_is,
    read_name,
    read_tier_name,
    read_window_text,
    same,
)


def _no(message: str, expected: str) -> BadValueError:
    return BadValueError("", message, expected)


def _probe(probe: Probe) -> None:
    if not probe.statuses:
        raise _no("a probe that expects no status", "one at least")
    if probe.kind is ProbeKind.HTTP:
        same(values.read_probe_path, probe.target, probe.target)
        return
    if probe.kind is ProbeKind.GRPC:
        same(values.read_grpc_service, probe.target, probe.target)
    elif probe.target:
        raise BadValueError("E140", "a TCP probe asks for nothing", "no target")
    if probe.statuses != USUAL_PROBE.statuses or probe.containing:
        raise BadValueError("E140", "statuses and containing are for HTTP probes", f"a {probe.kind.value} probe alone")


def _statuses(statuses: StatusRange) -> None:
    same(values.read_status_range, f"{statuses.first}-{statuses.last}", (statuses.first, statuses.last))


def _key(key: Key) -> None:
    if key.kind not in KEYS:
        raise BadValueError("E128", f"{excerpt(key.kind)} tells no users apart", f"one of {', '.join(KEYS)}")
    counted = key.kind in ("ip", "path")
    if key.name if counted else key.count:
        raise _no(f"a key by {key.kind} has {'no name' if counted else 'no count'}", "to leave it out")
    said = key.count if counted else key.name
    same(KEY_READERS[key.kind], str(said), said)


def _tested(test: Match | Present) -> None:
    if test.field not in FIELDS:
        raise BadValueError("E125", f"{excerpt(test.field)} is nothing a request has", f"one of {', '.join(FIELDS)}")
    if test.field in WITH_ARGUMENT:
        same(KEY_READERS["header" if test.field == "header" else "cookie"], test.argument, test.argument)
    elif test.argument:
        raise BadValueError("E127", f"{test.field} takes no name", "an argument only for header, query and cookie")
    if isinstance(test, Present):
        if test.field not in WITH_ARGUMENT:
            raise BadValueError("E126", f"{test.field} is always there", "a header, query parameter or cookie")
        return
    _some(test.values, "values")
    if len(test.values) > VALUES_MAX:
        raise BadValueError("E001", f"{len(test.values)} values in one list", f"at most {VALUES_MAX} values")
    read = MATCH_READERS.get(test.field, read_name if test.field == "zone" else as_it_is)
    for value in test.values:
        same(read, value, value)


def _some(listed: tuple[Any, ...], what: str) -> None:
    if not listed:
        raise _no(f"there are no {what}", "one at least")
    if len(set(listed)) < len(listed):
        raise _no(f"one of the {what} is there twice", "each once")


def _condition(rule: Rule | Never) -> None:
    if rule.condition is not None and _depth(print_condition(rule.condition)) > CONDITION_DEPTH_MAX:
        raise BadValueError("E006", "parentheses are nested too deep", f"at most {CONDITION_DEPTH_MAX} deep")


def _depth(text: str) -> int:
    """How deep parentheses stand in each other."""
    depth = deepest = 0
    for mark in re.sub(r'"[^"]*"', "", text):
        depth += (mark == "(") - (mark == ")")
        deepest = max(deepest, depth)
    return deepest


def _parts(both: Any) -> None:
    if len(both.conditions) < 2:
        raise _no(f"{len(both.conditions)} conditions", "two at least")


def _never(never: Never) -> None:
    _condition(never)
    if (never.outside is None) == (not never.regions):
        raise _no("serves nothing, or both outside a group and by these", "outside, or regions")


def _given(given: Given) -> None:
    if not given.facts:
        raise _no("a request of which nothing is given", "one fact at least")


def _fact(fact: Fact) -> None:
    if fact.name not in FACTS or (fact.argument == "") == (fact.name in WITH_ARGUMENT):
        raise BadValueError("E133", f"{excerpt(fact.name)} cannot be given so", ", ".join(FACTS))
    if fact.name == "header":
        same(str.lower, fact.argument, fact.argument)
    same(FACT_READERS.get(fact.name, as_it_is), fact.value, fact.value)


def _expected(claim: Expected) -> None:
    what, value = claim.what, claim.value
    if (what == "load") != bool(claim.region):
        raise _no(f"{excerpt(what)} {'of no region' if what == 'load' else 'of a region'}", "a region for load only")
    if claim.region:
        same(read_name, claim.region, claim.region)
    if what in BOUND_READERS and isinstance(value, int):
        same(BOUND_READERS[what], str(value) if what == "switches" else write_percent(value), value)
    elif what == "deny" and isinstance(value, int):
        same(values.read_status, str(value), value)
    elif what == "tier" and isinstance(value, str):
        same(read_tier_name, value, value)
    elif what in ("region", "rule", "route") and isinstance(value, str):
        same(read_name, value, value)
    else:
        raise _no(
            f"{excerpt(what)} {excerpt(str(value))} is nothing to expect",
            "region, tier, rule or route with a name, deny with a status, or switches, moved or load with a number",
        )


def _scenario(test: Scenario) -> None:
    actions = [*test.actions]
    total, expects = multiplied_out(test.actions), False
    for action in actions:
        actions += action.actions if isinstance(action, Repeat) else ()
        expects = expects or isinstance(action, Expected)
    if total > ACTIONS_MAX:
        raise BadValueError(
            "E001", f"the test has {total} actions, repeats multiplied out", f"at most {ACTIONS_MAX}"
        )  # fmt: skip
    if not expects:
        raise BadValueError("E214", "the test expects nothing", "an Expected at least")


def _repeat(repeat: Repeat) -> None:
    for inner in repeat.actions:
        if isinstance(inner, Repeat) and not _one_line(inner):
            raise _no("a repeat in a repeat", "one, with the product of their counts")


def _one_line(repeat: Repeat) -> bool:
    """Whether this is how several claims of one `expect` are kept."""
    return repeat.count == 1 and len(repeat.actions) > 1 and all(isinstance(each, Expected) for each in repeat.actions)


def _window(window: Window) -> None:
    if not all(0 <= day <= 6 for day in window.days):
        raise _no(f"days {excerpt(str(window.days))}", "0 for Monday to 6 for Sunday")
    same(read_window_text, str(window), window)


def _zone(zone: Zone) -> None:
    if (zone.latitude_e6 is None) != (zone.longitude_e6 is None):
        raise _no("half a place", "latitude_e6 and longitude_e6, or neither")
    for what, places in (("countries", zone.countries), ("continents", zone.continents), ("asns", zone.asns)):
        if places:
            _some(places, what)


def _health(health: Health) -> None:
    if health.oldest_us_back is not None and health.oldest_us_max is None:
        raise _no("oldest_us_back without oldest_us_max", "both, or oldest_us_max alone")


def _timeouts(timeouts: Timeouts) -> None:
    if not (timeouts.connect_us or timeouts.first_byte_us or timeouts.total_us):
        raise _no("timeouts without a time", "one at least")


def _cache(cache: Cache) -> None:
    if cache.off and cache.stale_us:
        raise _no("a cache that is off and has a stale_us", "one of them")


def _keyed(stick: Stick) -> None:
    if not stick.keys:
        raise _no("an affinity by no key", "one at least")


def _named(named: Named) -> None:
    if not named.regions:
        raise _no("a tier of no region", "one at least")


WHOLE: Final[dict[str, Callable[[Any], None]]] = {
    "And": _parts,
    "Cache": _cache,
    "Expected": _expected,
    "Fact": _fact,
    "Given": _given,
    "Health": _health,
    "Key": _key,
    "Match": _tested,
    "Named": _named,
    "Never": _never,
    "Or": _parts,
    "Present": _tested,
    "Probe": _probe,
    "Repeat": _repeat,
    "Retry": lambda retry: _some(retry.methods, "methods"),
    "Route": lambda route: _some(route.hosts, "hosts"),
    "Rule": _condition,
    "Scenario": _scenario,
    "StatusRange": _statuses,
    "Stick": _keyed,
    "Timeouts": _timeouts,
    "Window": _window,
    "Zone": _zone,
}
"""By class: what must hold of a node whose fields are right. Each raises `BadValueError`."""
