"""A result as JSON and as lines for people; the token and the command that run it again."""

from __future__ import annotations

import base64
import json
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lattice.types import SECOND
from sim.experiment import Result

TOKEN_PREFIX = "el1-"  # noqa: S105  (the name of a format)
TOKEN_CHARS_MAX = 8_192
CALLED_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What the run cost the machine; measured by whoever may look at a clock."""

    wall_s: float = 0.0
    peak_mb: int = 0


def as_json(result: Result, cost: Cost) -> dict[str, object]:
    """The object that `run --json` ends with: these keys, and no others."""
    figures = result.figures
    users = figures["users"] if isinstance(figures["users"], Mapping) else {}
    return {
        "verdict": result.verdict,
        "scenario": result.scenario.name,
        "nodes": result.nodes,
        "seed": result.seed,
        "digest": result.digest,
        "convergence": _convergence(result),
        "copies_per_node": _copies(result),
        "idle_bytes_per_node_s": figures["idle_bytes_per_node_s"],
        "bytes_by_type": figures["bytes_by_type"],
        "false_positives": figures["false_positives"],
        "users": {key: users.get(key) for key in ("availability", "locality", "misrouted")},
        "events": result.events,
        "events_per_s": round(result.events / cost.wall_s) if cost.wall_s else None,
        "wall_s": round(cost.wall_s, 3),
        "peak_mb": cost.peak_mb,
    }


def in_full(result: Result, cost: Cost) -> dict[str, object]:
    """The same and all else that was measured: what a run folder keeps."""
    figures = result.figures
    worst = slowest(result) or {}
    said = as_json(result, cost)
    return said | {
        "slowest_change": worst.get("change"),
        "users": figures["users"] or said["users"],
        "virtual_s": round(result.virtual_us / SECOND, 3),
        "changes": result.changes,
        "messages_by_type": figures["messages_by_type"],
        "bytes_per_node_s": figures["bytes_per_node_s"],
        "detection": figures["detection"],
        "called_down": figures["called_down"],
        "dropped": figures["dropped"],
        "refused": figures["refused"],
        "violations": [
            {"check": v.check, "at_s": v.at_us / SECOND, "node": v.node, "evidence": v.evidence}
            for v in result.violations
        ],
    }


def slowest(result: Result) -> Mapping[str, object] | None:
    """The change with the worst p99: one that did not reach everybody is worse than any that did."""

    def badness(change: Mapping[str, object]) -> tuple[bool, float]:
        p99 = change["p99_s"]
        return p99 is None, p99 if isinstance(p99, float) else 0.0

    return max(result.changes, key=badness, default=None)


def _convergence(result: Result) -> dict[str, object]:
    worst = slowest(result) or {}
    return {key: worst.get(key) for key in ("p50_s", "p99_s", "p100_s", "floor_s", "stretch_p99")}


def _copies(result: Result) -> float | None:
    copies = [change["copies_per_node"] for change in result.changes]
    known = [copy for copy in copies if isinstance(copy, float)]
    return round(sum(known) / len(known), 3) if known else None


def rerun_line(name: str, seed: str, sets: Sequence[str]) -> str:
    """The command that repeats a run, as a shell reads it."""
    words = ["edgelattice", "sim", "run", name, "--seed", seed]
    return shlex.join([*words, *(word for one in sets for word in ("--set", one))])


def token_of(name: str, seed: str, sets: Sequence[str]) -> str:
    """A run in one word."""
    packed = zlib.compress(json.dumps([name, seed, list(sets)], separators=(",", ":")).encode(), 9)
    return TOKEN_PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_token(token: str) -> tuple[str, str, list[str]]:
    """(scenario, seed, overrides). Raises ValueError when it is no token."""
    if not token.startswith(TOKEN_PREFIX) or len(token) > TOKEN_CHARS_MAX:
        raise ValueError(f"a token begins with {TOKEN_PREFIX}")
    coded = token.removeprefix(TOKEN_PREFIX)
    try:
        packed = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
        name, seed, sets = json.loads(zlib.decompressobj().decompress(packed, 65_536))
        return str(name), str(seed), [str(one) for one in sets]
    except (ValueError, TypeError, zlib.error):
        raise ValueError("the token is damaged; was all of it copied?") from None


def lines(result: Result, cost: Cost) -> list[str]:
    """What a person wants to know, a line each."""
    figures = result.figures
    per_s = result.events / max(cost.wall_s, 1e-6)
    said = [f"{result.scenario.name}: {result.nodes} nodes, seed {result.seed}"]
    said.append(
        f"  {result.virtual_us / SECOND:.1f} s in {cost.wall_s:.1f} s, {result.events:,} events, {per_s:,.0f}/s"
    )
    for from_us, to_us, what, how in result.acts:
        until = f" to {to_us / SECOND:.2f} s" if to_us is not None else ""
        said.append(f"  {from_us / SECOND:8.2f} s{until}  {what}: {how}")
    said += [_change_line(change) for change in result.changes] or ["  no region changed, and no policy was published"]
    detection = figures["detection"]
    if isinstance(detection, Mapping):
        said.append(
            f"  {detection['crashes']} crashed for good: first told dead after {detection['first_p50_s']} s, "
            f"known to all after {detection['all_p50_s']} s (median)"
        )
    called = figures["called_down"]
    if isinstance(called, Mapping) and called:
        shown = ", ".join(f"{site} by {by}" for site, by in list(called.items())[:CALLED_SHOWN])
        more = f", and {len(called) - CALLED_SHOWN} more" if len(called) > CALLED_SHOWN else ""
        said.append(f"  called down at some time: {shown}{more}")
    refused = figures["refused"]
    if isinstance(refused, Mapping) and refused:
        said.append("  refused: " + ", ".join(f"{why} {count:,}" for why, count in refused.items()))
    idle = figures["idle_bytes_per_node_s"]
    said.append(
        f"  bytes a node and second: {figures['bytes_per_node_s']}" + (f", idle {idle}" if idle is not None else "")
    )
    users = figures["users"]
    if isinstance(users, Mapping) and users["requests"]:
        said.append(
            f"  users: {users['requests']} requests, availability {_percent(users['availability'])}, "
            f"nearest region {_percent(users['locality'])}, misrouted {users['misrouted']}, flaps {users['flaps']}, "
            f"{users['extra_ms']} ms extra"
        )
    if figures["false_positives"]:
        said.append(f"  false announcements of death: {figures['false_positives']}")
    every = figures["looked_every"]
    if every != 1:
        said.append(f"  whole nodes were looked at every {every} events, cheap checks ran at every step")
    said += [f"  BROKEN {violation.render()}" for violation in result.violations]
    said.append(f"  {result.verdict}, digest {result.digest}")
    return said


def _change_line(change: Mapping[str, object]) -> str:
    if change["p100_s"] is None:
        half = f" (p50 {change['p50_s']} s)" if change["p50_s"] is not None else ""
        return f"  {change['change']}: reached {change['reached']} of {change['of']}{half}"
    stretch = f", floor {change['floor_s']} s, stretch {change['stretch_p99']}" if change["stretch_p99"] else ""
    copies = f", {change['copies_per_node']} copies a node" if change["copies_per_node"] is not None else ""
    return (
        f"  {change['change']}: p50 {change['p50_s']} s, p90 {change['p90_s']}, p99 {change['p99_s']}, "
        f"all {change['p100_s']} s{stretch}{copies}"
    )


def _percent(share: object) -> str:
    return f"{share * 100:.3f} %" if isinstance(share, float) else "-"
