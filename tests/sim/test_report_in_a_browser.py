"""The reports as a browser lays them out: on a screen, on a phone, on paper.

Each page stands in frames as wide as those, and is measured there; on paper the rules of `@media print` are taken for
a screen's, so that they can be looked at, and the dark ones hold, too.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lattice.types import SECOND
from router.cli import main
from sim.charts import strip
from sim.geography import heat, world_map
from sim.page import page
from tests.router.decision.wasm.test_wasm_javascript import BROWSERS, QUIET_BROWSER

pytestmark = [pytest.mark.slow, pytest.mark.extras]
SCREEN, PHONE, PAPER = 1280, 390, 703  # A4 less Chromium's margins

MEASURE = """<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, seen = page.defaultView.getComputedStyle(page.body);
    const out = [...page.querySelectorAll("svg text")].filter(text => {
      const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
      return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1;
    });
    const letters = [...page.querySelectorAll("svg text")].map(
      text => parseFloat(page.defaultView.getComputedStyle(text).fontSize) * text.getScreenCTM().a);
    const wide = [...page.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth + 1);
    found[frame.name] = {
      overflow: page.documentElement.scrollWidth - frame.clientWidth,
      out: out.map(text => text.textContent),
      letter: letters.length ? Math.min(...letters) : 99,
      wide: wide.map(one => one.textContent.slice(0, 60)),
      ground: seen.backgroundColor,
      body: seen.fontSize,
    };
  }
  const said = document.createElement("pre");
  said.textContent = JSON.stringify(found);
  document.body.replaceChildren(said);
});
</script>"""


def as_paper(written: str) -> str:
    """The page with its rules for paper in force, and those for a dark screen."""
    assert "@media print" in written
    return written.replace("@media print", "@media screen").replace("@media(prefers-color-scheme:dark)", "@media all")


def measured(directory: Path, pages: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What a browser makes of each page, by `name/where`."""
    browser = next((there for name in BROWSERS if (there := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    frames = []
    for name, written in pages.items():
        for where, wide, shown in (
            ("screen", SCREEN, written), ("phone", PHONE, written), ("paper", PAPER, as_paper(written)),
        ):  # fmt: skip
            source = html.escape(shown, quote=True)
            style = f"border:0;width:{wide}px;height:900px"
            frames.append(f'<iframe name="{name}/{where}" style="{style}" srcdoc="{source}"></iframe>')
    file = directory / "frames.html"
    file.write_text(f"<!doctype html><meta charset=utf-8>{MEASURE}<body>{''.join(frames)}")
    options = (*QUIET_BROWSER, "--hide-scrollbars", f"--user-data-dir={directory / 'profile'}")
    ended = subprocess.run(
        [browser, *options, "--dump-dom", file.as_uri()], capture_output=True, timeout=120, check=False
    )
    if ended.returncode != 0:
        pytest.skip(f"{browser} does not start here: {ended.stderr.decode(errors='replace').strip()[-200:]}")
    said = re.search(r"<pre>(\{.*?\})</pre>", ended.stdout.decode(), re.DOTALL)
    assert said is not None, ended.stdout[-500:]
    found: dict[str, dict[str, Any]] = json.loads(html.unescape(said.group(1)))
    assert len(found) == len(frames)
    return found


def check(found: dict[str, dict[str, Any]]) -> None:
    for name, seen in found.items():
        assert seen["overflow"] <= 0, f"{name} is wider than its window"
        assert seen["out"] == [], f"{name}: labels are cut off"
        assert seen["letter"] >= 8, f"{name}: labels too small to read"
        if not name.endswith("/phone"):
            assert seen["wide"] == [], f"{name}: something scrolls where there is room"
        if name.endswith("/paper"):
            assert seen["ground"] == "rgb(255, 255, 255)", f"{name} is printed on a dark ground"
            assert seen["body"] == "12px", f"{name}: a later rule undoes what is for paper"


def test_reports_fit_a_screen_a_phone_and_paper(tmp_path: Path) -> None:
    for name in ("smoke", "region-cut"):
        assert main(["sim", "run", name, "--json", "--out", str(tmp_path / name)]) == 0
    sweep = ("--grid", "topology.nodes=3,5", "--grid", "protocol.strategy=tree,random", "--seeds", "0:3")
    assert main(["sim", "sweep", "fan-out", *sweep, "--out", str(tmp_path / "fan-out")]) == 0
    files = {"smoke": "report.html", "region-cut": "report.html", "fan-out": "index.html"}
    check(measured(tmp_path, {name: (tmp_path / name / file).read_text() for name, file in files.items()}))


def test_long_names_are_cut_within_their_pictures(tmp_path: Path) -> None:
    acts = [
        (at * SECOND, None if end is None else end * SECOND, "a-fault-of-a-long-name", "done to " + "WW-site-1, " * 20)
        for at, end in ((0, None), (0, 100), (20, 80), (50, None), (95, 100), (99, None))
    ]
    sites = [("s" * 30, "W" * 30, 10 * SECOND, latitude) for latitude in range(-180, 180, 20)]
    regions = [("auckland-at-the-edge", -36_000_000, 174_000_000, "DOWN"), ("alaska", 60_000_000, -179_000_000, "UP")]
    told = [(SECOND, 1, "region", "x"), (100 * SECOND, 5, "member", "x")]
    parts = [strip(acts, 100 * SECOND), heat(told, sites, 100 * SECOND), world_map(sites, regions, {})]
    check(measured(tmp_path, {"long": page("long", [*parts, f"<p>{'w' * 900}</p><pre>{'w' * 900}</pre>"])}))
