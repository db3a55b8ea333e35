"""docs/reference/hostile-input.md names a test for every case; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/hostile-input.md"
RUNS = "".join((ROOT / f"tests/sim/test_{name}.py").read_text() for name in ("runs", "canaries", "join_storm"))
ROWS = [
    [cell.strip() for cell in line.strip("| ").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| case")
]


def words(text: str) -> str:
    """A phrase or a function's name, so that one can be told from the other: `a_peer_s_word` is "a peer's word"."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"('|_(?=s_))", "", text.lower())).strip()


def file_of(named: str) -> Path:
    candidates = (named, f"tests/{named}.py", f"tests/lattice/test_{named}.py")
    return next((ROOT / path for path in candidates if (ROOT / path).exists()), ROOT / named)


@pytest.mark.parametrize(("case", "held_by"), [(row[0], row[2]) for row in ROWS])
def test_what_is_said_to_hold_a_case_exists(case: str, held_by: str) -> None:
    file = None
    for part in re.split(r"; ", held_by):
        if part.startswith("scenario"):
            names = re.findall(r"`([\w-]+)`", part)
            assert names
            assert [name for name in names if not (ROOT / f"sim/scenarios/{name}.toml").exists()] == []
            assert [name for name in names if f'"{name}"' not in RUNS] == [], "no test runs it"
            continue
        named = re.match(r"`([\w/.]+)`(?:: )?(.*)", part)
        phrase = named[2] if named else part
        file = file_of(named[1]) if named else file
        assert file is not None, f"{part!r} is in no file"
        assert file.exists(), f"{file} is no file of tests"
        if file.is_file() and phrase:
            tests = [words(name) for name in re.findall(r"def test_(\w+)", file.read_text())]
            for said in re.split(r", (?=killed)", phrase):
                assert any(test.startswith(words(said)) for test in tests), f"{file.name}: no test {said!r}"


def test_the_check_above_can_fail() -> None:
    for nothing in ("`store`: no such thing", "`no_such_file`", "scenario `nowhere`"):
        with pytest.raises(AssertionError):
            test_what_is_said_to_hold_a_case_exists("", nothing)
