"""Golden policies: a source, a line of dashes, then its canonical form or the errors exactly as people see them.

Edit a source by hand, then run `EDGELATTICE_REGENERATE=1 pytest tests/router/policy/test_policy_golden.py` and read the
difference: the regenerated half is what a user would see.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from router import policy as policy_package
from router.decision import proofs
from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.policy import PolicyError, parse, print_policy

VECTORS = Path(__file__).parents[2] / "vectors" / "policy"
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "policy.md"
DASHES = "-" * 10 + "\n"
FILES = sorted(VECTORS.glob("*.policytest"))


def outcome(source: str) -> str:
    try:
        policy = parse(source)
        if proved := prove(compile_policy(policy)):
            raise PolicyError(proved)
        return print_policy(policy)
    except PolicyError as error:
        return error.render(source) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_policy_matches_its_golden_file(path: Path) -> None:
    source, dashes, expected = path.read_text(encoding="utf-8").partition(DASHES)
    assert dashes, "a line of ten dashes parts the source from what is expected"
    found = outcome(source)
    if os.environ.get("EDGELATTICE_REGENERATE"):
        path.write_text(source + DASHES + found, encoding="utf-8")
        return
    assert found == expected


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.startswith("E")], ids=lambda path: path.stem)
def test_a_file_named_after_a_code_shows_it(path: Path) -> None:
    source = path.read_text(encoding="utf-8").partition(DASHES)[0]
    assert path.stem[:4] in outcome(source)


def test_every_code_has_a_golden_file_and_a_line_in_the_reference() -> None:
    sources = [*Path(policy_package.__file__).parent.glob("*.py"), *Path(proofs.__file__).parent.glob("proofs*.py")]
    used = {code for source in sources for code in re.findall(r'"(E[0-9]{3})"', source.read_text(encoding="utf-8"))}
    assert len(used) >= 60
    assert used == {path.stem[:4] for path in FILES if re.match(r"E[0-9]{3}-", path.stem)}
    documented = re.findall(r"^\| (E[0-9]{3}) \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == ["E000", *sorted(used)], "to the first no text leads that we know of (`test_compiling`)"


def test_no_message_speaks_of_the_parsers_insides() -> None:
    for path in FILES:
        rendered = path.read_text(encoding="utf-8").partition(DASHES)[2]
        assert not re.search(r"\b(WORD|STRING|LBRACE|RBRACE|COMMA|Token|lark|Unexpected)\b|\$END", rendered), path.name
