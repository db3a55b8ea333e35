"""What a backend says of its own load in a response: ORCA's `endpoint-load-metrics` header. Pure.

Open Request Cost Aggregation (xDS, `xds.data.orca.v3.OrcaLoadReport`) has three spellings; `TEXT a=1, b=2` and
`JSON {"a": 1}` are read here, `BIN` is not. Of its figures one counts: `application_utilization` where it is said, else
`cpu_utilization`, each a share of the backend's capacity, as Envoy's client-side weighted round robin takes them.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Final

REPORT_BYTES_MAX: Final = 4_096
FIELD: Final = b"endpoint-load-metrics"
_COUNTS: Final = ("application_utilization", "cpu_utilization")
_PPM: Final = 1_000_000


@lru_cache(maxsize=1024)  # few backends, and each says the same for a while
def utilization_ppm(report: bytes) -> int | None:
    """The share of capacity in use, in millionths, at most all of it. None when none can be read."""
    if len(report) > REPORT_BYTES_MAX:
        return None
    kind, _, text = report.decode("latin-1").strip().partition(" ")
    figures: dict[str, object] = {}
    if kind == "TEXT":
        pairs = (pair.partition("=") for pair in text.split(","))
        figures = {name.strip(): value.strip() for name, _, value in pairs}
    elif kind == "JSON":
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return None
        figures = read if isinstance(read, dict) else {}
    for name in _COUNTS:
        share = _number(figures.get(name))
        if share is not None and share > 0:
            return min(int(share * _PPM), _PPM)
    return 0 if _number(figures.get(_COUNTS[1])) == 0 else None


def _number(value: object) -> float | None:
    """A finite share that is not negative, written as a number or as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
