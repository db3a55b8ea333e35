"""A sweep on one page: for every figure a small multiple, a row a combination, with the median, its 95 % confidence
interval, and every run as a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from sim.charts import svg
from sim.page import page, section, table
from sim.sweep import FIGURES, THE_MORE_THE_BETTER, figure_of

TITLES: Final[Mapping[str, str]] = {
    "p50_s": "p50, s",
    "p99_s": "p99, s",
    "stretch": "stretch",
    "copies": "copies a node",
    "idle_bytes": "idle B/s a node",
    "false_positives": "false deaths",
    "availability": "availability",
}
"""Each of `FIGURES`, with its unit."""
WIDE, ROW, HEAD = 250, 18, 30
PER_LINE = 3


def html(scenario: str, rows: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]) -> str:
    """The whole page, of `sweep.summarise`'s rows and the cases they were made of."""
    runs, held = len(done), sum(case["verdict"] == "held" for case in done)
    verdict = "held" if runs == held else "violated"
    legend = "line: median; bar: its 95 % confidence interval (bootstrap); dots: runs"
    parts = [
        f"<h1>{escape(scenario)} <span class={verdict}>{held} of {runs} held</span></h1>",
        f"<p class=soft>{len(rows)} combinations; {legend}</p>",
        section("Side by side", multiples(rows, done), "the numbers are those of the table"),
        _table(rows),
    ]
    broken = [case for case in done if case["verdict"] != "held"]
    if broken:
        listed = "".join(f"<tr><td>{escape(' '.join(case['set']) or '-')}</td><td>{escape(case['seed'])}</td></tr>"
                         for case in broken[:100])  # fmt: skip
        parts.append(section("Broken", table("<th>set</th><th>seed</th>", listed)))
    return page(f"sweep of {scenario}", parts)


def multiples(rows: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]) -> str:
    """The small multiples, three to a line."""
    shown = [name for name in FIGURES if any(row[f"{name} median"] is not None for row in rows)]
    tall = HEAD + ROW * len(rows) + 24
    parts = []
    for number, name in enumerate(shown):
        x, y = (number % PER_LINE) * (WIDE + 30) + 20, number // PER_LINE * tall
        values = [value for case in done if (value := figure_of(case, name)) is not None]
        most = max(values, default=1) or 1
        parts.append(f'<text class="name" x="{x}" y="{y + 16}">{TITLES[name]}</text>')
        parts.append(f'<text class="tick" x="{x}" y="{y + tall - 8}">0</text>')
        parts.append(
            f'<text class="tick" x="{x + WIDE}" y="{y + tall - 8}" text-anchor="end">{_short(most, name)}</text>'
        )
        for place, row in enumerate(rows):
            parts += _row(row, name, place, done, x, y + HEAD + ROW * place, WIDE / most)
    height = tall * -(-len(shown) // PER_LINE)
    return svg(height, parts, "figures by combination") if shown else ""


def _row(
    row: Mapping[str, Any], name: str, place: int, done: Sequence[Mapping[str, Any]], x: float, y: float, scale: float
) -> list[str]:
    parts = [
        f'<line class="grid" x1="{x}" x2="{x + WIDE}" y1="{y + ROW / 2}" y2="{y + ROW / 2}"/>',
        f'<text class="tick" x="{x - 4}" y="{y + 13}" text-anchor="end">{place + 1}</text>',
    ]
    if (interval := row[f"{name} interval"]) is not None:
        low, high = (x + value * scale for value in interval)
        title = f"<title>{escape(row['set'])}: {interval[0]:g} to {interval[1]:g}</title>"
        parts.append(
            f'<rect class="bar" x="{low:.1f}" y="{y + 3}" width="{max(2, high - low):.1f}" height="{ROW - 6}" '
            f'opacity="0.35" rx="2">{title}</rect>'
        )
    for case in done:
        value = figure_of(case, name) if (" ".join(case["set"]) or "-") == row["set"] else None
        if value is not None:
            kind = "site" if case["verdict"] == "held" else "lost"
            parts.append(
                f'<circle class="{kind}" cx="{x + value * scale:.1f}" cy="{y + ROW / 2}" r="2" opacity="0.5"/>'
            )
    if (median := row[f"{name} median"]) is not None:
        at = x + median * scale
        parts.append(
            f'<line class="line s1" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 2}" y2="{y + ROW - 2}">'
            f"<title>{escape(row['set'])}: median {median:g}</title></line>"
        )
    return parts


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [name for name in FIGURES if any(row[f"{name} median"] is not None for row in rows)]
    head = "".join(f"<th>{name}</th>" for name in ("runs", "held", *(TITLES[name] for name in shown)))
    body = "".join(
        f"<tr><td>{place}</td><td>{escape(row['set'])}</td>"
        + "".join(f"<td class=num>{row[name]}</td>" for name in ("runs", "held"))
        + "".join(f"<td class=num>{_said(row, name)}</td>" for name in shown)
        + "</tr>"
        for place, row in enumerate(rows, 1)
    )
    note = "median, below it the interval, and the worst of all runs"
    return table(f"<th></th><th>set</th>{head}", body, "dense") + f"<p class=soft>{note}</p>"


def _said(row: Mapping[str, Any], name: str) -> str:
    median, interval, worst = (row[f"{name} {what}"] for what in ("median", "interval", "worst"))
    if median is None:
        return "–"
    spread = f"{_short(interval[0], name)} – {_short(interval[1], name)}<br>" if interval else ""
    mark = "≥" if name in THE_MORE_THE_BETTER else "≤"
    return f"<b>{_short(median, name)}</b><br><span class=soft>{spread}{mark} {_short(worst, name)}</span>"


def _short(value: float, name: str) -> str:
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.6g}" if name == "availability" else f"{value:.3g}"  # 0.9996 of the requests are not all
