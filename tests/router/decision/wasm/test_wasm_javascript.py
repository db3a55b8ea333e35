"""The same module in other engines: V8 by Node, and a browser. What JavaScript encodes and decides is the judge's."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from router.decision.wasm import module as wasm_module
from router.decision.wasm.module import policy_module
from tests.router.decision.wasm.corpus import cases, program

HOST = Path(wasm_module.__file__).with_name("edgelattice.mjs")
COMPARE = Path(__file__).with_name("compare.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET_BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

PAGE = """<!doctype html><meta charset=utf-8><script type=module>
import { compare } from "./compare.mjs";
const module = await (await fetch("policy.wasm")).arrayBuffer();
const cases = await (await fetch("cases.json")).json();
const found = await compare(module, cases).catch((error) => String(error));
await fetch("found", { method: "POST", body: JSON.stringify(found) });
</script>"""


def nothing_wrong() -> dict[str, int]:
    return {"decided": sum(len(case.asked) for case in cases()), "wrong": 0, "refused": 3}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Everything that an engine needs: the scripts, the module, the corpus and a page."""
    for script in (HOST, COMPARE):
        shutil.copy(script, tmp_path)
    (tmp_path / "policy.wasm").write_bytes(policy_module(program()))
    (tmp_path / "cases.json").write_text(json.dumps([case.plain for case in cases()]), "utf-8")
    (tmp_path / "page.html").write_text(PAGE, "utf-8")
    return tmp_path


@pytest.mark.slow
def test_node_decides_alike(directory: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    said = subprocess.run(
        [node, "compare.mjs", "policy.wasm", "cases.json"], cwd=directory, capture_output=True, check=True, timeout=120
    )
    assert json.loads(said.stdout) == nothing_wrong()


class _Site(SimpleHTTPRequestHandler):
    """Serves the directory, and takes what the page found."""

    found: Queue[bytes]

    def do_POST(self) -> None:
        self.found.put(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody needs to read this."""


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, Queue[bytes]]]:
    answers: Queue[bytes] = Queue()

    class Site(_Site):
        found = answers

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(directory))) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/page.html", answers
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.slow
@pytest.mark.extras
def test_a_browser_decides_alike(directory: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    options = (*QUIET_BROWSER, f"--user-data-dir={directory / 'profile'}")
    nothing = subprocess.run(
        [browser, *options, "--dump-dom", "about:blank"], capture_output=True, timeout=120, check=False
    )
    if nothing.returncode != 0:
        pytest.skip(f"{browser} does not start here: {nothing.stderr.decode(errors='replace').strip()[-200:]}")
    with served(directory) as (page, answers):
        started = subprocess.Popen([browser, *options, page], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert json.loads(answers.get(timeout=120)) == nothing_wrong()
        finally:
            started.terminate()
            started.wait(timeout=20)
