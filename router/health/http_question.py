"""Whether an HTTP/1.1 endpoint answers a GET as it should. Sans-IO."""

from __future__ import annotations

import httptools

from router.policy.probe import Probe

HEAD_BYTES_MAX = 8 * 1024
"""Status line and headers of a health answer; nginx and Envoy send some hundred bytes."""
BODY_BYTES_MAX = 16 * 1024
"""So much of a body is read to see that the answer ends well; beyond it what has come decides."""


class BadAnswerError(Exception):
    """What came back is no answer to the question; the text says why, for people."""


class HttpQuestion:
    """One GET on a connection of its own; httptools calls the `on_` methods."""

    def __init__(self, probe: Probe, host: str) -> None:
        self._probe = probe
        self._host = host
        self._status = 0
        self._complete = False
        self._head_bytes = 0
        self._body = bytearray()
        self._in_head = True
        self._length_told = False
        self._parser = httptools.HttpResponseParser(self)

    def to_send(self) -> bytes:
        """What to say next, perhaps nothing."""
        if self._host:
            host, self._host = self._host, ""
            return (
                f"GET {self._probe.target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edgelattice-health\r\n"
                "Accept: */*\r\nConnection: close\r\n\r\n"
            ).encode("ascii", "replace")
        return b""

    def receive(self, data: bytes) -> tuple[bool, str] | None:
        """Whether all is well, and why, for people; None while more must come. Raises `BadAnswerError`."""
        if not data:
            if self._in_head:
                raise BadAnswerError("connection closed before an answer")
            if self._length_told:
                raise BadAnswerError("connection closed within the answer")
            self._complete = True  # the end of the connection is the end of the body (RFC 9112, 6.3)
        else:
            self._feed(data)
        return self._judged() if self._complete else None

    def _feed(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:
                raise BadAnswerError(f"not HTTP: {error}") from None
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            raise BadAnswerError(f"headers of more than {HEAD_BYTES_MAX} bytes")

    def _judged(self) -> tuple[bool, str]:
        if not any(expected.first <= self._status <= expected.last for expected in self._probe.statuses):
            return False, str(self._status)
        wanted = self._probe.containing.encode("utf-8")
        if wanted not in self._body[:BODY_BYTES_MAX]:
            return False, f"{self._status}, without {self._probe.containing!r}"
        return True, str(self._status)

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._length_told = self._length_told or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # 1xx are not the answer yet (RFC 9110, 15.2)
            self._status = status
            self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_BYTES_MAX:
            self._complete = True

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._complete = True
