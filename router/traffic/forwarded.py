"""What a message becomes on its way through this hop (RFC 9110 part 7.6, RFC 7239). Pure.

Heads are always written anew. Fields that end at this hop go: the fixed ones, and those that Connection names, except
protected ones, for a client must not be able to make us drop what its origin relies on. Fields by which we vouch for
something (`Forwarded`, `X-Forwarded-*`, `X-Edge-*`) are ours alone: a client is untrusted, what it sends of them goes.
So do their spellings with underscores, which CGI-like origins cannot tell apart (`X_Forwarded_For`).
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from lattice.types import Endpoint
from router.traffic.http1 import Fields, RequestHead, ResponseHead
from router.traffic.orca import FIELD as LOAD_FIELD
from router.traffic.strict import is_token

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        LOAD_FIELD,  # an upstream's word to us
        b"content-length",  # framing is this hop's: written anew
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OURS_UPSTREAM: Final = frozenset({b"expect", b"forwarded", b"host", b"proxy", b"x-real-ip"})
"""Written anew or vouched for by us; `Proxy` is httpoxy (CVE-2016-5385)."""
_OURS_PREFIXES: Final = (b"x-forwarded-", b"x-edge-")
_PROTECTED: Final = frozenset(
    {
        b"accept",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"etag",
        b"location",
        b"range",
        b"set-cookie",
        b"strict-transport-security",
        b"vary",
        b"via",
    }
)
"""RFC 9110 7.6.1: never appropriate as connection options. Host, lengths and Forwarded are ours, so cannot be named."""

_BODY_METHODS: Final = frozenset({b"POST", b"PUT", b"PATCH"})
_NOT_TCHAR: Final = re.compile(r"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
_NOT_VALUE: Final = re.compile(r"[^\x20-\x7e]")

WEBSOCKET: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
"""The one protocol that a connection may be upgraded to; both fields end at each hop, and so are written anew."""
TRAILERS: Final = b"Connection: TE\r\nTE: trailers\r\n"
"""What the client said of trailers (RFC 9110 10.1.4), for we pass them on; TE ends at each hop."""
ALLOWED_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"


class Steered(NamedTuple):
    """Where a request was sent, and why: the routing metadata of both directions."""

    site: str
    region: str | None
    reason: str

    def lines(self) -> bytes:
        return _steered_lines(self)


def client_address(host: str) -> str:
    """A peer address as policy and headers want it: IPv4 inside IPv6 unwrapped, without an interface's scope."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or address)


def forwarded(client: str, host: str, proto: str) -> str:
    """One element of RFC 7239's `Forwarded`. An IPv6 client goes in brackets and so in quotes (part 6)."""
    node = f'"[{client}]"' if ":" in client else client
    return f"for={node};proto={proto}" + (f";host={_quoted(host)}" if host else "")


@lru_cache(maxsize=1024)
def via(minor: int, site: str) -> str:
    """One element of RFC 9110 7.6.3's `Via`, for a message received as HTTP/1.`minor`."""
    return f"1.{minor} {_pseudonym(site)}"


def has_passed(head: RequestHead, site: str) -> bool:
    """Whether this request has been through `site` already: it is going round in circles."""
    hops = head.fields.hops
    if hops is None:
        elements = [element for key, _, value in head.fields if key == b"via" for element in value.split(b",")]
        hops = head.fields.hops = frozenset(word for element in elements for word in element.split()[1:2])
    return bool(hops) and _pseudonym(site).encode("ascii") in hops


def request_for_upstream(
    head: RequestHead, client: str, endpoint: Endpoint, steered: Steered, scheme: str = "http"
) -> bytes:
    """The request head as `endpoint` gets it: HTTP/1.1, persistent, framed as the body will be sent.

    `scheme` is how the client reached us, "http" or "https".
    """
    lines = lines_for_upstream(head, client, endpoint, steered, scheme)
    return b"%b %b HTTP/1.1\r\n%b" % (head.method, head.target, lines)


def lines_for_upstream(head: RequestHead, client: str, endpoint: Endpoint, steered: Steered, scheme: str) -> bytes:
    """The same after its request line; it depends on the head's target in nothing."""
    lines = head.fields.rendered
    if lines is None:
        lines = head.fields.rendered = _end_to_end(head.fields, head.connection, _OURS_UPSTREAM)
    framing = b""
    if head.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif head.content_length is not None:
        framing = b"Content-Length: %d\r\n" % head.content_length
    elif head.method in _BODY_METHODS:
        framing = b"Content-Length: 0\r\n"  # RFC 9110 8.6: or an origin may answer 411
    if head.expects_continue:
        framing += b"Expect: 100-continue\r\n"
    if head.websocket:
        framing += WEBSOCKET
    elif head.minor == 1 and head.fields.takes_trailers:
        framing += TRAILERS
    return b"Host: %b\r\n%b%b%b%b\r\n" % (
        head.host or _authority(endpoint),
        lines,
        framing,
        _vouched(client, head.host, head.minor, steered.site, scheme),
        steered.lines(),
    )


