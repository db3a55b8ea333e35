"""Our engine beside the baselines and the theory: one change, the same links, the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lattice.types import SECOND
from sim.baselines import BASELINES, PATIENCE_US, RandomFanout
from sim.experiment import Experiment, Progress
from sim.metrics import percentile, seconds
from sim.scenario import Scenario, from_table

PERCENTS = (50, 90, 99, 100)
FLOOD_NODES_MAX = 500
"""A flood of a thousand nodes is a million messages."""
PUBLISHED_AT_US = SECOND
Row = dict[str, object]


def one_publish(scenario: Scenario, published: bool) -> Scenario:
    """The same cluster and links, with one publish at node 0 or none, and nothing else."""
    table = {key: value for key, value in scenario.table.items() if key not in {"timeline", "swarm", "users", "checks"}}
    table["duration"] = "10s"
    table["settle"] = "50s"
    table["timeline"] = [{"at": "1s", "do": "publish", "nodes": "node 0"}] if published else []
    return from_table(f"{scenario.name}: one publish", table)


def ours(scenario: Scenario, seed: str, name: str, progress: Progress | None = None) -> Row:
    """What our own engine makes of it. Its bytes are those of rumours, announcements and repairs, less what the same
    ten seconds cost without the publish; None when that is no less, as where links lose so much that what is repaired
    anyhow drowns it. Copies are None under a real seal."""
    experiment = Experiment(one_publish(scenario, published=True), seed, progress=progress)
    result = experiment.run()
    quiet = Experiment(one_publish(scenario, published=False), seed, progress=progress)
    quiet.run()
    _, delays, _ = result.curves[0]
    copies = None if experiment.stage.seals.sealed else experiment.stage.changes[0].copies
    extra = experiment.metrics.spreading_bytes() - quiet.metrics.spreading_bytes()
    return _row(name, result.nodes, delays, copies, extra if extra > 0 else None, None)


def baselines(scenario: Scenario, seed: str) -> list[Row]:
    """What the others make of it; a flood of a large cluster is left out."""
    rows = []
    for name, kind in BASELINES.items():
        if name == "flood" and scenario.topology.nodes > FLOOD_NODES_MAX:
            continue
        spread = kind(scenario.build_topology(seed), scenario.link, seed).run(0)
        rows.append(_row(name, spread.nodes, spread.delays_us(), spread.copies, spread.bytes, spread.messages))
    return rows


def _row(
    name: str, nodes: int, delays: Sequence[int], copies: int | None, sent: int | None, messages: int | None
) -> Row:
    row: Row = {"way": name, "nodes": nodes, "reached": len(delays)}
    padded = [*delays, *[PATIENCE_US * 10] * (nodes - len(delays))]
    for percent in PERCENTS:
        value = percentile(padded, percent)
        row[f"p{percent}_s"] = None if value is None or value > PATIENCE_US else seconds(value)
    row["copies_per_node"] = None if copies is None else round(copies / nodes, 2)
    row["bytes_per_node"] = None if sent is None else round(sent / nodes)
    return row | {"messages": messages}


def floor_us(scenario: Scenario, seed: str) -> int:
    """The p99 of one direct packet to everybody that nothing befalls: the floor of unicast."""
    topology = scenario.build_topology(seed)
    return percentile(sorted([0, *(topology.delay_us(0, node) for node in range(1, len(topology)))]), 99) or 0


def stretched(rows: Sequence[Row], floor_us: int) -> list[Row]:
    """The same rows with their p99 over the floor's."""
    return [
        {**row, "stretch": round(p99 * SECOND / floor_us, 2) if isinstance(p99 := row["p99_s"], float) and floor_us
         else None}
        for row in rows
    ]  # fmt: skip


def theory(nodes: int, loss_ppm: int) -> dict[str, object]:
    """What the literature promises: rounds of push gossip, Serf's closed form, and the least number of messages.

    Pittel (1987): push to one random peer a round reaches all of n in ``log2 n + ln n + O(1)`` rounds. Serf's
    simulator: after some rounds a share of ``1 / (1 + (n + 1) e^(-c n rounds))`` has it, where
    ``c = fanout / n × (1 - loss) / 2``.
    """
    times = {
        f"serf_p{share * 100:g}_s": round(_serf_us(nodes, loss_ppm, share) / SECOND, 3) for share in (0.5, 0.99, 0.9999)
    }
    return {"push_rounds": round(math.log2(nodes) + math.log(nodes), 1), **times, "least_messages": nodes - 1}


def _serf_us(nodes: int, loss_ppm: int, share: float) -> float:
    """When Serf's closed form has reached that share of the nodes."""
    per_round = RandomFanout.fanout * (1 - loss_ppm / 1_000_000) / 2
    return math.log((nodes + 1) * share / (1 - share)) / per_round * RandomFanout.interval_us


def theory_curve(nodes: int, loss_ppm: int) -> list[tuple[int, float]]:
    """Serf's closed form as a curve: (microseconds, share of nodes), from 1 % to 99.99 %."""
    shares = [step / 100 for step in range(1, 100)] + [0.999, 0.9999]
    return [(round(_serf_us(nodes, loss_ppm, share)), share) for share in shares]


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Rows as aligned text."""
    columns = ("way", "reached", "p50_s", "p90_s", "p99_s", "p100_s", "stretch", "copies_per_node", "bytes_per_node")
    shown = [[column.removesuffix("_s").replace("_", " ") for column in columns]]
    shown += [["–" if row.get(column) is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in shown) for index in range(len(columns))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in shown]
