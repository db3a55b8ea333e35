"""HTTP/2's field lists, and the HTTP/1.1 heads they mean (RFC 9113 part 8). Pure.

A request is written as the HTTP/1.1 head it stands for and judged by the very gate that heads from HTTP/1.1 clients
pass. So there is one judgement, and a head that could be read in two ways further on does not get there (the downgrade
attacks of Kettle, "HTTP/2: the sequel is always worse", 2021). What could only be written by breaking out of its line
is refused before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from router.traffic.http1 import RequestHead, RequestReader, ResponseHead
from router.traffic.strict import BadRequestError, is_token

HeaderList: TypeAlias = list[tuple[bytes, bytes]]

_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_ENDS_HERE: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
"""Connection-specific: they have no place in HTTP/2 (8.2.2)."""
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$")
_BAD_TARGET: Final = re.compile(rb"[^\x21\x22\x24-\x7e]")


def request_head(headers: Iterable[tuple[bytes, bytes]], reader: RequestReader, *, has_body: bool) -> RequestHead:
    """The request as it would have come by HTTP/1.1, to this reader; a body without a length is chunked there.

    Raises `BadRequestError`.
    """
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    host: bytes | None = None
    length = False
    for name, value in headers:
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or lines:
                raise BadRequestError(400, "bad pseudo-header")
            pseudo[name] = value
            continue
        _check_field(name, value)
        if name in _ENDS_HERE or (name == b"te" and value.lower() != b"trailers"):
            raise BadRequestError(400, "connection-specific field")
        if name == b"host":
            if host is not None:
                raise BadRequestError(400, "more than one Host")
            host = value
        elif name == b"cookie":
            cookies.append(value)  # may come in crumbs (8.2.3)
        else:
            length = length or name == b"content-length"
            lines.append(b"%b: %b\r\n" % (name, value))
    method, path, authority = (pseudo.get(name, b"") for name in (b":method", b":path", b":authority"))
    if method == b"CONNECT":  # without scheme and path (8.5)
        raise BadRequestError(405, "method not allowed")
    if not is_token(method) or b":scheme" not in pseudo:
        raise BadRequestError(400, "bad pseudo-header")
    if not (path.startswith(b"/") or path == b"*") or _BAD_TARGET.search(path) is not None:
        raise BadRequestError(400, "bad target")
    if authority and host is not None and authority.lower() != host.lower():
        raise BadRequestError(400, "Host is not the authority")
    named = authority or host
    if not named or b"\r" in named or b"\n" in named:
        raise BadRequestError(400, "no Host" if not named else "bad Host")
    if cookies:
        lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))
    if has_body and not length:
        lines.append(b"transfer-encoding: chunked\r\n")
    reader.rest = b""  # what was left if the one before was refused
    head = reader.feed(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, path, named, b"".join(lines)))
    assert head is not None, "a whole one, of fields that cannot end it"
    return head


def trailer_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Trailers as the lines they would have been in HTTP/1.1. Raises `BadRequestError`."""
    lines = []
    for name, value in headers:
        _check_field(name, value)
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def _check_field(name: bytes, value: bytes) -> None:
    if not is_token(name) or name != name.lower():
        raise BadRequestError(400, "bad field name")
    if _BAD_VALUE.search(value) is not None:
        raise BadRequestError(400, "bad field value")


def response_headers(head: ResponseHead) -> HeaderList:
    """The field list of a response, interim or final."""
    headers: HeaderList = [(b":status", b"%d" % head.status)]
    headers += [(key, value) for key, _, value in head.fields if key not in _ENDS_HERE]
    return headers
