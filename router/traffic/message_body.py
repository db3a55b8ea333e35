"""Where a message's body ends, and what is in it (RFC 9112 parts 6 and 7). Sans-IO.

A framing is fed whatever bytes follow the head, in pieces of any size. It gives back the payload in them, without
chunk framing, and the surplus that belongs to the next message.

Chunked framing is read without leniency and written anew: sizes are 1 to 16 hexadecimal digits, every line ends in
CRLF, extensions must be well formed and are dropped (RFC 9112 7.1.1 wants them ignored). Trailers are kept apart from
the payload: which of them go further is judged by `trailers`.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.strict import TCHAR, are_trailers, has_stray

CHUNK_LINE_BYTES_MAX: Final = 256
"""A chunk's size and extensions. Extensions are hardly ever used; Go allows 4 KiB, Envoy none."""
CHUNK_OVERHEAD_BYTES_MAX: Final = 16_384
"""Bytes of chunk extensions in one message. Go's net/http has the same bound (CVE-2023-39326)."""
TRAILER_BYTES_MAX: Final = 8_192

LAST_CHUNK: Final = b"0\r\n\r\n"

_TOKEN: Final = rb"[" + TCHAR + rb"]++"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:[\t ]*+;[\t ]*+"
    + _TOKEN
    + rb"(?:[\t ]*+=[\t ]*+(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED
    + rb"))?)*+)"
)


class FramingError(Exception):
    """The peer's body is framed wrongly. Where the message ends is unknown from here on: close."""


class Framing(Protocol):
    complete: bool
    """The body has ended: nothing may be fed any more."""
    trailers: bytes
    """The lines of its trailer section, once complete."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(payload, surplus) of these bytes; surplus only once complete. Raises `FramingError`."""

    def end(self) -> bool:
        """The peer closed its side. True if that is how this body may end; then it is complete."""


class NoBody:
    """Requests without a body; responses to HEAD, and 204 and 304."""

    __slots__ = ("complete",)

    trailers = b""

    def __init__(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return b"", data

    def end(self) -> bool:
        return True


_NO_BODY: Final = NoBody()  # it has no state


class LengthBody:
    """Content-Length bytes."""

    __slots__ = ("complete", "remaining")

    trailers = b""

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.complete = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if len(data) < self.remaining:
            self.remaining -= len(data)
            return data, b""
        payload, surplus = data[: self.remaining], data[self.remaining :]
        self.passed(self.remaining)
        return payload, surplus

    def passed(self, count: int) -> None:
        """So many of them, and no more than remain, went by unseen."""
        self.remaining -= count
        self.complete = not self.remaining

    def end(self) -> bool:
        return self.complete


class UntilClose:
    """A response without any length: it ends with the connection, and a cut-off one looks the same."""

    __slots__ = ("complete",)

    trailers = b""

    def __init__(self) -> None:
        self.complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    def end(self) -> bool:
        self.complete = True
        return True


class ChunkedBody:
    """Transfer-Encoding: chunked."""

    __slots__ = ("_in_trailers", "_overhead", "_partial", "_remaining", "complete", "trailers")

    def __init__(self) -> None:
        self.complete = False
        self.trailers = b""
        self._partial = b""  # of a line, a chunk's closing CRLF, or the trailers
        self._remaining = -1  # of the chunk being read; 0: its CRLF is due; -1: a size line is due
        self._overhead = 0
        self._in_trailers = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        scanned = len(self._partial)
        data, self._partial = self._partial + data, b""
        payload: list[bytes] = []
        at = 0
        while at < len(data) and not self._in_trailers:
            if self._remaining > 0:
                piece = data[at : at + self._remaining]
                payload.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
            elif self._remaining == 0:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise FramingError("chunk longer than its size")
                if len(data) - at < 2:
                    break
                at += 2
                self._remaining = -1
            else:
                line_end = data.find(b"\r\n", at, at + CHUNK_LINE_BYTES_MAX + 2)
                if line_end < 0:
                    self._check_line_begun(data[at:])
                    break
                self._remaining = self._chunk_size(data[at:line_end])
                at = line_end + 2
                if self._remaining == 0:
                    self._in_trailers = True
        if not self._in_trailers:
            self._partial = data[at:]
            return b"".join(payload), b""
        return b"".join(payload), self._feed_trailers(data[at:], scanned if at == 0 else 0)

    def end(self) -> bool:
        return self.complete

    def _chunk_size(self, line: bytes) -> int:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise FramingError("bad chunk size")
        self._overhead += len(match[2])
        if self._overhead > CHUNK_OVERHEAD_BYTES_MAX:
            raise FramingError("too many chunk extensions")
        size = int(match[1], 16)
        if size >= 2**63:
            raise FramingError("bad chunk size")
        return size

    def _check_line_begun(self, begun: bytes) -> None:
        if len(begun) > CHUNK_LINE_BYTES_MAX + 1:
            raise FramingError("chunk line too long")
        if b"\n" in begun or begun[:1] not in b"0123456789abcdefABCDEF" or b"\r" in begun[:-1]:
            raise FramingError("bad chunk size")

    def _feed_trailers(self, data: bytes, scanned: int) -> bytes:
        end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n") + 2
        if end == 1:  # not found
            if len(data) > TRAILER_BYTES_MAX or has_stray(data, scanned):
                raise FramingError("bad trailers")
            self._partial = data
            return b""
        section = data[: end + 2]
        if len(section) > TRAILER_BYTES_MAX or not are_trailers(section):
            raise FramingError("bad trailers")
        self.complete = True
        self.trailers = section[:-2]
        return data[end + 2 :]


def request_framing(head: RequestHead) -> Framing:
    """RFC 9112 6.3; a head that leaves a doubt was refused before."""
    if head.chunked:
        return ChunkedBody()
    return LengthBody(head.content_length) if head.content_length else _NO_BODY


def response_framing(head: ResponseHead, method: bytes) -> Framing:
    """RFC 9112 6.3, for the response to a request of `method`."""
    if method == b"HEAD" or head.status in (204, 304) or head.status < 200:
        return _NO_BODY
    if head.chunked:
        return ChunkedBody()
    return UntilClose() if head.content_length is None else LengthBody(head.content_length)


def chunk(payload: bytes) -> bytes:
    """One chunk with `payload`, which must not be empty: an empty chunk would end the body."""
    assert payload
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body, with these lines behind it."""
    return b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK
