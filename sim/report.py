"""One HTML file that a person enjoys reading: no script, no font, nothing fetched; light, dark, and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sim import charts
from sim.experiment import Result
from sim.outcome import Cost, as_json

STYLE = """
:root{--ink:#1c2330;--soft:#5b6577;--paper:#fff;--card:#f5f7fa;--line:#dfe4ec;--good:#1a7f4b;--bad:#b3261e;
--c0:#2563c9;--c1:#c2570c;--c2:#1a7f4b;--c3:#8a3ab9;--c4:#b3261e;--c5:#0e7c86}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf3;--soft:#9aa5b8;--paper:#11151c;--card:#1a202b;--line:#2c3544;
--good:#52c78a;--bad:#ff8078;--c0:#7aa8ff;--c1:#ffac6b;--c2:#52c78a;--c3:#cf9bf2;--c4:#ff8078;--c5:#5fd0da}}
@media print{:root{--ink:#000;--soft:#333;--paper:#fff;--card:#fff;--line:#999}section{break-inside:avoid}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:920px;margin:0 auto;padding:2rem 1rem}h1{margin:0;font-size:1.7rem}
h2{font-size:1.1rem;margin:2rem 0 .4rem}
p{margin:.3rem 0}.soft{color:var(--soft)}.held{color:var(--good)}.violated{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.7rem;margin:1.2rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem}
.card b{display:block;font-size:1.3rem;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:.85rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600}
code,pre{font-family:ui-monospace,monospace;font-size:.85rem}
pre{background:var(--card);padding:.7rem;border-radius:8px;overflow:auto}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line);stroke-width:1}.tick{fill:var(--soft);font-size:11px}
.line{fill:none;stroke-width:2.2}.floor{fill:none;stroke-width:1.3;stroke-dasharray:4 4;opacity:.75}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}
.s5{stroke:var(--c5)}.bar{fill:var(--c0)}.act{fill:var(--c1)}.lost{fill:var(--bad)}.heat{fill:var(--c0)}
.site{fill:var(--c0)}.sea{fill:var(--card)}.k0{color:var(--c0)}.k1{color:var(--c1)}.k2{color:var(--c2)}.k3{color:var(--c3)}
.k4{color:var(--c4)}.k5{color:var(--c5)}
"""


def html(result: Result, cost: Cost, rerun: str) -> str:
    """The whole page."""
    said = as_json(result, cost)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(result.scenario.name)}, seed {escape(result.seed)}</title><style>{STYLE}</style><main>",
        f"<h1>{escape(result.scenario.name)} <span class={result.verdict}>{result.verdict}</span></h1>",
        f"<p class=soft>{escape(result.scenario.purpose)}</p>",
        _cards(said),
    ]
    parts += [f"<p class=violated><b>{escape(violation.render())}</b></p>" for violation in result.violations]
    if result.changes:
        keys = " ".join(
            f"<span class=k{number % charts.PALETTE}>● {escape(name)}</span>"
            for number, (name, _, _) in enumerate(result.curves)
        )
        keys += " <span class=soft>(dashed: one direct packet to everybody, the floor)</span>"
        parts.append(_section("How each change spread", charts.propagation(result.curves, result.nodes), keys))
        parts.append(_changes(result.changes))
    if result.acts:
        parts.append(_section("What was done to it", charts.strip(result.acts, result.virtual_us)))
    heat = charts.heat(result.announced, result.nodes, result.virtual_us)
    parts.append(_section("What nodes announced", heat, "rows are nodes, darker is more"))
    if result.learned:
        name, _, learned = result.learned[-1]
        start = min(learned.values(), default=0)
        late = {host: when - start for host, when in learned.items()}
        picture = charts.world_map(result.sites, late)
        if picture:
            parts.append(_section("Where the sites are", picture, f"paler learned later of: {escape(name)}"))
    parts.append(_section("Bytes by message type", charts.bars(_ints(result.figures["bytes_by_type"]), "B")))
    users = result.figures["users"]
    if isinstance(users, Mapping):
        felt = ", ".join(f"{key} {value}" for key, value in users.items())
        parts.append(_section("What users felt", charts.over_time(result.by_second), felt))
    parts.append(_checks(result.checks))
    parts.append(
        f"<h2>Run it again</h2><pre>{escape(rerun)}</pre><p class=soft>digest {result.digest}</p></main></html>"
    )
    return "\n".join(parts) + "\n"


def _ints(value: object) -> dict[str, int]:
    assert isinstance(value, Mapping)
    return {str(key): int(count) for key, count in value.items()}


def _section(title: str, picture: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{picture}<p class=soft>{note}</p></section>"


def _cards(said: Mapping[str, object]) -> str:
    convergence = said["convergence"]
    assert isinstance(convergence, Mapping)
    virtual = said["virtual_s"]
    cards = [
        ("nodes", said["nodes"]),
        ("virtual seconds", virtual),
        ("half know after", _s(convergence.get("p50_s"))),
        ("99 % know after", _s(convergence.get("p99_s"))),
        ("stretch over the floor", convergence.get("stretch_p99")),
        ("copies a node", said["copies_per_node"]),
        ("idle bytes a node and s", said["idle_bytes_per_node_s"]),
        ("false deaths", said["false_positives"]),
        ("events", said["events"]),
    ]
    shown = [
        f"<div class=card><b>{'–' if value is None else escape(str(value))}</b><span>{name}</span></div>"
        for name, value in cards
    ]
    return f"<div class=cards>{''.join(shown)}</div>"


def _s(value: object) -> str | None:
    return f"{value:.3f} s" if isinstance(value, float) else None


def _changes(changes: Sequence[Mapping[str, object]]) -> str:
    columns = (
        "change",
        "reached",
        "of",
        "p50_s",
        "p90_s",
        "p99_s",
        "p100_s",
        "floor_s",
        "stretch_p99",
        "copies_per_node",
    )
    head = "".join(f"<th>{column.removesuffix('_s').replace('_', ' ')}</th>" for column in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{'–' if c[k] is None else escape(str(c[k]))}</td>" for k in columns) + "</tr>"
        for c in changes
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _checks(checks: Sequence[tuple[str, str, str]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(promise)}</td><td>{outcome}</td></tr>"
        for name, promise, outcome in checks
    )
    return f"<section><h2>What was held against it</h2><table>{rows}</table></section>"
