"""The pictures of a run as files, for papers and slides: matplotlib, which comes with the extra `plots`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lattice.types import SECOND
from router.commands.failing import EXIT_USAGE, CommandError
from sim.story import Story

FORMATS = ("png", "svg")
DPI = 200


def export(story: Story, directory: Path, form: str) -> list[Path]:
    """Write one file a picture into the folder. Raises `CommandError` without matplotlib, OSError."""
    try:
        mpl: Any = importlib.import_module("matplotlib")
        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = story.figures["digest"]  # the same run, the same file
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise CommandError("matplotlib is not installed: pip install 'edgelattice[plots]'", EXIT_USAGE) from None
    written: list[Path] = []

    def save(name: str) -> None:
        path = directory / f"{name}.{form}"
        pyplot.tight_layout()
        pyplot.savefig(path, dpi=DPI, metadata={"Date": None} if form == "svg" else None)
        pyplot.close()
        written.append(path)

    nodes = story.figures["nodes"]
    if story.curves:
        _, axes = pyplot.subplots(figsize=(8, 4.5))
        for name, delays, floor in story.curves:
            (line,) = axes.step(*_shares(delays, nodes), where="post", label=name)
            axes.step(*_shares(floor, nodes), where="post", linestyle="--", linewidth=1, color=line.get_color())
        longest = max(delays[-1] for _, delays, _ in story.curves if delays) / SECOND
        axes.plot(*zip(*((at / SECOND, share * 100) for at, share in story.theory), strict=True), ":", color="grey",
                  label="Serf, closed form")  # fmt: skip
        axes.set(xlabel="seconds", ylabel="% of nodes", xlim=(0, longest * 1.5), ylim=(0, 101))
        axes.grid(alpha=0.3)
        axes.legend()
        save("propagation")
    _, axes = pyplot.subplots(figsize=(8, 3.5))
    rows = sorted(story.figures["bytes_by_type"].items(), key=lambda item: item[1])
    axes.barh([name for name, _ in rows], [count / 1_000 for _, count in rows])
    axes.set(xlabel="kB")
    save("bytes")
    if story.users:
        _, axes = pyplot.subplots(figsize=(8, 3))
        seconds = [second for second, *_ in story.users]
        for place, name in ((1, "requests"), (2, "answered"), (3, "first sent to a dead region")):
            axes.step(seconds, [row[place] for row in story.users], where="post", label=name)
        axes.set(xlabel="seconds", ylabel="requests a second")
        axes.legend()
        save("users")
    return written


def _shares(delays: list[int], nodes: int) -> tuple[list[float], list[float]]:
    return [delay / SECOND for delay in delays], [(rank + 1) * 100 / nodes for rank in range(len(delays))]
