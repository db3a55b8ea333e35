"""The gate: which bytes may be an HTTP/1.1 head at all (RFC 9112), before any parser sees them.

One linear regular expression per kind of head that knows no leniency: no bare CR or LF, no folded lines, no space
before a colon, no control characters, single spaces in the first line. Request smuggling lives on two parties who read
the same bytes differently; what can be read in one way only cannot be used for it.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

TARGET_BYTES_MAX: Final = 8_192
"""Beyond it: 414. RFC 9112 part 3 recommends 8,000 octets of request line at least; nginx and Apache take 8 KiB."""
REQUEST_HEAD_BYTES_MAX: Final = 32_768
"""Beyond it: 431. nginx takes 4 buffers of 8 KiB, Node 16 KiB, Envoy 60 KiB."""
RESPONSE_HEAD_BYTES_MAX: Final = 65_536
"""Beyond it: 502. Twice a request's: an origin that sets many cookies is ours to bear."""

TCHAR: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
"""RFC 9110 5.6.2, as the inside of a regular expression's character class."""
FIELD_LINE: Final = rb"([" + TCHAR + rb"]++):[\t ]*+([\t\x20-\x7e\x80-\xff]*+)\r\n"
"""RFC 9112 part 5: name and value; the value may end in blanks."""

_FIELD_LINES: Final = rb"(?:[" + TCHAR + rb"]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
# '#' is missing from the target: a fragment never travels, and origins disagree about what to do with one.
_METHOD_BYTES_MAX: Final = 32
_METHOD: Final = rb"[" + TCHAR + rb"]{1,%d}+" % _METHOD_BYTES_MAX
_REQUEST_LINE: Final = _METHOD + rb" [\x21\x22\x24-\x7e]++ HTTP/1\.[01]\r\n"
_STATUS_LINE: Final = rb"HTTP/1\.[01] [1-5][0-9][0-9](?: [\t\x20-\x7e\x80-\xff]*+)?\r\n"

SIMPLE_REQUEST_LINE: Final = re.compile(_METHOD + rb" (/[\x21\x22\x24-\x7e]*+) HTTP/1\.([01])\r\n")
"""A request line with an absolute path (1), and its minor version (2). llhttp takes every one of a method it knows."""

_LINE_BYTES_MAX: Final = TARGET_BYTES_MAX + _METHOD_BYTES_MAX + len(" HTTP/1.1 ")
_REQUEST_HEAD_GATE: Final = re.compile(_REQUEST_LINE + _FIELD_LINES)
_RESPONSE_HEAD_GATE: Final = re.compile(_STATUS_LINE + _FIELD_LINES)
_TRAILER_GATE: Final = re.compile(_FIELD_LINES)
_REQUEST_LINE_ONLY: Final = re.compile(_REQUEST_LINE)
_OTHER_VERSION: Final = re.compile(_METHOD + rb" [\x21\x22\x24-\x7e]++ HTTP/[0-9]\.[0-9]\r\n")
_REQUEST_LINE_BEGUN: Final = re.compile(_METHOD + rb"(?: [^ ]*(?: [^ ]*)?)?")
_STRAY: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
_TOKEN: Final = re.compile(rb"[" + TCHAR + rb"]++")


class BadRequestError(Exception):
    """The client's message cannot be served: answer `status`, then close. Nothing of it may reach an upstream."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        """A few fixed words, never the client's own bytes: counted, and shown to the client."""


class BadResponseError(Exception):
    """The upstream's message cannot be understood: 502, and its connection is never used again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_request(head: bytes) -> None:
    """Let a whole request head pass, its final empty line included, or raise `BadRequestError`."""
    if head.find(b"\r\n") > _LINE_BYTES_MAX:
        raise BadRequestError(414, "target too long")
    if len(head) > REQUEST_HEAD_BYTES_MAX:
        raise BadRequestError(431, "head too large")
    if _REQUEST_HEAD_GATE.fullmatch(head) is None:
        _raise_request_fault(head)


def check_request_begun(begun: bytes, scanned: int) -> None:
    """Refuse an unfinished head as soon as nothing that follows can make it good, rather than wait for a timeout.

    The first `scanned` bytes were let pass before.
    """
    line_end = begun.find(b"\r\n")
    if line_end < 0 and len(begun) > _LINE_BYTES_MAX:
        raise BadRequestError(414, "target too long")
    if len(begun) > REQUEST_HEAD_BYTES_MAX:
        raise BadRequestError(431, "head too large")
    stray = _STRAY.search(begun, max(0, scanned - 1))
    if stray is not None:
        raise BadRequestError(400, _stray_reason(stray[0]))
    if line_end < 0:
        if _REQUEST_LINE_BEGUN.fullmatch(begun.removesuffix(b"\r")) is None:
            raise BadRequestError(400, "bad request line")
    elif scanned <= line_end + 1 and _REQUEST_LINE_ONLY.match(begun) is None:
        _raise_line_fault(begun)


def check_response(head: bytes) -> None:
    """Let a whole response head pass, its final empty line included, or raise `BadResponseError`."""
    if len(head) > RESPONSE_HEAD_BYTES_MAX:
        raise BadResponseError("head too large")
    if _RESPONSE_HEAD_GATE.fullmatch(head) is None:
        raise BadResponseError("malformed head")


def check_response_begun(begun: bytes, scanned: int) -> None:
    """As `check_request_begun`, for a response."""
    if len(begun) > RESPONSE_HEAD_BYTES_MAX:
        raise BadResponseError("head too large")
    if not begun.startswith(b"HTTP/1."[: len(begun)]) or has_stray(begun, scanned):
        raise BadResponseError("malformed head")


def are_trailers(section: bytes) -> bool:
    """Whether these bytes are field lines and the empty line after them."""
    return _TRAILER_GATE.fullmatch(section) is not None


def has_stray(begun: bytes, scanned: int) -> bool:
    """Whether unfinished lines hold a control character, a bare CR or a bare LF, from the first `scanned` bytes on."""
    return _STRAY.search(begun, max(0, scanned - 1)) is not None


def is_token(word: bytes) -> bool:
    return _TOKEN.fullmatch(word) is not None


def _raise_request_fault(head: bytes) -> NoReturn:
    """Say what the gate found. Slow, and never on the way of a good request."""
    stray = _STRAY.search(head)
    if stray is not None:
        raise BadRequestError(400, _stray_reason(stray[0]))
    if _REQUEST_LINE_ONLY.match(head) is None:
        _raise_line_fault(head)
    for line in head[:-4].split(b"\r\n")[1:]:
        if line[:1] in (b" ", b"\t"):
            raise BadRequestError(400, "folded field line")
        name, colon, _ = line.partition(b":")
        if not colon:
            raise BadRequestError(400, "field line without colon")
        if name != name.rstrip(b" \t"):
            raise BadRequestError(400, "space before colon")
        if not is_token(name):
            raise BadRequestError(400, "bad field name")
    raise BadRequestError(400, "malformed head")


def _raise_line_fault(head: bytes) -> NoReturn:
    if _OTHER_VERSION.match(head) is not None:
        raise BadRequestError(505, "HTTP version not supported")
    raise BadRequestError(400, "bad request line")


def _stray_reason(stray: bytes) -> str:
    return {b"\x00": "NUL in head", b"\r": "bare CR", b"\n": "bare LF"}.get(stray, "control character in head")
