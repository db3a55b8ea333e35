"""The editor's words are the grammar's words, and the shell completes what the command has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.policy.conditions import FIELDS
from router.policy.settings import KEYS

ROOT = Path(__file__).parents[3]
GRAMMAR = (ROOT / "router" / "policy" / "grammar.lark").read_text(encoding="utf-8")
SYNTAX = (ROOT / "editors" / "vim" / "syntax" / "edgelattice.vim").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "how-to" / "editors-and-shells.md").read_text(encoding="utf-8")


def coloured() -> set[str]:
    lines = re.findall(r"^syntax keyword policy(?!Todo)\w+ (.*)$", SYNTAX, re.MULTILINE)
    return {word for line in lines for word in line.split()}


def test_the_syntax_file_colours_every_word_of_the_grammar_and_no_other() -> None:
    words = set(re.findall(r'^[A-Z_]+: "([a-z-]+)"$', GRAMMAR, re.MULTILINE))
    assert len(words) > 60
    facts = {"client", "users", "site", "location"}
    assert coloured() == words | set(FIELDS) | set(KEYS) | facts


def test_a_word_that_is_missing_would_be_seen() -> None:
    words = set(re.findall(r'^[A-Z_]+: "([a-z-]+)"$', GRAMMAR, re.MULTILINE))
    assert not words <= coloured() - {"secondary"}


@pytest.mark.skipif(shutil.which("vim") is None, reason="no Vim on this machine")
def test_vim_colours_a_policy(tmp_path: Path) -> None:
    policy, told = tmp_path / "shop.policy", tmp_path / "told"
    policy.write_text('edition 1  # why\nroute r for "*" { primary nearest }\n')
    places = "[[1, 1], [1, 9], [1, 13], [2, 9], [2, 13], [2, 19]]"
    name = 'synIDattr(synID(v:val[0], v:val[1], 1), "name")'
    write = f"call writefile(map({places}, '{name}'), \"{told}\")"
    script = [f"set rtp+={ROOT / 'editors' / 'vim'}", "filetype on", "syntax on", f"edit {policy}", write, "qa!"]
    commands = [word for command in script for word in ("-c", command)]
    vim = ["vim", "-N", "-u", "NONE", "-i", "NONE", "-es", *commands]
    subprocess.run(vim, check=False, timeout=60, stdin=subprocess.DEVNULL, capture_output=True)
    names = ["policyStatement", "policyNumber", "policyComment", "policyLine", "policyString", "policyTier"]
    assert told.read_text().split() == names


def complete(words: str, position: int) -> list[str]:
    """What bash would be told."""
    told = {"_EDGELATTICE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'edgelattice'; from router.cli import main; sys.exit(main())",
    ]
    answer = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=60, check=False)
    return [line.partition(",")[2] for line in answer.stdout.split()]


def test_the_shell_completes_commands_and_options() -> None:
    assert {"check", "diff", "explain", "fmt", "simulate", "test"} <= set(complete("edgelattice policy ", 2))
    assert {"--at", "--client", "--control"} <= set(complete("edgelattice explain --", 2))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_the_guide_names_is_there(shell: str) -> None:
    assert f"_EDGELATTICE_COMPLETE={shell}_source edgelattice" in GUIDE
    if shell != "bash" or shutil.which("bash") is None:
        return
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'edgelattice'; from router.cli import main; sys.exit(main())",
    ]
    script = subprocess.run(
        command, env=os.environ | {"_EDGELATTICE_COMPLETE": "bash_source"}, capture_output=True, text=True, check=True,
        timeout=60,
    ).stdout  # fmt: skip
    assert "complete -o nosort -F _edgelattice_completion edgelattice" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)
