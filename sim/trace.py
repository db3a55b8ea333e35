"""Recorded requests: a CSV with the columns `t_s` (seconds from the start) and `client_prefix24` (as 203.0.113.0)."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from hashlib import blake2b
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from sim.files import content

COLUMNS: Final = ("t_s", "client_prefix24")
SECONDS_MAX: Final = 10 * 366 * 86_400


def read_trace(path: Path) -> list[tuple[int, str]]:
    """(microseconds from the start, client) of each request, by time. Which host of its network a client is depends on
    the network alone. Raises ValueError, naming the line, when it is no such file."""
    data = content(path)
    try:
        written = gzip.decompress(data).decode() if path.suffix == ".gz" else data.decode()
        lines = list(csv.reader(io.StringIO(written)))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name}: cannot be read: {error}") from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{path.name}:1: no column {missing[0]}")
    when, client = (header.index(column) for column in COLUMNS)
    found = []
    for line, row in enumerate(lines[1:], 2):
        try:
            at_s = float(row[when])
            network = str(IPv4Address(row[client].strip()))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path.name}:{line}: no request: {error}") from None
        if not 0 <= at_s <= SECONDS_MAX:
            raise ValueError(f"{path.name}:{line}: no request: {row[when]} s is before the start, or years after it")
        last = blake2b(network.encode(), digest_size=1).digest()[0]
        found.append((round(at_s * 1_000_000), f"{network.rpartition('.')[0]}.{last}"))
    return sorted(found, key=lambda one: one[0])
