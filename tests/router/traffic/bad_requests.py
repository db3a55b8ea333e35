"""Malformed, ambiguous and unserved requests, each with the one right answer.

`BAD_HEADS` are refused by the head alone; `BAD_BODIES` begin well. No byte of either may reach an upstream (of a body
that went bad: nothing from the bad byte on, and never a second request).
"""

from __future__ import annotations

H = b"Host: h\r\n"


def get(*lines: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    head = b"POST / " + version + b"\r\nHost: h\r\n"
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


BAD_HEADS: dict[str, tuple[int, bytes]] = {
    # the first line
    "no version": (400, b"GET /\r\nHost: h\r\n\r\n"),
    "empty first line twice": (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "space before method": (400, b" GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "tab for space": (400, b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "space after version": (400, b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n"),
    "space in target": (400, b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"),
    "no target": (400, b"GET HTTP/1.1\r\nHost: h\r\n\r\n"),
    "lower-case http": (400, b"GET / http/1.1\r\nHost: h\r\n\r\n"),
    "leading zero in version": (400, b"GET / HTTP/01.1\r\nHost: h\r\n\r\n"),
    "version with comma": (400, b"GET / HTTP/1,1\r\nHost: h\r\n\r\n"),
    "version 1.2": (505, get(H[:-2], version=b"HTTP/1.2")),
    "version 2.0": (505, get(H[:-2], version=b"HTTP/2.0")),
    "version 0.9": (505, get(H[:-2], version=b"HTTP/0.9")),
    "http/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "tls client hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
    "unknown method": (501, b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "lower-case method": (501, b"get / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "method with brackets": (400, b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "endless method": (400, b"A" * 64 + b" "),
    "connect": (405, b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"),
    "trace": (405, b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"),
    # the target
    "relative target": (400, get(H[:-2], target=b"index.html")),
    "star for GET": (400, get(H[:-2], target=b"*")),
    "fragment": (400, get(H[:-2], target=b"/a#b")),
    "raw utf-8 in target": (400, get(H[:-2], target="/ä".encode())),
    "nul in target": (400, get(H[:-2], target=b"/a\x00b")),
    "absolute with user": (400, get(H[:-2], target=b"http://u:p@h/")),
    "absolute without host": (400, get(H[:-2], target=b"http:///a")),
    "absolute ftp": (400, get(H[:-2], target=b"ftp://h/")),
    "absolute, bad host field": (400, get(b"Host: a b", target=b"http://h/")),
    "target too long": (414, get(H[:-2], target=b"/" + b"a" * 8_192)),
    "target without end": (414, b"GET /" + b"a" * 9_000),
    # field lines
    "bare LF after first line": (400, b"GET / HTTP/1.1\nHost: h\r\n\r\n"),
    "bare LF between fields": (400, b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
    "LF only": (400, b"GET / HTTP/1.1\nHost: h\n\n"),
    "bare CR in value": (400, b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n"),
    "bare CR hides a field": (400, b"GET / HTTP/1.1\r\nHost: h\rContent-Length: 5\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n"),
    "nul in value": (400, get(b"Host: h", b"A: b\x00c")),
    "nul in name": (400, get(b"Host: h", b"A\x00: b")),
    "escape in value": (400, get(b"Host: h", b"A: \x1b[31m")),
    "delete in value": (400, get(b"Host: h", b"A: \x7f")),
    "folded line": (400, get(b"Host: h", b"A: b", b" c")),
    "folded with tab": (400, get(b"Host: h", b"A: b", b"\tc")),
    "folded first line": (400, get(b" Host: h")),
    "folded transfer-encoding": (400, get(b"Host: h", b"Transfer-Encoding:", b" chunked")),
    "space before colon": (400, post(b"Content-Length : 5", body=b"hello")),
    "tab before colon": (400, post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n")),
    "no colon": (400, get(b"Host: h", b"Content-Length 5")),
    "empty name": (400, get(b"Host: h", b": b")),
    "bad name": (400, get(b"Host: h", b"A(b): c")),
    "utf-8 name": (400, get(b"Host: h", "ä: b".encode())),
    "too many fields": (431, get(b"Host: h", *[b"A: b"] * 100)),
    "head too large": (431, get(b"Host: h", b"A: " + b"b" * 33_000)),
    "head without end": (431, b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 33_000),
    # whom it is for
    "no host": (400, get(b"A: b")),
    "two hosts": (400, get(b"Host: a", b"Host: b")),
    "same host twice": (400, get(b"Host: a", b"Host: a")),
    "two hosts in 1.0": (400, get(b"Host: a", b"Host: b", version=b"HTTP/1.0")),
    "empty host": (400, get(b"Host:")),
    "host with space": (400, get(b"Host: a b")),
    "host with slash": (400, get(b"Host: a/b")),
    "host with user": (400, get(b"Host: u@h")),
    "host list": (400, get(b"Host: a, b")),
    "host with bad port": (400, get(b"Host: h:port")),
    "host with large port": (400, get(b"Host: h:65536")),
    "host with open bracket": (400, get(b"Host: [::1")),
    # where it ends
    "length and chunked": (400, post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "chunked and length": (400, post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")),
    "two lengths": (400, post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!")),
    "same length twice": (400, post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    "length list": (400, post(b"Content-Length: 5, 5", body=b"hello")),
    "length with plus": (400, post(b"Content-Length: +5", body=b"hello")),
    "length with minus": (400, post(b"Content-Length: -5", body=b"hello")),
    "length in hex": (400, post(b"Content-Length: 0x5", body=b"hello")),
    "length with space": (400, post(b"Content-Length: 1 0", body=b"hello")),
    "length with underscore": (400, post(b"Content-Length: 1_0", body=b"hello")),
    "length in other digits": (400, post(b"Content-Length: \xd9\xa5", body=b"hello")),
    "empty length": (400, post(b"Content-Length:", body=b"hello")),
    "huge length": (400, post(b"Content-Length: 9999999999999999999", body=b"hello")),
    "chunked in 1.0": (400, post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"HTTP/1.0")),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    "chunked on two lines": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
    "chunked not last": (400, post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    "chunked, then identity": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity")),
    "identity": (400, post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "quoted chunked": (400, post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "chunked with parameter": (400, post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n")),
    "chunked after vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    "chunked with comma": (400, post(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n")),
    "empty coding": (400, post(b"Transfer-Encoding:", body=b"0\r\n\r\n")),
    "gzip, chunked": (501, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    # what is not offered
    "another upgrade": (501, get(b"Host: h", b"Connection: Upgrade", b"Upgrade: irc/6.9")),
    "two upgrades": (501, get(b"Host: h", b"Connection: Upgrade", b"Upgrade: websocket, irc/6.9")),
    "websocket with a body": (
        501,
        get(b"Host: h", b"Connection: Upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"),
    ),
    "unknown expectation": (417, post(b"Expect: 200-maybe", b"Content-Length: 5", body=b"hello")),
}

_CHUNKED = b"Transfer-Encoding: chunked"

BAD_BODIES: dict[str, tuple[int, bytes]] = {
    "size not hex": (400, post(_CHUNKED, body=b"g\r\nhello\r\n0\r\n\r\n")),
    "size with 0x": (400, post(_CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n")),
    "size with plus": (400, post(_CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n")),
    "negative size": (400, post(_CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n")),
    "size with space": (400, post(_CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n")),
    "space before size": (400, post(_CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n")),
    "empty size": (400, post(_CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n")),
    "size overflows": (400, post(_CHUNKED, body=b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    "size beyond 2^63": (400, post(_CHUNKED, body=b"8000000000000000\r\nhello")),
    "size ended by LF": (400, post(_CHUNKED, body=b"5\nhello\r\n0\r\n\r\n")),
    "size ended by CR": (400, post(_CHUNKED, body=b"5\rhello\r\n0\r\n\r\n")),
    "size with underscore": (400, post(_CHUNKED, body=b"1_0\r\nhello\r\n0\r\n\r\n")),
    "chunk too long": (400, post(_CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n")),
    "chunk too short": (400, post(_CHUNKED, body=b"6\r\nhello\r\n0\r\n\r\n")),
    "chunk ended by two letters": (400, post(_CHUNKED, body=b"5\r\nhelloxx0\r\n\r\n")),
    "chunk ended by LF": (400, post(_CHUNKED, body=b"5\r\nhello\n0\r\n\r\n")),
    "extension hides LF": (400, post(_CHUNKED, body=b"5;a\nb\r\nhello\r\n0\r\n\r\n")),
    "extension without name": (400, post(_CHUNKED, body=b"5;=\r\nhello\r\n0\r\n\r\n")),
    "extension open quote": (400, post(_CHUNKED, body=b'5;a="b\r\nhello\r\n0\r\n\r\n')),
    "extension too long": (400, post(_CHUNKED, body=b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n")),
    "trailer folded": (400, post(_CHUNKED, body=b"0\r\n A: b\r\n\r\n")),
    "trailer without colon": (400, post(_CHUNKED, body=b"0\r\nA\r\n\r\n")),
    "trailer with LF": (400, post(_CHUNKED, body=b"0\r\nA: b\n\r\n")),
    "trailers too large": (400, post(_CHUNKED, body=b"0\r\nA: " + b"b" * 9_000)),
}
