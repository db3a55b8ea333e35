"""Cache-Control as directives and their arguments (RFC 9111 5.2), read without help from whoever wrote it wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from router.traffic.strict import TCHAR

SECONDS_MAX: Final = 2**31
"""RFC 9111 1.2.2: a greater number of seconds counts as this one."""

_DIGITS_MAX: Final = 10
_TOKEN: Final = rb"[" + TCHAR + rb"]+"
_MEMBER: Final = re.compile(
    rb"[ \t]*(" + _TOKEN + rb')(?:=(?:"((?:[^"\\]|\\.)*+)"|(' + _TOKEN + rb")))?[ \t]*(?=,|$)", re.DOTALL
)
_SKIP: Final = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+"?)*+', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_NAME: Final = re.compile(_TOKEN)


def read_cache_control(values: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
    """Directives, in lower case, to their arguments without quotes (None: there is none).

    Of a directive that is given twice the first counts (RFC 9111 4.2.1). A malformed member has no argument, but its
    name still counts: `max-age =5` must not read as if there were no limit.
    """
    text = b",".join(values)
    directives: dict[bytes, bytes | None] = {}
    at = 0
    while at <= len(text):
        match = _MEMBER.match(text, at)
        if match is not None:
            quoted, bare = match[2], match[3]
            value = bare if quoted is None else _ESCAPE.sub(rb"\1", quoted)
            directives.setdefault(match[1].lower(), value)
            at = match.end() + 1
            continue
        skipped = _SKIP.match(text, at)
        assert skipped is not None, "it matches nothing at all, too"
        name = _NAME.match(text[at : skipped.end()].lstrip(b" \t"))
        if name is not None:
            directives.setdefault(name[0].lower(), b"")
        at = skipped.end() + 1
    return directives


def seconds(directives: Mapping[bytes, bytes | None], name: bytes) -> int | None:
    """A directive's number of seconds, None when it is absent. One that cannot be read is 0: as short as can be."""
    if name not in directives:
        return None
    value = directives[name] or b""
    if not value.isdigit():
        return 0
    digits = value.lstrip(b"0") or b"0"
    return SECONDS_MAX if len(digits) > _DIGITS_MAX else min(int(digits), SECONDS_MAX)


def field_names(value: bytes) -> frozenset[bytes]:
    """The names in `no-cache="a, b"` and in Vary, in lower case."""
    return frozenset(name for part in value.lower().split(b",") if (name := part.strip(b" \t")))
