"""The reference page of the module: its programs run as they stand, and its tables are what the code says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from router.decision.program import compile_policy
from router.decision.wasm import module as wasm_module
from router.decision.wasm.abi import ERRORS
from router.decision.wasm.image import IMAGE_BYTES_MAX
from router.decision.wasm.layout import INPUT_BYTES_MAX
from router.decision.wasm.module import EXPORTS, policy_module
from router.policy import parse
from tests.router.policy.test_policy_reference import EXAMPLES

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "wasm.md").read_text("utf-8")
HOST = Path(wasm_module.__file__).with_name("edgelattice.mjs")


def program_in(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_tables_are_what_the_code_says() -> None:
    assert re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE) == [each.__name__ for each in EXPORTS]
    assert re.findall(r"^\| (-\d+) \|", PAGE, re.MULTILINE) == [f"{-error}" for error in ERRORS]
    assert f"{INPUT_BYTES_MAX:,} bytes" in PAGE
    assert f"at most {IMAGE_BYTES_MAX >> 20} MiB" in PAGE
    said = HOST.read_text("utf-8")
    for error, words in ERRORS.items():
        assert f'{error}: "{words}"' in said


def test_the_python_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.policy").write_text(EXAMPLES[0], "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(program_in("python"), "wasm.md", "exec"), {})
    assert capsys.readouterr().out.startswith('{"route":"shop","zone":"europe"')


def test_the_javascript_program_runs(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "shop.wasm").write_bytes(policy_module(compile_policy(parse(EXAMPLES[0]))))
    (tmp_path / "program.mjs").write_text(program_in("js"), "utf-8")
    shutil.copy(HOST, tmp_path)
    said = subprocess.run([node, "program.mjs"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert said.stdout.decode() == "fra primary\n"