def response_for_client(head: ResponseHead, steered: Steered, framing: bytes, connection: bytes, date: bytes) -> bytes:
    """The response head as the client gets it.

    `framing` is the field line that says how long the body is, or nothing; `connection` the Connection field's value,
    or nothing; `date` is the time the response came, used if the upstream did not say (RFC 9110 6.6.1).
    """
    fields = head.fields
    lines = fields.rendered
    if lines is None:
        lines = fields.rendered = _end_to_end(fields, head.connection, frozenset())
        fields.dated = any(field[0] == b"date" for field in fields)
    if head.status >= 200 and not fields.dated:
        framing = b"Date: %b\r\n%b" % (date, framing)
    if connection:
        framing = b"%bConnection: %b\r\n" % (framing, connection)
    return b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (
        head.status,
        head.reason,
        lines,
        framing,
        _via_line(head.minor, steered.site),
        steered.lines(),
    )


def server_timing(edge_us: int) -> bytes:
    """The last line of a head, and its end: the edge's share of the time that the client waits, in milliseconds."""
    tens = edge_us // 10
    return _TIMINGS[tens] if 0 <= tens < len(_TIMINGS) else _timing(max(0, tens))


def _timing(tens: int) -> bytes:
    return b"Server-Timing: edge;dur=%d.%02d\r\n\r\n" % divmod(tens, 100)


_TIMINGS: Final = tuple(map(_timing, range(1_000)))  # up to ten milliseconds; written on every response


def own_response(
    status: int, text: str, steered: Steered, date: bytes, *, keep_alive: bool, minor: int = 1, method: bytes = b"GET"
) -> bytes:
    """A whole response of our own: one line of plain text that says what is wrong. HEAD gets the head only."""
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}: {_value(text)}\n".encode("ascii")
    lines = [
        b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, phrase.encode("ascii"), date),
        b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nContent-Length: %d\r\n" % len(body),
        steered.lines(),
    ]
    if status == 405:
        lines.append(b"Allow: %b\r\n" % ALLOWED_METHODS)
    if status == 503:
        lines.append(b"Retry-After: 1\r\n")
    if not keep_alive:
        lines.append(b"Connection: close\r\n")
    elif minor == 0:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    if method != b"HEAD":
        lines.append(body)
    return b"".join(lines)


def _end_to_end(fields: Fields, connection: frozenset[bytes], ours: frozenset[bytes]) -> bytes:
    named = connection - _PROTECTED
    lines = []
    for key, name, value in fields:
        if key in _HOP_BY_HOP or key in ours or key in named:
            continue
        if key.startswith(_OURS_PREFIXES) and (ours or key.startswith(b"x-edge-")):
            continue
        if b"_" in key:
            spelt = key.replace(b"_", b"-")
            if spelt in _HOP_BY_HOP or spelt in ours or spelt.startswith(_OURS_PREFIXES):
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


@lru_cache(maxsize=1024)  # a client's requests mostly name the same host
def _vouched(client: str, host: bytes, minor: int, site: str, scheme: str) -> bytes:
    """What we say of a request to whoever trusts us."""
    named = host.decode("ascii")
    return (
        f"Forwarded: {forwarded(client, named, scheme)}\r\n"
        f"X-Forwarded-For: {client}\r\nX-Forwarded-Proto: {scheme}\r\n"
        + (f"X-Forwarded-Host: {named}\r\n" if named else "")
        + f"Via: {via(minor, site)}\r\n"
    ).encode("ascii")


@lru_cache(maxsize=64)
def _via_line(minor: int, site: str) -> bytes:
    return f"Via: {via(minor, site)}\r\n".encode("ascii")


@lru_cache(maxsize=1024)  # few sites, regions and reasons, on every request twice
def _steered_lines(steered: Steered) -> bytes:
    site, region, reason = steered
    middle = f"X-Edge-Region: {_value(region)}\r\n" if region is not None else ""
    return f"X-Edge-Site: {_value(site)}\r\n{middle}X-Edge-Reason: {_value(reason)}\r\n".encode("ascii")


def _authority(endpoint: Endpoint) -> bytes:
    host, port = endpoint
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")


def _quoted(host: str) -> str:
    """RFC 7239 part 4: a token, or a quoted string. A host with a port or brackets is no token."""
    return host if is_token(host.encode("ascii")) else f'"{host}"'


def _pseudonym(site: str) -> str:
    return _NOT_TCHAR.sub("-", site) or "edge"


def _value(text: str) -> str:
    """Text as it may stand in a field: printable ASCII."""
    return _NOT_VALUE.sub("?", text)
