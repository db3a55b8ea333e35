"""Text to `Policy`, and every mistake to a diagnostic a person can act on.

Three steps. Lark's LALR tables turn the text into plain nodes (`Word`, `Node`): only this module knows lark.
`builder` reads the words and builds the syntax tree; `check` looks at the whole. Everything that is wrong is reported
at once: after a syntax error the broken statement is left out, from the word that opens it at the start of a line to
the next such word, and the rest is read again. What a left-out statement may have declared is unknown, so names are
checked only when nothing was left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken

from router.policy.builder import build
from router.policy.check import check
from router.policy.conditions import CONDITION_DEPTH_MAX
from router.policy.errors import Findings, PolicyError, did_you_mean, excerpt
from router.policy.grammar import FORBIDDEN, STATEMENTS_MAX, TEXT_BYTES_MAX, grammar
from router.policy.reading import Node, Word
from router.policy.span import NOWHERE, Span
from router.policy.syntax import Policy
from router.policy.wanted import PUNCTUATION, wanted

PARENTHESES_MAX = CONDITION_DEPTH_MAX
BRACES_MAX = 8
"""The grammar nests three deep; what goes further is refused before it is parsed."""
RECOVERIES_MAX = 20
RECOVERY_BYTES_MAX = 256 * 1024
"""How often, and over how much text in all, reading is tried again after a syntax error."""

_STATEMENTS = ("REGION", "ZONE", "HEALTH", "ROUTE", "GROUP", "NEVER", "TEST", "RULE", "REPEAT")
_OPENING = re.compile(r"^(?:edition|region|group|zone|health|route|never|test)\b", re.MULTILINE)
_SKIPPED = re.compile(r'#[^\n]*|"[^"\n]*"|[(){}]')
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")
_Stack: TypeAlias = list[Token | Tree[Token]]


def parse(text: str, name: str = "policy") -> Policy:
    """Parse and check a policy text. `name` is what diagnostics call the text: a file's path.

    Raises `PolicyError`: alone for the first syntax error, else with everything that is wrong.
    """
    findings = Findings(name)
    nodes = _parse(text, findings)
    broken = findings.count > 0
    policy = build(nodes, findings, blocks=() if broken else _cut(text, nodes), whole=not broken)
    if nodes and not broken:
        check(policy, findings)
    findings.raise_if_any()
    return policy


def blocks(text: str) -> tuple[str, ...]:
    """The text cut after each top-level statement, so that `"".join(blocks(text)) == text`.

    A block ends with the line its statement ends on (a comment on that line stays with it); comments above a statement
    belong to it, and whatever follows the last statement to the last. Raises `PolicyError` on a syntax error only.
    """
    findings = Findings()
    nodes = _parse(text, findings)
    findings.raise_if_any()
    return _cut(text, nodes)


def _cut(text: str, nodes: tuple[Node, ...]) -> tuple[str, ...]:
    ends = []
    for node in nodes:
        rest = _REST_OF_LINE.match(text, node.end)
        ends.append(rest.end() if rest else node.end)
    starts = [0, *ends[:-1]]
    ends[-1:] = [len(text)]
    return tuple(text[start:end] for start, end in zip(starts, ends, strict=True)) if text else ()


def _parse(text: str, findings: Findings) -> tuple[Node, ...]:
    """The statements that can be read; what is wrong with the others goes to `findings`."""
    _check_characters(text, findings)
    _check_depth(text, findings)
    tree, rest = None, text
    for attempt in range(RECOVERIES_MAX):
        try:
            tree = _lark().parse(rest)
            break
        except UnexpectedCharacters as error:
            start = error.pos_in_stream
            assert start is not None, "lark says where it stopped"
            span = Span(error.line, error.column, _end_of_line(text, start) - start)
            findings.add("E003", span, "this quote is never closed", 'a closing " on the same line')
            inside = True
        except UnexpectedToken as error:
            inside = "$END" not in (error.accepts or ())
            _explain(text, error, findings)
            start = len(text) if error.token.type == "$END" else error.token.start_pos or 0
        if (attempt + 1) * len(text) > RECOVERY_BYTES_MAX:
            break
        before, rest = rest, _left_out(rest, start, inside=inside)
        if rest == before:
            break
    if tree is None:
        findings.raise_if_any()
        return ()
    nodes = tuple(_node(child) for child in tree.children if isinstance(child, Tree))
    if len(nodes) > STATEMENTS_MAX:
        findings.add(
            "E001", NOWHERE, f"the policy has {len(nodes)} statements", f"at most {STATEMENTS_MAX} top-level statements"
        )
        findings.raise_if_any()
    return nodes


@lru_cache(maxsize=1)
def _lark() -> Lark:
    return Lark(grammar(), parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=True)


def _node(tree: Tree[Token]) -> Node:
    # Recursion is as deep as the grammar nests: a route, an override in it, a tier, its names.
    children: list[Node | Word] = []
    for child in tree.children:
        if isinstance(child, Tree):
            children.append(_node(child))
        elif isinstance(child, Token):
            children.append(Word(child.type, str(child), _span(child)))
    return Node(str(tree.data), tuple(children), tree.meta.start_pos, tree.meta.end_pos)


def _left_out(text: str, start: int, *, inside: bool) -> str:
    """The text with the statement around `start` blanked, so that the places of the others stay."""
    openings = [found.start() for found in _OPENING.finditer(text)]
    before = max((place for place in openings if place < start), default=0)
    if start in openings and inside:  # the statement before it was not closed
        return text[:before] + _blank(text[before:start]) + text[start:]
    first = before if inside else start
    after = min((place for place in openings if place > start), default=len(text))
    return text[:first] + _blank(text[first:after]) + text[after:]


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _check_depth(text: str, findings: Findings) -> None:
    """Refuse deep nesting, which no person writes, before anything walks it."""
    depths = {"(": 0, "{": 0}
    for found in _SKIPPED.finditer(text):
        mark = found[0]
        if mark in depths:
            depths[mark] += 1
            most = PARENTHESES_MAX if mark == "(" else BRACES_MAX
            if depths[mark] > most:
                line = text.count("\n", 0, found.start()) + 1
                column = found.start() - text.rfind("\n", 0, found.start())
                what = "parentheses" if mark == "(" else "braces"
                findings.add("E006", Span(line, column, 1), f"{what} are nested too deep", f"at most {most} deep")
                findings.raise_if_any()
        elif mark in ")}":
            opening = "(" if mark == ")" else "{"
            depths[opening] = max(0, depths[opening] - 1)
            if opening == "{":
                depths["("] = 0


def _check_characters(text: str, findings: Findings) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        findings.add("E001", NOWHERE, f"the policy is {size} bytes long", f"at most {TEXT_BYTES_MAX} bytes of UTF-8")
        findings.raise_if_any()
    if found := FORBIDDEN.search(text):
        before = text[: found.start()]
        span = Span(before.count("\n") + 1, found.start() - (before.rfind("\n") + 1) + 1, 1)
        hint = "save the file as UTF-8 without a byte order mark" if found[0] == "\ufeff" else "delete it"
        findings.add(
            "E002",
            span,
            f"the character U+{ord(found[0]):04X} is not allowed",
            "printable text, tabs and line ends",
            hint,
        )
        findings.raise_if_any()


def _explain(text: str, error: UnexpectedToken, findings: Findings) -> None:
    """A syntax error in the author's words."""
    interactive = error.interactive_parser
    assert interactive is not None, "lark's LALR parser always hands over its state"
    stack: _Stack = list(interactive.parser_state.value_stack)
    accepts: set[str] = set(error.accepts or ())
    token = error.token
    opened = _innermost(stack)
    inside = f" inside {opened.what}" if opened else ""
    expected = wanted(accepts, [_kind(item) for item in stack])
    if token.type == "$END":
        span = _end_span(text)
        hint = f"add }} to close {opened.what}, opened on line {opened.line}" if opened else ""
        findings.add("E005", span, f"the text ends{inside or ' in the middle of a statement'}", expected, hint)
        return
    message = f"{excerpt(token)} is not expected here{inside}"
    if "WORD" in accepts and "AS" in accepts and token.type.isalpha() and token == token.type.lower():
        message = f"{excerpt(token)} is a word of the language and cannot be a name"
    findings.add("E004", _span(token), message, expected, _fix(token, accepts, opened))


