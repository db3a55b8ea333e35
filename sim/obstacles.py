"""Which runs several processes may share, and why others are one process's: what is not named here is not shared.

Shared is what each process can do to its own hosts alone, knowing of all others their places and their fate. A liar
that draws from one stream by what its engine holds, a controller of a rollout that looks into one engine, a link whose
queue two processes would fill: these are one process's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sim.draws import PPM
from sim.scenario import Step
from sim.shards import Shards

SHARED: Final = frozenset(
    {
        "health", "outages", "publish", "poison-op", "resubmit", "join", "leave", "halves", "isolate", "region-cut",
        "one-way", "bridge", "flap", "clog", "hold", "loss", "slow-links", "crash", "crash-loop", "rolling-restart",
        "pause", "slow", "clock", "lie-health", "key-rotation",
    }
)  # fmt: skip
PAYS_HOSTS: Final = 400
"""With fewer hosts a process has so little to do until it must hear from the others that two are no faster."""


def obstacle(timeline: Iterable[Step], shards: Shards) -> str | None:
    """Why these shards are no processes, in a few words; None when nothing speaks against it."""
    if shards.count < 2:
        return "its hosts are few, or near each other"
    for step in timeline:
        if step.do not in SHARED:
            return f"{step.do} is not for several"
        if getattr(step.act, "factor_ppm", PPM) < PPM:
            return f"{step.do} makes paths shorter than the lookahead"
    return None
