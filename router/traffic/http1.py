"""HTTP/1.1 heads: bytes in, judged heads out (RFC 9110, RFC 9112). Sans-IO.

Two readers must agree on every head: the gate (`strict`) looks at the raw bytes, then llhttp, through httptools, splits
them into fields. What either refuses is refused. Then the fields that decide where the message ends, and whom it is
for, are judged here. A fresh llhttp parser per head costs about 2 µs, and cannot carry anything from one message into
the next; bodies are counted and unchunked by `message_body`, so llhttp never guesses where one ends.

A connection's next head is mostly like its last: the same field lines after another request line, or the very same
bytes. Each reader remembers one small head of its own connection, and what was judged equal byte for byte is not judged
again. Nothing is shared between connections.

A head is never forwarded as received: `forwarded` writes a new one from the fields.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from router.traffic.orca import FIELD as LOAD_FIELD
from router.traffic.strict import (
    FIELD_LINE,
    SIMPLE_REQUEST_LINE,
    TARGET_BYTES_MAX,
    BadRequestError,
    BadResponseError,
    check_request,
    check_request_begun,
    check_response,
    check_response_begun,
    is_token,
)

FIELDS_MAX: Final = 100
"""Beyond it: 431, or 502. Apache's LimitRequestFields is 100, HAProxy's tune.http.maxhdr 101."""
CONTENT_LENGTH_DIGITS_MAX: Final = 18
"""Fits a signed 64-bit integer whoever reads it."""
REMEMBERED_BYTES_MAX: Final = 2_048
"""Field lines kept with a connection until its next head: a browser's, cookies included, are usually half of it."""

_FIELD_LINE: Final = re.compile(FIELD_LINE)
_DIGITS: Final = re.compile(rb"[0-9]{1,%d}" % CONTENT_LENGTH_DIGITS_MAX)
_AUTHORITY: Final = re.compile(rb"([A-Za-z0-9._~-]++|\[[0-9A-Fa-f:.]++\])(?::([0-9]{0,5}))?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?]*+)(.*)")
_JUDGED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})

Field: TypeAlias = tuple[bytes, bytes, bytes]
"""A field as (lower-case name, name as received, value without surrounding blanks)."""


class Fields(tuple[Field, ...]):
    """A head's fields in order, and what others have worked out from them alone: it lives as long as they do."""

    rendered: bytes | None = None
    """The lines of those that are passed on, once `forwarded` has written them."""
    dated: bool = False
    """There is a Date; known once rendered."""
    for_client: tuple[object, bytes, bytes] | None = None
    """A response's head but its end as it was last written, with what it depends on: how it was steered, Connection."""
    chosen: tuple[frozenset[bytes], tuple[tuple[str, str], ...]] | None = None
    """Names that `asking` was asked for, and what is there of them."""
    hops: frozenset[bytes] | None = None
    """The pseudonyms in Via, once `forwarded` has looked."""
    _waits: bool | None = None
    _keyed: bool | None = None

    @property
    def takes_trailers(self) -> bool:
        """The client says that it does not drop what comes behind a body (RFC 9110 10.1.4)."""
        return any(key == b"te" and b"trailers" in _options(value) for key, _, value in self)

    @property
    def may_wait(self) -> bool:
        """The client asks for events or for a long poll, so that silence is no sign of a hang."""
        if self._waits is None:
            self._waits = any(
                (key == b"accept" and b"text/event-stream" in value) or (key == b"prefer" and b"wait=" in value)
                for key, _, value in self
            )
        return self._waits

    @property
    def has_idempotency_key(self) -> bool:
        if self._keyed is None:
            self._keyed = any(key == b"idempotency-key" for key, _, _ in self)
        return self._keyed


