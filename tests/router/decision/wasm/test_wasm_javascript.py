"""The same module in other engines: V8 by Node, and a browser. What JavaScript encodes and decides is the judge's."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from router.decision.wasm import module as wasm_module
from router.decision.wasm.module import policy_module
from tests.router.decision.wasm.corpus import cases, program

HOST = Path(wasm_module.__file__).with_name("edgelattice.mjs")
COMPARE = Path(__file__).with_name("compare.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
EXPECTED = {"decided": sum(len(case.asked) for case in cases()), "wrong": 0, "refused": 3}


def written_cases() -> str:
    return json.dumps([case.plain for case in cases()])


@pytest.mark.slow
def test_node_decides_alike(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    for script in (HOST, COMPARE):
        shutil.copy(script, tmp_path)
    (tmp_path / "policy.wasm").write_bytes(policy_module(program()))
    (tmp_path / "cases.json").write_text(written_cases(), "utf-8")
    said = subprocess.run(
        [node, "compare.mjs", "policy.wasm", "cases.json"], cwd=tmp_path, capture_output=True, check=True, timeout=120
    )
    assert json.loads(said.stdout) == EXPECTED


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_decides_alike(tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    page = tmp_path / "page.html"
    page.write_text(page_of(policy_module(program()), written_cases()), "utf-8")
    said = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=60000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        check=True,
        timeout=240,
    )
    _, _, rest = said.stdout.decode("utf-8").partition("<output>")
    assert json.loads(rest.partition("</output>")[0]) == EXPECTED


def page_of(module: bytes, written: str) -> str:
    """One page with everything in it: scripts, module and corpus."""
    host = HOST.read_text("utf-8").replace("export ", "")
    compare = COMPARE.read_text("utf-8").partition("if (typeof process")[0].replace("export ", "")
    compare = "\n".join(line for line in compare.splitlines() if not line.startswith("import "))
    escaped = written.replace("</", "<\\/")
    return (
        f"<!doctype html><meta charset=utf-8><output></output><script type=module>\n{host}\n{compare}\n"
        f"const module = Uint8Array.from(atob('{base64.b64encode(module).decode()}'), (c) => c.charCodeAt(0));\n"
        f"const found = await compare(module, {escaped});\n"
        "document.querySelector('output').textContent = JSON.stringify(found);\n</script>"
    )
