"""`policy fmt`: one way to lay a policy out, with every comment and the author's own line breaks kept.

Words are never changed, but for `nearest(2)`, which is written `nearest 2`. A line is indented by two spaces for each
block it is in, and by two more where it goes on with what the line before began. Between words stands one space, and
two before a comment; at most one empty line in a row. What is formatted stays as it is when formatted again.
"""

from __future__ import annotations

import re

from router.policy.parser import parse

_TOKEN = re.compile(r'#[^\n]*|"[^"\n]*"|[{}(),]|[^\s{}()",#]+')
_GOES_ON = frozenset((",", "(", "and", "or", "not", "in", "when"))
"""Behind these a statement is not over, and before `and` and `or` it was not."""


def format_policy(text: str, name: str = "policy") -> str:
    """The text laid out. Raises `PolicyError` when it does not hold: what cannot be read is not touched."""
    parse(text, name)
    lines: list[str] = []
    braces = parentheses = 0
    previous = ""
    for source in text.splitlines():
        tokens = _without_parentheses(_TOKEN.findall(source))
        if not tokens:
            if lines and lines[-1]:
                lines.append("")
            continue
        goes_on = parentheses > 0 or previous in _GOES_ON or tokens[0] in ("and", "or", ",")
        depth = max(0, braces - _closing(tokens)) + (1 if goes_on and not tokens[0].startswith("#") else 0)
        lines.append("  " * depth + _joined(tokens))
        for word in tokens:
            braces += (word == "{") - (word == "}")
            parentheses += (word == "(") - (word == ")")
        said = [word for word in tokens if not word.startswith("#")]
        previous = said[-1] if said else previous
    return "\n".join(lines).strip("\n") + "\n"


def _closing(tokens: list[str]) -> int:
    """How many blocks the line closes before it says anything else."""
    count = 0
    for word in tokens:
        if word != "}":
            break
        count += 1
    return count


def _without_parentheses(tokens: list[str]) -> list[str]:
    found: list[str] = []
    for word in tokens:
        found.append(word)
        if word == ")" and len(found) >= 4 and found[-4] == "nearest" and found[-3] == "(":
            found[-3:] = [found[-2]]
    return found


def _joined(tokens: list[str]) -> str:
    text = ""
    for place, word in enumerate(tokens):
        before = tokens[place - 1] if place else ""
        if not text:
            space = ""
        elif word.startswith("#"):
            space = "  "
        elif word in (",", ")") or before == "(" or (word == "(" and _is_argument(before, tokens, place)):
            space = ""
        else:
            space = " "
        text += space + (word.rstrip() if word.startswith("#") else word)
    return text


def _is_argument(before: str, tokens: list[str], place: int) -> bool:
    """Whether a parenthesis belongs to the word before it, as in `header("x")`, and does not group conditions."""
    after = tokens[place + 1 : place + 3]
    return before not in ("and", "or", "not", "when", "(") and len(after) == 2 and after[1] == ")"
