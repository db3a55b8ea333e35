"""Small pictures as SVG text, coloured by CSS classes so that they follow the page: light, dark, or print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lattice.types import SECOND

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30
LETTER = 7.0
"""As wide as a letter of a label is in the widest of usual fonts."""
PALETTE = 6
"""How many series colours the page defines."""


def _x(value: float, most: float, left: float = LEFT) -> float:
    return left + (WIDTH - left - RIGHT) * value / most


def svg(height: int, parts: Sequence[str], title: str) -> str:
    label = escape(title, quote=True)
    picture = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"<div class=scroll>{picture}</div>"


def ticks(most: float) -> list[float]:
    """Four to eight round numbers from nought."""
    step = 1.0
    while step * 8 < most:
        step *= 2.5 if f"{step:g}"[0] == "2" else 2
    while step * 4 > most:
        step /= 2
    return [index * step for index in range(int(most / step) + 1)]


def axis(most_s: float, height: int, left: float = LEFT) -> list[str]:
    """Seconds from left to right."""
    parts = []
    for tick in ticks(most_s):
        x = _x(tick, most_s, left)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        at, anchor = (x, "middle") if x < WIDTH - 24 else (WIDTH - 2, "end")
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{height - BOTTOM + 16}" text-anchor="{anchor}">{tick:g} s</text>'
        )
    return parts


def cut(text: str, room: float) -> str:
    """As much of a text as surely fits into this room."""
    most = max(1, int(room / LETTER))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def propagation(
    curves: Sequence[tuple[str, Sequence[int], Sequence[int]]], nodes: int, theory: Sequence[tuple[int, float]] = ()
) -> str:
    """Share of nodes that acted on each change, over time; the floor of each is dashed, the theory dotted."""
    longest = max((delays[-1] for _, delays, _ in curves if delays), default=SECOND)
    if theory:
        longest = max(longest, min(theory[-1][0], 2 * longest))
    most_s = max(longest / SECOND * 1.05, 0.001)
    bottom = HEIGHT - BOTTOM
    parts = axis(most_s, HEIGHT)
    for percent in (50, 90, 100):
        y = bottom - (bottom - TOP) * percent / 100
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    shown = [(at / SECOND, share) for at, share in theory if 0 <= at / SECOND <= most_s]
    if shown:
        points = "L".join(f"{_x(at, most_s):.1f} {bottom - (bottom - TOP) * share:.1f}" for at, share in shown)
        parts.append(f'<path class="theory" d="M{points}"><title>Serf, closed form</title></path>')
    for number, (name, delays, floor) in enumerate(curves):
        for values, kind in ((floor, "floor"), (delays, "line")):
            if values:
                path = _steps(values, nodes, most_s, bottom)
                title = escape(f"{name}{' (floor)' if kind == 'floor' else ''}")
                parts.append(f'<path class="{kind} s{number % PALETTE}" d="{path}"><title>{title}</title></path>')
    return svg(HEIGHT, parts, "share of nodes that acted on each change over time")


def _steps(values: Sequence[int], nodes: int, most_s: float, bottom: int) -> str:
    stride = max(1, len(values) // 300)
    points = [f"M{_x(min(values[0] / SECOND, most_s), most_s):.1f} {bottom}"]
    for rank in [*range(0, len(values), stride), len(values) - 1]:
        x = min(_x(values[rank] / SECOND, most_s), WIDTH - RIGHT)
        points.append(f"H{x:.1f}V{bottom - (bottom - TOP) * (rank + 1) / nodes:.1f}")
    return "".join(points)


def strip(acts: Sequence[tuple[int, int | None, str, str]], virtual_us: int) -> str:
    """What was done to the cluster, when: a bar for a fault, a mark for a change."""
    most_s = max(virtual_us / SECOND, 0.001)
    height = TOP + 20 * max(1, len(acts)) + BOTTOM
    parts = axis(most_s, height)
    for row, (start, end, what, how) in enumerate(acts):
        y, x = TOP + 20 * row, _x(start / SECOND, most_s)
        width = 3.0 if end is None else max(3.0, _x(end / SECOND, most_s) - x)
        label = escape(f"{what}: {how}")
        parts.append(
            f'<rect class="act" x="{x:.1f}" y="{y}" width="{width:.1f}" height="13"><title>{label}</title></rect>'
        )
        written = f"{what}: {how}"
        sides = (
            (WIDTH - x - width - 5, x + width + 5, "start", "tick"),
            (x - 5, x - 5, "end", "tick"),
            (width - 10, x + 5, "start", "on-act"),
        )
        fits = (side for side in sides if len(written) * LETTER <= side[0])
        room, at, anchor, kind = next(fits, max(sides))
        parts.append(
            f'<text class="{kind}" x="{at:.1f}" y="{y + 11}" text-anchor="{anchor}">{escape(cut(written, room))}</text>'
        )
    return svg(height, parts, "faults and changes over time")


def amount(count: int) -> str:
    """Bytes for people."""
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def bars(values: Mapping[str, int], per: int = 1) -> str:
    """One bar a name, with its bytes, its share, and its bytes `per` node."""
    most = max(values.values(), default=1) or 1
    total = sum(values.values()) or 1
    height = TOP + 24 * len(values) + 6
    parts = []
    for row, (name, value) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
        y = TOP + 24 * row
        width = (WIDTH - 340) * value / most
        said = f"{amount(value)} · {value * 100 / total:.1f} % · {amount(value // max(1, per))} a node"
        parts.append(f'<text class="tick" x="86" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="92" y="{y}" width="{max(1.0, width):.1f}" height="17" rx="2"/>')
        parts.append(f'<text class="tick" x="{100 + width:.1f}" y="{y + 13}">{said}</text>')
    return svg(height, parts, "bytes by kind of message")


def over_time(users: Sequence[tuple[int, int, int, int]]) -> str:
    """Requests a second: answered, first sent to a dead region, lost."""
    if not users:
        return ""
    most_s = max(second for second, *_ in users) + 1
    most = max(requests for _, requests, _, _ in users) or 1
    height = 190
    parts = axis(most_s, height)
    bottom = height - BOTTOM
    for share in (0.5, 1.0):
        y = bottom - (bottom - TOP) * share
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * share:g}/s</text>')
    width = (WIDTH - LEFT - RIGHT) / most_s
    for second, requests, answered, misrouted in users:
        x = _x(second, most_s)
        for count, kind in ((requests, "lost"), (answered, "bar"), (misrouted, "act")):
            tall = (bottom - TOP) * count / most
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{bottom - tall:.1f}" width="{max(width - 1, 1):.1f}" '
                f'height="{tall:.1f}"/>'
            )
    return svg(height, parts, "requests a second: answered, misrouted, lost")
