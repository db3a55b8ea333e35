"""What people see of the demo: a live screen on a terminal, plain lines of events anywhere else, a summary at the end.

`Board` is what is known so far, `render` draws it and decides nothing. Levels are written out: colour only helps.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lattice.types import MILLISECOND, SECOND
from router.control.body import RegionBody, ViewBody
from router.demo.figures import Answer, Figures, Recording, percentile
from router.demo.scenario import Scenario

RECENT_US = 2 * SECOND
"""The window of the rates and latencies on the screen."""
EVENTS_SHOWN_MIN = 4
EVENTS_SHOWN_MAX = 16
LINES_WITHOUT_ROWS = 8
"""The headline, both tables' heads, the events' title, a blank line before each, and the line of the cursor."""
BAR_WIDTH = 12

LEVEL_STYLES = {"HEALTHY": "green", "DEGRADED": "yellow", "FAILING": "red", "DOWN": "bold red", "UNKNOWN": "dim"}


@dataclass
class Board:
    """What is known of a run so far."""

    scenario: Scenario
    stage: str = ""
    started_us: int | None = None
    """When the first request was due, microseconds since the Unix epoch."""
    now_us: int = 0
    alive: dict[str, bool] = field(default_factory=dict)
    """Which regions' processes run."""
    views: dict[str, ViewBody] = field(default_factory=dict)
    requests: int = 0
    errors: int = 0
    recent: deque[Answer] = field(default_factory=deque)
    events: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN_MAX))

    def answered(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.requests += 1
            self.errors += bool(answer.error)
            self.recent.append(answer)

    def clock(self, at_us: int) -> str:
        """A moment as people read it: seconds after the first request, "" before it."""
        return "" if self.started_us is None else f"{(at_us - self.started_us) / SECOND:.2f} s"

    def forget_before(self, now_us: int) -> None:
        self.now_us = now_us
        while self.recent and self.recent[0].done_us < now_us - RECENT_US:
            self.recent.popleft()


def render(board: Board, height: int) -> RenderableType:
    """The whole screen, in `height` lines if the tables leave room for a few events."""
    tables = len(board.scenario.regions) + len(board.scenario.sites) + LINES_WITHOUT_ROWS
    return Group(
        _headline(board),
        "",
        _region_table(board),
        "",
        _site_table(board),
        "",
        _event_lines(board, max(EVENTS_SHOWN_MIN, min(EVENTS_SHOWN_MAX, height - tables))),
    )


def _headline(board: Board) -> Text:
    text = Text(board.stage, no_wrap=True, overflow="ellipsis")
    if board.started_us is not None:
        elapsed = min(max(0.0, (board.now_us - board.started_us) / SECOND), board.scenario.seconds)
        latencies = sorted(answer.done_us - answer.scheduled_us for answer in board.recent)
        text.append(f"   {elapsed:.0f} of {board.scenario.seconds:g} s   {board.requests} sent   ")
        text.append(f"{board.errors} failed", style="bold red" if board.errors else "green")
        if latencies:
            text.append(f"   p50 {percentile(latencies, 50) / MILLISECOND:.1f} ms")
            text.append(f"   p99 {percentile(latencies, 99) / MILLISECOND:.1f} ms")
    return text


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold italic")
    for column in columns:
        table.add_column(column, no_wrap=column is not columns[-1])  # what may wrap is what gives way when it is tight
    return table


def _region_table(board: Board) -> Table:
    seen_at = [f"at {site.name}" for site in board.scenario.sites]
    table = _table("region", "process", *seen_at, "req/s", "traffic".ljust(BAR_WIDTH), "witnesses")
    counts = Counter(answer.region for answer in board.recent)
    most = max(counts.values(), default=1)
    for region in board.scenario.regions:
        seen = {site.name: _region_of(board.views.get(site.name), region.name) for site in board.scenario.sites}
        alive = board.alive.get(region.name, False)
        table.add_row(
            region.name,
            Text("runs", style="green")
            if alive
            else Text("killed" if board.started_us else "starts", style="bold red"),
            *(_level(body) for body in seen.values()),
            f"{counts[region.name] * SECOND / RECENT_US:.0f}",
            Text("█" * round(BAR_WIDTH * counts[region.name] / most), style="cyan"),
            _witnesses(seen.values()),
        )
    return table


def _region_of(view: ViewBody | None, region: str) -> RegionBody | None:
    return None if view is None else next((body for body in view.regions if body.region == region), None)


def _level(body: RegionBody | None) -> Text:
    if body is None:
        return Text("-", style="dim")
    return Text(body.effective, style=LEVEL_STYLES.get(body.effective, ""))


def _witnesses(bodies: Iterable[RegionBody | None]) -> Text:
    """Every site's voice, from whichever view has it."""
    voices = {
        witness.site: witness.level
        for body in bodies
        if body is not None
        for witness in body.witnesses
        if witness.level not in ("HEALTHY", "UNKNOWN")
    }
    text = Text(no_wrap=True, overflow="ellipsis")
    for site, level in sorted(voices.items()):
        text.append(f"{site} ").append(f"{level} ", style=LEVEL_STYLES.get(level, ""))
    return text


def _site_table(board: Board) -> Table:
    table = _table("site", "users", "peers alive", "policy", "knows", "ejected")
    for site in board.scenario.sites:
        view = board.views.get(site.name)
        if view is None:
            table.add_row(site.name, site.zone)
            continue
        others = [member for member in view.members if member.site != view.site]
        table.add_row(
            site.name,
            site.zone,
            f"{sum(member.state == 'alive' for member in others)} of {len(others)}",
            Text(" ".join(policy.version[:8] for policy in view.policies) or "none yet"),
            Text(f"{view.root[:8]} {view.cells} cells" + (" ISOLATED" if view.isolated else "")),
            Text(
                " ".join(view.ejected), no_wrap=True, overflow="ellipsis"
            ),  # as Text, for brackets around an address are no markup
        )
    return table


def _event_lines(board: Board, count: int) -> Text:
    lines = [f"{when:>9}  {what}" for when, what in board.events][-count:]
    text = Text("events", style="bold italic", no_wrap=True, overflow="ellipsis")
    return text.append("\n".join(["", *lines, *[""] * (count - len(lines))]), style="not bold not italic")


# What each figure is called in the summary, and its unit.
_FIGURE_LABELS: Mapping[str, tuple[str, str]] = {
    "requests": ("requests", ""),
    "errors": ("failed requests", ""),
    "p50_ms": ("latency, median", " ms"),
    "p99_ms": ("latency, 99th percentile", " ms"),
    "failover_ms": ("kill → first answer from a standby", " ms"),
    "health_converged_ms": ("kill → every site says DOWN", " ms"),
    "policy_converged_ms": ("policy published at one site → in force at all", " ms"),
    "nearest_share": ("answered by the nearest living region", ""),
    "failed_back": ("traffic went back to the region that returned", ""),
    "failback_ms": ("region back → its first answer", " ms"),
}


def summary(recording: Recording, result: Figures) -> list[str]:
    """The figures as lines of text, and how requests failed if any did."""
    width = max(len(label) for label, _ in _FIGURE_LABELS.values())
    lines = []
    for key, (label, unit) in _FIGURE_LABELS.items():
        value = result.values[key]
        shown = f"{value:.2%}" if key == "nearest_share" and value is not None else _shown(value, unit)
        lines.append(f"  {label:<{width}}  {shown}")
    failures = Counter(answer.error for answer in recording.answers if answer.error)
    lines += [f"  {number} failed: {error}" for error, number in sorted(failures.items())]
    return lines


def _shown(value: float | bool | None, unit: str) -> str:
    if value is None:
        return "?"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value}{unit}"


