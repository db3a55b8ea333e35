"""A few seconds of coverage-guided fuzzing for each decoder; FUZZ_SECONDS for more. Needs the extra `fuzz`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SECONDS = int(os.environ.get("FUZZ_SECONDS", "3"))
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
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.atheris_run", name, str(SECONDS)],
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
    print(f"{name}: {int(counted[1]):,} executions in {SECONDS} s, nothing found")
    assert int(counted[1]) > 0
