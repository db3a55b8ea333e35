"""What is wrong with a policy, said so that its author can mend it without asking anyone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from router.policy.span import Span

DIAGNOSTICS_MAX = 50
"""More than this in one go helps nobody; the rest appear once these are mended."""
SOURCE_LINE_MAX = 110
"""Characters of the source line that a rendered diagnostic shows; a longer line is cut around the caret."""
EXCERPT_MAX = 40
"""Characters of the author's text that a message quotes."""
Said: TypeAlias = str | Callable[[], str]
"""Words of a diagnostic, or what finds them: a search among many names is made for those that are shown alone."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong, and how to mend it.

    `line` and `column` count characters from 1; `width` is how many characters the caret underlines. `code` is stable:
    docs/reference/policy.md lists them all. `hint` may be empty.
    """

    code: str
    line: int
    column: int
    message: str
    expected: str
    hint: str = ""
    width: int = 1
    file: str = "policy"

    def render(self, text: str) -> str:
        """The diagnostic as people read it: place, source line, caret, what was expected, what to do."""
        gutter = str(self.line)
        blank = " " * len(gutter)
        source, offset, marks = _window(_line_of(text, self.line), self.column - 1, self.width)
        padding = "".join("\t" if character == "\t" else " " for character in source[:offset])
        lines = [
            f"{self.file}:{self.line}:{self.column}: {self.code}: {self.message}",
            f"{blank} |",
            f"{gutter} | {source}".rstrip(),
            f"{blank} | {padding}{'^' * marks}",
            f"{blank} = expected: {self.expected}",
        ]
        if self.hint:
            lines.append(f"{blank} = fix: {self.hint}")
        return "\n".join(lines)


def said(words: Said) -> str:
    return words if isinstance(words, str) else words()


class PolicyError(Exception):
    """A policy text is refused; whatever was in force stays so. Never empty; sorted by place."""

    def __init__(self, diagnostics: Iterable[Diagnostic], left_out: int = 0) -> None:
        everything = sorted(diagnostics, key=lambda diagnostic: (diagnostic.line, diagnostic.column, diagnostic.code))
        assert everything, "an error without a diagnostic helps nobody"
        self.diagnostics = tuple(everything[:DIAGNOSTICS_MAX])
        self.left_out = left_out + len(everything) - len(self.diagnostics)
        super().__init__("; ".join(f"{d.file}:{d.line}:{d.column}: {d.code}: {d.message}" for d in self.diagnostics))

    def render(self, text: str) -> str:
        """Every diagnostic, rendered against the text that was parsed."""
        parts = [diagnostic.render(text) for diagnostic in self.diagnostics]
        if self.left_out:
            parts.append(f"... and {self.left_out} more, once these are mended")
        return "\n\n".join(parts)


class _Finding(NamedTuple):
    line: int
    column: int
    code: str
    width: int
    message: str
    expected: Said
    hint: Said


class Findings:
    """What has been found wrong so far; parsing and checking go on as long as that makes sense."""

    def __init__(self, file: str = "policy") -> None:
        self.file = file
        self._found: list[_Finding] = []
        self.damaged: set[Span] = set()
        """Names of statements that hold a bad value: what they seem to lack may be what could not be read."""

    def add(self, code: str, span: Span, message: str, expected: Said, hint: Said = "") -> None:
        self._found.append(_Finding(span.line, span.column, code, span.width, message, expected, hint))

    @property
    def count(self) -> int:
        return len(self._found)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All of them, in the order in which they were found."""
        return tuple(map(self._diagnostic, self._found))

    def raise_if_any(self) -> None:
        """Raises `PolicyError` with everything found."""
        if self._found:
            shown = sorted(self._found, key=lambda found: found[:3])[:DIAGNOSTICS_MAX]
            raise PolicyError(map(self._diagnostic, shown), left_out=len(self._found) - len(shown))

    def _diagnostic(self, found: _Finding) -> Diagnostic:
        line, column, code, width, message, expected, hint = found
        return Diagnostic(
            code, line, column, _printable(message), said(expected), _printable(said(hint)), width, self.file
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that `word` was probably meant to be, as a hint; empty when none is near."""
    near = difflib.get_close_matches(word[:EXCERPT_MAX].casefold(), sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def listed(what: str, names: Iterable[str]) -> str:
    """What is expected of a name, with the names there are."""
    known = sorted(names)
    if not known:
        return f"{what}; there is none"
    return f"{what}: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"


def excerpt(text: str) -> str:
    """The author's own text, quoted, printable and short enough for a message."""
    shown = text if len(text) <= EXCERPT_MAX else text[: EXCERPT_MAX - 1] + "…"
    return f"'{_printable(shown)}'"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _line_of(text: str, line: int) -> str:
    lines = text.split("\n")
    found = lines[line - 1] if line <= len(lines) else ""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in found.removesuffix("\r"))


def _window(source: str, offset: int, width: int) -> tuple[str, int, int]:
    """The part of a line that is shown, where the caret starts in it, and how long it is."""
    offset = min(offset, len(source))
    start = max(0, offset - SOURCE_LINE_MAX // 2) if len(source) > SOURCE_LINE_MAX else 0
    shown = source[start : start + SOURCE_LINE_MAX]
    if start + SOURCE_LINE_MAX < len(source):
        shown += "…"
    offset -= start
    if start:
        shown, offset = "…" + shown, offset + 1
    return shown, offset, max(1, min(width, len(shown) - offset))