class Show(Protocol):
    """Where a run is shown. The board has what there is to see; these say that something happened."""

    def stage(self, text: str) -> None: ...

    def event(self, at_us: int, text: str) -> None: ...

    def refresh(self, now_us: int) -> None: ...


class LineShow:
    """One line per event, for pipes, logs and CI."""

    def __init__(self, board: Board, write: Callable[[str], None]) -> None:
        self._board = board
        self._write = write

    def stage(self, text: str) -> None:
        if text != self._board.stage:
            self._board.stage = text
            self._write(text)

    def event(self, at_us: int, text: str) -> None:
        self._write(f"{self._board.clock(at_us):>9}  {text}")

    def refresh(self, now_us: int) -> None:
        self._board.forget_before(now_us)


class LiveShow:
    """The screen, drawn again at every refresh. A context manager: leaving it gives the terminal back."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._live = Live(
            render(board, console.height),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveShow:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, text: str) -> None:
        self._board.stage = text
        self._draw()

    def event(self, at_us: int, text: str) -> None:
        self._board.events.append((self._board.clock(at_us), text))

    def refresh(self, now_us: int) -> None:
        self._board.forget_before(now_us)
        self._draw()

    def _draw(self) -> None:
        self._live.update(render(self._board, self._live.console.height), refresh=True)
