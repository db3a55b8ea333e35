"""From a run that breaks a promise to the smallest one that still does.

Fewer faults first, then fewer nodes, then simpler links, then less time; each try is a whole run with the same seed,
and is kept if the same promise is broken (Zeller's delta debugging, with steps that scenarios have).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.experiment import Experiment
from sim.quantities import ConfigError, duration_text
from sim.scenario import Scenario, draw_swarm, from_table
from sim.stage import ScenarioError

TRIES_MAX = 400
NODES_MIN = 2
Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest run found."""

    table: Table
    check: str
    tries: int
    said: str
    """Before and after, as "faults 4 -> 1, nodes 50 -> 3"."""


def shrink(
    scenario: Scenario,
    seed: str,
    say: Callable[[str], None] = lambda _: None,
    tried: Callable[[int], None] = lambda _: None,
) -> Shrunk | None:
    """None when the run breaks no promise. `say` hears when it is smaller, `tried` after how many runs. Raises
    `ScenarioError`."""
    table = _plain(scenario, seed)
    check = _first_broken(table, seed)
    if check is None:
        return None
    first = least = _size(table)
    tries, progress = 0, True
    while progress and tries < TRIES_MAX:
        progress = False
        for candidate in smaller(table):
            tries += 1
            tried(tries)
            if broken(candidate, seed) == check:
                table, progress = candidate, True
                if _size(table) != least:
                    least = _size(table)
                    say(_difference(first, least))
                break
            if tries >= TRIES_MAX:
                break
    return Shrunk(table, check, tries, _difference(first, _size(table)))


def broken(table: Table, seed: str) -> str | None:
    """Which promise a run breaks; None for none, or for a scenario that makes no sense."""
    try:
        return _first_broken(table, seed)
    except (ScenarioError, ConfigError):
        return None


def _first_broken(table: Table, seed: str) -> str | None:
    result = Experiment(from_table("shrunk", copy.deepcopy(table)), seed).run()
    return result.violations[0].check if result.violations else None


def smaller(table: Table) -> Iterator[Table]:
    """Simpler tables, the boldest first."""
    rows = table.get("timeline", [])
    for size in (len(rows) // 2, 1):
        for start in range(0, len(rows), size) if size else ():
            yield {**table, "timeline": rows[:start] + rows[start + size :]}
    topology = dict(table.get("topology", {}))
    nodes = int(topology.get("nodes", 5))
    for fewer in sorted({nodes // 2, nodes * 3 // 4, nodes - 1}):
        if NODES_MIN <= fewer < nodes:
            yield {**table, "topology": {**topology, "nodes": fewer, "late": min(topology.get("late", 0), fewer - 1)}}
    for section in ("users", "link"):
        if table.get(section):
            yield {key: value for key, value in table.items() if key != section}
            for name in table[section]:
                kept = {key: value for key, value in table[section].items() if key != name}
                yield {**table, section: kept}
    for key in ("duration", "settle"):
        length_us = _duration_us(table, key)
        if length_us > 2_000_000:
            yield {**table, key: duration_text(length_us // 2)}


def _plain(scenario: Scenario, seed: str) -> Table:
    """The scenario with its swarm written out, so that single faults of it can be left out."""
    table = copy.deepcopy(dict(scenario.table))
    drawn = draw_swarm(scenario.swarm, scenario.topology.nodes, scenario.duration_us, seed)
    known = table.get("timeline", [])
    assert isinstance(known, list)
    # A name and a place of its own: an act's luck hangs on both, and must not change when another is left out.
    rows = [{"name": f"{index}", **row} for index, row in enumerate([*known, *drawn])]
    table["timeline"] = rows
    table.pop("swarm", None)
    return table


def _duration_us(table: Table, key: str) -> int:
    scenario = from_table("shrunk", copy.deepcopy(table))
    return scenario.duration_us if key == "duration" else scenario.settle_us


def _size(table: Table) -> dict[str, int]:
    return {
        "acts": len(table.get("timeline", [])),
        "nodes": int(table.get("topology", {}).get("nodes", 5)),
        "seconds": _duration_us(table, "duration") // 1_000_000,
    }


def _difference(before: dict[str, int], after: dict[str, int]) -> str:
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before)
