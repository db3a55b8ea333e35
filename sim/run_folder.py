"""What a run leaves behind: enough to read it, plot it, and run it again.

::

    scenario.resolved.toml   the scenario after `extends` and overrides
    result.json              verdict and figures; seed, overrides and digest for `replay`
    timeline.csv             what nodes announced: seconds, site, kind, what
    changes.csv              who learned of each change when
    users.csv                requests, answered, misrouted by second
    story.json               all of it at once, for `report`
    report.html              the same for people, in one file
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from lattice.types import SECOND
from sim.experiment import Result
from sim.outcome import Cost, in_full, rerun_line, token_of
from sim.report import html
from sim.scheduler import EPOCH
from sim.story import Story, story_of
from sim.toml_text import toml_text

SCENARIO_FILE = "scenario.resolved.toml"
RESULT_FILE = "result.json"
STORY_FILE = "story.json"
REPORT_FILE = "report.html"


def write_folder(directory: Path, result: Result, cost: Cost, sets: list[str]) -> None:
    """Write everything; the directory is made if need be. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SCENARIO_FILE).write_text(toml_text(result.scenario.table))
    said = in_full(result, cost)
    name, seed = result.scenario.asked, result.seed
    said |= {"rerun": rerun_line(name, seed, sets), "token": token_of(name, seed, sets), "set": sets}
    said["acts"] = [
        {"from_s": start / SECOND, "to_s": None if end is None else end / SECOND, "what": what, "how": how}
        for start, end, what, how in result.acts
    ]
    said["checks"] = [{"name": name, "promise": promise, "outcome": out} for name, promise, out in result.checks]
    (directory / RESULT_FILE).write_text(json.dumps(said, indent=2) + "\n")
    sites = [site[0] for site in result.sites]
    with (directory / "timeline.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at_s", "site", "kind", "what"])
        writer.writerows((at / SECOND, sites[host], kind, what) for at, host, kind, what in result.announced)
    with (directory / "changes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["change", "site", "after_s"])
        for change, at_us, learned in result.learned:
            writer.writerows(
                (change, sites[host], (when - EPOCH - at_us) / SECOND) for host, when in sorted(learned.items())
            )
    if result.by_second:
        with (directory / "users.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["second", "requests", "answered", "misrouted"])
            writer.writerows((second, *counts) for second, counts in sorted(result.by_second.items()))
    story = story_of(result, cost, sets)
    (directory / STORY_FILE).write_text(story.to_json())
    (directory / REPORT_FILE).write_text(html(story))


def read_report(directory: Path) -> tuple[Story, str]:
    """What a run folder tells, and as a page. Raises ValueError when it is none, or not of this version."""
    try:
        story = Story.from_json((directory / STORY_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} is no run folder: {_said(error)}") from None
    try:
        return story, html(story)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{directory} is a run folder of another version, or damaged: {said}") from None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run folder says of its run."""

    path: Path
    """Its scenario's file."""
    name: str
    seed: str
    digest: str


def read_folder(directory: Path) -> Kept:
    """What is needed to run it again. Raises ValueError when it is no run folder."""
    try:
        said = json.loads((directory / RESULT_FILE).read_text())
        return Kept(directory / SCENARIO_FILE, str(said["scenario"]), str(said["seed"]), str(said["digest"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory} is no run folder: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror.lower()}"
    return f"has no {error}" if isinstance(error, KeyError) else str(error)
