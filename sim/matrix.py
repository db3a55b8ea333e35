"""Measured round trips from a CSV, as the sources publish them: four shapes, told apart by their first line.

======================================= =====================================================================
``src,Paris,Tokyo`` then a row a place  a square; a place may have a row and no column, or the other way round
numbers from the first line on          a square without names
``src,dst,avg_ms`` or the like          a pair a line
``date,Paris>Tokyo,Tokyo>Paris``        a snapshot a line, one column an ordered pair; one of the lines is taken
======================================= =====================================================================

Values are milliseconds, there and back. A pair measured only one way serves for both; one measured neither way is a
hole, and an error, unless holes are to be dropped: then the places with most of them are left out until there is none.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Final

from sim.files import content

PLACES_MAX = 2_000
SOURCES: Final = ("src", "source", "i", "cty1", "src_zone", "from")
TARGETS: Final = ("dst", "destination", "j", "cty2", "dst_zone", "to")
VALUES: Final = ("avg_ms", "rtt_ms", "p50_ms", "median_ms")
Found = dict[tuple[str, str], int]


def read_matrix(path: Path, drop: bool = False, row: str = "") -> tuple[list[str], list[list[int]]]:
    """(names, round trips in microseconds). `row` is which snapshot, "" the last. Raises ValueError, naming line and
    pair, when it is no such file."""
    data = content(path)
    try:
        written = gzip.decompress(data).decode() if path.suffix == ".gz" else data.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read: {error}") from None
    lines = [line for line in csv.reader(io.StringIO(written)) if line]
    if len(lines) < 2:
        raise ValueError(f"{path.name}: no rows")
    header = [cell.strip() for cell in lines[0]]
    if any(name in header for name in TARGETS):
        found = _pairs(path.name, header, lines[1:])
    elif all(">" in name for name in header[1:]):
        found = _snapshot(path.name, header, lines[1:], row)
    elif all(_is_number(cell) for cell in header):
        found = _bare(path.name, lines)
    else:
        found = _square(path.name, header, lines[1:])
    names = sorted({name for pair in found for name in pair})
    if len(names) > PLACES_MAX:
        raise ValueError(f"{path.name}: {len(names)} places, at most {PLACES_MAX}")
    both = {pair: rtt for (a, b), rtt in found.items() for pair in ((b, a), (a, b))} | found
    if drop:
        names = _without_holes(names, both)
    for a in names:
        for b in names:
            if a != b and (a, b) not in both:
                raise ValueError(
                    f"{path.name}: a hole: nothing was measured between {a} and {b}; "
                    'holes = "drop" leaves out the places with most holes'
                )
    return names, [[0 if a == b else both[a, b] for b in names] for a in names]


def _without_holes(names: list[str], both: Found) -> list[str]:
    """Leave out whoever has most holes, again and again."""
    kept = set(names)
    while kept:
        holes = {a: sum(b != a and (a, b) not in both for b in kept) for a in sorted(kept)}
        worst = max(holes, key=lambda name: holes[name])
        if not holes[worst]:
            break
        kept.remove(worst)
    return sorted(kept)


def _square(name: str, header: list[str], lines: list[list[str]]) -> Found:
    found: Found = {}
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise ValueError(f"{name}:{number}: {len(line)} columns, the header has {len(header)}")
        for place, cell in zip(header[1:], line[1:], strict=True):
            if cell.strip():
                found[line[0].strip(), place] = _microseconds(cell, name, number)
    return found


def _bare(name: str, lines: list[list[str]]) -> Found:
    width = len(str(len(lines)))
    names = [f"host-{number:0{width}}" for number in range(len(lines))]
    return _square(name, ["", *names], [[place, *line] for place, line in zip(names, lines, strict=True)])


def _pairs(name: str, header: list[str], lines: list[list[str]]) -> Found:
    source, target, value = (
        next((header.index(column) for column in known if column in header), None)
        for known in (SOURCES, TARGETS, VALUES)
    )
    if source is None or target is None:
        raise ValueError(f"{name}:1: no column {' or '.join(SOURCES[:2])}, or no column {' or '.join(TARGETS[:2])}")
    if value is None:
        raise ValueError(f"{name}:1: no column {' or '.join(VALUES)}")
    found: Found = {}
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise ValueError(f"{name}:{number}: {len(line)} columns, the header has {len(header)}")
        if line[value].strip():
            found[line[source].strip(), line[target].strip()] = _microseconds(line[value], name, number)
    return found


def _snapshot(name: str, header: list[str], lines: list[list[str]], row: str) -> Found:
    number = len(lines) if not row else next((n for n, line in enumerate(lines, 1) if line[0].strip() == row), 0)
    if not number:
        raise ValueError(f"{name}: there is no row {row!r}: the first is {lines[0][0]!r}, the last {lines[-1][0]!r}")
    found: Found = {}
    for pair, cell in zip(header[1:], lines[number - 1][1:], strict=False):
        source, _, target = pair.partition(">")
        if cell.strip():
            found[source, target] = _microseconds(cell, name, number + 1)
    return found


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(".", "", 1).isdigit()


def _microseconds(cell: str, name: str, line: int) -> int:
    try:
        rtt_us = round(float(cell) * 1_000)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}:{line}: {cell!r} is no number of milliseconds") from None
    if not 0 <= rtt_us < 60_000_000:
        raise ValueError(f"{name}:{line}: {cell} ms is no round trip")
    return rtt_us
