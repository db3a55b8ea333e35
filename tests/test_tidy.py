"""Habits that no linter knows, by syntax tree: what breaks one is named as file:line.

Which modules are edges is read from the import contracts, so there is one list.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

PRINTERS = {"router/cli.py", "router/commands", "router/demo"}
"""Who may write to standard output; `router/commands/status_screen.py` makes what the command line prints."""

WALL_CLOCK = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
}  # fmt: skip
RANDOMNESS = {
    "os.urandom",
    "uuid.uuid1",
    "uuid.uuid4",
    "secrets.token_bytes",
    "secrets.token_hex",
    "random.SystemRandom",
}
UNSEEDED = re.compile(r"random\.(?!Random$)\w+")
"""The module's own generator: shared, and seeded by nobody."""


def edges() -> list[str]:
    """Paths, without suffix, of the modules that may meet the world."""
    pure = next(contract for contract in CONTRACTS if contract.get("id") == "pure")
    return sorted(line.partition(" ->")[0].removesuffix(".**").replace(".", "/") for line in pure["ignore_imports"])


def sources(*folders: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def is_in(path: str, places: set[str] | list[str]) -> bool:
    return any(path in {place, f"{place}.py"} or path.startswith(f"{place}/") for place in places)


PURE = [path for path in sources("lattice", "router", "sim") if not is_in(path, edges())]


def called(node: ast.expr) -> str:
    """The last two parts of a dotted name: `datetime.datetime.now` is `datetime.now`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts[:2]))


def impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What makes the same input give another result: clocks, randomness, and `hash`, which differs by process."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = called(node)
            if name in WALL_CLOCK:
                yield node.lineno, f"{name}: time is a parameter"
            elif name in RANDOMNESS or UNSEEDED.fullmatch(name):
                yield node.lineno, f"{name}: randomness is a parameter"
        elif isinstance(node, ast.ImportFrom) and node.module in {"random", "time", "secrets", "uuid"}:
            for alias in node.names:
                if (node.module, alias.name) != ("random", "Random"):
                    yield node.lineno, f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Call):
            name = called(node.func)
            if name == "hash":
                yield node.lineno, "hash(): differs between processes; use mmh3 or blake2b"
            elif name in {"random.Random", "Random"} and not node.args:
                yield node.lineno, f"{name}() without a seed"


def prints(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node.func) in {"print", "click.echo", "stdout.write"}:
            yield node.lineno, f"{called(node.func)}: only the command line prints"


def unfinished(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
            yield token.start[0], f"unfinished: {token.string}"


def listed(path: str, found: Iterator[tuple[int, str]]) -> list[str]:
    return [f"{path}:{line}: {what}" for line, what in found]


@pytest.mark.parametrize("path", PURE)
def test_a_pure_module_depends_on_its_inputs_alone(path: str) -> None:
    assert listed(path, impurities(ast.parse((ROOT / path).read_text()))) == []


@pytest.mark.parametrize("path", [path for path in sources("lattice", "router", "sim") if not is_in(path, PRINTERS)])
def test_only_the_command_line_prints(path: str) -> None:
    assert listed(path, prints(ast.parse((ROOT / path).read_text()))) == []


@pytest.mark.parametrize("path", sources("lattice", "router", "sim", "tests"))
def test_nothing_is_left_for_later(path: str) -> None:
    assert listed(path, unfinished((ROOT / path).read_text())) == []


def test_these_checks_can_fail() -> None:
    text = """
import random, time, os
from time import monotonic
a = random.random()
b = random.Random()
c = random.Random(7).random()
d = time.time() + time.monotonic_ns()
e = os.urandom(8)
f = hash("x")
g = datetime.datetime.now()
print(a)
h = 1  # %s: finish
""" % ("TO" + "DO")
    assert sorted({line for line, _ in impurities(ast.parse(text))}) == [3, 4, 5, 7, 8, 9, 10]
    assert [line for line, _ in prints(ast.parse(text))] == [11]
    assert [line for line, _ in unfinished(text)] == [12]


def test_every_edge_in_the_contracts_is_there() -> None:
    missing = [edge for edge in edges() if not (ROOT / f"{edge}.py").exists() and not (ROOT / edge).is_dir()]
    assert missing == []


@pytest.mark.parametrize("path", sources("lattice"))
def test_nothing_hostile_is_decompressed(path: str) -> None:
    """What a peer sends is as large as it is: a thousand bytes that grow to a billion cannot be sent to a node."""
    tree = ast.parse((ROOT / path).read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & {"bz2", "gzip", "lzma", "zipfile", "tarfile", "zlib", "zstandard", "brotli", "lz4", "snappy"}
