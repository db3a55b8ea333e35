"""One HTML file that a person enjoys reading: no script, no font, nothing fetched; light, dark, and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sim import charts
from sim.geography import heat, world_map
from sim.page import key, page, section, table
from sim.story import Story

SCORES = (
    ("nodes", "nodes"),
    ("virtual_s", "virtual seconds"),
    ("p50_s", "half know after"),
    ("p99_s", "99 % know after"),
    ("stretch_p99", "stretch over the floor"),
    ("copies_per_node", "copies a node"),
    ("idle_bytes_per_node_s", "idle bytes a node and second"),
    ("false_positives", "false deaths"),
    ("events", "events"),
)
OUTCOMES = {"held": "held", "broken": "violated", "unknown": "soft"}
COLUMNS = ("change", "reached", "of", "p50_s", "p90_s", "p99_s", "p100_s", "floor_s", "stretch_p99", "copies_per_node")


def html(story: Story) -> str:
    """The whole page."""
    said = story.figures
    name, verdict, nodes = said["scenario"], said["verdict"], said["nodes"]
    parts = [
        f'<h1>{escape(name)} <span class="{escape(verdict)}">{escape(verdict)}</span></h1>',
        f"<p class=soft>{escape(story.purpose)}; seed {escape(said['seed'])}</p>",
        f"<p class=lead>{escape(in_words(said, bool(story.acts)))}</p>",
        *(f"<p class=violated><b>{escape(violation)}</b></p>" for violation in story.violations),
        _cards(said),
    ]
    if story.curves:
        keys = " ".join(key(f"c{number % charts.PALETTE}", name) for number, (name, _, _) in enumerate(story.curves))
        note = (
            f"{keys}<br>dashed: one direct packet to everybody, the floor; dotted: Serf's closed form for {nodes} nodes"
        )
        curves = charts.propagation(story.curves, nodes, story.theory)
        parts += [section("How each change spread", curves, note), _changes(said["changes"])]
    if story.acts:
        parts.append(section("What was done to it", charts.strip(story.acts, story.virtual_us)))
    keys = key("c1", "a region changed") + key("c0", "a policy came into force") + key("bad", "a member came or went")
    parts.append(section("Who said what when", heat(story.announced, story.sites, story.virtual_us), keys))
    parts.append(_map(story))
    parts.append(section("Bytes by kind of message", charts.bars(said["bytes_by_type"], nodes)))
    parts.append(_felt(story))
    parts.append(section("Run it again", f"<pre>{escape(story.rerun)}</pre>", f"digest {escape(said['digest'])}"))
    parts.append(_checks(story.checks))
    return page(f"{name}, seed {said['seed']}", parts)


def in_words(said: Mapping[str, Any], was_troubled: bool) -> str:
    """What came of it, in a sentence or two."""
    slowest = next((one for one in said["changes"] if one["change"] == said["slowest_change"]), None)
    told = []
    if slowest is not None and slowest["p100_s"] is not None:
        told.append(f"All {slowest['of']} nodes acted on {slowest['change']} within {slowest['p100_s']:.2f} s")
        if slowest["stretch_p99"]:
            told[-1] += f" (a direct packet to each takes {slowest['floor_s']:.2f} s)"
    elif slowest is not None:
        told.append(f"{slowest['reached']} of {slowest['of']} nodes acted on {slowest['change']}")
    users = said["users"]
    if users.get("requests"):
        lost = users["requests"] - round(users["requests"] * users["availability"])
        told.append(f"of {users['requests']:,} requests {lost or 'none'} went unanswered")
    if said["false_positives"]:
        told.append(f"{said['false_positives']} times a node that was well was called dead")
    if not told:
        told.append("No region changed and no policy was published")
        told.append("the nodes had to bear what is told below" if was_troubled else "the nodes were left alone")
    text = "; ".join(told)
    return text[:1].upper() + text[1:] + "."


def _cards(said: Mapping[str, Any]) -> str:
    values = {**said, **said["convergence"]}
    shown = [f"<div class=card><b>{_shown(name, values[name])}</b><span>{text}</span></div>" for name, text in SCORES]
    return f"<div class=cards>{''.join(shown)}</div>"


def _shown(name: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and name.endswith("_s") and name != "virtual_s":
        return f"{value:.3f} s"
    return f"{value:,}" if isinstance(value, int) else escape(f"{value:g}" if isinstance(value, float) else str(value))


def _changes(changes: Sequence[Mapping[str, object]]) -> str:
    head = "".join(
        f"<th{' class=num' * (column != 'change')}>{column.removesuffix('_s').replace('_', ' ')}</th>"
        for column in COLUMNS
    )
    rows = "".join(
        "<tr>" + "".join(f"<td{' class=num' * (k != 'change')}>{_shown(k, c[k])}</td>" for k in COLUMNS) + "</tr>"
        for c in changes
    )
    return table(head, rows)


def _map(story: Story) -> str:
    late: dict[int, int] = {}
    name = ""
    slowest = [one for one in story.learned if one[0] == story.figures["slowest_change"]]
    if slowest:
        name, _, learned = slowest[-1]
        first = min((when for _, when in learned), default=0)
        late = {host: when - first for host, when in learned}
    note = f"the paler a site, the later it acted on: {escape(name)}; " if name else ""
    note += key("good", "a region") + key("bad", "a region that is down at the end")
    return section("Where it happened", world_map(story.sites, story.regions, late), note)


def _felt(story: Story) -> str:
    users = story.figures["users"]
    if not users.get("requests"):
        return ""
    said = (
        ("answered", f"{users['availability'] * 100:.3f} %"),
        ("by the nearest region that was well", f"{(users['locality'] or 0) * 100:.1f} %"),
        ("first sent to a dead region", f"{users['misrouted']:,}"),
        ("denied", f"{users['denied']:,}"),
        ("sites moved to another region", f"{users['flaps']:,} times"),
        ("longer than need be", f"{users['extra_ms'] or 0:.2f} ms on average"),
    )
    rows = "".join(f"<tr><td>{name}</td><td class=num>{value}</td></tr>" for name, value in said)
    keys = key("c0", "answered") + key("c1", "first sent to a dead region") + key("bad", "unanswered")
    return section("What users felt", charts.over_time(story.users), keys) + f"<table>{rows}</table>"


def _checks(checks: Sequence[tuple[str, str, str]]) -> str:
    held, broken, unknown = (sum(outcome == one for _, _, outcome in checks) for one in OUTCOMES)
    others = "".join(f", {count} {said}" for count, said in ((broken, "broken"), (unknown, "not to be told")) if count)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(promise)}</td><td class={OUTCOMES[outcome]}>{outcome}</td></tr>"
        for name, promise, outcome in checks
    )
    listed = f"<details><summary>all of them</summary><table>{rows}</table></details>"
    return section("What was held against it", f"<p>{held} of {len(checks)} promises held{others}.</p>{listed}")
