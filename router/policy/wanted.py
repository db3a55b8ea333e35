"""What may stand at a place in a policy's text, in its author's words: never a terminal's name.

Known of the place are the kinds of the words before it, as far as the parser has not put them together, and the kinds
that it would accept. A word's kind says little by itself, for a WORD is anything (see the grammar): the keyword that
its statement began with says what it means.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from router.policy.grammar import grammar, soft_kinds

PUNCTUATION: Final = {
    "LBRACE": "{",
    "RBRACE": "}",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": ",",
    "AT_MOST": "<=",
    "$END": "the end of the text",
}
_PLAIN: Final = frozenset(("", "WORD", "STRING", "COMMA", "LPAR", "RPAR", "AT_MOST"))
"""Kinds that are no keyword."""
_KEY: Final = 'a key (cookie("uid"))'
_VALUE: Final = "a value"
_GROUP: Final = "the name of a group"

_AFTER: Final = {
    "AS": "healthy, or down",
    "ASN": "an AS number (64500)",
    "BELOW": "a percentage or a duration",
    "BUDGET": "a percentage (10%)",
    "BY": _KEY,
    "CAPACITY": "a rate (4000rps)",
    "CONTINENT": "a continent (EU)",
    "COOLDOWN": "a duration (5s)",
    "COUNTRY": "a country (DE)",
    "DAMP": "penalty, suppress, reuse, half-life or max",
    "DEMAND": "a rate (4000rps)",
    "DENY": "an HTTP status (503)",
    "DRAIN": "a duration (60s)",
    "EDITION": "the edition's number (1)",
    "ENDPOINT": "a numeric address and a port (192.0.2.7:443)",
    "EVERY": "a duration (250ms)",
    "FOR": "a duration (12h)",
    "GIVEN": "a fact (client, path, ...)",
    "IN": _VALUE,
    "METHODS": "a method (GET)",
    "NEAREST": "a number of regions (2)",
    "OF": _GROUP,
    "OUTSIDE": _GROUP,
    "OVER": "a duration (10s)",
    "PRIMARY": "names of regions",
    "PROBATION": "a duration (5m)",
    "PROBE": "a kind of probe (tcp)",
    "REPEAT": "a number of times (20)",
    "RETRY": "a number of retries (2)",
    "SAMPLES": "a number of samples (10)",
    "SATURATION": "a percentage (90%)",
    "SECONDARY": "names of regions",
    "SERVES": "names of regions",
    "SET": "the name of a region",
    "SHARE": "a percentage (5%)",
    "STALE": "a duration (10m)",
    "STEP": "a duration (3s)",
    "STICK": _KEY,
    "TERTIARY": "names of regions",
    "TIER": "the number of a tier (4)",
    "TO": "client",
    "WEIGHT": "a weight (80)",
}
"""Right behind a keyword."""
_ABOVE_OR_AFTER: Final = {
    "ERRORS": "a percentage (20%)",
    "FAIL": "a number of failures (3)",
    "HEDGE": "a duration (50ms)",
    "LATENCY": "a duration (400ms)",
    "OLDEST": "a duration (2s)",
    "RECOVER": "a duration (2s)",
    "SATURATION": "a percentage (95%)",
    "SPILL": "a percentage (85%)",
}
_NAMED: Final = {
    "GROUP": _GROUP,
    "HEALTH": "the name of a health block",
    "NEVER": "a name for what must never be",
    "REGION": "the name of a region",
    "ROUTE": "the name of a route",
    "RULE": "the name of a rule",
    "ZONE": "the name of a zone",
}
_LISTED: Final = {
    "ASN": _AFTER["ASN"],
    "BY": _KEY,
    "CONTINENT": _AFTER["CONTINENT"],
    "COUNTRY": _AFTER["COUNTRY"],
    "EXPECT": "a status (200, or 200-299)",
    "IN": _VALUE,
    "METHODS": _AFTER["METHODS"],
}
"""Behind a comma, by the keyword of the list; else these are regions."""
_QUOTED: Final = {
    "AT": 'a moment in quotes ("2027-03-28T03:30:00+02:00")',
    "CONTAINING": 'a text in quotes ("ok")',
    "DENY": 'a reason in quotes ("not here")',
    "DURING": 'a window in quotes ("Mon-Fri 22:00-06:00 Europe/Berlin")',
    "FOR": 'a host in quotes ("shop.example.com")',
    "GIVEN": _VALUE,
    "IN": _VALUE,
    "PATH": 'a path in quotes ("/healthz")',
    "PROBE": 'a path in quotes ("/healthz")',
    "TEST": "what is tested, in quotes",
    "TLS": 'a host in quotes ("shop.example.com")',
}


def wanted(accepts: Collection[str], before: Sequence[str]) -> str:
    """Everything that may stand here: kinds that are accepted, after words of these kinds ("" is a whole phrase)."""
    last = before[-1] if before else ""
    keyword = next((kind for kind in reversed(before) if kind not in _PLAIN), "")
    phrases = []
    if "STRING" in accepts:
        phrases.append(_string(last, keyword))
    if "WORD" in accepts:
        phrases.append(_word(accepts, before, last, keyword))
    left = set(accepts) - (soft_kinds() if {"WORD", "AS"} <= set(accepts) else set())
    words = sorted(left - {"WORD", "STRING"}, key=kinds().index)
    phrases += [PUNCTUATION[kind] if kind == "$END" else f"'{PUNCTUATION.get(kind, kind.lower())}'" for kind in words]
    phrases = list(dict.fromkeys(phrases))
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """The named terminals, in the order the grammar lists them: how messages list them too."""
    return (*re.findall(r"^([A-Z_]+):", grammar(), re.MULTILINE), *PUNCTUATION)


def _string(last: str, keyword: str) -> str:
    if last == "LPAR":
        return 'a name in quotes ("uid")'
    if (last, keyword) == ("STRING", "FOR"):
        return "another host in quotes"
    return _QUOTED.get(keyword, "a text in quotes")


def _word(accepts: Collection[str], before: Sequence[str], last: str, keyword: str) -> str:
    before_last = before[-2] if len(before) > 1 else ""
    if (before_last, last) == ("AT", "WORD"):
        return "a longitude in degrees (8.68)"
    if last in ("ABOVE", "AFTER"):
        return _ABOVE_OR_AFTER[before_last]
    if last == "COMMA":
        return _LISTED.get(keyword, "the name of a region")
    if last == "AT_MOST":
        return "a number or a percentage"
    if "REGION" in accepts:
        return "switches, moved or load"
    if last == "EXPECT":
        return _LISTED["EXPECT"]
    if last == "AT":
        return "a latitude in degrees (50.11)"
    if last == "TIMEOUT":  # of a probe, or of a route
        return "a duration (200ms)" if before_last == "WORD" else "connect, first-byte or total"
    if last in _NAMED:
        return _NAMED[last]
    if last in _AFTER:
        return _AFTER[last]
    return _further(accepts, last, keyword)


def _further(accepts: Collection[str], last: str, keyword: str) -> str:
    """A word that does not come right behind a keyword."""
    if "DEMAND" in accepts and "AS" not in accepts:  # where names may stand, both may
        return "an address block (192.0.2.0/24)"
    if last == "LBRACE":
        return "names of regions"
    if keyword in ("WHEN", "AND", "OR", "NOT"):
        return "a field of the request (path, zone, ...)"
    if keyword == "SET":
        return "a level (down)"
    if keyword == "GIVEN":
        return "another fact" if "RBRACE" in accepts else _VALUE
    if keyword == "EXPECT":
        return "the name of a region"
    if keyword in ("DAMP", "TIMEOUT"):
        return "another setting, with its value" if "RBRACE" in accepts else _VALUE
    return "a number" if last == "LPAR" else "a word"
