"""Where things are, as pictures: the world with its sites and regions, and nodes by time in order of where they are.

The coast is Natural Earth's (1:110 million, public domain), thinned to whole degrees: `land.path`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

from lattice.types import SECOND
from sim.charts import BOTTOM, LEFT, LETTER, RIGHT, TOP, WIDTH, axis, cut, svg

MAP_HEIGHT = 420
NORTH, SOUTH = 78, -56
KINDS = {"region": "k-region", "policy": "k-policy", "member": "k-member"}
ROWS_MAX = 96
COLUMNS = 160


@cache
def _land() -> str:
    return "".join((Path(__file__).parent / "land.path").read_text().split("\n"))


def _at(latitude_e6: int, longitude_e6: int) -> tuple[float, float]:
    return (longitude_e6 / 1e6 + 180) / 360 * WIDTH, (NORTH - latitude_e6 / 1e6) / (NORTH - SOUTH) * MAP_HEIGHT


def world_map(
    sites: Sequence[tuple[str, str, int, int]],
    regions: Sequence[tuple[str, int, int, str]],
    late_us: Mapping[int, int],
) -> str:
    """Every site where it is, the paler the later it learned; regions as squares. Nothing without coordinates."""
    if not any(latitude or longitude for _, _, latitude, longitude in sites):
        return ""
    x_scale, y_scale = WIDTH / 360, MAP_HEIGHT / (NORTH - SOUTH)
    move = f"translate({WIDTH / 2:.1f} {NORTH * y_scale:.1f}) scale({x_scale:.3f} {y_scale:.3f})"
    parts = [
        f'<rect class="sea" width="{WIDTH}" height="{MAP_HEIGHT}" rx="8"/>',
        f'<path class="land" transform="{move}" d="{_land()}"/>',
    ]
    most = max(late_us.values(), default=1) or 1
    radius = 4.5 if len(sites) <= 200 else 2.5
    for index, (name, group, latitude, longitude) in enumerate(sites):
        x, y = _at(latitude, longitude)
        took = late_us.get(index)
        kind = "site" if took is not None or not late_us else "unreached"
        opacity = 1 - 0.7 * took / most if took is not None else 1.0
        said = f"{name} ({group})"
        if late_us:
            said += f": {took / SECOND:.3f} s" if took is not None else ": did not learn"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" opacity="{opacity:.2f}">'
            f"<title>{escape(said)}</title></circle>"
        )
    for name, latitude, longitude, level in regions:
        x, y = _at(latitude, longitude)
        kind = "region-down" if level == "DOWN" else "region"
        at, anchor = (x + 10, "start") if x + 10 + len(name) * LETTER < WIDTH else (x - 10, "end")
        parts.append(
            f'<rect class="{kind}" x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" rx="2">'
            f"<title>region {escape(name)}: {escape(level)} at the end</title></rect>"
            f'<text class="name" x="{at:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    return svg(MAP_HEIGHT, parts, "sites and regions on the map; paler sites learned later")


def heat(
    announced: Sequence[tuple[int, int, str, str]], sites: Sequence[tuple[str, str, int, int]], virtual_us: int
) -> str:
    """Node by time: what each node announced, nodes of one group together. Waves slant, flapping makes stripes."""
    order = sorted(range(len(sites)), key=lambda index: (sites[index][1], sites[index][0]))
    rank = {host: position for position, host in enumerate(order)}
    rows = min(len(sites), ROWS_MAX)
    tall = max(3.0, min(10.0, 360 / max(1, rows)))
    counts: dict[tuple[int, int, str], int] = {}
    for at, host, kind, _ in announced:
        cell = (min(COLUMNS - 1, at * COLUMNS // max(1, virtual_us)), rank[host] * rows // len(sites), kind)
        counts[cell] = counts.get(cell, 0) + 1
    height = round(TOP + tall * rows + BOTTOM)
    parts = axis(max(virtual_us / SECOND, 0.001), height, left=LEFT + 50)
    groups = [sites[host][1] for host in order]
    for group in dict.fromkeys(groups):
        first = groups.index(group) * rows / len(sites)
        last = (len(groups) - groups[::-1].index(group)) * rows / len(sites)
        y = TOP + tall * first
        parts.append(f'<line class="grid" x1="0" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if (last - first) * tall >= 11:
            parts.append(f'<text class="tick" x="0" y="{y + 11:.1f}">{escape(cut(group, LEFT + 50))}</text>')
    wide = (WIDTH - LEFT - 50 - RIGHT) / COLUMNS
    most = max(counts.values(), default=1)
    for (column, row, kind), count in sorted(counts.items()):
        opacity = 0.45 + 0.55 * count / most
        parts.append(
            f'<rect class="{KINDS[kind]}" x="{LEFT + 50 + column * wide:.1f}" y="{TOP + tall * row:.1f}" '
            f'width="{wide + 0.4:.1f}" height="{tall:.1f}" opacity="{opacity:.2f}"/>'
        )
    return svg(height, parts, "announcements by node and time")
