"""Heads: what is let in, what is refused and how, and that nobody else would read them differently."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.traffic.http1 import RequestHead, RequestReader, ResponseHead, ResponseReader, parse_request, parse_response
from router.traffic.strict import SIMPLE_REQUEST_LINE, BadRequestError, BadResponseError, check_request
from tests.router.traffic.bad_requests import BAD_HEADS, get


def read_all(pieces: list[bytes]) -> tuple[list[RequestHead], BadRequestError | None, bytes]:
    """Heads, the refusal that ended them, and what was left unread."""
    reader = RequestReader()
    heads: list[RequestHead] = []
    try:
        for piece in pieces:
            reader.receive(piece)
            while (head := reader.next_head()) is not None:
                heads.append(head)
    except BadRequestError as error:
        return heads, error, b""
    return heads, None, reader.rest


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.parametrize("name", BAD_HEADS)
def test_bad_heads_are_refused_with_their_status_however_they_arrive(name: str) -> None:
    status, raw = BAD_HEADS[name]
    heads, error, _ = read_all([raw])
    assert heads == []
    assert error is not None
    assert error.status == status
    heads, error, _ = read_all([raw[i : i + 1] for i in range(len(raw))])
    assert heads == []
    assert error is not None
    assert error.status == status


def test_a_refusal_never_quotes_the_client() -> None:
    reasons = {error.reason for _, raw in BAD_HEADS.values() if (error := read_all([raw])[1])}
    assert len(reasons) < 40
    assert all(reason.isascii() and reason.isprintable() and len(reason) < 50 for reason in reasons)


@pytest.mark.parametrize(
    ("raw", "target", "host", "name"),
    [
        (get(b"Host: Shop.Example.com:8080"), b"/", b"Shop.Example.com:8080", "shop.example.com"),
        (get(b"Host: h."), b"/", b"h.", "h"),
        (get(b"Host: [2001:DB8::1]:80"), b"/", b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (get(b"Host: [::1]"), b"/", b"[::1]", "[::1]"),
        (get(b"hOsT:\t a_b \t"), b"/", b"a_b", "a_b"),
        (get(b"Host: other", target=b"http://h:81/a?b"), b"/a?b", b"h:81", "h"),
        (get(b"Host: h", target=b"HTTP://h"), b"/", b"h", "h"),
        (get(b"Host: h", target=b"http://h?q"), b"/?q", b"h", "h"),
        (get(b"Host: h", target=b"//double//slash/.."), b"//double//slash/..", b"h", "h"),
        (get(b"Host: h", target=b"/?a=http://x"), b"/?a=http://x", b"h", "h"),
        (get(version=b"HTTP/1.0"), b"/", b"", ""),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b"*", b"h", "h"),
        (b"OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n", b"*", b"h", "h"),
        (b"\r\n" + get(b"Host: h"), b"/", b"h", "h"),
    ],
)
def test_targets_and_hosts(raw: bytes, target: bytes, host: bytes, name: str) -> None:
    heads, error, rest = read_all([raw])
    assert error is None
    assert rest == b""
    (head,) = heads
    assert (head.target, head.host, head.host_name) == (target, host, name)
    assert head.path == target.partition(b"?")[0].decode()


@pytest.mark.parametrize(
    ("lines", "version", "keep_alive"),
    [
        ([], b"HTTP/1.1", True),
        ([b"Connection: close"], b"HTTP/1.1", False),
        ([b"Connection: x, CLOSE ,y"], b"HTTP/1.1", False),
        ([b"Connection: x", b"Connection: close"], b"HTTP/1.1", False),
        ([b"Connection: keep-alive, close"], b"HTTP/1.1", False),
        ([], b"HTTP/1.0", False),
        ([b"Connection: Keep-Alive"], b"HTTP/1.0", True),
    ],
)
def test_persistence_follows_rfc_9112(lines: list[bytes], version: bytes, keep_alive: bool) -> None:
    assert parse_request(get(b"Host: h", *lines, version=version)).keep_alive is keep_alive


def test_an_offer_of_h2c_is_ignored() -> None:
    head = parse_request(get(b"Host: h", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"))
    assert head.keep_alive
    assert head.connection == {b"upgrade", b"http2-settings"}


def test_an_expectation_counts_only_where_a_body_follows() -> None:
    expect = b"Expect: 100-Continue"
    assert parse_request(get(b"Host: h", expect, b"Content-Length: 5")).expects_continue
    assert parse_request(get(b"Host: h", expect, b"Transfer-Encoding: Chunked")).expects_continue
    assert not parse_request(get(b"Host: h", expect)).expects_continue
    assert not parse_request(get(b"Host: h", expect, b"Content-Length: 5", version=b"HTTP/1.0")).expects_continue


def test_limits_are_exact() -> None:
    long_target = b"/" + b"a" * 8_191
    assert parse_request(get(b"Host: h", target=long_target)).target == long_target
    assert len(parse_request(get(b"Host: h", *[b"A: b"] * 99)).fields) == 100
    filler = 32_768 - len(get(b"Host: h", b"A: "))
    largest = get(b"Host: h", b"A: " + b"b" * filler)
    assert len(largest) == 32_768
    parse_request(largest)
    with pytest.raises(BadRequestError, match="431"):
        parse_request(get(b"Host: h", b"A: " + b"b" * (filler + 1)))


# --- laws

_PIECES = st.sampled_from(
    b"GET|POST| |/|a|HTTP/1.1|HTTP/1.0|\r\n|\n|\r|Host|:|h|\x00|Content-Length|Transfer-Encoding|chunked|5|\t|,".split(
        b"|"
    )
) | st.sampled_from([get(b"Host: h"), b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n", b"Connection: close\r\n"])
_NEARLY = st.lists(_PIECES, max_size=24).map(b"".join)
_CUTS = st.lists(st.integers(0, 400), max_size=8)


@given(_NEARLY | st.binary(max_size=300), _CUTS)
@settings(max_examples=300)
@example(b"\r\n\r\n", [1])
@example(b"\r\n" + get(b"Host: h") + get(b"Host: h"), [1, 3])
@example(b"M" * 33 + b" / HTTP/1.1\r\nHost: h\r\n", [33])
def test_no_bytes_raise_anything_but_a_refusal_and_cutting_them_changes_nothing(data: bytes, at: list[int]) -> None:
    whole, refused, _ = read_all([data])
    pieces, refused_in_pieces, _ = read_all(cut(data, at))
    assert pieces == whole
    assert (refused is None) == (refused_in_pieces is None)
    if refused is not None:
        assert 400 <= refused.status < 600


@given(_NEARLY | st.binary(max_size=300), _CUTS)
@settings(max_examples=300)
def test_no_response_bytes_raise_anything_but_a_refusal(data: bytes, at: list[int]) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n"):
        reader = ResponseReader()
        heads: list[ResponseHead] = []
        try:
            for piece in cut(prefix + data, at):
                reader.receive(piece)
                while (head := reader.next_head()) is not None:
                    heads.append(head)
        except BadResponseError:
            continue


_NAMES = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
_VALUES = st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,20}", fullmatch=True)
_FIELDS = st.lists(
    st.tuples(_NAMES, _VALUES)
    | st.tuples(st.just(b"Content-Length"), st.sampled_from([b"0", b"5", b"05", b"5 ", b"5,5", b"5x", b""]))
    | st.tuples(
        st.just(b"Transfer-Encoding"), st.sampled_from([b"chunked", b"Chunked", b"gzip, chunked", b"identity", b""])
    ),
    max_size=6,
)


@given(st.sampled_from([b"GET", b"POST", b"OPTIONS", b"BREW"]), _FIELDS, st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]))
@settings(max_examples=300)
def test_what_is_let_in_h11_reads_the_same_way(
    method: bytes, fields: list[tuple[bytes, bytes]], version: bytes
) -> None:
    lines = [b"Host: h"] + [name + b":" + value for name, value in fields]
    raw = method + b" /a " + version + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    try:
        head = parse_request(raw)
    except BadRequestError:
        return  # stricter than h11 is what we mean to be
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(raw)
    request = oracle.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, request.http_version) == (head.method, b"/a", version[5:])
    ours = [(key, value.lower() if key == b"transfer-encoding" else value) for key, _, value in head.fields]
    assert ours == [(bytes(key), bytes(value)) for key, value in request.headers]
    if head.content_length:
        oracle.receive_data(bytes(head.content_length))
        data = oracle.next_event()
        assert isinstance(data, h11.Data)
        assert len(data.data) == head.content_length
    elif head.chunked:
        assert oracle.next_event() is h11.NEED_DATA
        oracle.receive_data(b"0\r\n\r\n")
    assert isinstance(oracle.next_event(), h11.EndOfMessage)


@given(_FIELDS)
def test_the_gate_passes_every_well_formed_head(fields: list[tuple[bytes, bytes]]) -> None:
    check_request(get(b"Host: h", *(name + b": " + value for name, value in fields)))


# --- responses


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return first + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_a_response_head() -> None:
    head = parse_response(response(b"Content-Length: 5", b"X: y ", b"Connection: X"))
    assert (head.status, head.reason, head.minor, head.content_length, head.chunked) == (200, b"OK", 1, 5, False)
    assert head.fields[1] == (b"x", b"X", b"y")
    assert head.keep_alive
    assert head.connection == {b"x"}


@pytest.mark.parametrize("first", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 a  b\xff"])
def test_reasons_may_be_missing_or_odd(first: bytes) -> None:
    assert parse_response(response(b"Content-Length: 0", first=first)).reason == first[13:]


def test_an_upgrade_offer_in_a_response_is_no_fault() -> None:
    assert parse_response(response(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3")).content_length == 3


def test_a_http_1_0_upstream_does_not_persist() -> None:
    assert not parse_response(response(first=b"HTTP/1.0 200 OK")).keep_alive


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        response(first=b"HTTP/1.1  200 OK"),
        response(first=b"HTTP/1.1 20 OK"),
        response(first=b"HTTP/1.1 2000 OK"),
        response(first=b"HTTP/1.1 999 OK"),
        response(first=b"HTTP/1.1 -20 OK"),
        response(first=b"HTTP/1.2 200 OK"),
        response(first=b"ICY 200 OK"),
        response(b" A: b"),
        response(b"A: b", b" c"),
        response(b"A : b"),
        response(b"A"),
        response(b"A: b\x00"),
        response(b"A: b\rSet-Cookie: c"),
        b"HTTP/1.1 200 OK\nA: b\n\n",
        response(b"Content-Length: 5", b"Content-Length: 5"),
        response(b"Content-Length: 5, 5"),
        response(b"Content-Length: -1"),
        response(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        response(b"Transfer-Encoding: gzip, chunked"),
        response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        response(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK"),
        response(*[b"A: b"] * 101),
        response(b"A: " + b"b" * 66_000),
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 66_000,
    ],
)
def test_bad_responses_are_refused(raw: bytes) -> None:
    reader = ResponseReader()
    reader.receive(raw)
    with pytest.raises(BadResponseError):
        reader.next_head()


LINES = st.sampled_from(
    [
        b"GET /a HTTP/1.1",
        b"GET /b?c=d HTTP/1.1",
        b"POST /a HTTP/1.1",
        b"GET /a HTTP/1.0",
        b"GET http://x/ HTTP/1.1",
        b"GET /a\x00 HTTP/1.1",
        b"GET /#f HTTP/1.1",
        b"GET  /a HTTP/1.1",
        b"GET /" + b"b" * 9_000 + b" HTTP/1.1",
    ]
)
SECTIONS = st.sampled_from(
    [
        b"Host: h\r\n",
        b"Host: h\r\nX: y\r\n",
        b"Host: other\r\n",
        b"Host: h\r\nX: " + b"y" * 3_000 + b"\r\n",
        b"X: y\r\n",
    ]
)


@given(st.lists(st.tuples(LINES, SECTIONS), max_size=12))
def test_what_a_reader_remembers_changes_no_judgement(heads: list[tuple[bytes, bytes]]) -> None:
    """Head by head on one connection as on a connection of its own."""
    reader = RequestReader()
    for line, section in heads:
        head = line + b"\r\n" + section + b"\r\n"
        try:
            alone: object = parse_request(head)
        except BadRequestError as error:
            alone = str(error)
        try:
            reader.receive(head)
            found: object = reader.next_head()
        except BadRequestError as error:
            found = str(error)
            reader.rest = b""
        assert found == alone


def test_llhttp_takes_every_target_that_the_remembered_path_lets_pass() -> None:
    for byte in range(256):
        for target in (b"/%c", b"/a%cb", b"/?%c", b"/%%4%c"):
            line = b"GET " + target % byte + b" HTTP/1.1\r\n"
            if SIMPLE_REQUEST_LINE.fullmatch(line):
                assert parse_request(line + b"Host: h\r\n\r\n").target == target % byte
