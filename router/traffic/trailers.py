"""Fields behind a body (RFC 9110 6.5): which of them go on to the next hop. Pure.

A trailer comes when its message is already framed, steered and under way, so none may say where a message ends, whom it
is for, who asks, how its content is to be read or how it may be kept (6.5.1, with the list of RFC 7230 4.1.2): who
merges trailers into the head would believe what nobody has judged. Nor may one be what ends at this hop, or what we
alone vouch for. All others go on where the framing has a place for them: behind the last chunk in HTTP/1.1, in a last
HEADERS frame in HTTP/2.
"""

from __future__ import annotations

import re
from typing import Final

from router.traffic.strict import FIELD_LINE

_LINE: Final = re.compile(FIELD_LINE)
_NEVER: Final = frozenset(
    {
        # framing and routing
        b"content-length",
        b"host",
        b"transfer-encoding",
        # modifiers and conditions
        b"cache-control",
        b"expect",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"max-forwards",
        b"pragma",
        b"range",
        # who asks
        b"authorization",
        b"cookie",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"set-cookie",
        b"www-authenticate",
        # how the content is to be read
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"trailer",
        # control data
        b"age",
        b"date",
        b"expires",
        b"location",
        b"retry-after",
        b"vary",
        b"warning",
        # of one hop, or ours
        b"connection",
        b"endpoint-load-metrics",
        b"forwarded",
        b"http2-settings",
        b"keep-alive",
        b"proxy",
        b"proxy-connection",
        b"te",
        b"upgrade",
        b"via",
        b"x-real-ip",
    }
)
_OURS_PREFIXES: Final = (b"x-edge-", b"x-forwarded-")


def passed_on(lines: bytes, connection: frozenset[bytes]) -> bytes:
    """Those of a trailer section's whole lines that go on; `connection` is what the head named as ending here."""
    return b"".join(
        match[0] for match in _LINE.finditer(lines) if _goes_on(match[1].lower().replace(b"_", b"-"), connection)
    )


def _goes_on(name: bytes, connection: frozenset[bytes]) -> bool:
    return not (name in _NEVER or name in connection or name.startswith(_OURS_PREFIXES))


def trailer_list(lines: bytes) -> list[tuple[bytes, bytes]]:
    """A trailer section as HTTP/2 has it."""
    return [(match[1].lower(), match[2].rstrip(b" \t")) for match in _LINE.finditer(lines)]
