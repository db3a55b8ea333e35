"""What people see of the demo: rendered to text, judged by what must be readable in it."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

from rich.console import Console

from lattice.types import SECOND
from router.control.body import MemberBody, PolicyBody, RegionBody, TrafficBody, ViewBody, WitnessBody
from router.demo.figures import Answer, Recording, figures
from router.demo.scenario import compose
from router.demo.screen import EVENTS_SHOWN_MAX, RECENT_US, Board, LineShow, LiveShow, render, summary

T0 = 1_700_000_000_000_000


def view(site: str, levels: Mapping[str, str], witnesses: Mapping[str, str] | None = None) -> ViewBody:
    voices = [WitnessBody(name, "aa", level, 0) for name, level in (witnesses or {}).items()]
    return ViewBody(
        node="aa" * 16,
        site=site,
        now_ms=0,
        isolated=False,
        root="bb" * 16,
        cells=7,
        members=[MemberBody("aa", name, "127.0.0.1:1", "alive", 1, {}) for name in ("ams", "nyc", "kix")],
        regions=[RegionBody(name, level, level, level, "verdict", 0, voices) for name, level in levels.items()],
        policies=[PolicyBody("default", "c0ffee00" * 4, "dd", "", 0, 0, [])],
        traffic=TrafficBody(0, {}, 0, 0),
        ejected=["[::1]:9001"],
        counters={},
        events=[],
    )


def board() -> Board:
    result = Board(compose(20, 200, 3, 3, ()))
    result.alive = {"fra": False, "iad": True, "nrt": True}
    result.started_us = T0
    result.views = {
        "ams": view("ams", {"fra": "DOWN", "iad": "HEALTHY"}, {"ams": "DOWN", "kix": "FAILING", "nyc": "HEALTHY"}),
        "nyc": view("nyc", {"fra": "DEGRADED"}),
    }
    result.answered(Answer(T0, T0 + 3_000, "europe", 200, "iad", "") for _ in range(30))
    result.answered([Answer(T0, T0 + 4_000, "japan", 0, "", "reset")])
    return result


def drawn(shown: Board, width: int = 140, height: int = 50) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(render(shown, height))
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()


def test_the_screen_says_what_is_known() -> None:
    shown = board()
    shown.now_us = T0 + 8 * SECOND
    text = drawn(shown)

    assert "8 of 20 s" in text
    assert "31 sent" in text
    assert "1 failed" in text
    line = next(line for line in text.splitlines() if line.startswith("fra "))
    assert "killed" in line
    assert "DOWN" in line
    assert "DEGRADED" in line
    assert "ams DOWN kix FAILING" in line  # the witnesses, without the one who is content
    assert "[::1]:9001" in text  # an address, not markup
    assert "c0ffee00" in text
    assert "europe" in text


def test_a_board_that_knows_nothing_yet_can_be_drawn() -> None:
    text = drawn(Board(compose(20, 200, 8, 8, ()), stage="starting"))

    assert "starting" in text
    assert "jnb" in text
    assert "cpt" in text


def test_three_sites_and_regions_fit_the_smallest_terminal() -> None:
    shown = board()
    shown.events.extend((f"{number}.00 s", f"event number {number}.") for number in range(30))
    lines = drawn(shown, width=80, height=24).splitlines()

    assert len(lines) < 24
    assert "event number 29." in lines[-1]
    assert max(len(line) for line in lines) <= 80
    assert any("DOWN" in line and "DEGRADED" in line for line in lines)


def test_only_the_last_seconds_count_as_recent() -> None:
    shown = board()
    shown.forget_before(T0 + RECENT_US + 3_500)

    assert [answer.error for answer in shown.recent] == ["reset"]
    assert shown.requests == 31


def test_lines_carry_the_time_since_the_first_request() -> None:
    lines: list[str] = []
    shown = Board(compose(20, 200, 3, 3, ()))
    show = LineShow(shown, lines.append)
    show.stage("starting")
    show.stage("starting")
    show.event(T0 - SECOND, "policy published")
    shown.started_us = T0
    show.event(T0 + 8_123_456, "fra killed with SIGKILL")

    assert lines == ["starting", "           policy published", "   8.12 s  fra killed with SIGKILL"]


def test_the_live_screen_keeps_the_last_events_and_gives_the_terminal_back() -> None:
    out = StringIO()
    shown = board()
    with LiveShow(shown, Console(file=out, force_terminal=True, width=140)) as show:
        for number in range(EVENTS_SHOWN_MAX + 3):
            show.event(T0, f"event number {number}.")
        show.refresh(T0 + SECOND)
    text = out.getvalue()

    assert f"event number {EVENTS_SHOWN_MAX + 2}." in text
    assert "event number 1." not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def test_the_summary_has_every_figure_and_how_requests_failed() -> None:
    recording = Recording(
        ranking={"europe": ("fra", "iad")},
        sites=("ams",),
        answers=[Answer(T0, T0 + 1_500, "europe", 200, "fra", ""), Answer(T0, T0 + 9_000, "europe", 0, "", "reset")],
    )
    text = "\n".join(summary(recording, figures(recording)))

    assert "50.00%" in text
    assert "1.5 ms" in text
    assert "1 failed: reset" in text
    assert "?" in text  # what could not be had
