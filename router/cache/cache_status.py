"""The Cache-Status field (RFC 9211): what the cache did with a request, for whoever reads the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from router.traffic.http1 import Field

_NOT_IN_STRING: Final = re.compile(r"[^\x20-\x7e]")
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Either a `hit`, or forwarded for the reason `fwd`: "uri-miss", "vary-miss", "stale", "request", "method",
    "bypass" (RFC 9211 2.2)."""

    hit: bool = False
    fwd: str = ""
    fwd_status: int = 0
    """The status that the origin gave; 0 to leave it out."""
    ttl: int | None = None
    """Seconds that the answer is still fresh; negative when it is stale."""
    stored: bool = False
    collapsed: bool = False
    """Another client's request fetched it."""
    detail: str = ""

    def field(self, cache: str) -> Field:
        """The field, under this cache's name."""
        parts = [_item(cache)]
        if self.hit:
            parts.append("hit")
        if self.fwd:
            parts.append(f"fwd={self.fwd}")
        if self.fwd_status:
            parts.append(f"fwd-status={self.fwd_status}")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail:
            parts.append(f"detail={_item(self.detail)}")
        return b"cache-status", b"Cache-Status", "; ".join(parts).encode("ascii")


def _item(text: str) -> str:
    """A structured field's token where the text is one, else a string (RFC 8941 3.3)."""
    if _TOKEN.fullmatch(text):
        return text
    return '"' + _NOT_IN_STRING.sub("?", text).replace("\\", "\\\\").replace('"', '\\"') + '"'