def _fix(token: Token, accepts: set[str], opened: _Opened | None) -> str:
    words = [PUNCTUATION.get(kind, kind.lower()) for kind in accepts - {"WORD", "STRING"}]
    if token in ("==", "=", "is", "matches") and "IN" in accepts:
        return "a field is tested with `in`"
    if token.type == "RBRACE" and not opened:
        return "delete it: every { is closed already"
    if token.type == "COMMA":
        return "leave out the comma: only the regions of a tier have commas between them"
    if token.type == "STRING" and "WORD" in accepts:
        return "leave out the quotes"
    if token.type in _STATEMENTS and opened and "RBRACE" in accepts:
        return f"close {opened.what}, opened on line {opened.line}, with }} first"
    if token.type == "WORD" and (near := did_you_mean(str(token).rstrip(":=;"), words)):
        return near
    if token.type == "WORD" and "STRING" in accepts:
        return f'put it in quotes: "{token[:80]}"'
    if token.startswith(("//", "--", ";")):
        return "a comment begins with #"
    if set(token) <= set(":=;"):
        return f"leave out the {excerpt(token)}: statements are words and values only"
    return ""


@dataclass(frozen=True, slots=True)
class _Opened:
    """The innermost block that is still open."""

    what: str
    line: int


def _innermost(stack: _Stack) -> _Opened | None:
    closed = 0
    for brace in reversed(range(len(stack))):
        closed += _kind(stack[brace]) == "RBRACE"  # the last block may not be reduced yet
        closed -= _kind(stack[brace]) == "LBRACE"
        if closed < 0:
            break
    else:
        return None
    start = next(i for i in reversed(range(brace)) if _kind(stack[i]) in _STATEMENTS)
    keyword, name = stack[start], stack[start + 1]
    assert isinstance(keyword, Token)
    label = name.children[0] if isinstance(name, Tree) else name
    return _Opened(f"{keyword} {str(label)[:63]}", keyword.line or 1)


def _kind(item: Token | Tree[Token]) -> str:
    return item.type if isinstance(item, Token) else ""


def _span(token: Token) -> Span:
    return Span(token.line or 1, token.column or 1, max(1, len(token)))


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _end_span(text: str) -> Span:
    """Just behind the last character that says something."""
    said = text.rstrip()
    return Span(said.count("\n") + 1, len(said) - (said.rfind("\n") + 1) + 1, 1)


__all__ = ["STATEMENTS_MAX", "TEXT_BYTES_MAX", "PolicyError", "blocks", "parse"]
