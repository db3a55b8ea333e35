"""Lines of access logs: three formats; and what is none of them is told with what is wrong."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND
from router.decision.access_log import LINE_LENGTH_MAX, LogLineError, Recorded, Unreadable, read_log, read_log_line
from router.decision.nearby import location_at
from router.decision.request import Request

COMMON = '203.0.113.9 - frank [10/Oct/2026:13:55:36 +0000] "GET /cart?x=1 HTTP/1.1" 200 2326'
JSON = (
    '{"remote_addr": "203.0.113.9", "request_uri": "/cart?x=1", "headers": {"X-A": "b"}, "country": "DE", "asn": 64500}'
)
USER = Request("203.0.113.9", "shop", "/cart?x=1")
AT_US = 1_791_640_536 * SECOND
SOCKET = Request("::1", "a", "/w", headers=(("upgrade", "WebSocket"), ("a", "1"), ("a", "2")), upgrade="websocket")


@pytest.mark.parametrize(
    ("line", "request_", "at_us"),
    [
        (COMMON, USER, AT_US),
        (COMMON.replace("frank", "frank de la Vega"), USER, AT_US),
        (f'{COMMON} "https://ref" "curl/8"', USER._replace(headers=(("user-agent", "curl/8"),)), AT_US),
        (f'{COMMON} "-" "-"', USER, AT_US),
        (COMMON.replace("13:55:36 +0000", "15:55:36 +0200"), USER, AT_US),
        (JSON, USER._replace(headers=(("x-a", "b"),), country="DE", asn=64_500), None),
        (JSON.replace("64500", '"64500", "ts": 1791640536.25'),
         USER._replace(headers=(("x-a", "b"),), country="DE", asn=64_500), AT_US + SECOND // 4),
        ('{"client": "::1", "host": "b", "path": "/", "latitude": 52.5, "longitude": "13.4"}',
         Request("::1", "b", "/", location=location_at(52_500_000, 13_400_000)), None),
        ('{"client": "::1", "host": "b", "path": "/", "method": "PUT"}', Request("::1", "b", "/", "PUT"), None),
        ('{"client": "::1", "host": "a", "path": "/w", "headers": {"Upgrade": "WebSocket", "a": ["1", "2"]}}', SOCKET,
         None),
        ('{"client": "::1", "sni": "db.example", "port": 5432, "country": "-", "asn": null}',
         Request("::1", "shop", "/", port=5432, sni="db.example"), None),
    ],
)  # fmt: skip
def test_a_line_is_a_request_and_its_time(line: str, request_: Request, at_us: int | None) -> None:
    assert read_log_line(line, "shop") == Recorded(request_, at_us)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("GET /", "'GET /' is neither in the common or combined log format nor a JSON object"),
        ("[]", "neither in the common"),
        ("{" * 1_000, "is not JSON"),
        ('{"path": "/"}', "there is no client; expected one of: client, remote_addr, client_ip"),
        ('{"client": "::1"}', "there is no path; expected one of: path, uri, request_uri"),
        ('{"client": "::1", "uri": 5}', "uri is '5'; a text is needed there"),
        ('{"client": "::1", "path": "/", "asn": 1.5}', "asn is '1.5'; a whole number up to 4294967295 is needed there"),
        ('{"client": "::1", "path": "/", "latitude": 91, "longitude": 8}', "latitude '91' is out of range"),
        ('{"client": "::1", "path": "/", "latitude": 9}', "latitude and longitude: 'None' is not a longitude"),
        ('{"client": "::1", "path": "/", "port": 65536}', "port is '65536'; a whole number up to 65535"),
        ('{"client": "::1", "path": "/", "country": "Germany"}', "country: 'Germany' is not a country; expected"),
        ('{"client": "::1", "path": "/", "headers": ["a"]}', "headers are '[\"a\"]'; an object of texts is needed"),
        ('{"client": "::1", "path": "/", "time": "noon"}', "time is '\"noon\"'; expected ISO 8601 with an offset"),
        ('{"client": "::1", "path": "/", "ts": 1e300}', "ts is '1e+300'; expected"),
        ('{"client": "shop.example", "path": "/"}', "client 'shop.example' is not an address"),
        (COMMON.replace("203.0.113.9", "host.example"), "the client 'host.example' is not an address"),
        (COMMON.replace("GET /cart?x=1 HTTP/1.1", "-"), "the request '-' has no method and path"),
        (COMMON.replace("GET", "get"), "'get' is not a method; expected an HTTP method"),
        (COMMON.replace("10/Oct", "40/Oct"), "is not a time; expected one like 10/Oct/2026:13:55:36 +0000"),
        (COMMON[:50] + "x" * LINE_LENGTH_MAX, f"at most {LINE_LENGTH_MAX} are read"),
        (COMMON[:47] + " /" + "x" * (LINE_LENGTH_MAX - 100), "neither in the common"),
    ],
)  # fmt: skip
def test_what_is_no_request_says_why(line: str, why: str) -> None:
    with pytest.raises(LogLineError) as caught:
        read_log_line(line, "shop")
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300


def test_lines_are_numbered_and_empty_ones_are_nothing() -> None:
    (first, second) = read_log(["\n", COMMON, "  ", "nonsense\n"], "shop")
    assert first == Recorded(USER, AT_US)
    assert isinstance(second, Unreadable)
    assert second.line == 4


@given(st.one_of(st.text(), st.text().map(lambda text: "{" + text), st.text().map(lambda text: COMMON[:40] + text)))
def test_a_line_is_read_or_refused(line: str) -> None:
    list(read_log([line], "shop"))


def test_mutated_lines_are_read_or_refused_with_a_reason() -> None:
    random = Random("access log")
    wrong: tuple[Any, ...] = (
        None,
        True,
        -1,
        1.5,
        "",
        "-",
        "é",
        [],
        ["x"],
        {},
        {"a": 1},
        10**40,
        "\ud800",
        float("nan"),
    )
    refused = 0
    for number in range(2_000):
        if number % 2:
            place = random.randrange(len(COMMON))
            line = COMMON[:place] + random.choice(('"', " ", "\\", "[", "]", "\x00", "", "é")) + COMMON[place + 1 :]
        else:
            line = json.dumps(
                {**json.loads(JSON), random.choice([*json.loads(JSON), "time", "port"]): random.choice(wrong)}
            )
        for read in read_log([line], "shop"):
            refused += isinstance(read, Unreadable)
            assert isinstance(read, Recorded) or (read.why and read.why.isprintable())
    assert 200 < refused < 1_900
