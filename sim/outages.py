"""Real outages, from a status page's history, on the regions of a run: when each began, how bad it was, how long.

The CSV has the columns `first_post_utc`, `region`, `severity_1to3` and `stated_duration_min`, as in a history of AWS's
page. Time is scaled (an hour as a second, say); events of one region that overlap are one, as bad as the worst of them.
The file's regions are dealt out over the run's, the most often stricken first. An outage whose length nobody stated
takes the median of those that were stated in 2018 to 2023: 102 minutes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from lattice.prng import Prng
from lattice.types import SECOND, Level
from sim.changes import HealthChange
from sim.files import content
from sim.quantities import Section, number, text
from sim.stage import Stage

MEDIAN_MIN: Final = 102
LEVEL_OF: Final = {1: Level.DEGRADED, 2: Level.FAILING, 3: Level.DOWN}
COLUMNS: Final = ("first_post_utc", "region", "severity_1to3", "stated_duration_min")


@dataclass(frozen=True, slots=True)
class Outage:
    """One region, less than well for a while."""

    at_s: int
    """Since the Unix epoch."""
    until_s: int
    region: str
    level: Level


def read_outages(path: Path) -> list[Outage]:
    """All of a file, by time. Raises ValueError, naming the line, when it is no such file."""
    try:
        written = content(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: cannot be read: {error}") from None
    lines = list(csv.reader(io.StringIO(written)))
    header = [cell.strip() for cell in lines[0]] if lines else []
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{path.name}:1: no column {missing[0]}")
    when, region, severity, length = (header.index(column) for column in COLUMNS)
    found = []
    for line, row in enumerate(lines[1:], 2):
        try:
            at_s = int(datetime.fromisoformat(row[when]).timestamp())
            minutes = float(row[length]) if row[length].strip() else MEDIAN_MIN
            level = LEVEL_OF.get(int(row[severity]))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path.name}:{line}: no outage: {error}") from None
        if level is not None:  # severity 0 is a note that all is well
            found.append(Outage(at_s, at_s + max(60, round(minutes * 60)), row[region].strip(), level))
    return sorted(found, key=lambda one: (one.at_s, one.region, one.until_s))


def merged(outages: list[Outage]) -> list[Outage]:
    """Overlapping outages of one region as one, at the worst of their levels."""
    last: dict[str, Outage] = {}
    done = []
    for one in outages:
        open_ = last.get(one.region)
        if open_ is None or one.at_s > open_.until_s:
            if open_ is not None:
                done.append(open_)
            last[one.region] = one
        else:
            until = max(open_.until_s, one.until_s)
            last[one.region] = Outage(open_.at_s, until, one.region, max(open_.level, one.level))
    return sorted([*done, *last.values()], key=lambda one: (one.at_s, one.region))


@dataclass(slots=True)
class Replay:
    """Outages of a file from one on, as many as fall into what is left of the run."""

    outages: list[Outage]
    speed: int
    """How many times as fast as it was: 3,600 is an hour as a second."""

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        if not self.outages:
            return "no outage from there on"
        stricken = [name for name, _ in Counter(one.region for one in self.outages).most_common()]
        ours = sorted(stage.world.regions)
        region_of = {name: ours[place % len(ours)] for place, name in enumerate(stricken)}
        first = self.outages[0].at_s
        ends: dict[str, int] = {}
        count = 0
        for one in self.outages:
            region = region_of[one.region]
            at = stage.cluster.now + self._scaled(one.at_s - first)
            well_at = at + self._scaled(one.until_s - one.at_s)
            if at >= until:
                break
            if at < ends.get(region, 0):
                continue  # two of the file's regions share one of ours, which is not well already
            ends[region] = well_at
            count += 1
            self._schedule(stage, prng, at, region, one.level)
            if well_at < until:
                self._schedule(stage, prng, well_at, region, Level.HEALTHY)
        return f"{count} outages of {len(stricken)} regions"

    def _scaled(self, seconds: int) -> int:
        return seconds * SECOND // self.speed

    @staticmethod
    def _schedule(stage: Stage, prng: Prng, at: int, region: str, level: Level) -> None:
        stage.cluster.scheduler.call(at, partial(HealthChange(region, level).begin, stage, prng, at))

    def end(self, stage: Stage) -> None:
        """The regions stay as the file leaves them."""


def read_replay(section: Section) -> Replay:
    name = section.require("file", text, "")
    speed = section.take("speed", number(1, 1_000_000), 3_600)
    skip = section.take("skip", number(0, 1_000_000), 0)
    try:
        return Replay(merged(read_outages(Path(name)))[skip:] if name else [], speed)
    except ValueError as error:
        section.note("file", str(error))
        return Replay([], speed)
