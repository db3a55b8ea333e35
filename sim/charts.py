"""Small pictures as SVG text, coloured by CSS classes so that they follow the page: light, dark, or print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lattice.types import SECOND

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30
PALETTE = 6
"""How many series colours the page defines."""


def _x(value: float, most: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / most


def _svg(height: int, parts: Sequence[str], title: str) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def ticks(most: float) -> list[float]:
    """Four to eight round numbers from nought."""
    step = 1.0
    while step * 8 < most:
        step *= 2.5 if f"{step:g}"[0] == "2" else 2
    while step * 4 > most:
        step /= 2
    return [index * step for index in range(int(most / step) + 1)]


def _axis(most_s: float, height: int) -> list[str]:
    parts = []
    for tick in ticks(most_s):
        x = _x(tick, most_s)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{tick:g} s</text>'
        )
    return parts


def propagation(curves: Sequence[tuple[str, Sequence[int], Sequence[int]]], nodes: int) -> str:
    """Share of nodes that acted on each change, over time; the floor of each is dashed."""
    longest = max((delays[-1] for _, delays, _ in curves if delays), default=SECOND)
    most_s = max(longest / SECOND * 1.05, 0.001)
    bottom = HEIGHT - BOTTOM
    parts = _axis(most_s, HEIGHT)
    for percent in (50, 90, 100):
        y = bottom - (bottom - TOP) * percent / 100
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    for number, (name, delays, floor) in enumerate(curves):
        for values, kind in ((floor, "floor"), (delays, "line")):
            if values:
                path = _steps(values, nodes, most_s, bottom)
                title = escape(f"{name}{' (floor)' if kind == 'floor' else ''}")
                parts.append(f'<path class="{kind} s{number % PALETTE}" d="{path}"><title>{title}</title></path>')
    return _svg(HEIGHT, parts, "share of nodes that acted on each change over time")


def _steps(values: Sequence[int], nodes: int, most_s: float, bottom: int) -> str:
    stride = max(1, len(values) // 300)
    points = [f"M{_x(0, most_s):.1f} {bottom}"]
    for rank in [*range(0, len(values), stride), len(values) - 1]:
        x = min(_x(values[rank] / SECOND, most_s), WIDTH - RIGHT)
        points.append(f"L{x:.1f} {bottom - (bottom - TOP) * (rank + 1) / nodes:.1f}")
    return "".join(points)


def strip(acts: Sequence[tuple[int, int | None, str, str]], virtual_us: int) -> str:
    """What was done to the cluster, when: a bar for a fault, a mark for a change."""
    most_s = max(virtual_us / SECOND, 0.001)
    height = TOP + 20 * max(1, len(acts)) + BOTTOM
    parts = _axis(most_s, height)
    for row, (start, end, what, how) in enumerate(acts):
        y, x = TOP + 20 * row, _x(start / SECOND, most_s)
        width = 3.0 if end is None else max(3.0, _x(end / SECOND, most_s) - x)
        label = escape(f"{what}: {how}")
        parts.append(
            f'<rect class="act" x="{x:.1f}" y="{y}" width="{width:.1f}" height="13"><title>{label}</title></rect>'
        )
        left = x < WIDTH * 0.6
        at, anchor = (x + width + 5, "start") if left else (x - 5, "end")
        parts.append(f'<text class="tick" x="{at:.1f}" y="{y + 11}" text-anchor="{anchor}">{label}</text>')
    return _svg(height, parts, "faults and changes over time")


def heat(announced: Sequence[tuple[int, int, str, str]], nodes: int, virtual_us: int) -> str:
    """Node by time: how much each node had to announce. Waves show as slanted lines, flapping as stripes."""
    columns, rows = 120, min(nodes, 60)
    counts: dict[tuple[int, int], int] = {}
    for at, host, _, _ in announced:
        cell = (min(columns - 1, at * columns // max(1, virtual_us)), host * rows // nodes)
        counts[cell] = counts.get(cell, 0) + 1
    most = max(counts.values(), default=1)
    height = TOP + 4 * rows + BOTTOM
    most_s = max(virtual_us / SECOND, 0.001)
    parts = _axis(most_s, height)
    cell_width = (WIDTH - LEFT - RIGHT) / columns
    for (column, row), count in sorted(counts.items()):
        opacity = 0.25 + 0.75 * count / most
        parts.append(
            f'<rect class="heat" x="{LEFT + column * cell_width:.1f}" y="{TOP + 4 * row}" width="{cell_width:.1f}" '
            f'height="4" opacity="{opacity:.2f}"/>'
        )
    return _svg(height, parts, "announcements by node and time")


def bars(values: Mapping[str, int], unit: str) -> str:
    """One bar a name."""
    most = max(values.values(), default=1) or 1
    height = TOP + 22 * len(values) + 6
    parts = []
    for row, (name, value) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
        y = TOP + 22 * row
        width = (WIDTH - 270) * value / most
        parts.append(f'<text class="tick" x="86" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="92" y="{y}" width="{max(1.0, width):.1f}" height="15"/>')
        parts.append(f'<text class="tick" x="{98 + width:.1f}" y="{y + 12}">{value:,} {unit}</text>')
    return _svg(height, parts, f"{unit} by kind")


def world_map(sites: Sequence[tuple[str, str, int, int]], late: Mapping[int, int]) -> str:
    """Every site where it is; the later it learned of the last change, the paler."""
    if not any(latitude or longitude for _, _, latitude, longitude in sites):
        return ""
    height = 400
    most = max(late.values(), default=1) or 1
    parts = [f'<rect class="sea" x="0" y="0" width="{WIDTH}" height="{height}"/>']
    for degrees in range(-150, 180, 30):
        x = (degrees + 180) / 360 * WIDTH
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    for index, (name, group, latitude, longitude) in enumerate(sites):
        x, y = (longitude / 1e6 + 180) / 360 * WIDTH, (80 - latitude / 1e6) / 140 * height
        took = late.get(index)
        opacity = 1 - 0.75 * took / most if took is not None else 0.12
        said = f"{name} ({group})" + (f": {took / SECOND:.3f} s" if took is not None else ": did not learn")
        parts.append(
            f'<circle class="site" cx="{x:.1f}" cy="{y:.1f}" r="4" opacity="{opacity:.2f}"><title>{escape(said)}'
            "</title></circle>"
        )
    return _svg(height, parts, "sites by place; paler is later")


def over_time(by_second: Mapping[int, Sequence[int]]) -> str:
    """Requests a second: answered, and first sent to a dead region."""
    if not by_second:
        return ""
    most_s = max(by_second) + 1
    most = max(counts[0] for counts in by_second.values()) or 1
    height = 180
    parts = _axis(most_s, height)
    bottom = height - BOTTOM
    width = (WIDTH - LEFT - RIGHT) / most_s
    for second, (requests, answered, misrouted) in sorted(by_second.items()):
        x = _x(second, most_s)
        for count, kind in ((requests, "lost"), (answered, "bar"), (misrouted, "act")):
            tall = (bottom - TOP) * count / most
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{bottom - tall:.1f}" width="{max(width - 1, 1):.1f}" '
                f'height="{tall:.1f}"/>'
            )
    return _svg(height, parts, "requests a second: answered, misrouted, lost")
