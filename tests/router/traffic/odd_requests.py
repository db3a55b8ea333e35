"""More of the corpus: families of malformed heads, and messages that are served though others may misread them.

An odd request is written anew, so that even an origin that takes nothing amiss, and one that takes everything amiss,
read the same of it: `ODD` says what.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.router.traffic.bad_requests import get, post

_CONTROLS = [byte for byte in (*range(0x20), 0x7F) if byte not in (0x09, 0x0A, 0x0D)]
_DELIMITERS = b'(),/;<=>?@[\\]{} "'
_CHUNKED = b"Transfer-Encoding: chunked"


def _families() -> dict[str, tuple[int, bytes]]:
    found: dict[str, tuple[int, bytes]] = {}
    for byte in _CONTROLS:
        one = bytes([byte])
        found[f"control {byte:#04x} in a value"] = 400, get(b"Host: h", b"A: b" + one + b"c")
        found[f"control {byte:#04x} in the target"] = 400, get(b"Host: h", target=b"/a" + one + b"b")
    for delimiter in _DELIMITERS:
        one = bytes([delimiter])
        found[f"{one!r} in a name"] = 400, get(b"Host: h", b"A" + one + b"B: c")
    for coding in (
        b"chunked ;",
        b"chunked\x0b",
        b"chunked,,chunked",
        b"cow",
        b"chunked cow",
        b"x chunked",
        b"'chunked'",
    ):
        found[f"transfer-encoding {coding!r}"] = 400, post(b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n")
    for length in (b"5,", b",5", b"5;", b"5.0", b"5e0", b"'5'", b"\xb2", b"0x5", b"five", b"-0", b"+0", b"1 1"):
        found[f"content-length {length!r}"] = 400, post(b"Content-Length: " + length, body=b"hello")
    for host in (
        b"h,",
        b"h h",
        b"h;",
        b"h/",
        b"h?",
        b"h#",
        b"h@",
        b"[h]",
        b"[::1",
        b"::1]",
        b"h:80:80",
        b"h:-1",
        b"<h>",
    ):
        found[f"host {host!r}"] = 400, get(b"Host: " + host)
    for version in (
        b"HTTP/1.",
        b"HTTP/.1",
        b"HTTP/1.11",
        b"HTTP/1.1.1",
        b"HTTP/-1.1",
        b"HTTP",
        b"HTTPS/1.1",
        b"http/1.1",
    ):
        found[f"version {version!r}"] = 400, get(b"Host: h", version=version)
    return found


BAD_FAMILIES = _families()


@dataclass(frozen=True)
class Odd:
    """A message, and the requests that an origin may read of it: method, target, body."""

    raw: bytes
    read: tuple[tuple[bytes, bytes, bytes], ...]


def _got(target: bytes = b"/") -> tuple[tuple[bytes, bytes, bytes], ...]:
    return ((b"GET", target, b""),)


_HELLO = ((b"POST", b"/", b"hello"),)

ODD: dict[str, Odd] = {
    "an empty line first": Odd(b"\r\n" + get(b"Host: h"), _got()),
    "absolute target": Odd(get(b"Host: other", target=b"http://h/a"), _got(b"/a")),
    "absolute target without path": Odd(get(b"Host: h", target=b"http://h"), _got()),
    "absolute target with query only": Odd(get(b"Host: h", target=b"http://h?q"), _got(b"/?q")),
    "double slashes and dots": Odd(get(b"Host: h", target=b"//a/../b//"), _got(b"//a/../b//")),
    "encoded nul": Odd(get(b"Host: h", target=b"/%00"), _got(b"/%00")),
    "broken percent": Odd(get(b"Host: h", target=b"/%zz%"), _got(b"/%zz%")),
    "backslashes": Odd(get(b"Host: h", target=b"/a\\..\\b"), _got(b"/a\\..\\b")),
    "options of everything": Odd(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", ((b"OPTIONS", b"*", b""),)),
    "upper case and a dot in the host": Odd(get(b"Host: H."), _got()),
    "blanks around values": Odd(get(b"Host:\t h \t", b"A:\tb\t"), _got()),
    "an empty value": Odd(get(b"Host: h", b"A:"), _got()),
    "bytes above ascii in a value": Odd(get(b"Host: h", b"A: \xff\xfe"), _got()),
    "a field twice": Odd(get(b"Host: h", b"A: b", b"A: c"), _got()),
    "get with a body": Odd(get(b"Host: h", b"Content-Length: 5") + b"hello", ((b"GET", b"/", b"hello"),)),
    "length with zeros": Odd(post(b"Content-Length: 0005", body=b"hello"), _HELLO),
    "length with underscore beside the true one": Odd(
        post(b"Content_Length: 9", b"Content-Length: 5", body=b"hello"), _HELLO
    ),
    "coding with underscore": Odd(post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"), _HELLO),
    "coding in capitals": Odd(post(b"TRANSFER-ENCODING: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), _HELLO),
    "chunks": Odd(post(_CHUNKED, body=b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), _HELLO),
    "chunk size with zeros": Odd(post(_CHUNKED, body=b"0005\r\nhello\r\n0000\r\n\r\n"), _HELLO),
    "chunk extensions": Odd(post(_CHUNKED, body=b'5;a;b=c;d="\\"e"\r\nhello\r\n0;f\r\n\r\n'), _HELLO),
    "blanks in chunk extensions": Odd(post(_CHUNKED, body=b"5 ; a = b\r\nhello\r\n0\r\n\r\n"), _HELLO),
    "trailers": Odd(post(_CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), _HELLO),
    "a length among the trailers": Odd(post(_CHUNKED, body=b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), _HELLO),
    "who asks, among the trailers": Odd(
        post(_CHUNKED, body=b"5\r\nhello\r\n0\r\nX_Forwarded_For: 6.6.6.6\r\nHost: g\r\nCookie: a=b\r\n\r\n"), _HELLO
    ),
    "a trailer that ends at this hop": Odd(
        post(_CHUNKED, b"Connection: B", body=b"5\r\nhello\r\n0\r\nB: c\r\nA: b\r\n\r\n"), _HELLO
    ),
    "connection names host": Odd(get(b"Host: h", b"Connection: host"), _got()),
    "connection names the length": Odd(
        post(b"Content-Length: 5", b"Connection: content-length", body=b"hello"), _HELLO
    ),
    "connection names the coding": Odd(
        post(_CHUNKED, b"Connection: transfer-encoding", body=b"5\r\nhello\r\n0\r\n\r\n"), _HELLO
    ),
    "an offer of h2c": Odd(
        get(b"Host: h", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), _got()
    ),
    "te and trailer": Odd(get(b"Host: h", b"TE: trailers, deflate;q=0.5", b"Trailer: A"), _got()),
    "proxy (httpoxy)": Odd(get(b"Host: h", b"Proxy: http://evil/"), _got()),
    "made-up forwarding": Odd(
        get(b"Host: h", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded_For: 6.6.6.6", b"Forwarded: for=6.6.6.6"), _got()
    ),
    "an expectation that is met already": Odd(
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"), _HELLO
    ),
    "1.0 with a length": Odd(post(b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"), _HELLO),
    "two in one write": Odd(
        get(b"Host: h", target=b"/1") + get(b"Host: h", target=b"/2"), (*_got(b"/1"), *_got(b"/2"))
    ),
    "one behind a body": Odd(post(b"Content-Length: 5", body=b"hello") + get(b"Host: h"), (*_HELLO, *_got())),
    "one behind chunks": Odd(post(_CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n") + get(b"Host: h"), (*_HELLO, *_got())),
    "a request as a body": Odd(
        post(b"Content-Length: 18", body=b"GET / HTTP/1.1\r\n\r\n"), ((b"POST", b"/", b"GET / HTTP/1.1\r\n\r\n"),)
    ),
}
