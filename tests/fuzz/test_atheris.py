"""A few seconds of coverage-guided fuzzing for each decoder, and what it finds held to a frame's time and memory.

FUZZ_SECONDS for more, and FUZZ_CORPUS names a directory that is kept, so that hours add up: `make fuzz` is one each.
Needs the extra `fuzz`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import bounds
from tests.fuzz.targets import TARGETS

SECONDS = int(os.environ.get("FUZZ_SECONDS", "3"))
CORPUS = os.environ.get("FUZZ_CORPUS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.extras,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed (pip install 'edgelattice[fuzz]'); tests/fuzz/test_decoders.py ran instead",
    ),
]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_that_the_fuzzer_finds_breaks_a_decoder(name: str, tmp_path: Path) -> None:
    corpus = (Path(CORPUS) if CORPUS else tmp_path) / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.atheris_run", name, str(SECONDS), str(corpus)],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr[-4_000:]
    counted = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    assert counted is not None, run.stderr[-4_000:]
    assert int(counted[1]) > 0
    kept = sorted(corpus.iterdir())
    for file in kept:
        bounds.check(name, file.read_bytes())
    print(f"{name}: {int(counted[1]):,} executions in {SECONDS} s, nothing found; {len(kept)} inputs kept")
