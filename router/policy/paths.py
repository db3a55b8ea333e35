"""Path patterns: exact segments, `*` for one segment, `**` at the end for all the rest.

A path is matched as it was sent, up to its `?`: nothing is decoded and no dot segment is removed, since the region will
read the same bytes. `/a/**` holds `/a`, `/a/` and everything below, as a prefix in a Kubernetes Ingress does; `/a/*`
holds `/a/b` but neither `/a/` nor `/a/b/c`; `/**` holds everything, the `*` of `OPTIONS *` included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

REST = "**"
ONE = "*"


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern made ready. `segments` are what stands between the slashes; `open_end` says that `/**` followed."""

    segments: tuple[str, ...]
    open_end: bool
    literal: str | None
    """The whole path when no segment is `*`: then one comparison decides."""
    below: str
    """`literal` and a slash: what paths beneath begin with."""

    @classmethod
    def compiled(cls, pattern: str) -> Self:
        """From a pattern for which `valid` holds."""
        segments = pattern.split("/")[1:]
        open_end = segments[-1] == REST
        if open_end:
            segments = segments[:-1]
        literal = None if ONE in segments else "".join("/" + segment for segment in segments)
        return cls(tuple(segments), open_end, literal, f"{literal}/")

    @staticmethod
    def valid(pattern: str) -> bool:
        """Whether stars stand only where they mean something. `pattern` begins with a slash."""
        *inner, last = pattern.split("/")[1:]
        return all("*" not in segment or segment == ONE for segment in inner) and (
            "*" not in last or last in (ONE, REST)
        )

    @property
    def everything(self) -> bool:
        return self.open_end and not self.segments

    def matches(self, path: str) -> bool:
        """Whether a path (its query already cut off) is held."""
        literal = self.literal
        if literal is not None:
            return path == literal or (self.open_end and (not literal or path.startswith(self.below)))
        parts = path.split("/")
        segments = self.segments
        count = len(parts) - 1
        if parts[0] or count < len(segments) or (count > len(segments) and not self.open_end):
            return False
        return all(
            segment == part or (segment == ONE and part) for segment, part in zip(segments, parts[1:], strict=False)
        )

    def covers(self, other: Self) -> bool:
        """Whether every path that `other` holds is held here too."""
        if self.everything:
            return True
        mine, theirs = self.segments, other.segments
        if len(theirs) < len(mine) or (not self.open_end and (other.open_end or len(theirs) > len(mine))):
            return False
        return all(a == b or (a == ONE and b != "") for a, b in zip(mine, theirs, strict=False))
