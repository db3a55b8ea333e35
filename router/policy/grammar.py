"""The grammar as text, and its words: some are the language's own, and may not be names."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

TEXT_BYTES_MAX = 256 * 1024
"""A policy is written by people; the largest seen in research were a few thousand lines."""
STATEMENTS_MAX = 4_096
# Control characters hide text in terminals; bidirectional overrides make it read differently from what it says
# (CVE-2021-42574); lone surrogates are not text at all.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]|\r(?!\n)"
)


@lru_cache(maxsize=1)
def grammar() -> str:
    return Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def soft_kinds() -> frozenset[str]:
    """The words of the language that may be names too, as the grammar calls them."""
    later = re.search(r"^_later:(.*?)\n\n", grammar(), re.MULTILINE | re.DOTALL)
    assert later, "the grammar has a rule for them"
    return frozenset(("AT", "AS", *re.findall(r"[A-Z]+", later[1])))


@lru_cache(maxsize=1)
def reserved_words() -> frozenset[str]:
    """The words that may not."""
    words = re.findall(r'^([A-Z_]+): "([a-z-]+)"$', grammar(), re.MULTILINE)
    return frozenset(word for kind, word in words if kind not in soft_kinds())
