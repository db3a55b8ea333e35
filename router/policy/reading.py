"""Plain nodes and words, and how their meaning is read: one bad value never hides the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from router.policy import values
from router.policy.errors import Findings
from router.policy.span import Span

Value = TypeVar("Value")
Default = TypeVar("Default")


@dataclass(frozen=True, slots=True)
class Word:
    """A token: its kind (a terminal of the grammar), what was written, and where."""

    kind: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Node:
    """A rule of the grammar with what it was made of; `start` and `end` are offsets into the text."""

    rule: str
    children: tuple[Child, ...]
    start: int
    end: int

    def nodes(self, *rules: str) -> list[Node]:
        return [child for child in self.children if isinstance(child, Node) and child.rule in rules]

    def words(self, kind: str) -> list[Word]:
        return [child for child in self.children if isinstance(child, Word) and child.kind == kind]

    @property
    def first(self) -> Word:
        """The first word, which a statement is known by."""
        child = self.children[0]
        return child if isinstance(child, Word) else child.first

    def value(self, kind: str = "WORD") -> Word:
        """The one word of this kind."""
        return self.words(kind)[0]


Child: TypeAlias = Node | Word


class Reader:
    """Reads words and reports those that mean nothing, each with the statement they damage."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def _once(self, node: Node, rule: str, keyword: str) -> Node | None:
        """The one statement of this rule in a block, if any; the first when it is repeated."""
        found = node.nodes(rule)
        for again in found[1:]:
            self._findings.add(
                "E201",
                again.first.span,
                f"{keyword} is given again; it stands on line {found[0].first.span.line} already",
                f"{keyword} at most once in a block",
                "keep one of them",
            )
        return found[0] if found else None

    def _name(self, node: Node) -> tuple[str, Span]:
        word = node.nodes("name")[0].first
        return self._value(values.read_name, word, shortened(word)), word.span

    def _value(
        self, read: Callable[[str], Value], word: Word, instead: Default, owner: Span | None = None
    ) -> Value | Default:
        """What a word means, or `instead` when it means nothing; then the statement named at `owner` is damaged."""
        try:
            return read(word.text)
        except values.BadValueError as error:
            self._findings.add(error.code, word.span, error.message, error.expected, error.remedy)
            if owner is not None:
                self._findings.damaged.add(owner)
            return instead

    def _values(
        self, read: Callable[[str], Value], words: Iterable[Word], owner: Span | None = None
    ) -> tuple[Value, ...]:
        """What these words mean, each once, without those that mean nothing."""
        found = [self._value(read, word, None, owner) for word in words]
        return tuple(dict.fromkeys(value for value in found if value is not None))


def shortened(word: Word) -> str:
    """A name that may be wrong, short enough for a message and still too long for a right one."""
    return word.text[: values.NAME_LENGTH_MAX + 1]


def unquoted(word: Word) -> Word:
    return replace(word, text=word.text[1:-1]) if word.kind == "STRING" else word