class RequestHead(NamedTuple):
    """A request that may be served."""

    method: bytes
    target: bytes
    """In origin form, or `*`: what goes on the next request line."""
    host: bytes
    """The authority, from an absolute target or else from Host; empty only in HTTP/1.0."""
    fields: Fields
    minor: int
    """0 or 1: the client's HTTP/1 version."""
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    connection: frozenset[bytes]
    """Connection options, in lower case: names of fields that end at this hop."""
    websocket: bool = False
    """An upgrade to WebSocket is asked for (RFC 6455 4.1)."""

    @property
    def is_last(self) -> bool:
        """Not a byte may follow: it has no body, and says that there is no further request."""
        return not (self.keep_alive or self.chunked or self.content_length)

    @property
    def path(self) -> str:
        """The target without its query, exactly as sent (still percent-encoded)."""
        return self.target.partition(b"?")[0].decode("ascii")

    @property
    def host_name(self) -> str:
        """The host in lower case, without port and root dot; IPv6 keeps its brackets."""
        return _host_name(self.host)


class ResponseHead(NamedTuple):
    """An upstream's answer, interim (1xx) or final."""

    status: int
    reason: bytes
    fields: Fields
    minor: int
    content_length: int | None
    chunked: bool
    keep_alive: bool
    connection: frozenset[bytes]
    load: bytes | None = None
    """What the upstream says of its load (see `orca`); it ends at this hop."""
    plain: bool = False
    """A final word below 500, to a GET with a body of `content_length`, that is for nobody but the client."""


