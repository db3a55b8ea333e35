"""What goes on to the next hop: nothing that ends here, nothing a client made up, everything we vouch for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.forwarded import (
    Steered,
    client_address,
    forwarded,
    has_passed,
    own_response,
    request_for_upstream,
    response_for_client,
    via,
)
from router.traffic.http1 import Field, parse_request, parse_response
from tests.router.traffic.bad_requests import get
from tests.router.traffic.test_http1 import response

STEERED = Steered("lis", "fra", "primary")


def sent_upstream(*lines: bytes, client: str = "127.10.0.1", version: bytes = b"HTTP/1.1") -> list[Field]:
    """The fields an upstream gets of a GET with these lines."""
    head = request_for_upstream(
        parse_request(get(b"Host: h", *lines, version=version)), client, ("127.0.0.1", 80), STEERED
    )
    return list(parse_request(head).fields)


def values(fields: list[Field], key: bytes) -> list[bytes]:
    return [value for name, _, value in fields if name == key]


def names(fields: list[Field]) -> set[bytes]:
    return {key for key, _, _ in fields}


VOUCHED = {
    b"host",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"via",
    b"x-edge-site",
    b"x-edge-region",
    b"x-edge-reason",
}


def test_a_plain_request_gets_what_we_vouch_for() -> None:
    fields = sent_upstream(b"Accept: */*", b"X-Odd_Case: B")
    assert names(fields) == VOUCHED | {b"accept", b"x-odd_case"}
    assert (b"x-odd_case", b"X-Odd_Case", b"B") in fields  # spelt as it came
    assert values(fields, b"forwarded") == [b"for=127.10.0.1;proto=http;host=h"]
    assert values(fields, b"x-forwarded-for") == [b"127.10.0.1"]
    assert values(fields, b"x-forwarded-host") == [b"h"]
    assert values(fields, b"via") == [b"1.1 lis"]
    assert values(fields, b"x-edge-site") == [b"lis"]
    assert values(fields, b"x-edge-region") == [b"fra"]
    assert values(fields, b"x-edge-reason") == [b"primary"]


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic x",
        b"TE: deflate",
        b"Upgrade: h2c",
        b"HTTP2-Settings: x",
        b"Expect: 100-continue",
        b"Proxy: http://evil",
        b"Keep_Alive: x",
    ],
)
def test_what_ends_at_this_hop_goes_no_further(line: bytes) -> None:
    assert names(sent_upstream(line)) == VOUCHED


@pytest.mark.parametrize(
    "line",
    [
        b"Forwarded: for=1.2.3.4",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-FORWARDED-HOST: evil",
        b"X-Forwarded-Server: evil",
        b"X_Forwarded_For: 1.2.3.4",
        b"X-Forwarded_For: 1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
        b"X-Edge-Region: evil",
        b"x_edge_anything: evil",
    ],
)
def test_what_only_we_may_say_is_taken_from_clients(line: bytes) -> None:
    fields = sent_upstream(line)
    assert names(fields) == VOUCHED
    assert all(b"evil" not in value and b"1.2.3.4" not in value for _, _, value in fields)


def test_connection_names_fields_that_end_here() -> None:
    fields = sent_upstream(
        b"Connection: X-Secret, close", b"Connection: x-other", b"X-Secret: a", b"X-Other: b", b"X: c"
    )
    assert names(fields) == VOUCHED | {b"x"}


@pytest.mark.parametrize("name", sorted(VOUCHED | {b"cookie", b"authorization", b"content-type", b"content-length"}))
def test_connection_cannot_name_protected_fields(name: bytes) -> None:
    fields = sent_upstream(
        b"Connection: close, " + name, b"Cookie: a", b"Authorization: b", b"Content-Type: c", b"Content-Length: 5"
    )
    assert names(fields) == VOUCHED | {b"cookie", b"authorization", b"content-type", b"content-length"}


@given(st.lists(st.sampled_from(sorted(VOUCHED | {b"close", b"te", b"x-mine"})), max_size=5), st.booleans())
def test_no_connection_field_changes_what_we_vouch_for(options: list[bytes], capital: bool) -> None:
    line = b"Connection: " + b", ".join(options)
    assert names(sent_upstream(line.upper() if capital else line)) == VOUCHED


def test_via_lines_of_earlier_hops_stay() -> None:
    assert values(sent_upstream(b"Via: 1.0 a, 1.1 b", b"Via: 1.1 c"), b"via") == [b"1.0 a, 1.1 b", b"1.1 c", b"1.1 lis"]


def test_a_request_that_comes_round_again_is_known() -> None:
    def passed(*lines: bytes) -> bool:
        return has_passed(parse_request(get(b"Host: h", *lines)), "lis")

    assert passed(b"Via: 1.0 a, 1.1 lis (edge)")
    assert not passed(b"Via: 1.1 lisbon")
    assert not passed(b"Via: lis")
    assert not passed()


def test_ipv6_clients_are_quoted() -> None:
    fields = sent_upstream(client="2001:db8::1")
    assert values(fields, b"forwarded") == [b'for="[2001:db8::1]";proto=http;host=h']
    assert values(fields, b"x-forwarded-for") == [b"2001:db8::1"]


@pytest.mark.parametrize(
    ("host", "element"),
    [
        ("h", "for=1.2.3.4;proto=http;host=h"),
        ("h:80", 'for=1.2.3.4;proto=http;host="h:80"'),
        ("[::1]:80", 'for=1.2.3.4;proto=http;host="[::1]:80"'),
        ("", "for=1.2.3.4;proto=http"),
    ],
)
def test_a_host_that_is_no_token_is_quoted(host: str, element: str) -> None:
    assert forwarded("1.2.3.4", host, "http") == element


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("127.10.0.1", "127.10.0.1"),
        ("::ffff:127.10.0.1", "127.10.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_client_addresses_have_one_spelling(peer: str, address: str) -> None:
    assert client_address(peer) == address


def test_a_request_without_host_gets_the_endpoints() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\n\r\n")
    fields = parse_request(request_for_upstream(head, "1.2.3.4", ("::1", 81), STEERED)).fields
    assert values(list(fields), b"host") == [b"[::1]:81"]
    assert values(list(fields), b"forwarded") == [b"for=1.2.3.4;proto=http"]
    assert values(list(fields), b"via") == [b"1.0 lis"]
    assert b"x-forwarded-host" not in names(list(fields))


@pytest.mark.parametrize(
    ("raw", "key", "expected"),
    [
        (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n", b"content-length", [b"0"]),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 007\r\n\r\n", b"content-length", [b"7"]),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"content-length", []),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n", b"transfer-encoding", [b"chunked"]),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"content-length", []),
        (
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            b"expect",
            [b"100-continue"],
        ),
    ],
)
def test_framing_is_written_anew(raw: bytes, key: bytes, expected: list[bytes]) -> None:
    head = request_for_upstream(parse_request(raw), "1.2.3.4", ("127.0.0.1", 80), STEERED)
    assert values(list(parse_request(head).fields), key) == expected


def test_a_response_gets_what_we_vouch_for() -> None:
    head = parse_response(
        response(
            b"Connection: close, X-Hop, Set-Cookie",
            b"X-Hop: a",
            b"Set-Cookie: a",
            b"Set-Cookie: b",
            b"Keep-Alive: timeout=5",
            b"Transfer-Encoding: chunked",
            b"Proxy-Authenticate: Basic",
            b"X-Edge-Region: evil",
            b"Via: 1.1 app",
        )
    )
    raw = response_for_client(head, STEERED, b"Content-Length: 5\r\n", b"close", b"now")
    assert raw == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nVia: 1.1 app\r\nDate: now\r\nContent-Length: 5\r\n"
        b"Connection: close\r\nVia: 1.1 lis\r\nX-Edge-Site: lis\r\nX-Edge-Region: fra\r\nX-Edge-Reason: primary\r\n\r\n"
    )


def test_an_upstreams_date_stays() -> None:
    head = parse_response(response(b"Date: then"))
    assert b"now" not in response_for_client(head, STEERED, b"", b"", b"now")


def test_our_own_responses_are_whole() -> None:
    raw = own_response(503, "no region is healthy", Steered("lis", None, "denied"), b"now", keep_alive=False)
    head, _, body = raw.partition(b"\r\n\r\n")
    parsed = parse_response(head + b"\r\n\r\n")
    assert body == b"503 Service Unavailable: no region is healthy\n"
    assert parsed.content_length == len(body)
    assert not parsed.keep_alive
    assert values(list(parsed.fields), b"retry-after") == [b"1"]
    assert b"x-edge-region" not in names(list(parsed.fields))
    assert own_response(404, "x", STEERED, b"now", keep_alive=True, method=b"HEAD").endswith(b"\r\n\r\n")
    assert b"\r\nAllow: GET" in own_response(405, "x", STEERED, b"now", keep_alive=True)
    assert b"Connection: keep-alive" in own_response(404, "x", STEERED, b"now", keep_alive=True, minor=0)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_name_or_reason_can_break_out_of_its_line(site: str, region: str, reason: str) -> None:
    steered = Steered(site, region, reason)
    raw = request_for_upstream(parse_request(get(b"Host: h")), "1.2.3.4", ("127.0.0.1", 80), steered)
    assert names(list(parse_request(raw).fields)) == VOUCHED
    assert len(parse_request(raw).fields) == len(VOUCHED)
    parse_response(own_response(404, reason, steered, b"now", keep_alive=True).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert len(via(1, site).split()) == 2
