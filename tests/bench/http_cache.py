"""The public http-cache-tests (cache-tests.fyi) against a whole node whose route says `cache`.

Needs Node and npm: the package is installed into a directory of its own (`--package DIR` uses one that is there). The
suite's own server is the region; its own client asks through the node; its own rules judge each result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.proxy_rivals import BenchError, Fleet, free_port, start_ours, stop, wait_listening

PACKAGE = "http-cache-tests@0.4.5"
SECONDS_MAX = 240

_AT_ONCE = 14
"""Tests that run at a time: fewer than the least window of a region that fails, as the suite makes ours do."""

_RUN = """
import fetch from 'node-fetch'
import { runTests, getResults } from './client/runner.mjs'
import { determineTestResult } from './lib/display.mjs'
import tests from './tests/index.mjs'
import surrogate from './tests/surrogate-control.mjs'
const all = [...tests, surrogate]
await runTests(all, fetch, false, process.argv[2], Number(process.argv[3]))
const results = getResults()
const verdicts = []
for (const suite of all) {
  for (const test of suite.tests) {
    if (test.browser_only) continue
    const verdict = determineTestResult(all, test.id, results)[2].replace(/\\ufe0f/g, '')
    const why = Array.isArray(results[test.id]) ? results[test.id].join(': ') : ''
    verdicts.push({ id: test.id, kind: test.kind || 'required', surrogate: suite === surrogate, verdict, why })
  }
}
console.log(JSON.stringify(verdicts))
"""

_VERDICTS = {
    "✅": "pass",
    "⛔": "fail",
    "⚠": "optional fail",
    "Y": "yes",
    "N": "no",
    "🔹": "setup fail",
    "⁉": "harness fail",
    "⚪": "dependency fail",
    "↻": "retry",
    "-": "untested",
}
"""The suite's own symbols."""


def install(directory: Path) -> Path:
    """The package, installed by npm. Raises `BenchError`."""
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(directory), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    package = directory / "node_modules" / "http-cache-tests"
    if not (package / "cli.mjs").exists():
        raise BenchError(f"npm could not install {PACKAGE}: {done.stderr.strip()[-500:]}")
    return package


def run(package: Path, directory: Path) -> list[dict[str, str]]:
    """Every test of the suite with its verdict."""
    port = free_port()
    environment = {**os.environ, "npm_config_protocol": "http", "npm_package_config_id": ""}
    origin = subprocess.Popen(
        ["node", "--no-warnings", "server/server.mjs"],
        cwd=package,
        env={**environment, "npm_config_port": str(port), "npm_config_pidfile": str(directory / "pid")},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_listening(("127.0.0.1", port), "the suite's server")
        # The suite breaks connections and answers 503 on purpose: that must not take its only region away.
        fleet = Fleet([("fra", [("127.0.0.1", port)])], route="cache", otherwise="serve primary", probe="tcp")
        ours = start_ours(directory, fleet)
        try:
            script = package / "run-and-judge.mjs"
            script.write_text(_RUN)
            base = f"http://{ours.endpoint[0]}:{ours.endpoint[1]}"
            done = subprocess.run(
                ["node", "--no-warnings", str(script), base, str(_AT_ONCE)],
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS_MAX,
            )
            if done.returncode:
                raise BenchError(f"the suite's client failed: {done.stderr.strip()[-1000:]}")
        finally:
            ours.stop()
    finally:
        stop(origin)
    verdicts: list[dict[str, str]] = json.loads(done.stdout)
    for one in verdicts:
        one["verdict"] = _VERDICTS.get(one["verdict"], one["verdict"])
    return verdicts


def summary(verdicts: list[dict[str, str]]) -> dict[str, object]:
    """Counts by kind; the suite's Surrogate-Control tests apart, which are about another protocol (W3C Note)."""
    counts: dict[str, Counter[str]] = {}
    for one in verdicts:
        kind = "surrogate" if one["surrogate"] else one["kind"]
        counts.setdefault(kind, Counter())[one["verdict"]] += 1
    return {
        **{kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())},
        "not_passed": {
            one["id"]: f"{one['verdict']}: {one['why']}"
            for one in verdicts
            if one["kind"] == "required" and not one["surrogate"] and one["verdict"] != "pass"
        },
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench http-cache", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--package", type=Path, help="where http-cache-tests is installed")
    parser.add_argument("--verbose", action="store_true", help="list every test that did not pass, of any kind")
    options = parser.parse_args(argv)
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        print(f"http-cache: needs {' and '.join(missing)}: apt-get install nodejs npm", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        try:
            verdicts = run(options.package or install(directory), directory)
        except (BenchError, subprocess.SubprocessError) as error:
            print(f"http-cache: {error}", file=sys.stderr)
            return 1
    if options.verbose:
        for one in verdicts:
            if one["verdict"] not in ("pass", "yes"):
                print(f"{one['kind']:9} {one['verdict']:16} {one['id']:45} {one['why']}", file=sys.stderr)
    figures = summary(verdicts)
    print(json.dumps(figures, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