class RequestReader:
    """One client connection's bytes in, request heads out.

    What follows a head stays in `rest`: its body's framing takes from there and puts back what is left.
    """

    __slots__ = ("_begins", "_last", "_same", "_scanned", "_section", "_shed", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self._scanned = 0
        self._shed = False
        self._same: bytes | None = None  # the last head itself
        self._section = b""  # everything after its request line
        self._begins = b""  # its method, a space and a slash
        self._last: RequestHead | None = None

    def receive(self, data: bytes) -> None:
        self.rest = self.rest + data if self.rest else data

    def feed(self, data: bytes) -> RequestHead | None:
        """`receive`, and `next_head`."""
        if data == self._same and not self.rest:
            self._shed = False
            return self._last
        self.receive(data)
        return self.next_head()

    def next_head(self) -> RequestHead | None:
        """The next head, or None if more bytes are needed. Raises `BadRequestError` as soon as none can follow."""
        if self.rest == self._same:
            self.rest = b""
            self._scanned = 0
            self._shed = False
            return self._last
        if not self._shed and self.rest[:1] == b"\r":
            # RFC 9112 2.2: an empty line before the request line is ignored. One: more is not a mistake any more.
            if len(self.rest) < 2:
                return None
            if self.rest[1:2] == b"\n":
                self.rest = self.rest[2:]
                self._shed = True
        end = self.rest.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            if self.rest:
                check_request_begun(self.rest, self._scanned)
            self._scanned = len(self.rest)
            return None
        head, self.rest = self.rest[: end + 4], self.rest[end + 4 :]
        self._scanned = 0
        self._shed = False
        return self._like_the_last(head) or self._parse(head)

    def _like_the_last(self, head: bytes) -> RequestHead | None:
        """The head of another path with the same method and the same field lines. None if it differs in more."""
        last = self._last
        if last is None or not head.startswith(self._begins) or not head.endswith(self._section):
            return None
        line = head[: len(head) - len(self._section)]
        match = SIMPLE_REQUEST_LINE.fullmatch(line)
        if match is None or match[2] != b"01"[last.minor : last.minor + 1] or len(match[1]) > TARGET_BYTES_MAX:
            return None
        request = self._last = RequestHead(last.method, match[1], *last[2:])
        self._same = head
        return request

    def _parse(self, head: bytes) -> RequestHead:
        request = parse_request(head)
        line_end = head.index(b"\r\n") + 2
        begins = request.method + b" /"
        if len(head) - line_end <= REMEMBERED_BYTES_MAX and head.startswith(begins):
            self._same, self._section, self._begins, self._last = head, head[line_end:], begins, request
        return request


class ResponseReader:
    """One upstream connection's bytes in, response heads out; see `RequestReader`."""

    __slots__ = ("_last", "_last_bytes", "_scanned", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self._scanned = 0
        self._last_bytes = b""
        self._last: ResponseHead | None = None

    def receive(self, data: bytes) -> None:
        self.rest = self.rest + data if self.rest else data

    def feed(self, data: bytes) -> ResponseHead | None:
        """`receive`, and `next_head`."""
        known = self._last_bytes
        if known and not self.rest and data.startswith(known):
            self.rest = data[len(known) :]
            return self._last
        self.receive(data)
        return self.next_head()

    def next_head(self) -> ResponseHead | None:
        """The next head, or None if more bytes are needed. Raises `BadResponseError` as soon as none can follow."""
        if self._scanned == 0 and self._last_bytes and self.rest.startswith(self._last_bytes):
            self.rest = self.rest[len(self._last_bytes) :]
            return self._last
        end = self.rest.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            check_response_begun(self.rest, self._scanned)
            self._scanned = len(self.rest)
            return None
        head, self.rest = self.rest[: end + 4], self.rest[end + 4 :]
        self._scanned = 0
        response = parse_response(head)
        if len(head) <= REMEMBERED_BYTES_MAX:
            self._last_bytes, self._last = head, response
        return response


def parse_request(head: bytes) -> RequestHead:
    """Judge one whole request head, its final empty line included. Raises `BadRequestError`."""
    check_request(head)
    split = _Split()
    parser = HttpRequestParser(split)
    fault: HttpParserError | None = None
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass  # CONNECT or Upgrade: llhttp steps aside, the head itself is fine
    except HttpParserInvalidMethodError:
        raise BadRequestError(501, "unknown method") from None
    except HttpParserError as error:
        # llhttp knows that something is wrong, our own rules know which status says so: let them look first.
        fault = error
        split.resplit(head)
    method, target, version = head[: head.index(b"\r\n")].split(b" ")
    request = _judge_request(method, target, version[-1] - ord("0"), split.fields)
    if fault is not None or not split.complete:
        raise BadRequestError(400, "malformed head")
    return request


def parse_response(head: bytes) -> ResponseHead:
    """Judge one whole response head, its final empty line included. Raises `BadResponseError`."""
    check_response(head)
    split = _Split()
    parser = HttpResponseParser(split)
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise BadResponseError("malformed head") from None
    if not split.complete:
        raise BadResponseError("malformed head")
    if len(split.fields) > FIELDS_MAX:
        raise BadResponseError("too many fields")
    minor = head[7] - ord("0")
    length: int | None = None
    chunked = False
    connection: frozenset[bytes] = frozenset()
    load: bytes | None = None
    for key, _, value in split.fields:
        if key == b"content-length":
            # RFC 9110 8.6 allows a recipient to accept repeated equal values; we need not, and so need not compare.
            if length is not None or _DIGITS.fullmatch(value) is None:
                raise BadResponseError("bad Content-Length")
            length = int(value)
        elif key == b"transfer-encoding":
            if chunked or value.lower() != b"chunked" or minor == 0:
                raise BadResponseError("bad Transfer-Encoding")
            chunked = True
        elif key == b"connection":
            connection |= _options(value)
        elif key == LOAD_FIELD:
            load = value
    if chunked and length is not None:
        raise BadResponseError("both Content-Length and Transfer-Encoding")
    status = int(head[9:12])
    return ResponseHead(
        status=status,
        reason=head[13 : head.index(b"\r\n")],
        fields=Fields(split.fields),
        minor=minor,
        content_length=length,
        chunked=chunked,
        keep_alive=minor == 1 and b"close" not in connection,
        connection=connection,
        load=load,
        plain=200 <= status < 500 and status not in (204, 304) and length is not None and load is None,
    )


class _Split:
    """What llhttp calls back: the head's fields."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True

    def resplit(self, head: bytes) -> None:
        """Our own split, for a head that the gate passed and llhttp did not."""
        self.complete = False
        pairs = _FIELD_LINE.findall(head, head.index(b"\r\n") + 2)
        self.fields = [(name.lower(), name, value.strip(b" \t")) for name, value in pairs]


def _judge_request(method: bytes, target: bytes, minor: int, fields: list[Field]) -> RequestHead:
    """The rules about single fields, stricter than the RFCs where a laxer reading could differ from another's."""
    if len(fields) > FIELDS_MAX:
        raise BadRequestError(431, "too many fields")
    if len(target) > TARGET_BYTES_MAX:
        raise BadRequestError(414, "target too long")
    host: bytes | None = None
    length: int | None = None
    codings: list[bytes] = []
    connection: frozenset[bytes] = frozenset()
    expects_continue = False
    upgrade: frozenset[bytes] = frozenset()
    for key, _, value in fields:
        if key not in _JUDGED:
            continue
        if key == b"host":
            if host is not None:
                raise BadRequestError(400, "more than one Host")
            host = value
        elif key == b"content-length":
            if length is not None:
                raise BadRequestError(400, "more than one Content-Length")
            if _DIGITS.fullmatch(value) is None:
                raise BadRequestError(400, "bad Content-Length")
            length = int(value)
        elif key == b"transfer-encoding":
            codings += value.lower().split(b",")
        elif key == b"connection":
            connection |= _options(value)
        elif key == b"upgrade":
            upgrade |= _options(value)
        elif minor == 1:  # Expect; RFC 9110 10.1.1: ignored in HTTP/1.0
            if value.lower() != b"100-continue":
                raise BadRequestError(417, "unknown expectation")
            expects_continue = True
    chunked = bool(codings) and _judge_codings(codings, minor, length)
    if method in _REFUSED_METHODS:
        raise BadRequestError(405, "method not allowed")
    asked = upgrade if b"upgrade" in connection and minor == 1 else frozenset()
    websocket = asked == {b"websocket"} and method == b"GET" and not chunked and not length
    if asked and not websocket and not asked <= {b"h2c"}:
        # RFC 9110 7.8 lets an upgrade be ignored. Clients that offer h2c then go on in HTTP/1.1; others would not.
        raise BadRequestError(501, "no upgrade")
    target, host = _judge_target(method, target, minor, host)
    return RequestHead(
        method=method,
        target=target,
        host=host,
        fields=Fields(fields),
        minor=minor,
        content_length=length,
        chunked=chunked,
        keep_alive=b"close" not in connection and (minor == 1 or b"keep-alive" in connection),
        expects_continue=expects_continue and (chunked or bool(length)),
        connection=connection,
        websocket=websocket,
    )


def _judge_codings(codings: list[bytes], minor: int, length: int | None) -> bool:
    """RFC 9112 6.1 and 6.3. Returns True: the body is chunked, or the request is refused."""
    if length is not None:
        raise BadRequestError(400, "both Content-Length and Transfer-Encoding")
    if minor == 0:
        raise BadRequestError(400, "Transfer-Encoding in HTTP/1.0")
    names = [coding.strip(b" \t") for coding in codings]
    if names == [b"chunked"]:
        return True
    if names[-1] != b"chunked" or names.count(b"chunked") > 1 or not all(map(is_token, names)):
        raise BadRequestError(400, "bad Transfer-Encoding")
    raise BadRequestError(501, "unknown transfer coding")


def _judge_target(method: bytes, target: bytes, minor: int, host: bytes | None) -> tuple[bytes, bytes]:
    """The target in origin form, and the authority. RFC 9112 3.2: an absolute target's authority overrides Host."""
    if host is None and minor == 1:
        raise BadRequestError(400, "no Host")
    if target.startswith(b"/"):
        pass
    elif target == b"*":
        if method != b"OPTIONS":
            raise BadRequestError(400, "bad target")
    else:
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadRequestError(400, "bad target")
        if host is not None:
            _judge_authority(host)  # overridden, but never mind whose mistake it is: two hosts, one of them bad
        host, target = match.groups()
        if not target:
            target = b"*" if method == b"OPTIONS" else b"/"
        elif not target.startswith(b"/"):
            target = b"/" + target
    if host is None or (not host and minor == 0):
        return target, b""
    _judge_authority(host)
    return target, host


def _judge_authority(authority: bytes) -> None:
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > 65_535:
        raise BadRequestError(400, "bad Host")


@lru_cache(maxsize=256)
def _host_name(host: bytes) -> str:
    name = host.decode("ascii").lower()
    if not name.endswith("]"):
        head, colon, port = name.rpartition(":")
        name = head if colon and not port.endswith("]") else name
    return name.removesuffix(".")


@lru_cache(maxsize=256)
def _options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t") for option in value.lower().split(b","))
