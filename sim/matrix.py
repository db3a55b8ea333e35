"""Measured round trips from a CSV: a square table with a header, or one pair a line.

A table's first line and first column name the places; a pair file has the columns `src`, `dst` and `avg_ms` (or
`rtt_ms`). Values are milliseconds. A pair measured only one way serves for both; one measured neither way is an error.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

PLACES_MAX = 2_000


def read_matrix(path: Path) -> tuple[list[str], list[list[int]]]:
    """(names, round trips in microseconds). Raises ValueError, naming line and pair, when it is no such file."""
    data = path.read_bytes()
    written = gzip.decompress(data).decode() if path.suffix == ".gz" else data.decode()
    rows = list(csv.reader(io.StringIO(written)))
    if len(rows) < 2:
        raise ValueError(f"{path.name}: no rows")
    header = [cell.strip() for cell in rows[0]]
    if "dst" in header or "destination" in header:
        names, found = _pairs(path.name, header, rows[1:])
    else:
        names, found = _square(path.name, header, rows[1:])
    if len(names) > PLACES_MAX:
        raise ValueError(f"{path.name}: {len(names)} places, at most {PLACES_MAX}")
    matrix = []
    for a, source in enumerate(names):
        row = []
        for b, target in enumerate(names):
            rtt = 0 if a == b else found.get((a, b), found.get((b, a)))
            if rtt is None:
                raise ValueError(f"{path.name}: a hole: nothing was measured between {source} and {target}")
            row.append(rtt)
        matrix.append(row)
    return names, matrix


def _square(name: str, header: list[str], rows: list[list[str]]) -> tuple[list[str], dict[tuple[int, int], int]]:
    names = header[1:]
    index = {place: number for number, place in enumerate(names)}
    found: dict[tuple[int, int], int] = {}
    for line, row in enumerate(rows, 2):
        if row[0].strip() not in index:
            raise ValueError(f"{name}:{line}: {row[0]!r} is not in the header")
        if len(row) != len(header):
            raise ValueError(f"{name}:{line}: {len(row)} columns, the header has {len(header)}")
        for number, cell in enumerate(row[1:]):
            if cell.strip():
                found[index[row[0].strip()], number] = _microseconds(cell, name, line)
    return names, found


def _pairs(name: str, header: list[str], rows: list[list[str]]) -> tuple[list[str], dict[tuple[int, int], int]]:
    source, target = (
        header.index("src" if "src" in header else "source"),
        header.index("dst" if "dst" in header else "destination"),
    )
    value = next((header.index(column) for column in ("avg_ms", "rtt_ms", "p50_ms") if column in header), None)
    if value is None:
        raise ValueError(f"{name}:1: no column avg_ms or rtt_ms")
    names = sorted({row[source] for row in rows} | {row[target] for row in rows})
    index = {place: number for number, place in enumerate(names)}
    found = {
        (index[row[source]], index[row[target]]): _microseconds(row[value], name, line)
        for line, row in enumerate(rows, 2)
        if row[value].strip()
    }
    return names, found


def _microseconds(cell: str, name: str, line: int) -> int:
    try:
        rtt_us = round(float(cell) * 1_000)
    except ValueError:
        raise ValueError(f"{name}:{line}: {cell!r} is no number of milliseconds") from None
    if not 0 <= rtt_us < 60_000_000:
        raise ValueError(f"{name}:{line}: {cell} ms is no round trip")
    return rtt_us
